"""What the filter reports: refused calls and attempts to reach out, once per destination.

The network namespace and the filter are the boundary. This listener answers refused
calls with their errno and only *records* connections: what it read from the caller's memory
may have changed since, which falsifies a line of the report, never lets anything through.
See seccomp_unotify(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

from shannotd.runner import kernel, seccomp, turning
from shannotd.runner.executions import Addresses
from shannotd.runner.filesystem import AT_EMPTY_PATH
from shannotd.runner.plan import BlockedStep

# linux/seccomp.h: struct seccomp_notif, seccomp_notif_resp and their ioctls.
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_RECEIVE = 0xC0502100
_SEND = 0xC0182101
_VALID = 0x40082102
_ADD_DESCRIPTOR = 0x40182103
_SET_FLAGS = 0x40082104
_SYNC_WAKE_UP = 1  # since Linux 6.6
_CONTINUE = 1

# Destinations that only libc's own name service look-ups ask for.
_PLUMBING = ("/run/nscd/socket", "/run/systemd/userdb/", "/run/systemd/resolve/", "/dev/log")
MAX_RECORDS = 200


def _call_names() -> Dict[int, str]:
    library = seccomp.load_library()
    names = [*seccomp.REPORTED, *seccomp.WATCHED, "sendto"]
    numbers = {library.seccomp_syscall_resolve_name(name.encode()): name for name in names}
    return {number: name for number, name in numbers.items() if number >= 0}


CALL_NAMES = _call_names()


@dataclass(frozen=True)
class Waiting:
    """A thread that waits in the system call `name` until it is answered."""

    identifier: int
    pid: int
    name: str
    arguments: Tuple[int, ...]


class Notifier:
    """Answers one sandbox's notifications."""

    def __init__(
        self,
        listener: int,
        processes: int,
        on_start: Optional[Callable[[Waiting], None]] = None,
    ) -> None:
        """`listener` is that of its filter, `processes` a descriptor of its /proc directory.

        `on_start` is told of each start of a program, and answers it; without, all go on.
        """
        self._listener = listener
        self._processes = processes
        self._counts: Dict[Tuple[str, str], int] = {}
        # Whether the kernel may do work for a process of the sandbox that has ended.
        self.asynchronous = False
        self._on_start = on_start
        try:
            # Who waits runs next on this processor, instead of after a way round the scheduler.
            fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)
        except OSError:
            pass  # An older kernel.

    def steps(self) -> List[BlockedStep]:
        """What was recorded so far, in the order of first attempts."""
        return [BlockedStep(what, target, n) for (what, target), n in self._counts.items()]

    def answer(self) -> None:
        """Receive one notification, record it and answer it."""
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, buffer)
        except OSError as error:
            # The caller was killed in between (ENOENT), or a signal came.
            if error.errno in (errno.ENOENT, errno.EINTR):
                return
            raise
        identifier, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        name = CALL_NAMES.get(number, str(number))
        if name in seccomp.EXECUTIONS and self._on_start is not None:
            self._on_start(Waiting(identifier, pid, name, tuple(arguments)))
            return
        code = 0 if name in seccomp.EXECUTIONS else errno.EPERM
        if name == seccomp.ASYNCHRONOUS:
            self.asynchronous = True
            code = 0
        elif name in ("connect", "bind", "sendto"):
            code = self._network(name, identifier, pid, arguments)
        else:
            self._record(name, "")
        self._answer(identifier, code)

    def refuse(self, waiting: Waiting, code: int) -> None:
        """Have its call fail with an errno, or go on where that is 0."""
        self._answer(waiting.identifier, code)

    def turn(self, waiting: Waiting, where: Addresses, empty: int, program: int) -> bool:
        """Have it execute the file that the descriptor `program` reads, with the words and the
        environment of its call.

        `empty` is the address of an empty string. False where it waits no more.

        :raises OSError: it cannot be made to: it may have no further descriptor, or not be traced.
        """
        added = bytearray(struct.pack("=QIIII", waiting.identifier, 0, program, 0, 0))
        try:
            number = fcntl.ioctl(self._listener, _ADD_DESCRIPTOR, added)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                return False
            raise
        instead = (number, empty, where.argv, where.environment, AT_EMPTY_PATH)
        try:
            return turning.turn(
                waiting.pid,
                waiting.arguments[:3],
                instead,
                lambda code: self._answer(waiting.identifier, code),
            )
        except PermissionError:
            if self.waits(waiting.identifier):
                raise
            return False  # it is dead and not yet reaped (ptrace(2), EPERM)

    def _answer(self, identifier: int, code: int) -> None:
        flags = _CONTINUE if code == 0 else 0
        response = _RESPONSE.pack(identifier, 0, -code, flags)
        try:
            fcntl.ioctl(self._listener, _SEND, response)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS, errno.EINTR):
                raise

    def _network(self, name: str, identifier: int, pid: int, arguments: List[int]) -> int:
        """Record a connect, bind or sendto; the errno to answer, 0 to let it go on inside."""
        pointer, length = (arguments[4], arguments[5]) if name == "sendto" else arguments[1:3]
        address = _read_memory(pid, pointer, min(length, 128))
        target = None if address is None else describe_address(address)
        if target is None or not self.waits(identifier):
            return 0
        family, place = target
        if family == seccomp.AF_UNIX:
            if name != "bind" and self._is_host_socket(pid, place):
                self._record("connect", f"unix:{_absolute(pid, place)}")
            return 0
        outward = not _is_loopback(place)
        if name == "bind":
            if outward and not place.endswith(":0"):
                self._record("bind", place)
            return 0
        if outward:
            self._record("connect", place)
            # What a host without any route answers: connect(2), ENETUNREACH.
            return errno.ENETUNREACH
        # Look-ups of names try every address of the own host with a datagram socket (RFC 6724).
        tried = name == "connect" and _is_unspecified(place) and _is_datagram(pid, arguments[0])
        if not tried and not self._listens_inside(place):
            self._record("connect", place)
        return 0

    def waits(self, identifier: int) -> bool:
        """Whether the caller still waits: else its pid may be a process of the host by now, whose
        memory was read (seccomp_unotify(2))."""
        try:
            fcntl.ioctl(self._listener, _VALID, struct.pack("=Q", identifier))
        except OSError:
            return False
        return True

    def _record(self, what: str, target: str) -> None:
        key = (what, target)
        if key not in self._counts and len(self._counts) >= MAX_RECORDS:
            key = ("more", f"further attempts, beyond {MAX_RECORDS} kinds")
        self._counts[key] = self._counts.get(key, 0) + 1

    def _is_host_socket(self, pid: int, named: str) -> bool:
        """Whether the host has a socket where `named` leads (in the sandbox nobody answers)."""
        if named.startswith("@"):
            return False
        path = _absolute(pid, named)
        canonical = path.replace("/var/run/", "/run/", 1)
        if canonical.startswith(_PLUMBING):
            return False
        try:
            if not stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
                return False
        except OSError:
            return False
        bound = self._read("1/net/unix").decode(errors="surrogateescape")
        return not any(line.endswith(" " + named) for line in bound.splitlines())

    def _listens_inside(self, place: str) -> bool:
        """Whether a server of the sandbox listens (or a UDP socket is bound) at the port."""
        port = f":{int(place.rpartition(':')[2]):04X}"
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for line in self._read(f"1/net/{table}").decode().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(port) and fields[3] in ("0A", "07"):
                    return True
        return False

    def _read(self, path: str) -> bytes:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._processes)
        except OSError:
            return b""
        with open(descriptor, "rb") as file:
            try:
                return file.read(4 * 1024 * 1024)
            except OSError:
                return b""


def _absolute(pid: int, path: str) -> str:
    """`path` as seen from the caller's working directory."""
    if path.startswith(("/", "@")):
        return path
    try:
        return os.path.normpath(os.path.join(os.readlink(f"/proc/{pid}/cwd"), path))
    except OSError:
        return path


def _read_memory(pid: int, address: int, length: int) -> Optional[bytes]:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(length)
    except (OSError, ValueError, OverflowError):
        return None


def describe_address(address: bytes) -> Optional[Tuple[int, str]]:
    """Family and text of a struct sockaddr: `1.2.3.4:80`, `[::1]:80`, a path or `@abstract`.

    None for other families and addresses that are cut short.
    """
    if len(address) < 2:
        return None
    family = struct.unpack("=H", address[:2])[0]
    if family == seccomp.AF_INET and len(address) >= 8:
        port = struct.unpack(">H", address[2:4])[0]
        return family, f"{socket.inet_ntop(socket.AF_INET, address[4:8])}:{port}"
    if family == seccomp.AF_INET6 and len(address) >= 24:
        port = struct.unpack(">H", address[2:4])[0]
        return family, f"[{socket.inet_ntop(socket.AF_INET6, address[8:24])}]:{port}"
    if family == seccomp.AF_UNIX and len(address) > 2:
        path = address[2:]
        if path[0] == 0:
            return family, "@" + path[1:].split(b"\0")[0].decode(errors="surrogateescape")
        return family, path.split(b"\0")[0].decode(errors="surrogateescape")
    return None


def _is_unspecified(place: str) -> bool:
    return place.rpartition(":")[0] in ("0.0.0.0", "[::]")


def _is_datagram(pid: int, number: int) -> bool:
    """Whether a descriptor of another process is a socket that sends nothing by connecting."""
    try:
        process = os.pidfd_open(pid)
        try:
            descriptor = kernel.pidfd_getfd(process, number)
        finally:
            os.close(process)
        with socket.socket(fileno=descriptor) as found:
            return found.type == socket.SOCK_DGRAM
    except OSError:
        return False


def _is_loopback(place: str) -> bool:
    host = place.rpartition(":")[0]
    if host.startswith("[::ffff:"):  # an IPv4 address of an IPv6 socket: ipv6(7)
        host = host[len("[::ffff:") : -1]
    return host.startswith("127.") or host in ("[::1]", "0.0.0.0", "[::]")
