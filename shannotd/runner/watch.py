"""Follows one running script: its output, its notifications, its limits, its end."""

from __future__ import annotations

import os
import select
import time
from functools import partial
from typing import Dict, List, Optional

from shannotd.runner.call import Desk
from shannotd.runner.calls import Calls
from shannotd.runner.ending import has_succeeded
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.notifier import Notifier, Waiting
from shannotd.runner.plan import BlockedStep
from shannotd.runner.starts import Starts
from shannotd.runner.usual import Usual
from shannotd.runner.warm import Warm, kill

CHUNK = 65536
# A script that prints this much beyond its limit is stopped, not only cut.
FLOOD_BYTES = 256 * 1024 * 1024
# How often processes are counted, and how long output waits for more of it.
TICK_SECONDS = 0.01
# A process that gave up its filter gives up its memory at once, if it is let run.
_LOOKS = 4
_LOOK_SECONDS = 0.00005


class Watch:
    """Follows one running script until nothing of it can do anything any more."""

    def __init__(
        self,
        warm: Warm,
        control: Channel,
        job: Channel,
        request: Header,
        names: Usual,
        desk: Desk,
        streams: Dict[int, str],
    ) -> None:
        """`names` has those of programs that policy is asked about; `streams` are what the script
        prints to, this one's to close."""
        self._warm = warm
        self._job = job
        self._limits = request["limits"]
        self._desk = desk
        self._streams = streams
        self._sent = {"stdout": 0, "stderr": 0}
        self._dropped = {"stdout": 0, "stderr": 0}
        self._notifier = Notifier(warm.listener, warm.processes, self._on_start)
        self._starts = Starts(
            self._notifier,
            desk.tree,
            os.dup(warm.shim),
            desk.programs,
            desk.decisions,
            desk.record.add,
            desk.observers.prepare,
            asked=names.asked,
            denied=names.denied,
        )
        self._calls = Calls(warm.calls, warm.pid_namespace, desk, self._starts)
        self._alive = True
        self._stopped: Optional[str] = None
        self._ending: Header = {"exit_code": None, "signal": None, "leftover": 0}
        self._failure: Optional[RunnerError] = None
        self._deserted = False
        self._daemon_gone = False
        for descriptor in streams:
            desk.loop.add(descriptor, partial(self._on_stream, descriptor))
        desk.loop.add(warm.channel.fileno(), self._on_init)
        desk.loop.add(warm.listener, self._on_notification)
        desk.loop.add(job.fileno(), self._on_daemon)
        desk.loop.add(control.fileno(), partial(self._on_runner, control.fileno()))

    def close(self) -> None:
        """Close what is still open."""
        self._calls.close()
        self._starts.close()
        for descriptor in self._streams:
            os.close(descriptor)
        self._streams = {}

    def blocked(self) -> List[BlockedStep]:
        """The blocked attempts, as steps."""
        return [*self._notifier.steps(), *self._starts.unfinished()]

    def programs(self) -> List[Dict[str, object]]:
        """The programs that were started inside."""
        return self._starts.executions()

    def follow(self) -> Header:
        """Serve the script until nothing of it is left; how it ended.

        :raises RunnerError: it could not be started, or something of it not be recorded.
        :raises Closed: the daemon or the runner is gone (everything is dead by then).
        """
        started = time.monotonic()
        deadline = started + self._limits["wall_seconds"]
        if self._job.pending():
            self._on_daemon(0)
        tick_at = started + TICK_SECONDS
        while self._alive or self._streams:
            self._turn(min(deadline, tick_at) - time.monotonic())
            if self._alive and time.monotonic() >= deadline:
                self._stop("wall_seconds")
                deadline = float("inf")
            if time.monotonic() >= tick_at:
                if self._alive:
                    self._count_processes()
                self._desk.observers.drop_outdated()
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

    def _turn(self, seconds: float) -> None:
        try:
            self._desk.loop.turn(seconds)
        except Closed:
            self._lose_daemon()
        except RunnerError as error:  # of a call that cannot be served as it must be
            self._failure = self._failure or error
            kill(self._warm.init)
        if self._starts.count > self._limits["calls"]:
            self._stop("calls")

    def _stop(self, why: str) -> None:
        if self._stopped is None:
            self._stopped = why
        kill(self._warm.init)

    def _on_stream(self, descriptor: int, _: int) -> None:
        data = os.read(descriptor, CHUNK)
        if not data:
            self._end_stream(descriptor)
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

    def _end_stream(self, descriptor: int) -> None:
        self._desk.loop.remove(descriptor)
        os.close(descriptor)
        del self._streams[descriptor]

    def _flush_output(self) -> None:
        if not self._daemon_gone:
            try:
                self._job.flush()
            except Closed:
                self._lose_daemon()

    def _on_init(self, _: int) -> None:
        """What the sandbox's init says, or its end: nothing of the sandbox is left then."""
        try:
            self._take_message()
            while self._warm.channel.pending():
                self._take_message()
        except Closed:
            self._leave_init()
            if self._ending["exit_code"] is None and self._ending["signal"] is None:
                reason = "the sandbox's first process was killed"
                lost = RunnerError("runner_lost", session="", reason=reason)
                self._failure = self._failure or lost

    def _leave_init(self) -> None:
        self._alive = False
        self._desk.loop.remove(self._warm.channel.fileno())
        self._desk.observers.close()
        # They hold what the script printed to.
        self._calls.end()

    def _take_message(self) -> None:
        event, _, _ = self._warm.channel.receive()
        if event["event"] == "error":
            self._failure = RunnerError(event["code"], **event["details"])
        elif event["event"] == "exited":
            self._ending = {name: event[name] for name in ("exit_code", "signal", "leftover")}
            if event["leftover"] == 0:
                # Only the init is left, which does nothing any more and has no children: that is
                # as good as its end, which takes a while.
                self._deserted = True
                self._leave_init()

    def _on_notification(self, events: int) -> None:
        if events & select.POLLIN:
            self._notifier.answer()
        else:  # Nobody is left who runs under the filter.
            self._desk.loop.remove(self._warm.listener)
            self._look_for_end()

    def _look_for_end(self) -> None:
        """Go on without the init's word if the script ended well and nothing more can happen."""
        if not self._alive or self._notifier.asynchronous:
            return
        for _ in range(_LOOKS):
            if has_succeeded(self._warm.processes, self._warm.script):
                break
            time.sleep(_LOOK_SECONDS)
        else:
            return
        self._ending = {"exit_code": 0, "signal": None, "leftover": 0}
        self._deserted = True
        self._leave_init()
        for descriptor in tuple(self._streams):
            self._drain(descriptor)

    def _drain(self, descriptor: int) -> None:
        """Take what is left of a stream that nobody writes to any more."""
        os.set_blocking(descriptor, False)
        while descriptor in self._streams:
            try:
                self._on_stream(descriptor, 0)
            except BlockingIOError:
                self._end_stream(descriptor)

    def _on_start(self, waiting: Waiting) -> None:
        self._starts.begin(waiting)

    def _on_daemon(self, _: int) -> None:
        try:
            self._obey()
            while self._job.pending():
                self._obey()
        except Closed:
            self._desk.loop.remove(self._job.fileno())
            self._lose_daemon()

    def _obey(self) -> None:
        request, _, _ = self._job.receive()
        if request.get("op") == "cancel":
            self._stop("cancelled")
        elif request.get("op") == "verdict":
            self._desk.decisions.answer(request)

    def _on_runner(self, descriptor: int, _: int) -> None:
        self._daemon_gone = True
        self._desk.loop.remove(descriptor)
        self._stop("cancelled")

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
