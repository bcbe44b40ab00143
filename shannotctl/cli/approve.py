"""`shannotctl approve`: look at a plan, say yes, have it applied."""

from __future__ import annotations

import click

from shannotctl.cli import report
from shannotctl.cli.arguments import session_id
from shannotctl.cli.console import Console
from shannotctl.cli.outcome import PENDING, session_status
from shannotctl.cli.pending import pending_plan
from shannotctl.client import Client, Event, Plan, Session, State, StepApplied
from shannotctl.contents import command_contents
from shannotctl.render.amendment import missed_lines
from shannotctl.render.amounts import number
from shannotctl.render.command import View, warning_lines
from shannotctl.render.plan import highest_risk
from shannotctl.render.printed import PrintedLines
from shannotctl.render.session import session_lines, steps_text
from shannotd.wire.errors import DigestMismatch, UsageError
from shannotd.wire.model import Risk

DANGER_WORDS = "yes, danger"


@click.command()
@session_id
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--digest", metavar="SHA256", help="Only if the plan is the one with this digest.")
@click.option("--comment", default="", metavar="TEXT", help="Why, for the audit log.")
def approve(id: str, yes: bool, digest: str | None, comment: str) -> int:
    """Show a plan, ask, and have exactly that plan applied.

    Without a terminal it needs --yes and --digest: the digest that `shannotctl show ID`
    printed for the plan that you have read.
    """
    console = Console()
    interactive = console.in_is_terminal and console.out_is_terminal
    if not interactive and not (yes and digest):
        raise UsageError(
            reason="approve needs a terminal. Without one, read the plan with"
            f" `shannotctl show {id} --diff`, then give"
            f" `shannotctl approve {id} --yes --digest DIGEST` with the digest shown there"
        )
    with Client() as client:
        session = client.get(id)
        plan = pending_plan(session, "approved")
        if digest is not None and digest.lower() != plan.digest:
            raise DigestMismatch(id=session.id, digest=plan.digest)
        if interactive:
            view = View(contents=command_contents(client, session))
            console.print(session_lines(session, console.out_style, view))
            console.print([""])
        if not yes and not _confirmed(console, session, plan):
            console.say(
                f"not approved; session {session.id} is still pending"
                f" (`shannotctl reject {session.id}` refuses it)"
            )
            return PENDING
        ended = _apply(client, console, session, plan, comment)
    report.ended(console, ended)
    return session_status(ended)


def _confirmed(console: Console, session: Session, plan: Plan) -> bool:
    # Said once more: of a long plan its beginning has left the screen.
    console.note([f"{steps_text(session)}; risk {highest_risk(plan).value}"])
    console.note(missed_lines(session, console.error_style))
    console.note(warning_lines(plan, console.error_style))
    if highest_risk(plan) is Risk.DANGER:
        answer = console.ask(f"This plan is dangerous. Type `{DANGER_WORDS}` to apply it: ")
        return answer == DANGER_WORDS
    return console.ask("Apply this plan? [yes/no] ").lower() in ("y", "yes")


def _apply(client: Client, console: Console, session: Session, plan: Plan, comment: str) -> Session:
    """Approve what was displayed, and follow it to its end."""

    printed = PrintedLines()

    def follow(event: Event) -> None:
        lines = list(printed.lines(event, console.error_style))
        if lines:
            console.note(lines)
        if isinstance(event, StepApplied):
            console.progress(f"step {event.step + 1} of {len(plan.steps)}: {event.applied}")

    client.subscribe(session.id)
    approved = client.approve(session.id, plan.digest, comment)
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
