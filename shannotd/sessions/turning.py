"""What becomes of other sessions when a rollback has been executed: the one that it takes back is
rolled back, and if that was itself a rollback, the one before holds again, and so on."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from shannotd.sessions.machine import transition
from shannotd.sessions.records import Record
from shannotd.wire.errors import Stale, WrongState
from shannotd.wire.session import Session, State

Load = Callable[[str], Awaitable[Record | None]]


async def turned(load: Load, session: Session) -> list[Record]:
    """The sessions that are others now that `session` has been executed, as they are then."""
    found: list[Record] = []
    holds = True  # what the session did, in whose light the one before is looked at
    while session.rollback_of is not None:
        record = await load(session.rollback_of)
        if record is None:
            break
        before = record.session
        try:
            now = _rolled_back(before, session) if holds else _restored(before, session)
        except WrongState:
            break  # it is what it would become, or nobody's to change
        found.append(replace(record, session=now))
        session, holds = now, not holds
    return found


def _rolled_back(session: Session, by: Session) -> Session:
    return transition(
        session,
        State.ROLLED_BACK,
        now=time.time(),
        action="rolled back",
        rolled_back_by=by.id,
    )


def _restored(session: Session, by: Session) -> Session:
    """A session whose rollback `by` was taken back: it is what it was when it ended."""
    if session.rolled_back_by != by.id:
        raise WrongState(id=session.id, state=session.state.value, action="restored")
    state = State.EXECUTED
    if session.error is not None:
        state = State.STALE if session.error.code == Stale.code else State.FAILED
    return transition(session, state, now=time.time(), action="restored", rolled_back_by=None)
