"""The question whether a plan is to be applied, and its apply as it is watched."""

from __future__ import annotations

from shannotctl.authentication import authenticated
from shannotctl.cli.console import Console
from shannotctl.client import Client, Event, Plan, Session, State, StepApplied
from shannotctl.render.amendment import missed_lines
from shannotctl.render.amounts import number
from shannotctl.render.command import warning_lines
from shannotctl.render.plan import DANGER_WORDS, applied_text, highest_risk
from shannotctl.render.printed import PrintedLines
from shannotctl.render.rollback import staying_lines
from shannotctl.render.session import steps_text
from shannotd.wire.decision import Risk


def confirmed(console: Console, session: Session, plan: Plan) -> bool:
    """Whether somebody at the terminal says yes to the plan that was displayed."""
    # Said once more: of a long plan its beginning has left the screen.
    # The highest of what is displayed, whatever the daemon says of the whole.
    risk = max(highest_risk(plan), session.risk or Risk.SAFE, key=lambda risk: risk.rank)
    console.note([f"{steps_text(session)}; risk {risk.value}"])
    console.note(missed_lines(session, console.error_style))
    console.note(staying_lines(session, console.error_style))
    console.note(warning_lines(plan, console.error_style))
    if risk is Risk.DANGER:
        answer = console.ask(f"This plan is dangerous. Type `{DANGER_WORDS}` to apply it: ")
        return answer == DANGER_WORDS
    return console.ask("Apply this plan? [yes/no] ").lower() in ("y", "yes")


def apply(client: Client, console: Console, session: Session, plan: Plan, comment: str) -> Session:
    """Approve what was displayed, and follow it to its end."""

    printed = PrintedLines()

    def follow(event: Event) -> None:
        lines = list(printed.lines(event, console.error_style))
        if lines:
            console.note(lines)
        if isinstance(event, StepApplied):
            what = applied_text(event.applied)
            console.progress(f"step {event.step + 1} of {len(plan.steps)}: {what}")

    client.subscribe(session.id)
    console.clear_progress()
    approved = authenticated(lambda: client.approve(session.id, plan.digest, comment))
    if approved.state is State.PENDING:
        missing = approved.approvals - len(approved.decided_by)
        console.say(
            f"your approval is recorded; session {approved.id} needs"
            f" {number(missing, 'more approval')} by other people"
        )
        return approved
    ended = client.wait(session.id, on_event=follow)
    console.clear_progress()
    return ended
