"""What is said of a session when its dry run, or the session itself, has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shannotctl.cli.console import Console
from shannotctl.protocol import plan_of
from shannotctl.render.command import View
from shannotctl.render.plan import plan_lines
from shannotctl.render.rollback import staying_lines
from shannotctl.render.session import ending_text, steps_text
from shannotctl.render.style import Style
from shannotd.wire.session import Session, State
from shannotd.wire.text import visible


def dry_run_ended(console: Console, session: Session, contents: Mapping[str, bytes]) -> None:
    """The plan and how to approve it, or why there is none.

    :param contents: those of the plan's commands, by SHA-256.
    """
    if session.state is State.PENDING:
        view = View(contents=contents) if console.error_is_terminal else None
        console.note(pending_lines(session, console.error_style, view))
    else:
        ended(console, session)


def pending_lines(session: Session, style: Style, view: View | None) -> Iterator[str]:
    """A pending session: its whole plan where there is a `view` of it, and what it amounts to."""
    identifier = visible(session.id)
    plan = plan_of(session)
    if view is not None and plan is not None:
        yield from plan_lines(plan, style, view)
        yield ""
    if session.exit_code or session.signal is not None:
        yield f"shannotctl: the script failed in the dry run: {ending_text(session)}"
    risk = session.risk.value if session.risk is not None else "unknown"
    yield from staying_lines(session, style)
    yield f"shannotctl: session {identifier} waits for approval"
    yield f"  plan     {steps_text(session)}; risk {risk}"
    yield f"  review   shannotctl show {identifier} --diff"
    yield f"  approve  shannotctl approve {identifier}"
    yield f"  reject   shannotctl reject {identifier}"


def ended(console: Console, session: Session) -> None:
    """One line on how a session ended, or where it stands."""
    identifier = session.id
    if session.error is not None:
        console.say(f"session {identifier} {session.state.value}: {session.error.message}")
    elif session.state is State.EXECUTED and session.decided_at is None:
        ending = ending_text(session) or "it ended"
        console.say(f"session {identifier}: the script failed: {ending}; it changed nothing")
    elif session.state is State.EXECUTED:
        back = "" if session.rollback_of is None else f"; {session.rollback_of} is rolled back"
        console.say(f"session {identifier} executed: {steps_text(session)}{back}")
    elif session.state in (State.RUNNING, State.APPROVED, State.EXECUTING, State.PENDING):
        console.say(f"session {identifier} is {session.state.value}")
    else:
        why = f": {session.reason}" if session.reason else ""
        console.say(f"session {identifier} {session.state.value.replace('_', ' ')}{why}")
