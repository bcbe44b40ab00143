"""What takes which session back, what it cannot take back, and what is in its way, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from shannotctl.render.command import argv_text
from shannotctl.render.layout import labelled
from shannotctl.render.style import Style
from shannotd.wire.plan import Plan
from shannotd.wire.rollback import Conflict
from shannotd.wire.session import Session, State

_REVERSIBLE = (State.EXECUTED, State.FAILED, State.STALE)


def is_reversible(session: Session, became: Iterable[str]) -> bool:
    """Whether there is something that a rollback could take back; `became` says what became of
    the plan's steps, as far as that is known."""
    known = tuple(became)
    left = not known or any(state in ("done", "in_doubt") for state in known)
    return session.checkpoint == "kept" and session.state in _REVERSIBLE and left


def reversal_lines(session: Session, plan: Plan | None, style: Style) -> Iterator[str]:
    """Which session this one takes back, which has taken this one back, and whether one can."""
    if session.rollback_of is not None:
        yield from labelled("takes back", f"session {session.rollback_of}", style)
    if session.rolled_back_by is not None:
        yield from labelled("taken back", f"by session {session.rolled_back_by}", style)
    if session.checkpoint == "dropped":
        text = "dropped: the session cannot be rolled back any more"
        yield from labelled("checkpoint", text, style)
    elif is_reversible(session, applied_states(plan)):
        text = f"kept: `shannotctl rollback {session.id}` takes the session back"
        yield from labelled("checkpoint", text, style)


def applied_states(plan: Plan | None) -> Iterator[str]:
    """What became of the steps of `plan`, as far as that is known."""
    for step in plan.steps if plan is not None else ():
        if step.applied is not None:
            yield step.applied


def staying_lines(session: Session, style: Style) -> Iterator[str]:
    """The commands of the session that is taken back of which what they did stays."""
    for command in session.staying:
        text = (
            f"not taken back: {argv_text(command.argv)} (step {command.step + 1} of session"
            f" {session.rollback_of}): {command.reason}"
        )
        yield from labelled("warning", text, style, role="warning")


def conflict_lines(conflicts: Sequence[Conflict], style: Style) -> Iterator[str]:
    """Every path that somebody has changed since."""
    for conflict in conflicts:
        how = "" if conflict.forcible else "; cannot be forced"
        text = f"{conflict.path} (expected {conflict.expected}, found {conflict.found}{how})"
        yield from labelled("changed", text, style)
