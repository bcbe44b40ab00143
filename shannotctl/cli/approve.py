"""`shannotctl approve`: look at a plan, say yes, have it applied."""

from __future__ import annotations

import click

from shannotctl.cli import report
from shannotctl.cli.arguments import complete_session
from shannotctl.cli.console import Console
from shannotctl.cli.decision import apply, confirmed
from shannotctl.cli.outcome import PENDING, session_status
from shannotctl.cli.pending import pending_plan
from shannotctl.client import Client
from shannotctl.contents import command_contents
from shannotctl.render.command import View
from shannotctl.render.session import session_lines
from shannotd.wire.errors import DigestMismatch, UsageError


@click.command()
@click.argument("id", required=False, metavar="[ID]", shell_complete=complete_session)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--digest", metavar="SHA256", help="Only if the plan is the one with this digest.")
@click.option("--comment", default="", metavar="TEXT", help="Why, for the audit log.")
@click.option("--plain", is_flag=True, help="Without an ID: `review --plain`.")
def approve(id: str | None, yes: bool, digest: str | None, comment: str, plain: bool) -> int:
    """Show a plan, ask, and have exactly that plan applied; without an ID, `review` all.

    Without a terminal it needs --yes and --digest: the digest that `shannotctl show ID`
    printed for the plan that you have read.
    """
    if id is None:
        if yes or digest or comment:
            raise UsageError(reason="--yes, --digest and --comment are given together with an ID")
        from shannotctl.cli.review import run

        return run(None, plain=plain)
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
        if not yes and not confirmed(console, session, plan):
            console.say(
                f"not approved; session {session.id} is still pending"
                f" (`shannotctl reject {session.id}` refuses it)"
            )
            return PENDING
        ended = apply(client, console, session, plan, comment)
    report.ended(console, ended)
    return session_status(ended)
