"""Who is at the other end of a Unix socket, as the kernel says (P5)."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import pwd
import socket
import struct
from dataclasses import dataclass

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS = 59  # <asm-generic/socket.h>; the socket module has no name for it
_PYTHON_OPTION_BYTES = 1024  # the most that socket.getsockopt asks for
_MAX_GROUPS = 65536  # NGROUPS_MAX


@dataclass(frozen=True)
class Peer:
    """The account that connected, as it was when it did."""

    pid: int
    uid: int
    groups: frozenset[int]


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
    return Peer(pid, uid, frozenset({gid, *groups}))


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
