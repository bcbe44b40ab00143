"""The life of a session: which state may follow which, and when time is up.

Pure. Every change of a session's state in the daemon goes through `transition`, and
every look at one through `settle`: so no path can forget the expiry, decide a session
twice or run a finished one again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shannotd.wire.errors import WrongState
from shannotd.wire.session import Session, State

FOLLOWING: Mapping[State, frozenset[State]] = {
    State.RUNNING: frozenset({State.PENDING, State.EXECUTED, State.FAILED, State.CANCELLED}),
    State.PENDING: frozenset({State.APPROVED, State.REJECTED, State.CANCELLED, State.EXPIRED}),
    State.APPROVED: frozenset({State.EXECUTING, State.FAILED, State.CANCELLED}),
    State.EXECUTING: frozenset({State.EXECUTED, State.FAILED, State.STALE, State.ROLLED_BACK}),
    State.EXECUTED: frozenset({State.ROLLED_BACK}),
    State.FAILED: frozenset({State.ROLLED_BACK}),
    State.REJECTED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
    State.STALE: frozenset({State.ROLLED_BACK}),
    # When its rollback is itself rolled back.
    State.ROLLED_BACK: frozenset({State.EXECUTED, State.FAILED, State.STALE}),
}


def is_due(session: Session, now: float) -> bool:
    """Whether `session` waits for a decision and its time is up at `now` (epoch seconds)."""
    return (
        session.state is State.PENDING
        and session.expires_at is not None
        and now >= session.expires_at
    )


def settle(session: Session, now: float) -> Session:
    """`session` as it is at `now`: expired, when nobody decided in time."""
    return replace(session, state=State.EXPIRED) if is_due(session, now) else session


def transition(session: Session, to: State, *, now: float, action: str, **changes: Any) -> Session:
    """`session` in the state `to`, with `changes` of other fields.

    :param now: epoch seconds; what is expired by then can only become `expired`.
    :param action: what is tried, as a past participle, for the error.
    :raises WrongState: `to` may not follow the state that the session is in.
    """
    settled = settle(session, now)
    if settled.state is State.EXPIRED and session.state is State.PENDING and to is State.EXPIRED:
        return replace(settled, **changes)
    if to not in FOLLOWING[settled.state]:
        raise WrongState(id=session.id, state=settled.state.value, action=action)
    if to is State.EXPIRED:  # not due: only the clock may expire a session
        raise WrongState(id=session.id, state=settled.state.value, action=action)
    return replace(settled, state=to, **changes)
