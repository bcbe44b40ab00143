"""The daemon's Unix socket: made, served, and removed when it is ours."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shannotd.server.admission import Admission, Limits
from shannotd.server.connection import Connection
from shannotd.server.hangup import HangUps
from shannotd.server.methods import Methods
from shannotd.server.peers import Peer, peer_of
from shannotd.server.standing import Standing
from shannotd.sessions.access import Caller, not_served
from shannotd.sessions.events import Events
from shannotd.wire.errors import ShannotError, UsageError

log = logging.getLogger(__name__)

_BACKLOG = 128
_FIRST_PASSED = 3  # SD_LISTEN_FDS_START
EMBEDDED_MODE, SERVICE_MODE = 0o600, 0o666


def make_socket(path: Path, mode: int) -> socket.socket:
    """A listening socket at `path`, of permissions `mode`, in place of a dead one.

    A missing parent directory is made for this account alone. In a directory where others
    may write, nothing is made.

    :raises UsageError: it cannot be made there, or another daemon serves there.
    """
    try:
        _prepare_directory(path.parent)
        _remove_dead(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Nobody connects before the permissions are right: it does not listen yet.
            sock.bind(str(path))
            path.chmod(mode)
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(reason=f"the socket {path} cannot be made: {reason}") from error
    return sock


def passed_socket() -> socket.socket | None:
    """The listening socket that systemd passed; None without one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=_FIRST_PASSED)


def _prepare_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid not in (0, os.getuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            reason=f"others may write in {directory}: the socket needs a directory of its own"
        )


def _remove_dead(path: Path) -> None:
    """Remove a socket on which nobody listens.

    :raises UsageError: somebody does, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(reason=f"{path} is there and is no socket")
    except FileNotFoundError:
        return
    if is_served(path):
        raise UsageError(reason=f"another daemon serves {path}")
    path.unlink(missing_ok=True)


def is_served(path: Path) -> bool:
    """Whether somebody listens on the socket `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


class Server:
    """Accepts connections on one socket, finds out who they are, and keeps count of them."""

    def __init__(
        self,
        methods: Methods,
        events: Events,
        standing: Standing,
        *,
        limits: Callable[[], Limits],
        max_unread_bytes: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called whenever a connection has ended."""
        self._methods = methods
        self._events = events
        self._standing = standing
        self._limits = limits
        self._max_unread_bytes = max_unread_bytes
        self._changed = changed
        self._connections: dict[Connection, int] = {}
        self._admission = Admission()
        self._hang_ups: HangUps
        self._server: asyncio.Server | None = None
        self._empty: asyncio.Event = asyncio.Event()

    async def start(self, sock: socket.socket) -> None:
        """Serve on `sock`, which listens."""
        self._hang_ups = HangUps()
        options: dict[str, Any] = {"sock": sock, "backlog": _BACKLOG}
        if sys.version_info >= (3, 13):
            options["cleanup_socket"] = False  # the name may be the service manager's
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._connection, **options
        )

    def _connection(self) -> Connection:
        return Connection(
            self,
            self._methods,
            self._events,
            self._standing,
            self._hang_ups,
            max_unread_bytes=self._max_unread_bytes(),
        )

    def admit(self, connection: Connection, transport: asyncio.Transport) -> tuple[Peer, Caller]:
        """Who connected.

        :raises NotAllowed: an account that has no role here.
        :raises TooManySessions: it has too many connections.
        :raises TooManyConnections: there are too many of all.
        """
        sock = transport.get_extra_info("socket")
        try:
            peer = peer_of(sock)
        except OSError as error:
            raise ShannotError(reason=f"the kernel does not say who you are ({error})") from error
        caller = self._standing.claimed(peer)
        if not caller.roles:
            raise not_served(caller)
        self._admission.enter(caller, self._limits())
        self._connections[connection] = peer.uid
        self._empty.clear()
        return peer, caller

    def holds(self, connection: Connection, before: int, now: int) -> None:
        """The connection held `before` bytes of an unfinished message and holds `now`.

        :raises TooMuchUnfinished: it is too much.
        """
        self._admission.hold(self._connections[connection], before, now, self._limits())

    def closed(self, connection: Connection, unfinished: int) -> None:
        """The connection, which held `unfinished` bytes of a message, is over."""
        uid = self._connections.pop(connection, None)
        if uid is None:
            return
        self._admission.leave(uid, unfinished)
        if not self._connections:
            self._empty.set()
        self._changed()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def stop_accepting(self) -> None:
        """Accept nobody any more."""
        if self._server is not None:
            self._server.close()

    async def stop(self, seconds: float) -> None:
        """Let the clients have their answers, `seconds` at most, and close."""
        self.stop_accepting()
        for connection in tuple(self._connections):
            connection.farewell()
        if self._connections:
            try:
                await asyncio.wait_for(self._empty.wait(), seconds)
            except TimeoutError:
                for connection in tuple(self._connections):
                    connection.abort()
                await self._empty.wait()
        self._hang_ups.close()
