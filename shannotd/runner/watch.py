"""Follows one running script: its output, its notifications, its limits, its end."""

from __future__ import annotations

import os
import select
import time
from typing import Dict, List, Optional

from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.notifier import Notifier
from shannotd.runner.plan import BlockedStep
from shannotd.runner.warm import Warm, kill

CHUNK = 65536
# A script that prints this much beyond its limit is stopped, not only cut.
FLOOD_BYTES = 256 * 1024 * 1024
# How often processes are counted, and how long output waits for more of it.
TICK_SECONDS = 0.01


class Watch:
    """Follows one running script until its sandbox's init is reaped."""

    def __init__(
        self,
        warm: Warm,
        control: Channel,
        job: Channel,
        limits: Dict[str, float],
        stdout: int,
        stderr: int,
    ) -> None:
        self._warm = warm
        self._control = control
        self._job = job
        self._limits = limits
        self._streams = {stdout: "stdout", stderr: "stderr"}
        self._sent = {"stdout": 0, "stderr": 0}
        self._dropped = {"stdout": 0, "stderr": 0}
        self._notifier = Notifier(warm.listener, warm.processes)
        self._stopped: Optional[str] = None
        self._ending: Header = {"exit_code": None, "signal": None, "leftover": 0}
        self._failure: Optional[RunnerError] = None
        self._deserted = False
        self._daemon_gone = False

    def close(self) -> None:
        """Close what is still open."""
        for descriptor in self._streams:
            os.close(descriptor)
        self._streams = {}

    def blocked(self) -> List[BlockedStep]:
        """The blocked attempts, as steps."""
        return self._notifier.steps()

    def follow(self) -> Header:
        """Serve the script until nothing of it is left; how it ended.

        :raises RunnerError: it could not be started.
        :raises Closed: the daemon or the runner is gone (everything is dead by then).
        """
        started = time.monotonic()
        deadline = started + self._limits["wall_seconds"]
        poll = select.poll()
        for descriptor in (
            *self._streams,
            self._warm.channel.fileno(),
            self._warm.listener,
            self._job.fileno(),
            self._control.fileno(),
        ):
            poll.register(descriptor, select.POLLIN)
        if self._job.pending():
            self._read_daemon(poll)
        alive = True
        tick_at = started + TICK_SECONDS
        while (alive and not self._deserted) or self._streams:
            wait = min(deadline, tick_at) - time.monotonic()
            ready = poll.poll(max(0, wait * 1000))
            for descriptor, event in ready:
                if descriptor in self._streams:
                    self._read_stream(poll, descriptor)
                elif alive and descriptor == self._warm.channel.fileno():
                    alive = self._read_init(poll)
                elif descriptor == self._warm.listener:
                    if event & select.POLLIN:
                        self._notifier.answer()
                    else:  # Nobody is left who runs under the filter.
                        poll.unregister(descriptor)
                elif descriptor == self._job.fileno():
                    self._read_daemon(poll)
                elif descriptor == self._control.fileno():
                    self._daemon_gone = True
                    poll.unregister(descriptor)
                    self._stop("cancelled")
            if alive and time.monotonic() >= deadline:
                self._stop("wall_seconds")
                deadline = float("inf")
            if time.monotonic() >= tick_at:
                if alive:
                    self._count_processes()
                self._flush_output()
                tick_at = time.monotonic() + TICK_SECONDS
        duration = time.monotonic() - started
        if not self._deserted:
            self._warm.reap()
        if self._daemon_gone:
            raise Closed
        if self._stopped is None and self._warm.cgroup is not None:
            self._stopped = self._warm.cgroup.exceeded()
        if self._failure is not None and self._stopped is None:
            raise self._failure
        return {
            **self._ending,
            "stopped": self._stopped,
            "duration": duration,
            "stdout_dropped": self._dropped["stdout"],
            "stderr_dropped": self._dropped["stderr"],
        }

    def _stop(self, why: str) -> None:
        if self._stopped is None:
            self._stopped = why
        kill(self._warm.init)

    def _read_stream(self, poll: select.poll, descriptor: int) -> None:
        data = os.read(descriptor, CHUNK)
        if not data:
            poll.unregister(descriptor)
            os.close(descriptor)
            del self._streams[descriptor]
            return
        stream = self._streams[descriptor]
        room = int(self._limits["output_bytes"]) - self._sent[stream]
        kept = data[: max(0, room)]
        self._sent[stream] += len(kept)
        self._dropped[stream] += len(data) - len(kept)
        if kept and not self._daemon_gone:
            try:
                self._job.hold({"event": "output", "stream": stream}, kept)
            except Closed:
                self._lose_daemon()
        if self._dropped[stream] > FLOOD_BYTES:
            self._stop("output_bytes")

    def _flush_output(self) -> None:
        if not self._daemon_gone:
            try:
                self._job.flush()
            except Closed:
                self._lose_daemon()

    def _read_init(self, poll: select.poll) -> bool:
        """One message of the sandbox's init; False when it has ended."""
        try:
            event, _, _ = self._warm.channel.receive()
        except Closed:
            poll.unregister(self._warm.channel.fileno())
            if self._ending["exit_code"] is None and self._ending["signal"] is None:
                reason = "the sandbox's first process was killed"
                lost = RunnerError("runner_lost", session="", reason=reason)
                self._failure = self._failure or lost
            return False
        if event["event"] == "error":
            self._failure = RunnerError(event["code"], **event["details"])
        elif event["event"] == "exited":
            self._ending = {name: event[name] for name in ("exit_code", "signal", "leftover")}
            # Only the init is left, which does nothing any more and has no children: that is as
            # good as its end, which takes a while.
            self._deserted = event["leftover"] == 0
        return self._read_init(poll) if self._warm.channel.pending() else True

    def _read_daemon(self, poll: select.poll) -> None:
        try:
            request, _, _ = self._job.receive()
        except Closed:
            poll.unregister(self._job.fileno())
            self._lose_daemon()
            return
        if request.get("op") == "cancel":
            self._stop("cancelled")
        if self._job.pending():
            self._read_daemon(poll)

    def _lose_daemon(self) -> None:
        self._daemon_gone = True
        self._stop("cancelled")

    def _tasks(self, name: str) -> int:
        """How many threads the process has that /proc calls `name`; 0 if it is none."""
        if not name.isdigit():
            return 0
        try:
            # A directory has a link for each subdirectory, itself and its name: proc_pid_task(5).
            return os.stat(f"{name}/task", dir_fd=self._warm.processes).st_nlink - 2
        except OSError:
            return 0

    def _count_processes(self) -> None:
        """Stop a sandbox with more processes and threads than allowed, all of it at once."""
        cgroup = self._warm.cgroup
        if cgroup is not None and cgroup.counts_processes:
            if cgroup.exceeded() == "processes":
                self._stop("processes")
            return
        try:
            count = sum(map(self._tasks, os.listdir(self._warm.processes)))
        except OSError:
            return
        if count > self._limits["processes"] + 1:
            self._stop("processes")
