"""The two processes of an observation: its init, and the program as its child.

Both come from a fork of the runner's, outside of any sandbox. The init is process 1 of a pid
namespace: what the program starts dies with it, and it dies with the runner's process.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
from dataclasses import dataclass
from typing import NoReturn, Optional, Tuple

from shannotd.runner import (
    kernel,
    observe_shown,
    observe_tables,
    observe_view,
    sandbox,
    script,
)
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.plan import Identity

# Limits of each process (getrlimit(2)). A core of 1 byte starts no handler: script.py.
_LIMITS = (
    (resource.RLIMIT_CORE, 1),
    (resource.RLIMIT_FSIZE, 64 << 20),
    (resource.RLIMIT_NOFILE, 1024),
    (resource.RLIMIT_AS, 4 << 30),
    (resource.RLIMIT_NPROC, 128),
)
# Of a child that could not be started: never seen, since its reason comes first.
_NOT_STARTED = 125
# How often another process may take the number that the program was to have.
_ATTEMPTS = 1000
_MANY = 1000
# The number from which on the kernel begins anew (RESERVED_PIDS of kernel/pid.c).
_FIRST = 300


@dataclass(frozen=True)
class Order:
    """Everything that the processes of one observation need to know."""

    program: str
    argv: Tuple[str, ...]
    identity: Identity
    sockets: Tuple[str, ...]
    hide: Tuple[str, ...]
    hidden: Tuple[str, ...]
    builder: str
    caller: Optional[int]
    shown: observe_shown.Shown
    tables: observe_tables.Tables
    filter: bytes


def main(channel: Channel, outputs: Tuple[int, int], order: Order) -> NoReturn:
    """Live as process 1 until the program has ended or the runner is gone; never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        # Asked only now: if the runner died before, there is no answer.
        channel.send({"event": "waiting"})
        channel.receive()  # the identity maps are written
        channel.send(_run(channel, outputs, order))
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


def _run(channel: Channel, outputs: Tuple[int, int], order: Order) -> Header:
    """Build the view, start the program in it when told so, wait for it: how it ended.

    :raises Closed: it is not to start any more.
    :raises RunnerError: it cannot be started.
    """
    os.umask(0o022)
    tables = observe_view.enter(
        order.builder,
        order.sockets,
        order.hide,
        order.hidden,
        order.caller,
        order.shown,
        order.tables,
    )
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    child, report = _start(outputs, order)
    for descriptor in outputs:
        os.close(descriptor)
    with report:
        _from_child(report)
        if order.builder == sandbox.PRIVILEGED:
            _write_maps(child)
        observe_view.show_mounts(child, tables)
        observe_view.seal()
        begin, _, _ = channel.receive()
        report.send(begin)
        try:
            failed, _, _ = report.receive()
            raise RunnerError(failed["code"], **failed["details"])
        except Closed:
            pass  # It runs.
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return _ending(status)


def _ending(status: int) -> Header:
    if os.WIFSIGNALED(status):
        return {"event": "exited", "exit_code": None, "signal": os.WTERMSIG(status)}
    return {"event": "exited", "exit_code": os.WEXITSTATUS(status), "signal": None}


def _start(outputs: Tuple[int, int], order: Order) -> Tuple[int, Channel]:
    """Start the program's process: its number, and what it tells.

    The number is the same in its own pid namespace and in the host's /proc: ps, pgrep and others
    look there for themselves, and would otherwise find another process. Root chooses both; an
    ordinary user the inner one, and has to guess which is the next on the host.

    :raises RunnerError: `sandbox_unavailable`.
    """
    last, step = int(os.readlink("/proc/self")), 1
    for _ in range(_ATTEMPTS):
        wanted = last + step
        ours, theirs = socket.socketpair()
        report = Channel(ours)
        try:
            pids = [wanted] if order.builder == sandbox.ONE_UID else [wanted, wanted]
            child = kernel.clone(0, pids=pids)
        except OSError as error:
            theirs.close()
            report.close()
            last, step = _after(error, wanted), 1
            continue
        if child == 0:
            ours.close()
            _become(Channel(theirs), outputs, order)
        theirs.close()
        found = _number_on_host(child)
        if found == child:
            return child, report
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        report.close()
        # As many others are started until the next attempt as were since the last one.
        last, step = found, found - last if 0 < found - last < _MANY else 1
    reason = "no process could be had that has the same number inside and on the host"
    raise RunnerError("sandbox_unavailable", reason=reason, remedy="")


def _after(error: OSError, wanted: int) -> int:
    """The number after which to try next, where `wanted` could not be had.

    :raises OSError: that is not why.
    """
    if error.errno == errno.EEXIST:
        return wanted
    if error.errno == errno.EINVAL:
        return _FIRST - 1
    raise error


def _number_on_host(child: int) -> int:
    """What the host's /proc calls a child."""
    handle = os.pidfd_open(child)
    try:
        with open(f"/proc/self/fdinfo/{handle}", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
    finally:
        os.close(handle)
    return int(fields["Pid"])


def _from_child(report: Channel) -> None:
    """Wait until the program's process waits for its view.

    :raises RunnerError: it came to nothing.
    """
    try:
        event, _, _ = report.receive()
    except Closed:
        reason = "the observed program's process ended before it could start"
        raise RunnerError("sandbox_unavailable", reason=reason, remedy="") from None
    if event["event"] == "error":
        raise RunnerError(event["code"], **event["details"])


def _write_maps(process: int) -> None:
    """Map every id of a process's user namespace to itself (user_namespaces(7))."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{process}/{name}", "w", encoding="ascii") as file:
            file.write("0 0 4294967295")


def _become(report: Channel, outputs: Tuple[int, int], order: Order) -> NoReturn:
    """Become the observed program.

    In a user namespace of its own it has, also as the same uid, none of the rights over the
    host's processes that /proc would grant: no memory, environment, descriptor or root of one.
    """
    try:
        if order.builder == sandbox.PRIVILEGED:
            kernel.unshare(kernel.CLONE_NEWUSER)
        report.send({"event": "waiting"})
        begin, _, _ = report.receive()  # the view is sealed, and the call is whole
        stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        stdout, stderr = outputs[0], outputs[0 if begin["merged"] else 1]
        for descriptor, standard in ((stdin, 0), (stdout, 1), (stderr, 2)):
            os.dup2(descriptor, standard, inheritable=True)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for kind, value in _LIMITS:
            _, hard = resource.getrlimit(kind)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        _drop(order)
        os.chdir("/")
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.install_filter(order.filter, listener=False)
        report.socket.detach()
        kernel.close_range(3)
    except Closed:
        os._exit(_NOT_STARTED)
    except OSError as error:
        _tell(report, sandbox.unavailable("the observed program's process", error))
        os._exit(_NOT_STARTED)
    except BaseException:
        # Never up the stack: that is the init's.
        os._exit(_NOT_STARTED)
    script.execute(order.program, list(order.argv), begin["environment"])


def _drop(order: Order) -> None:
    """Take the identity, without any capability."""
    kernel.drop_bounding(0, kernel.last_capability())
    if order.builder == sandbox.PRIVILEGED:
        identity = order.identity
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    kernel.set_capabilities(0)
    os.umask(order.identity.umask)
