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

from shannotd.server.accounts import Accounts
from shannotd.server.peers import Peer, current_groups
from shannotd.server.roles import Roles
from shannotd.sessions.access import Caller, Role

log = logging.getLogger(__name__)

# What is known is used until one of these files changes, and no longer than this: the database may
# be elsewhere.
_FILES = (Path("/etc/passwd"), Path("/etc/group"), Path("/etc/nsswitch.conf"))
_FRESH_SECONDS = 1.0
_MANY_KNOWN = 1000  # accounts: then those that may be used no more are forgotten

_State = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class _Known:
    """The groups of an account; the files were in that state before it was looked up."""

    groups: frozenset[int]
    files: _State
    at: float

    def is_fresh(self) -> bool:
        """Whether it may still be used."""
        return time.monotonic() - self.at <= _FRESH_SECONDS


class _Lookup:
    """One question to the account database."""

    def __init__(self) -> None:
        self.begun = False
        self.files: _State = ()  # as they were when it began
        self.answer: asyncio.Future[_Known] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None]

    def ask(self, uid: int) -> frozenset[int] | None:
        """The groups of `uid`. Blocking."""
        self.files = _state_of_files()
        self.begun = True
        return current_groups(uid)


class Standing:
    """Who has which role now."""

    def __init__(self, roles: Callable[[], Roles]) -> None:
        """:param roles: by the configuration as it is now."""
        self._roles = roles
        self._accounts = Accounts()
        self._known: dict[int, _Known] = {}
        self._looking: dict[int, list[_Lookup]] = {}  # in the order in which they were asked for

    def claimed(self, peer: Peer) -> Caller:
        """Who connected, with all roles that the kernel's word gives him."""
        return self._roles().caller(peer)

    def now(self, peer: Peer) -> Caller | None:
        """Who connected, with his roles of now; None where the account must be looked up first."""
        caller = self.at_least(peer)
        if caller.roles == self.claimed(peer).roles:
            return caller
        known = self._known.get(peer.uid)
        if known is None or not known.is_fresh() or known.files != _state_of_files():
            return None
        return self._having(peer, known.groups)

    def at_least(self, peer: Peer) -> Caller:
        """Who connected, with those of his roles that are no matter of the account database."""
        return self._having(peer, frozenset())

    async def look(self, peer: Peer, *, anew: bool = False) -> Caller:
        """Who connected, with his roles of now.

        :param anew: whatever is known, ask the account database once more.
        """
        caller = self.at_least(peer)
        if caller.roles == self.claimed(peer).roles:
            return caller
        if not anew and (found := self.now(peer)) is not None:
            return found
        # It began after this was called: what changes meanwhile is for those who ask later.
        known = await asyncio.shield(self._lookup(peer.uid, anew).answer)
        return self._having(peer, known.groups)

    async def groups(self, uid: int) -> frozenset[int]:
        """The groups of an account by the database; none without an account there."""
        return await self._accounts.ask(lambda: current_groups(uid)) or frozenset()

    def _having(self, peer: Peer, groups: frozenset[int]) -> Caller:
        """Who connected, if the account database has him in `groups`."""
        roles = self._roles()
        caller = roles.caller(peer)
        return replace(caller, roles=caller.roles & (roles.of(peer.uid, groups) | {Role.SUBMIT}))

    def _lookup(self, uid: int, anew: bool) -> _Lookup:
        """A question that is not answered yet, and from now on: however many ask, one waits."""
        asked = self._looking.setdefault(uid, [])
        if asked and (not asked[-1].begun or (not anew and asked[-1].files == _state_of_files())):
            return asked[-1]
        lookup = _Lookup()
        asked.append(lookup)
        lookup.task = asyncio.get_running_loop().create_task(self._look_up(uid, lookup))
        return lookup

    async def _look_up(self, uid: int, lookup: _Lookup) -> None:
        try:
            groups = await self._accounts.ask(lambda: lookup.ask(uid))
        except Exception:  # whatever it is: others ask again
            log.exception("the groups of uid %d", uid)
            groups = None
        asked = self._looking.get(uid, [])
        if lookup not in asked:
            return  # a later one was answered before, and knows better
        if len(self._known) >= _MANY_KNOWN:
            self._known = {uid: known for uid, known in self._known.items() if known.is_fresh()}
        known = self._known[uid] = _Known(groups or frozenset(), lookup.files, time.monotonic())
        answered = asked.index(lookup) + 1
        for earlier in asked[:answered]:
            earlier.answer.set_result(known)
        del asked[:answered]
        if not asked:
            del self._looking[uid]


def _state_of_files() -> _State:
    return tuple(_state_of(path) for path in _FILES)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
