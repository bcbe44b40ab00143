"""Process 1 of a sandbox: builds it, keeps it warm, runs one script, ends with it.

It keeps the right to remount (stale overlays) and to mask, which no script gets: it is not
dumpable, and as process 1 it takes no signal from inside. When it ends, the kernel kills
whatever else runs in its pid namespace.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import List, NoReturn, Tuple

from shannotd.runner import caller, kernel, masks, sandbox, script
from shannotd.runner.frames import Channel, Closed, Header, RunnerError

_BACKLOG = 128  # shims that wait to be accepted


def main(channel: Channel, wanted: sandbox.Wanted, program: bytes) -> NoReturn:
    """Live as process 1 until the script has ended or the supervisor is gone; never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        _serve(channel, wanted, program)
    except Closed:
        pass
    except RunnerError as error:
        _tell(channel, error)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        _tell(channel, RunnerError("sandbox_unavailable", reason=reason, remedy=""))
    os._exit(0)


def _tell(channel: Channel, error: RunnerError) -> None:
    try:
        channel.send(error.header())
    except Closed:
        pass


def _serve(channel: Channel, wanted: sandbox.Wanted, program: bytes) -> None:
    channel.receive()  # the identity maps are written
    os.umask(0)
    plan, stage, processes = sandbox.build(wanted)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    child, report, listener = _prepare_child(program, wanted.builder == sandbox.PRIVILEGED)
    sandbox.seal_proc()
    with _listen() as calls:
        ready = (stage, processes, listener, calls.fileno(), report.fileno())
        channel.send({"event": "ready", "script": child}, plan.encode(), ready)
    os.close(processes)
    os.close(listener)
    masked = _rehearse(channel, report)
    # From here to the job nobody looks up a name: so the overlays will show the host as it is then.
    sandbox.refresh(plan)
    sandbox.step_out()
    channel.send({"event": "rehearsed"})
    job, payload, _ = channel.receive()
    sandbox.step_back()
    with report:
        kernel.resize_tmpfs(stage, job["stage_size"], job["stage_inodes"])
        os.close(stage)
        if job["shown"]:
            shown = frozenset(job["shown"])
            masks.unmask([path for path in masked if path in shown])
            sandbox.refresh(plan)  # masks held on to what is above them
        masks.mask(job["masked"])
        size = job["script_size"]
        end = size + job["stdin_size"]
        masks.show_instead(job["views"], payload[end:])
        sandbox.place_script(job["name"], payload[:size], payload[size:end])
        channel.receive()  # the host is still what the sandbox shows
        try:
            report.send({"op": "start"})
        except Closed:
            pass  # It found something wrong and said so.
        status = _wait_for(child)
        _from_child(report)
    leftover = sum(name.isdigit() for name in os.listdir("/proc")) - 1
    header: Header = {"event": "exited", "exit_code": None, "signal": None, "leftover": leftover}
    if os.WIFSIGNALED(status):
        header["signal"] = os.WTERMSIG(status)
    else:
        header["exit_code"] = os.WEXITSTATUS(status)
    channel.send(header)


def _prepare_child(program: bytes, privileged: bool) -> Tuple[int, Channel, int]:
    """Fork the process that will become the script; it waits for the job on the channel.

    The third value is the listener of its filter.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        os.dup2(theirs.detach(), 3)
        ours.detach()
        kernel.close_range(4)
        script.main(Channel(socket.socket(fileno=3)), program, privileged)
    theirs.close()
    report = Channel(ours)
    answer, _, descriptors = _from_child(report)
    if answer["event"] == "map":
        _write_maps(child)
        report.send({"op": "mapped"})
        answer, _, descriptors = _from_child(report)
    return child, report, descriptors[0]


def _rehearse(channel: Channel, report: Channel) -> List[str]:
    """Mask what most jobs hide, and see the script's process through a job that is none.

    Returns what was masked.
    """
    job, _, _ = channel.receive()
    masked = masks.mask(job["masked"])
    _from_child(report)
    os.listdir("/proc")  # so that the next finds the memory for it our own
    return masked


def _from_child(report: Channel) -> Tuple[Header, bytes, List[int]]:
    """What the child says next.

    :raises RunnerError: what it could not do.
    """
    try:
        answer, payload, descriptors = report.receive()
    except Closed:
        reason = "the script's process ended before it could start"
        raise RunnerError("sandbox_unavailable", reason=reason, remedy="") from None
    if answer["event"] == "error":
        raise RunnerError(answer["code"], **answer["details"])
    return answer, payload, descriptors


def _write_maps(child: int) -> None:
    """Map every id but one of a child's user namespace to itself (user_namespaces(7))."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:
            file.write(sandbox.ID_MAP)


def _wait_for(child: int) -> int:
    """Reap every process that falls to us until `child` has ended; its wait status."""
    while True:
        pid, status = _reap()
        if pid == child:
            return status


def _reap() -> Tuple[int, int]:
    return os.waitpid(-1, 0)


def _listen() -> socket.socket:
    """The socket that every identity within the sandbox may connect to.

    :raises OSError: it could not be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(caller.ADDRESS)
        os.chmod(caller.ADDRESS, 0o666)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
