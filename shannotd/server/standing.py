"""The roles that somebody who is connected has by now (P5).

The kernel's word on a connection is of the moment when it was made, and a login keeps its groups
until it ends. So what a role shows or decides of others' sessions counts only as long as the
account database gives it as well; `submit`, which concerns one's own sessions alone, is taken from
the kernel: a service may have its group from its unit and be no member by the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from shannotd.server.peers import Peer, current_groups
from shannotd.server.roles import Roles
from shannotd.sessions.access import Caller, Role

log = logging.getLogger(__name__)

# What is known is used until one of these files changes, and no longer than this: the database may
# be elsewhere.
_FILES = (Path("/etc/passwd"), Path("/etc/group"), Path("/etc/nsswitch.conf"))
_FRESH_SECONDS = 1.0

_State = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class _Known:
    """The groups of an account; the files were in that state before it was looked up."""

    groups: frozenset[int]
    files: _State
    at: float


class Standing:
    """Who has which role now."""

    def __init__(self, roles: Callable[[], Roles]) -> None:
        """:param roles: by the configuration as it is now."""
        self._roles = roles
        self._known: dict[int, _Known] = {}
        self._looking: dict[int, asyncio.Task[None]] = {}

    def claimed(self, peer: Peer) -> Caller:
        """Who connected, with all roles that the kernel's word gives him."""
        return self._roles().caller(peer)

    def now(self, peer: Peer) -> Caller | None:
        """Who connected, with his roles of now; None where the account must be looked up first."""
        roles = self._roles()
        caller = roles.caller(peer)
        sure = roles.of(peer.uid, frozenset()) | {Role.SUBMIT}
        if caller.roles <= sure:
            return caller
        known = self._known.get(peer.uid)
        if known is None or time.monotonic() - known.at > _FRESH_SECONDS:
            return None
        if known.files != _state_of_files():
            return None
        return replace(caller, roles=caller.roles & (sure | roles.of(peer.uid, known.groups)))

    async def look(self, peer: Peer, *, anew: bool = False) -> Caller:
        """Who connected, with his roles of now.

        :param anew: whatever is known, ask the account database once more.
        """
        if anew:
            self._known.pop(peer.uid, None)
            self._looking.pop(peer.uid, None)  # it may have read what is over by now
        while (caller := self.now(peer)) is None:
            looking = self._looking.get(peer.uid)
            if looking is None:
                looking = asyncio.get_running_loop().create_task(self._look_up(peer.uid))
                self._looking[peer.uid] = looking
            await asyncio.shield(looking)
        return caller

    async def groups(self, uid: int) -> frozenset[int]:
        """The groups of an account by the database; none without an account there."""
        return await asyncio.to_thread(current_groups, uid) or frozenset()

    async def _look_up(self, uid: int) -> None:
        files = _state_of_files()
        try:
            groups = await self.groups(uid)
        except OSError:
            log.exception("the groups of uid %d", uid)
            groups = frozenset()
        if self._looking.get(uid) is asyncio.current_task():  # else a later one knows better
            del self._looking[uid]
            self._known[uid] = _Known(groups, files, time.monotonic())


def _state_of_files() -> _State:
    return tuple(_state_of(path) for path in _FILES)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
