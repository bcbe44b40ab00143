"""`shannotctl review`: the full-screen reviewer, or the same as plain text."""

from __future__ import annotations

import os

import click

from shannotctl.cli.arguments import complete_session
from shannotctl.cli.console import Console
from shannotctl.cli.outcome import DONE, INTERRUPTED
from shannotd.wire.errors import UsageError


@click.command()
@click.argument("id", required=False, metavar="[ID]", shell_complete=complete_session)
@click.option("--plain", is_flag=True, help="Text and questions, for pipes and screen readers.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal.")
def review(id: str | None, plain: bool, no_mouse: bool) -> int:
    """Look through sessions, live, and decide over their plans; `?` there lists the keys."""
    return run(id, plain=plain, mouse=not no_mouse)


def run(id: str | None, *, plain: bool, mouse: bool = True) -> int:
    """Review on the terminal there is; the exit status.

    :raises UsageError: there is none.
    """
    console = Console()
    if plain or (console.in_is_terminal and os.environ.get("TERM", "dumb") == "dumb"):
        from shannotctl.review.plain import review_plainly

        return review_plainly(console, id)
    if not (console.in_is_terminal and console.out_is_terminal):
        raise UsageError(
            reason="the reviewer needs a terminal. Without one, `shannotctl review --plain` prints"
            " what waits, and `shannotctl approve ID --yes --digest DIGEST` approves it"
        )
    import asyncio

    from shannotctl.review.application import Reviewer
    from shannotctl.review.connection import Connection

    async def work() -> int:
        connection = Connection()
        return await Reviewer(connection, id=id, mouse=mouse).run()

    try:
        return asyncio.run(work()) or DONE
    except EOFError:  # the terminal went away
        return INTERRUPTED
