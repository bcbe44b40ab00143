"""The owner of one sandbox, outside of it: builds it warm, runs one job in it, records it.

One process each, single-threaded: it may block. It reads what the script prints, answers the
filter's notifications, ends everything at a limit, a cancel, or when the daemon or the
runner is gone; after the sandbox's init is reaped nothing can change any more and the
upper layers are captured.
"""

from __future__ import annotations

import glob
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, replace
from typing import Dict, List, NoReturn, Optional, Sequence

from shannotd.runner import identity, kernel, sandbox
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.init import main as init_main
from shannotd.runner.notifier import Notifier
from shannotd.runner.plan import BlockedStep

# The size of a warm stage; a job's own limit replaces it at hand-out.
WARM_SIZE = 1 << 30
MAX_AGE_SECONDS = 300.0
CHUNK = 65536
# A script that prints this much beyond its limit is stopped, not only cut.
FLOOD_BYTES = 256 * 1024 * 1024
PROCESS_CHECK_SECONDS = 0.1


@dataclass(frozen=True)
class Settings:
    """What every supervisor of a runner shares."""

    builder: str
    program: bytes
    state: str
    floor: identity.Floor


@dataclass
class Warm:
    """A sandbox that waits for its job; owns its descriptors and its init."""

    init: int
    channel: Channel
    blueprint: sandbox.Blueprint
    stage: int
    processes: int
    built_at: float

    def discard(self) -> None:
        """Kill and reap it."""
        kill(self.init)
        os.waitpid(self.init, 0)
        self.channel.close()
        os.close(self.stage)
        os.close(self.processes)


def kill(pid: int) -> None:
    """SIGKILL an init of ours that is not reaped yet: everything in its pid namespace dies."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main(control: Channel, settings: Settings) -> NoReturn:
    """Build a sandbox, tell the runner, serve one job, end; never returns."""
    status = 0
    try:
        _serve(control, settings)
    except Closed:
        pass
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    os._exit(status)


def _serve(control: Channel, settings: Settings) -> None:
    failure: Optional[RunnerError] = None
    warm: Optional[Warm] = None
    try:
        warm = build(settings)
        control.send({"event": "ready", "empty": list(warm.blueprint.empty)})
    except RunnerError as error:
        failure = error
        control.send(error.header())
    try:
        _, _, descriptors = control.receive()
    except Closed:
        if warm is not None:
            warm.discard()
        raise
    with Channel(socket.socket(fileno=descriptors[0])) as job:
        request, payload, _ = job.receive()
        try:
            if failure is not None or warm is None:
                # What was missing a moment ago may be there now.
                warm = build(settings)
            elif _outdated(warm, request):
                warm.discard()
                warm = build(settings, [str(request["cwd"])])
            _run(warm, control, job, request, payload, settings)
        except RunnerError as error:
            job.send(error.header())
        job.send({"event": "end"})


def _outdated(warm: Warm, request: Header) -> bool:
    """Whether mounts came or went since `warm` was built, it is too old, or lacks a place."""
    if time.monotonic() - warm.built_at > MAX_AGE_SECONDS:
        return True
    if warm.blueprint.builder == sandbox.ONE_UID and _needs_own_overlay(warm, str(request["cwd"])):
        return True
    return sandbox.read_mountinfo() != warm.blueprint.mountinfo


def _needs_own_overlay(warm: Warm, cwd: str) -> bool:
    if any(overlay.path == cwd for overlay in warm.blueprint.overlays):
        return False
    try:
        foreign = os.stat(cwd).st_uid != os.geteuid()
    except OSError:
        return False
    return foreign and os.access(cwd, os.W_OK)


def build(settings: Settings, also_writable: Sequence[str] = ()) -> Warm:
    """A warm sandbox.

    :raises RunnerError: `sandbox_unavailable`.
    """
    try:
        blueprint = sandbox.blueprint(settings.builder, also_writable)
        ours, theirs = socket.socketpair()
        flags = sandbox.NAMESPACES
        if settings.builder == sandbox.ONE_UID:
            flags |= kernel.CLONE_NEWUSER
        pid = kernel.clone(flags)
    except OSError as error:
        raise sandbox.unavailable("namespaces", error) from error
    if pid == 0:
        ours.close()
        keep = theirs.detach()
        os.dup2(keep, 3)
        kernel.close_range(4)
        init_channel = Channel(socket.socket(fileno=3))
        init_main(init_channel, blueprint, settings.program, WARM_SIZE)
    theirs.close()
    channel = Channel(ours)
    try:
        if settings.builder == sandbox.ONE_UID:
            _write_own_map(pid)
        channel.send({"op": "mapped"})
        event, _, descriptors = channel.receive()
        if event["event"] != "ready":
            raise RunnerError(event["code"], **event["details"])
    except (Closed, OSError, RunnerError) as error:
        kill(pid)
        os.waitpid(pid, 0)
        channel.close()
        if isinstance(error, OSError):
            raise sandbox.unavailable("mapping the own uid", error) from error
        if isinstance(error, Closed):
            reason = "the sandbox's first process ended while it was built"
            raise RunnerError("sandbox_unavailable", reason=reason, remedy="") from error
        raise
    covered = tuple(event["covered"])
    blueprint = replace(blueprint, empty=blueprint.empty + covered)
    stage, processes = descriptors
    return Warm(pid, channel, blueprint, stage, processes, time.monotonic())


def _write_own_map(pid: int) -> None:
    """Map the own uid and gid to themselves; without privilege nothing else can be mapped."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{os.geteuid()} {os.geteuid()} 1"),
        ("gid_map", f"{os.getegid()} {os.getegid()} 1"),
    ):
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)


def environment(request: Header, account: Dict[str, str]) -> Dict[str, str]:
    """The clean base that every script starts with, and the profile's additions."""
    base = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        **account,
        **request["environment"],
        "PWD": request["cwd"],
        "SHANNOT_SANDBOX": "1",
        "SHANNOT_SESSION": request["session"],
    }
    return {name: str(value) for name, value in base.items()}


def hidden_paths(patterns: Sequence[str], state: str) -> List[str]:
    """The host's files and directories that `patterns` name, links resolved, outermost only."""
    found = {os.path.realpath(state)}
    for pattern in patterns:
        for path in glob.iglob(os.path.expanduser(pattern), recursive=True):
            found.add(os.path.realpath(path))
    found.discard("/")
    outermost: List[str] = []
    for path in sorted(found):
        if not (outermost and path.startswith(outermost[-1] + "/")) and os.path.exists(path):
            outermost.append(path)
    return outermost


def _run(
    warm: Warm, control: Channel, job: Channel, request: Header, payload: bytes, settings: Settings
) -> None:
    from shannotd.runner.record import record

    who, account = identity.resolve(request["run_as"], settings.floor)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    name = os.path.basename(request["path"] or request["name"]) or "script"
    order = {
        "kind": request["kind"],
        "name": "script" if name in (".", "..") or "\0" in name else name,
        "shown": request["path"] or request["name"],
        "path": request["path"],
        "arguments": request["arguments"],
        "script_size": request["script_size"],
        "stdin_size": request["stdin_size"],
        "cwd": request["cwd"],
        "identity": {**who.__dict__, "groups": list(who.groups)},
        "environment": environment(request, account),
        "limits": request["limits"],
        "hide": hidden_paths(request["hide"], settings.state),
    }
    started_ns = time.time_ns()
    try:
        warm.channel.send(order, payload, (out_write, err_write))
    except Closed:
        pass  # The loop below finds out why.
    os.close(out_write)
    os.close(err_write)
    watch = Watch(warm, control, job, request["limits"], out_read, err_read)
    try:
        ending = watch.follow()
        job.send({"event": "exited", **ending})
        if ending["stopped"] is None:
            record(job, request, who, warm, watch.blocked(), started_ns, settings)
    finally:
        watch.close()
        warm.channel.close()
        os.close(warm.stage)
        os.close(warm.processes)


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
        self._notifier: Optional[Notifier] = None
        self._stopped: Optional[str] = None
        self._ending: Header = {"exit_code": None, "signal": None, "leftover": 0}
        self._failure: Optional[RunnerError] = None
        self._daemon_gone = False

    def close(self) -> None:
        """Close what is still open."""
        for descriptor in self._streams:
            os.close(descriptor)
        self._streams = {}
        if self._notifier is not None:
            self._notifier.close()

    def blocked(self) -> List[BlockedStep]:
        """The blocked attempts, as steps."""
        return [] if self._notifier is None else self._notifier.steps()

    def follow(self) -> Header:
        """Serve the script until nothing of it is left; how it ended.

        :raises RunnerError: it could not be started.
        :raises Closed: the daemon or the runner is gone (everything is dead by then).
        """
        started = time.monotonic()
        deadline = started + self._limits["wall_seconds"]
        poll = select.poll()
        for descriptor in (*self._streams, self._warm.channel.fileno()):
            poll.register(descriptor, select.POLLIN)
        poll.register(self._job.fileno(), select.POLLIN)
        poll.register(self._control.fileno(), select.POLLIN)
        alive = True
        while alive or self._streams:
            wait = min(deadline - time.monotonic(), PROCESS_CHECK_SECONDS)
            ready = poll.poll(max(0, wait * 1000))
            for descriptor, event in ready:
                if descriptor in self._streams:
                    self._read_stream(poll, descriptor)
                elif alive and descriptor == self._warm.channel.fileno():
                    alive = self._read_init(poll)
                elif self._notifier is not None and descriptor == self._notifier.fileno():
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
            if alive and not ready:
                self._count_processes()
        duration = time.monotonic() - started
        os.waitpid(self._warm.init, 0)
        if self._daemon_gone:
            raise Closed
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
                self._job.send({"event": "output", "stream": stream}, kept)
            except Closed:
                self._lose_daemon()
        if self._dropped[stream] > FLOOD_BYTES:
            self._stop("output_bytes")

    def _read_init(self, poll: select.poll) -> bool:
        """One message of the sandbox's init; False when it has ended."""
        try:
            event, _, descriptors = self._warm.channel.receive()
        except Closed:
            poll.unregister(self._warm.channel.fileno())
            if self._ending["exit_code"] is None and self._ending["signal"] is None:
                reason = "the sandbox's first process was killed"
                lost = RunnerError("runner_lost", session="", reason=reason)
                self._failure = self._failure or lost
            return False
        if event["event"] == "started":
            self._notifier = Notifier(descriptors[0], self._warm.processes)
            poll.register(self._notifier.fileno(), select.POLLIN)
            self._job.send({"event": "started"})
        elif event["event"] == "error":
            self._failure = RunnerError(event["code"], **event["details"])
        elif event["event"] == "exited":
            self._ending = {name: event[name] for name in ("exit_code", "signal", "leftover")}
        return True

    def _read_daemon(self, poll: select.poll) -> None:
        try:
            request, _, _ = self._job.receive()
        except Closed:
            poll.unregister(self._job.fileno())
            self._lose_daemon()
            return
        if request.get("op") == "cancel":
            self._stop("cancelled")

    def _lose_daemon(self) -> None:
        self._daemon_gone = True
        self._stop("cancelled")

    def _count_processes(self) -> None:
        """Stop a sandbox with more processes than allowed: the whole namespace at once."""
        try:
            count = sum(name.isdigit() for name in os.listdir(self._warm.processes))
        except OSError:
            return
        if count > self._limits["processes"] + 1:
            self._stop("processes")
