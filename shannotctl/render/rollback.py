"""What takes which session back, what it cannot take back, and what is in its way, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shannotctl.render.command import argv_text
from shannotctl.render.layout import labelled
from shannotctl.render.style import Style
from shannotd.wire.rollback import Conflict
from shannotd.wire.session import Session, State

_REVERSIBLE = (State.EXECUTED, State.FAILED, State.STALE)


def reversal_lines(session: Session, style: Style) -> Iterator[str]:
    """Which session this one takes back, which has taken this one back, and whether one can."""
    if session.rollback_of is not None:
        yield from labelled("takes back", f"session {session.rollback_of}", style)
    if session.rolled_back_by is not None:
        yield from labelled("taken back", f"by session {session.rolled_back_by}", style)
    if session.checkpoint == "dropped":
        text = "dropped: the session cannot be rolled back any more"
        yield from labelled("checkpoint", text, style)
    elif session.checkpoint is not None and session.state in _REVERSIBLE:
        text = f"{session.checkpoint}: `shannotctl rollback {session.id}` takes the session back"
        yield from labelled("checkpoint", text, style)


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
