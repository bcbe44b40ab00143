"""What there is: sessions found, read, listed and waited for. Nothing here decides over one."""

from __future__ import annotations

import asyncio
import re

from shannotd.sessions.access import Caller, may_see
from shannotd.sessions.events import Changed, Event
from shannotd.sessions.plans import WireSession, of_commands, whole_session
from shannotd.sessions.records import PLAN, Content, Page, Stored
from shannotd.sessions.registry import Registry
from shannotd.wire.errors import AmbiguousId, IdTooShort, NotFound
from shannotd.wire.session import FINAL_STATES, Session, State

_ID = re.compile(r"[0-9a-f]{1,32}")
_ID_CHARACTERS = 32
_SHORTEST_PREFIX = 4


class Lookup:
    """The sessions as callers see them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._journal = registry.journal

    async def find(self, caller: Caller, identifier: str, *, of_all: bool = False) -> str:
        """The whole id that `identifier`, or a unique beginning of one, stands for.

        :param of_all: among all sessions, whichever the caller may see.
        :raises NotFound: no session that the caller may see.
        :raises AmbiguousId: several.
        :raises IdTooShort: it would say nothing.
        """
        if not _ID.fullmatch(identifier):
            raise NotFound(id=identifier)
        if len(identifier) < _SHORTEST_PREFIX:
            raise IdTooShort(id=identifier, least=_SHORTEST_PREFIX)
        if len(identifier) == _ID_CHARACTERS:
            live = self._registry.current(identifier)
            if live is not None and (of_all or may_see(caller, live.session.submitter)):
                return identifier
        everybody = of_all or caller.sees_all
        found = await self._store.find(identifier, None if everybody else caller.uid)
        if not found:
            raise NotFound(id=identifier)
        if len(found) > 1:
            raise AmbiguousId(id=identifier, count=len(found))
        return found[0]

    async def get(self, identifier: str) -> WireSession:
        """The session of that whole id, with all its contents.

        :raises NotFound: there is none (any more).
        """
        live = self._registry.current(identifier)
        if live is not None and live.session.state is State.RUNNING:
            return whole_session(Stored(live.record, live.contents()))
        stored = await self._store.load(identifier)
        live = self._registry.current(identifier)
        if stored is None:
            raise NotFound(id=identifier)
        # What is in memory is never older than what the store has.
        return whole_session(stored if live is None else Stored(live.record, stored.contents))

    async def summary(self, identifier: str) -> Session:
        """The session of that whole id, without contents.

        :raises NotFound: there is none (any more).
        """
        live = self._registry.current(identifier)
        if live is not None:
            return live.session
        stored = await self._store.load(identifier)
        if stored is None:
            raise NotFound(id=identifier)
        return stored.record.session

    async def page(
        self,
        caller: Caller,
        *,
        states: tuple[State, ...],
        name: str | None,
        limit: int,
        before: int | None,
    ) -> Page:
        """Sessions that the caller may see, newest first."""
        self._registry.settle_all()
        return await self._store.page(
            states=states,
            name=name,
            submitter=None if caller.sees_all else caller.uid,
            limit=limit,
            before=before,
        )

    async def content(self, caller: Caller, identifier: str, sha256: str) -> Content | None:
        """A content that the plan of a session names; None when it does not, or not to this caller.

        Who submitted gets what commands are given and print. Of files there are the diffs, which
        leave out what a script of root may change and not see (passwords).
        """
        if not caller.sees_all:
            stored = await self._store.load(identifier)
            plan = None if stored is None else stored.contents.get(PLAN)
            if plan is None or sha256 not in of_commands(plan):
                return None
        return await self._store.content(identifier, sha256)

    async def wait(self, identifier: str, states: frozenset[State], seconds: float | None) -> None:
        """Return when the session is in one of `states` or a final one, or after `seconds`."""
        live = self._registry.current(identifier)
        wanted = states | FINAL_STATES
        if live is None or live.session.state in wanted:
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def listen(event: Event) -> None:
            if (
                isinstance(event, Changed)
                and event.session == identifier
                and event.now.state in wanted
                and not reached.done()
            ):
                reached.set_result(None)

        end = self._registry.events.listen(listen)
        try:
            await asyncio.wait_for(reached, seconds)
        except TimeoutError:
            pass
        finally:
            end()

    async def flush_log(self) -> None:
        """Have in the audit log whatever happened before.

        :raises StoreFull: the log cannot be written.
        """
        await self._journal.flush()
