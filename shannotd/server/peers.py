"""Who is at the other end of a Unix socket, as the kernel says (P5)."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import pwd
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shannotd.server.presence import Process

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
# <asm-generic/socket.h>; the socket module has no names for them.
_SO_PEERGROUPS = 59
_SO_PEERPIDFD = 77  # Linux 6.5
_PYTHON_OPTION_BYTES = 1024  # the most that socket.getsockopt asks for
_MAX_GROUPS = 65536  # NGROUPS_MAX


@dataclass(frozen=True)
class Peer:
    """The account that connected, as it was when it did; `seen` is when we looked, in seconds of
    the clock that starts at boot."""

    pid: int
    uid: int
    groups: frozenset[int]
    seen: float = 0.0


def peer_of(sock: socket.socket) -> Peer:
    """The peer of a connected socket.

    :raises OSError: the kernel does not say.
    """
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    groups = array.array("I")
    try:
        groups.frombytes(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PYTHON_OPTION_BYTES))
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        groups = _many_groups(sock)
    return Peer(pid, uid, frozenset({gid, *groups}), time.clock_gettime(time.CLOCK_BOOTTIME))


def _many_groups(sock: socket.socket) -> array.array[int]:
    """The groups of a peer that has more of them than Python's own getsockopt can take."""
    library = ctypes.CDLL(None, use_errno=True)
    groups = (ctypes.c_uint * _MAX_GROUPS)()
    size = ctypes.c_uint(ctypes.sizeof(groups))
    result = library.getsockopt(
        sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"getsockopt SO_PEERGROUPS: {os.strerror(number)}")
    return array.array("I", groups[: size.value // ctypes.sizeof(ctypes.c_uint)])


@contextlib.contextmanager
def process_of(sock: socket.socket, peer: Peer) -> Iterator[Process]:
    """The process that connected, held by a descriptor of it, which is closed afterwards.

    The kernel itself has one since Linux 6.5. Before, the process is opened by its number, which
    may be another's by now: such a one began after we had seen the connection, and is refused.

    :raises ProcessLookupError: it is gone.
    """
    try:
        descriptor = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise ProcessLookupError("the process that connected has ended") from None
        descriptor = _opened(peer)
    try:
        process = Process(peer.pid, peer.uid, descriptor)
        if not process.is_alive():
            raise ProcessLookupError("the process that connected has ended")
        yield process
    finally:
        os.close(descriptor)


def _opened(peer: Peer) -> int:
    """The process by its number, unless that is another one's by now.

    :raises ProcessLookupError: it is gone, or cannot be told.
    """
    try:
        descriptor = os.pidfd_open(peer.pid)
    except OSError:
        raise ProcessLookupError("the process that connected has ended") from None
    try:
        status = Path(f"/proc/{peer.pid}/stat").read_bytes()
        ticks = int(status[status.rindex(b")") + 1 :].split()[19])  # field 22 of proc(5): its start
    except OSError:
        os.close(descriptor)
        raise ProcessLookupError("/proc does not show the process that connected") from None
    if (ticks - 1) / os.sysconf("SC_CLK_TCK") > peer.seen:
        os.close(descriptor)
        raise ProcessLookupError("the process that connected has ended, and another has its number")
    return descriptor


def current_groups(uid: int) -> frozenset[int] | None:
    """The groups that the account database has for `uid` now; None without an account there.

    Blocking: the database may be on the network.
    """
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return None
    return frozenset(os.getgrouplist(account.pw_name, account.pw_gid))


def account_name(uid: int) -> str:
    """The name of the account `uid`, or its number. Blocking."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
