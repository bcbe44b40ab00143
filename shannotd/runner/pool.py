"""The pool of warm single-use sandboxes, and the zygote that they come from."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from typing import Dict, List, Optional, Sequence

from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.usual import NOTHING, Usual

# The host's own interpreter: scripts must find the host's modules, not ours.
INTERPRETER = "/usr/bin/python3"
RESPAWN_SECONDS = 1.0
_ZYGOTE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "zygote.py")


class Pool:
    """Keeps `size` supervisors ready; each serves one job and is replaced."""

    def __init__(self, state: str, size: int, hidden: Sequence[str] = ()) -> None:
        self._state = state
        self._hidden = hidden
        self._size = size
        self._waiting: Dict[int, Channel] = {}
        self._ready: List[int] = []
        self._zygote: Optional[subprocess.Popen[bytes]] = None
        self._requests: Optional[socket.socket] = None
        self._usual = NOTHING
        self._lost_at = -RESPAWN_SECONDS
        self.empty: List[str] = []
        self.failure: Optional[Header] = None

    def start(self) -> None:
        """Start the zygote and the first supervisors.

        :raises RunnerError: `sandbox_unavailable`: no interpreter.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._zygote = subprocess.Popen(
                [INTERPRETER, "-s", _ZYGOTE, str(theirs.fileno()), self._state, *self._hidden],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env={"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            )
        except OSError as error:
            ours.close()
            remedy = "Install the package python3."
            reason = f"{INTERPRETER}: {error.strerror}"
            raise RunnerError("sandbox_unavailable", reason=reason, remedy=remedy) from error
        finally:
            theirs.close()
        self._requests = ours
        self.resize(self._size)

    def close(self) -> None:
        """End the zygote and every waiting supervisor, with their sandboxes."""
        for channel in self._waiting.values():
            channel.close()
        self._waiting.clear()
        self._ready.clear()
        if self._requests is not None:
            self._requests.close()
        if self._zygote is not None:
            self._zygote.wait()

    @property
    def ready(self) -> int:
        """How many sandboxes are warm."""
        return len(self._ready)

    def descriptors(self) -> List[int]:
        """What to poll: a supervisor's word that it is ready, or its end."""
        return list(self._waiting)

    def resize(self, size: int) -> None:
        """Keep `size` warm sandboxes from now on."""
        self._size = size
        while len(self._waiting) > size:
            descriptor = self._ready.pop() if self._ready else next(iter(self._waiting))
            self._waiting.pop(descriptor).close()
        while len(self._waiting) < size:
            self._spawn()

    def expect(self, usual: Usual) -> None:
        """Have only sandboxes that are prepared for jobs as most will be: a job may leave out what
        its sandbox was prepared for."""
        if usual != self._usual and self._requests is not None:
            self._drop()
            self._usual = usual
            message = json.dumps(usual.encode()).encode("ascii")
            try:
                with os.fdopen(os.memfd_create("expected"), "wb") as file:
                    file.write(message)  # It may be larger than a datagram.
                    file.flush()
                    socket.send_fds(self._requests, [b"expect"], [file.fileno()])
            except OSError:
                pass  # The next spawn says that the zygote ended.

    def _drop(self) -> None:
        """Keep none of those that are there; the next `resize` makes others."""
        while self._waiting:
            self._forget(next(iter(self._waiting)))

    def serve(self, descriptor: int) -> None:
        """Read what the waiting supervisor at `descriptor` has to say."""
        channel = self._waiting[descriptor]
        try:
            event, _, _ = channel.receive()
        except Closed:
            self._forget(descriptor)
            self._lost_at = time.monotonic()
            return
        if event["event"] == "ready":
            self._ready.append(descriptor)
            self.empty = event["empty"]
            self.failure = None
        else:
            # It waits all the same: its job gets the error, or a sandbox if one can be built then.
            self.failure = event

    def hand_out(self, job: int) -> Channel:
        """Give the job's descriptor to a supervisor; its control channel, to be kept open.

        A supervisor that is not ready yet serves the job as soon as it is.

        :raises RunnerError: `sandbox_unavailable`: no supervisor could be started.
        """
        for _ in range(len(self._waiting) + 1):
            if not self._waiting:
                self._spawn()
            descriptor = self._ready[0] if self._ready else next(iter(self._waiting))
            channel = self._waiting[descriptor]
            self._forget(descriptor, replace=False)
            try:
                channel.send({"op": "job"}, descriptors=(job,))
            except Closed:
                channel.close()
                continue
            return channel
        reason = "the sandboxes end as soon as they are started"
        raise RunnerError("sandbox_unavailable", reason=reason, remedy="")

    def refill(self, busy: bool) -> None:
        """Replace what was handed out.

        Building a sandbox slows one that is just starting (the kernel's mount and network
        locks): while jobs are `busy` that waits, unless none is left. One that ended by itself is
        not replaced at once: the next might end as well, and so on without a pause.
        """
        if time.monotonic() < self._lost_at + RESPAWN_SECONDS:
            return
        if not busy or not self._waiting:
            self.resize(self._size)

    def _forget(self, descriptor: int, *, replace: bool = True) -> None:
        channel = self._waiting.pop(descriptor)
        if descriptor in self._ready:
            self._ready.remove(descriptor)
        if replace:
            channel.close()

    def _spawn(self) -> None:
        if self._requests is None:
            raise RunnerError("sandbox_unavailable", reason="the zygote is not running", remedy="")
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._requests, [b"spawn"], [theirs.fileno()])
        except OSError as error:
            ours.close()
            reason = f"the zygote ended: {error.strerror}"
            raise RunnerError("sandbox_unavailable", reason=reason, remedy="") from error
        finally:
            theirs.close()
        channel = Channel(ours)
        self._waiting[channel.fileno()] = channel
