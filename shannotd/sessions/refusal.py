"""Saying no: what is running is cancelled, what is pending rejected or withdrawn.

Nothing here waits for the audit log or for a full disk: what stops something takes effect at
once (P6).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from shannotd.sessions.access import Caller, require_stopper
from shannotd.sessions.machine import transition
from shannotd.sessions.records import Entry
from shannotd.sessions.registry import Live, Registry
from shannotd.wire.errors import NotFound, StoreFull, WrongState
from shannotd.wire.session import State


class Refusals:
    """Rejects and cancels sessions."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store

    async def reject(self, caller: Caller, identifier: str, reason: str) -> None:
        """Say no to a pending session. Waits for no log.

        :raises NotAllowed, WrongState: it was not rejected.
        """
        decision = {"decided_by": (caller.uid,), "decided_at": time.time(), "reason": reason}
        await self._stop(caller, identifier, State.REJECTED, "rejected", **decision)

    async def cancel(self, caller: Caller, identifier: str) -> None:
        """End a session that runs, is applied, or waits for a decision or for its turn.

        Waits for no log. An apply ends after the step at hand, as a failure that says so.

        :raises NotAllowed, WrongState: it was not cancelled.
        """
        live = self._registry.current(identifier)
        if live is not None and live.session.state is State.EXECUTING:
            await self._stop_applying(caller, live)
            return
        if live is None or live.session.state is not State.RUNNING:
            await self._stop(caller, identifier, State.CANCELLED, "cancelled")
            return
        require_stopper(caller, live.session, "cancel sessions of others")
        live.cancel(uid=caller.uid, reason="cancelled on request")
        stored = await asyncio.shield(live.ended)
        if stored.record.session.state is State.PENDING:
            await self._stop(caller, identifier, State.CANCELLED, "cancelled")

    async def _stop_applying(self, caller: Caller, live: Live) -> None:
        require_stopper(caller, live.session, "cancel sessions of others")
        self._registry.journal.note(
            "session.cancel_requested", uid=caller.uid, session=live.session.id, urgent=True
        )
        live.cancel(uid=caller.uid, reason="cancelled on request")
        await live.over.wait()
        session = live.session
        if session.state is State.EXECUTED:  # the step at hand was the last one
            raise WrongState(id=session.id, state=session.state.value, action="cancelled")

    async def _stop(
        self, caller: Caller, identifier: str, state: State, action: str, **changes: object
    ) -> None:
        live = self._registry.current(identifier)
        if live is None:
            await self._raise_over(caller, identifier, action)
            return
        require_stopper(caller, live.session, f"have sessions of others {action}")
        session = transition(live.session, state, now=time.time(), action=action, **changes)
        record = replace(live.record, session=session)
        self._registry.adopt(live, record, uid=caller.uid, stored=True)
        try:
            await self._store.commit(Entry(record))
        except StoreFull:
            self._store.defer(Entry(record))  # stopped it is all the same

    async def _raise_over(self, caller: Caller, identifier: str, action: str) -> None:
        stored = await self._store.load(identifier)
        if stored is None:
            raise NotFound(id=identifier)
        session = stored.record.session
        require_stopper(caller, session, f"have sessions of others {action}")
        raise WrongState(id=identifier, state=session.state.value, action=action)
