"""Process 1 of a sandbox: builds it, keeps it warm, runs one script, ends with it.

It keeps the right to remount (stale overlays) and to mask, which no script gets: it is not
dumpable, and as process 1 it takes no signal from inside. When it ends, the kernel kills
whatever else runs in its pid namespace.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import NoReturn, Tuple

from shannotd.runner import kernel, sandbox, script
from shannotd.runner.frames import Channel, Closed, Header, RunnerError


def main(channel: Channel, plan: sandbox.Blueprint, program: bytes, size: int) -> NoReturn:
    """Live as process 1 until the script has ended or the supervisor is gone; never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        _serve(channel, plan, program, size)
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


def _serve(channel: Channel, plan: sandbox.Blueprint, program: bytes, size: int) -> None:
    channel.receive()  # the identity maps are written
    os.umask(0)
    stage, processes, covered = sandbox.build(plan, size)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    channel.send({"event": "ready", "covered": covered}, descriptors=(stage, processes))
    job, payload, descriptors = channel.receive()
    stdout, stderr = descriptors
    sandbox.refresh(plan.overlays, covered)
    kernel.resize_tmpfs(stage, job["limits"]["written_bytes"])
    sandbox.mask(job["hide"])
    size = job["script_size"]
    source, stdin = payload[:size], payload[size:]
    sandbox.place_script(job["name"], source, stdin)
    privileged = plan.builder == sandbox.PRIVILEGED
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        script.main(theirs, job, source, (stdout, stderr), program, privileged)
    theirs.close()
    os.close(stdout)
    os.close(stderr)
    with ours:
        listener = _accompany(ours, child)
    channel.send({"event": "started"}, descriptors=(listener,))
    os.close(listener)
    status = _wait_for(child)
    leftover = sum(name.isdigit() for name in os.listdir("/proc")) - 1
    header: Header = {"event": "exited", "exit_code": None, "signal": None, "leftover": leftover}
    if os.WIFSIGNALED(status):
        header["signal"] = os.WTERMSIG(status)
    else:
        header["exit_code"] = os.WEXITSTATUS(status)
    channel.send(header)


def _accompany(report: socket.socket, child: int) -> int:
    """Help the child become the script; the filter's listener when it is about to run.

    :raises RunnerError: what the child could not do.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(report, 65536, 1)
        if message == b"map":
            _write_maps(child)
            report.send(b"mapped")
        elif message == b"listener" and descriptors:
            return descriptors[0]
        elif message:
            failure = json.loads(message)
            raise RunnerError(failure["code"], **failure["details"])
        else:
            reason = "the script's process ended before it could start"
            raise RunnerError("sandbox_unavailable", reason=reason, remedy="")


def _write_maps(child: int) -> None:
    """Map every id of a child's user namespace to itself (user_namespaces(7))."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:
            file.write("0 0 4294967295")


def _wait_for(child: int) -> int:
    """Reap every process that falls to us until `child` has ended; its wait status."""
    while True:
        pid, status = _reap()
        if pid == child:
            return status


def _reap() -> Tuple[int, int]:
    return os.waitpid(-1, 0)
