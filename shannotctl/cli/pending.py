"""The plan over which a person decides."""

from __future__ import annotations

from shannotctl.protocol import plan_of
from shannotd.wire.errors import BadFrame, WrongState
from shannotd.wire.plan import Plan
from shannotd.wire.session import Session, State


def pending_plan(session: Session, action: str) -> Plan:
    """The plan of a session that waits for a decision.

    :param action: what is to be done, as a past participle, for the error.
    :raises WrongState: it does not wait (any more).
    :raises BadFrame: the daemon sent no plan.
    """
    if session.state is not State.PENDING:
        raise WrongState(id=session.id, state=session.state.value, action=action)
    plan = plan_of(session)
    if plan is None:
        raise BadFrame(reason="the daemon sent no plan")
    return plan
