"""The state machine: only the documented ways, and never past the expiry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.sessions.machine import FOLLOWING, is_due, settle, transition
from shannotd.wire.errors import WrongState
from shannotd.wire.session import FINAL_STATES, Session, State

NOW = 1_000_000.0


def session(state: State, expires_at: float | None = None) -> Session:
    """A session in `state`."""
    return Session(
        id="0" * 32,
        name="test",
        state=state,
        profile="default",
        target="local",
        submitter=1000,
        submitter_name="tester",
        identity="tester",
        created_at=NOW - 10,
        expires_at=expires_at,
    )


states = st.sampled_from(State)
moments = st.floats(min_value=NOW - 1e5, max_value=NOW + 1e5)


@pytest.mark.P1
@given(states, states, st.none() | moments, moments)
def test_only_documented_transitions(
    before: State, after: State, expires_at: float | None, now: float
) -> None:
    given_session = session(before, expires_at)
    allowed = after in FOLLOWING[before]
    due = before is State.PENDING and expires_at is not None and now >= expires_at
    if due:
        allowed = after is State.EXPIRED
    elif after is State.EXPIRED:
        allowed = False
    if allowed:
        assert transition(given_session, after, now=now, action="changed").state is after
    else:
        with pytest.raises(WrongState):
            transition(given_session, after, now=now, action="changed")


@pytest.mark.P1
@given(st.lists(st.tuples(states, moments), max_size=30), moments)
def test_nothing_is_executed_without_an_approval_in_time(
    steps: list[tuple[State, float]], expires_at: float
) -> None:
    current = session(State.PENDING, expires_at)
    history = [current.state]
    for after, now in steps:
        settled = settle(current, now)
        if settled.state is not current.state:
            history.append(settled.state)
        current = settled
        try:
            current = transition(current, after, now=now, action="changed")
        except WrongState:
            continue
        history.append(current.state)
    if State.EXECUTING in history:
        assert history.index(State.APPROVED) < history.index(State.EXECUTING)
    for refused in (State.REJECTED, State.CANCELLED, State.EXPIRED):
        if refused in history:
            assert history[history.index(refused) + 1 :] == []


def test_final_states_are_left_only_by_a_rollback() -> None:
    for state in FINAL_STATES - {State.ROLLED_BACK}:
        assert FOLLOWING[state] <= {State.ROLLED_BACK}
    # And from there back to what could be rolled back.
    assert FOLLOWING[State.ROLLED_BACK] == {
        state for state in FINAL_STATES if State.ROLLED_BACK in FOLLOWING[state]
    }
    assert set(FOLLOWING) == set(State)


def test_a_session_without_expiry_is_never_due() -> None:
    assert not is_due(session(State.PENDING), NOW)
    assert settle(session(State.PENDING, NOW), NOW).state is State.EXPIRED
    assert settle(session(State.PENDING, NOW + 1), NOW).state is State.PENDING


def test_the_error_names_session_state_and_action() -> None:
    with pytest.raises(WrongState) as caught:
        transition(session(State.PENDING, NOW - 1), State.APPROVED, now=NOW, action="approved")
    assert caught.value.details == {"id": "0" * 32, "state": "expired", "action": "approved"}
