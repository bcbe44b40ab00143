"""Observations, each in a process of its own, while the loop that serves their callers goes on.

The program's view is made while the shim of its call starts, which takes as long: an `Observer` is
forked when the call is turned into that of a shim, and begins when the shim has told the rest.
"""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import replace
from typing import Dict, Mapping, NoReturn, Tuple

from shannotd.runner import identity, kernel, observe_environment
from shannotd.runner.decisions import Verdict
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.loop import Loop
from shannotd.runner.observe import Complete, Observation, Output, observe
from shannotd.runner.plan import Identity
from shannotd.runner.warm import Settings

# How many views wait for their shims at most, and how long: what is hidden is looked for when a
# view is made, and a script may have its shim stopped.
MAX_AHEAD = 4
AHEAD_SECONDS = 1.0


class Observers:
    """Makes the observers of one session; owns those whose shims have not called yet."""

    def __init__(
        self, loop: Loop, settings: Settings, who: Identity, hide: Tuple[str, ...]
    ) -> None:
        """`who` runs the script, `hide` are patterns of what nobody may see."""
        self._loop = loop
        self._settings = settings
        self._identity = who
        self._hide = hide
        self._ahead: Dict[int, Observer] = {}  # by the process of the call

    def close(self) -> None:
        """End those that nobody took."""
        for process in tuple(self._ahead):
            self._drop(process)

    def prepare(self, process: int, verdict: Verdict) -> None:
        """A shim begins to run for a call of `process`: if it is to be observed, make ready.

        What was made ready for an earlier call stays until it is outdated: a process whose shim
        cannot start may call as fast as it likes.
        """
        self.drop_outdated()
        is_full = process in self._ahead or len(self._ahead) >= MAX_AHEAD
        if is_full or verdict.decision != "observe":
            return
        try:
            self._ahead[process] = Observer(self._request(process, verdict), self._settings)
        except OSError:
            pass  # Maybe there can be a process when the shim calls.

    def begin(
        self, process: int, verdict: Verdict, claimed: Mapping[str, str], *, merged: bool
    ) -> Observer:
        """The observer of a call, whose program starts now.

        :raises OSError: no process can be had.
        """
        request = self._request(process, verdict)
        observer = self._ahead.get(process)
        environment = observe_environment.environment(claimed)
        # One for another call of the same process is not this one's.
        if observer is not None and observer.request == request:
            del self._ahead[process]
            if not observer.is_outdated:
                try:
                    observer.begin(environment, merged=merged)
                    return observer
                except Closed:
                    pass  # It has failed, or was killed.
            observer.close(self._loop)
        observer = Observer(request, self._settings)
        try:
            observer.begin(environment, merged=merged)
        except Closed:
            pass  # It is seen when its channel is read.
        return observer

    def drop_outdated(self) -> None:
        """End those that have waited for too long; to be called often."""
        for process, observer in tuple(self._ahead.items()):
            if observer.is_outdated:
                self._drop(process)

    def _request(self, process: int, verdict: Verdict) -> Observation:
        request = verdict.observation(self._identity, self._hide)
        request = replace(request, caller=process)
        if request.as_root and not _may_be_root():
            request = replace(request, as_root=False)
        return request

    def _drop(self, process: int) -> None:
        self._ahead.pop(process).close(self._loop)


class Observer:
    """A process that observes `request`; owns it and the channel on which it tells of it.

    :raises OSError: no process can be had.
    """

    def __init__(self, request: Observation, settings: Settings) -> None:
        self.request = request
        ours, theirs = socket.socketpair()
        try:
            self._pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if self._pid == 0:
            _main(theirs, request, settings)
        theirs.close()
        self._outdated_at = time.monotonic() + AHEAD_SECONDS
        # A program that prints without end keeps nobody waiting: poll tells of each frame.
        self._channel = Channel(ours, ahead=False)

    @property
    def is_outdated(self) -> bool:
        """Whether it has been ready for too long to begin."""
        return time.monotonic() > self._outdated_at

    def fileno(self) -> int:
        """The channel, for poll."""
        return self._channel.fileno()

    def begin(self, environment: Mapping[str, str], *, merged: bool) -> None:
        """Let the program start; see `Observation`.

        :raises Closed: it is gone.
        """
        self._channel.send({"environment": environment, "merged": merged})

    def receive(self) -> Tuple[Header, bytes]:
        """{event: "output", stream} with bytes, and at the end {event: "observed", ...} (see
        `Observed`) or {event: "error", code, details}.

        :raises Closed: it was killed.
        """
        event, payload, _ = self._channel.receive()
        return event, payload

    def close(self, loop: Loop) -> None:
        """End it and what it observes; it is reaped by `loop` when it has."""
        loop.remove(self._channel.fileno())
        self._channel.close()
        handle = os.pidfd_open(self._pid)

        def reap(_: int) -> None:
            os.waitpid(self._pid, 0)
            loop.remove(handle)
            os.close(handle)

        loop.add(handle, reap)


def _main(theirs: socket.socket, request: Observation, settings: Settings) -> NoReturn:
    """Observe and tell of it; never returns."""
    status = 1
    try:
        os.dup2(theirs.detach(), 3, inheritable=False)
        kernel.close_range(4)
        with Channel(socket.socket(fileno=3)) as answers:
            # Who called may stop to read: then nobody reads here.
            answers.limit_sending(math.ceil(request.seconds))
            try:
                observe(
                    request,
                    _output(answers),
                    settings,
                    answers.fileno(),
                    ended=lambda observed: answers.send(observed.header()),
                    complete=_complete(answers),
                )
            except RunnerError as error:
                answers.send(error.header())
        status = 0
    except Closed:
        pass
    finally:
        os._exit(status)


def _complete(answers: Channel) -> Complete:
    def complete(request: Observation) -> Observation:
        told, _, _ = answers.receive()
        return replace(request, claimed=told["environment"], merged=told["merged"])

    return complete


def _output(answers: Channel) -> Output:
    def tell(stream: str, data: bytes) -> None:
        try:
            answers.send({"event": "output", "stream": stream}, data)
        except Closed as error:
            raise TimeoutError from error

    return tell


def _may_be_root() -> bool:
    """Whether this runner may take the identity of root for what a rule says needs it."""
    try:
        identity.resolve("0", identity.read_floor())
    except RunnerError:
        return False
    return True
