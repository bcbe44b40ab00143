"""One's own daemon, started when it is first needed.

The lock beside the socket makes two clients that start at once share one daemon. The daemon
reports with sdnotify that it listens; until then its pidfd tells whether it died.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from shannotctl import client
from shannotctl.location import state_directory
from shannotd.wire.errors import DaemonUnreachable, ShannotError, error_from_wire

START_SECONDS = 60.0
LOG_TAIL_BYTES = 8192
_ERROR_FIELD = "X_SHANNOT_ERROR="  # of a notification; its value is an error as it travels

# A new parentless session: no terminal, and nobody has to reap it. Prints its process id.
_DETACH = """\
import os, sys
pid = os.fork()
if pid:
    print(pid)
    sys.stdout.flush()
    os._exit(0)
os.setsid()
log = int(sys.argv[1])
os.dup2(log, 1)
os.dup2(log, 2)
os.execv(sys.argv[2], sys.argv[2:])
"""

_KEPT_VARIABLES = frozenset(
    {
        "DBUS_SESSION_BUS_ADDRESS",
        "DISPLAY",
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "PATH",
        "PYTHONPATH",
        "SHELL",
        "TZ",
        "USER",
        "WAYLAND_DISPLAY",
    }
)
_KEPT_PREFIXES = ("LC_", "XDG_", "SHANNOT_")


def start(path: str) -> None:
    """See to it that a daemon listens at `path`; returns when one does.

    :raises DaemonUnreachable: it could not be started; the reason is its last log line.
    :raises ShannotError: the daemon's own reason not to start: a broken configuration or log, ...
    """
    directory = Path(path).parent
    try:
        _private_directory(directory)
        _private_directory(Path(state_directory()))
        with _lock(f"{path}.lock"):
            if not _answers(path):
                _launch(path)
    except OSError as error:
        raise DaemonUnreachable(
            path=path, reason=f"{error.filename or directory}: {error.strerror or error}"
        ) from None


def daemon_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of a client's environment that its daemon needs.

    The daemon serves later clients too: it must not keep what was meant for the first.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }


def _launch(path: str) -> None:
    log_path = Path(state_directory(), "shannotd.log")
    log = os.open(log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        log_start = os.fstat(log).st_size
        with _notify_socket(Path(path).parent) as (notifications, address):
            process = _spawn(path, log, address)
            reason = _await_ready(process, notifications)
        if reason is not None:
            raise DaemonUnreachable(path=path, reason=_last_line(log, log_start) or reason)
    finally:
        os.close(log)


def _spawn(path: str, log: int, notify_address: str) -> int:
    command = [sys.executable, "-m", "shannotd", "--embedded", "--socket", path]
    completed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _DETACH, str(log), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        pass_fds=(log,),
        cwd="/",
        env={**daemon_environment(os.environ), "NOTIFY_SOCKET": notify_address},
        check=True,
    )
    return int(completed.stdout)


def _await_ready(process: int, notifications: socket.socket) -> str | None:
    """None when the daemon says that it is ready, else why it will not.

    :raises ShannotError: what the daemon itself says of that.
    """
    try:
        death = os.pidfd_open(process)
    except ProcessLookupError:
        return "it ended at once"
    try:
        deadline = time.monotonic() + START_SECONDS
        waiting = select.poll()
        waiting.register(death, select.POLLIN)
        waiting.register(notifications, select.POLLIN)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return f"it was not ready after {START_SECONDS:.0f} seconds"
            ready = {descriptor for descriptor, _ in waiting.poll(remaining * 1000)}
            if notifications.fileno() in ready:
                for line in notifications.recv(65536).decode(errors="replace").splitlines():
                    if line == "READY=1":
                        return None
                    if line.startswith(_ERROR_FIELD):
                        raise _start_error(line.removeprefix(_ERROR_FIELD))
            elif death in ready:
                return "it ended while it started"
    finally:
        os.close(death)


def _start_error(encoded: str) -> ShannotError:
    try:
        return error_from_wire(json.loads(encoded))
    except ValueError as error:
        return ShannotError(reason=f"the daemon's own report cannot be read ({error})")


@contextlib.contextmanager
def _notify_socket(directory: Path) -> Iterator[tuple[socket.socket, str]]:
    # The process id is this client's own: whatever has the name was left by a dead one.
    address = directory / f".ready-{os.getpid()}"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(address))
        try:
            yield notifications, str(address)
        finally:
            address.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(path: str) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _answers(path: str) -> bool:
    try:
        client.connect(path).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def _private_directory(path: Path) -> None:
    if path.is_symlink():  # whose mode would be set, and of what?
        raise PermissionError(1, "it is a symbolic link", str(path))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
        raise PermissionError(1, "it belongs to somebody else", str(path))
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)


def _last_line(log: int, start: int) -> str:
    size = os.fstat(log).st_size
    begin = max(start, size - LOG_TAIL_BYTES)
    lines = os.pread(log, size - begin, begin).decode(errors="surrogateescape").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
