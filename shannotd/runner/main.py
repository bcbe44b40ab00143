"""The runner: hands jobs of the daemon to warm sandboxes and to apply processes.

It decides nothing and keeps no secret in memory. A job's channel goes straight to the
process that does the job; what stays here is the pool and the control channels, whose
closing ends every job when the runner goes.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import signal
import socket
import sys
from typing import Callable, Dict, List, Optional, Sequence

from shannotd.runner import cgroups, doctor, sandbox
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.identity import machine
from shannotd.runner.pool import Pool
from shannotd.runner.usual import Usual

PROTOCOL = 1


def main(arguments: Optional[List[str]] = None) -> int:
    """`python -m shannotd.runner serve|doctor`; the exit status."""
    parser = argparse.ArgumentParser(prog="shannotd.runner", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve one daemon on an inherited socket")
    serving.add_argument("--fd", type=int, required=True)
    serving.add_argument("--state", required=True)
    serving.add_argument("--pool", type=int, default=2)
    serving.add_argument("--hide", action="append", default=[], help="never seen by a script")
    commands.add_parser("doctor", help="check this machine; JSON on standard output")
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        print(doctor.report())
        return 0
    os.umask(0o077)
    os.makedirs(options.state, mode=0o700, exist_ok=True)
    with Channel(socket.socket(fileno=options.fd)) as control:
        Runner(control, options.state, options.pool, options.hide).serve()
    return 0


class Runner:
    """Serves one control connection until it is closed."""

    def __init__(
        self, control: Channel, state: str, pool_size: int, hidden: Sequence[str] = ()
    ) -> None:
        self._control = control
        self._state = state
        self._own = (state, *hidden)
        self._pool = Pool(state, pool_size, hidden)
        self._cgroup_base = cgroups.arrange()
        self._jobs: Dict[int, Channel] = {}
        self._working: List[int] = []

    def serve(self) -> None:
        """Answer requests until the daemon is gone, then end every job."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            self._sweep()
            self._pool.start()
            self._loop()
        except Closed:
            pass
        finally:
            self._pool.close()
            for channel in self._jobs.values():
                channel.close()
            self._sweep()

    def _loop(self) -> None:
        while True:
            poll = select.poll()
            for descriptor in (
                self._control.fileno(),
                *self._pool.descriptors(),
                *self._jobs,
            ):
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll():
                if descriptor == self._control.fileno():
                    self._answer()
                    # What came with it is in our buffer, where poll does not see it.
                    while self._control.pending():
                        self._answer()
                elif descriptor in self._jobs:
                    self._follow(descriptor)
                elif descriptor in self._pool.descriptors():
                    self._pool.serve(descriptor)
            self._reap()
            self._pool.refill(busy=bool(self._jobs))

    def _follow(self, descriptor: int) -> None:
        """A supervisor with a job: late word that it was ready, or its end."""
        try:
            self._jobs[descriptor].receive()
        except Closed:
            self._jobs.pop(descriptor).close()
            if not self._jobs:
                self._sweep()

    def _sweep(self) -> None:
        """Remove the cgroups of supervisors that were killed; others do it themselves."""
        if self._cgroup_base is not None:
            cgroups.sweep(self._cgroup_base)

    def _answer(self) -> None:
        request, _, descriptors = self._control.receive()
        try:
            answer = self._perform(request, descriptors)
        except RunnerError as error:
            answer = {"error": {"code": error.code, "details": error.details}}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._control.send(answer)

    def _perform(self, request: Header, descriptors: List[int]) -> Header:
        operation = request.get("op")
        if operation == "run" and len(descriptors) == 1:
            channel = self._pool.hand_out(descriptors[0])
            self._jobs[channel.fileno()] = channel
            return {}
        if operation == "apply" and len(descriptors) == 1:
            self._start(descriptors[0], self._apply)
            return {}
        if operation == "resume" and len(descriptors) == 1:
            self._start(descriptors[0], self._resume)
            return {}
        if operation == "amend" and len(descriptors) == 1:
            self._amend(descriptors[0])
            return {}
        if operation == "rollback" and len(descriptors) == 1:
            self._start(descriptors[0], self._roll_back)
            return {}
        if operation == "pool":
            if "usual" in request:
                self._pool.expect(Usual.decode(request["usual"]))
            self._pool.resize(max(0, int(request["size"])))
            return {"ready": self._pool.ready}
        if operation == "checkpoint" and len(descriptors) == 1:
            self._start(descriptors[0], self._show_checkpoint)
            return {}
        if operation in ("checkpoints", "drop_checkpoint"):
            return self._checkpoints(request)
        if operation == "hello":
            return {
                "version": PROTOCOL,
                "builder": sandbox.choose_builder(),
                "limits": [*doctor.limits(), *(f"{p} appears empty" for p in self._pool.empty)],
                "uid": os.geteuid(),
                "host": machine(),
                "ready": self._pool.ready,
                "failure": self._pool.failure,
            }
        return {"error": {"code": "invalid_request", "details": {"method": str(operation)}}}

    def _amend(self, job: int) -> None:
        """Start a process of its own for a plan that a reviewer changes."""
        from shannotd.runner.amend import serve
        from shannotd.runner.record import key

        def work(channel: Channel) -> None:
            gc.disable()  # nothing of a plan becomes garbage before the process ends
            serve(channel, key=key(self._state), own=self._own)

        self._start(job, work)

    def _checkpoints(self, request: Header) -> Header:
        from shannotd.runner import checkpoints

        if request["op"] == "checkpoints":
            return {"checkpoints": [vars(one) for one in checkpoints.kept(self._state)]}
        checkpoints.drop(self._state, str(request.get("session")))
        return {}

    def _start(self, job: int, work: Callable[[Channel], None]) -> None:
        """Start a process of its own for `work`: it survives us, and needs us for nothing."""
        child = os.fork()
        self._working.append(child)
        if child == 0:
            status = 1
            try:
                self._leave_for(job)
                os.setsid()
                with Channel(socket.socket(fileno=3)) as channel:
                    work(channel)
                status = 0
            except Closed:
                pass
            finally:
                os._exit(status)

    def _apply(self, channel: Channel) -> None:
        from shannotd.runner import apply
        from shannotd.runner.record import key

        apply.serve(
            channel,
            key=key(self._state),
            state=self._state,
            own=self._own,
            base=self._cgroup_base,
        )

    def _roll_back(self, channel: Channel) -> None:
        from shannotd.runner import rolling_back
        from shannotd.runner.record import key

        rolling_back.serve(channel, key=key(self._state), state=self._state, own=self._own)

    def _show_checkpoint(self, channel: Channel) -> None:
        from shannotd.runner import checkpoint_view

        checkpoint_view.serve(channel, state=self._state)

    def _resume(self, channel: Channel) -> None:
        from shannotd.runner import resume

        resume.serve(channel, state=self._state)

    @staticmethod
    def _leave_for(job: int) -> None:
        from shannotd.runner import kernel

        os.dup2(job, 3)
        kernel.close_range(4)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _reap(self) -> None:
        """Collect processes of `_start` that have ended."""
        working = [pid for pid in self._working if os.waitpid(pid, os.WNOHANG)[0] == 0]
        if len(working) < len(self._working):
            self._sweep()  # what a plan's identity could not remove
        self._working = working
