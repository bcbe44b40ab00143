"""`shannotctl rollback`: take back what a session did, by a plan of its own."""

from __future__ import annotations

import os

import click

from shannotctl.authentication import authenticated
from shannotctl.cli import report
from shannotctl.cli.arguments import session_id
from shannotctl.cli.console import Console
from shannotctl.cli.decision import apply, confirmed
from shannotctl.cli.failure import json_option
from shannotctl.cli.outcome import DONE, PENDING, STALE, session_status
from shannotctl.cli.pending import pending_plan
from shannotctl.client import Client, RollbackAnswer, Session
from shannotctl.contents import command_contents
from shannotctl.render.command import View
from shannotctl.render.rollback import conflict_lines
from shannotctl.render.session import session_lines
from shannotd.wire.errors import (
    BadFrame,
    DigestMismatch,
    RollbackConflict,
    RollbackPending,
    UsageError,
)


@click.command()
@session_id
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=str))
@click.option("--dry-run", is_flag=True, help="Show the plan, or what is in its way; keep nothing.")
@click.option(
    "--force",
    is_flag=True,
    help="Also where somebody changed something since: at these PATHs, without any at all.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--digest", metavar="SHA256", help="Only if the plan is the one with this digest.")
@click.option("--comment", default="", metavar="TEXT", help="Why, for the audit log.")
@json_option
def rollback(
    id: str,
    paths: tuple[str, ...],
    dry_run: bool,
    force: bool,
    yes: bool,
    digest: str | None,
    comment: str,
    as_json: bool,
) -> int:
    """Take back what a session did: shows the plan for that, asks, and has it applied.

    The plan is that of a session of its own, which can be rolled back in its turn. Nothing is
    taken back that somebody has changed since, unless --force says so. Without a terminal the
    session waits for `shannotctl approve`.
    """
    console = Console()
    if paths and not force:
        raise UsageError(reason="paths are given together with --force")
    # Links on the way are left as they are: a plan's paths have none.
    forced = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    force_all = force and not paths
    with Client() as client:
        if dry_run:
            answer = client.rollback(id, dry_run=True, force=forced, force_all=force_all)
            return _show(client, console, answer, as_json)
        session = _begun(client, console, id, forced, force_all)
        plan = pending_plan(session, "approved")
        if digest is not None and digest.lower() != plan.digest:
            raise DigestMismatch(id=session.id, digest=plan.digest)
        interactive = console.in_is_terminal and console.out_is_terminal and not as_json
        if interactive:
            view = View(contents=command_contents(client, session))
            console.print(session_lines(session, console.out_style, view))
            console.print([""])
        if yes:
            agreed = interactive or digest is not None
        else:
            agreed = interactive and confirmed(console, session, plan)
        if not agreed:
            return _left_pending(client, console, session, as_json)
        ended = apply(client, console, session, plan, comment)
        if as_json:
            _print_json(console, client.get(ended.id), client)
        else:
            report.ended(console, ended)
    return session_status(ended)


def _begun(client: Client, console: Console, id: str, force: list[str], force_all: bool) -> Session:
    """The session of the rollback: a new one, or the one that waits already."""
    try:
        answer = authenticated(lambda: client.rollback(id, force=force, force_all=force_all))
    except RollbackPending as error:
        waiting = client.get(str(error.details["by"]))
        console.say(f"session {waiting.id}, which rolls it back, waits already")
        return waiting
    except RollbackConflict as error:
        # The message has the first few of them.
        from shannotctl.protocol import conflicts_of

        console.note(conflict_lines(conflicts_of(error), console.error_style))
        raise
    if answer.session is None:
        raise BadFrame(reason="the daemon sent no session")
    return answer.session


def _left_pending(client: Client, console: Console, session: Session, as_json: bool) -> int:
    if as_json:
        _print_json(console, session, client)
    else:
        console.note(report.pending_lines(session, console.error_style, None))
    return PENDING


def _show(client: Client, console: Console, answer: RollbackAnswer, as_json: bool) -> int:
    """The plan of a dry run, or what is in its way."""
    session = answer.session
    if as_json:
        import json

        from shannotctl.json_view import session_object
        from shannotd.wire.decode import encode

        value = {
            "session": None if session is None else session_object(session),
            "conflicts": encode(answer.conflicts),
        }
        console.print([json.dumps(value)])
    elif session is None:
        console.print(conflict_lines(answer.conflicts, console.out_style))
    else:
        console.print(session_lines(session, console.out_style, View()))
        console.say("a dry run: nothing was changed, and no session waits")
    return DONE if session is not None else STALE


def _print_json(console: Console, session: Session, client: Client) -> None:
    import json

    from shannotctl.json_view import session_object

    contents = command_contents(client, session)
    console.print([json.dumps(session_object(session, contents))])
