"""`shannotctl list`: the sessions that one may see."""

from __future__ import annotations

import itertools

import click

from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.client import Client, State


@click.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in State]),
    help="Only sessions in this state (may be given more than once).",
)
@click.option("--name", metavar="NAME", help="Only sessions of this name.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@json_option
def list_sessions(
    states: tuple[str, ...], name: str | None, limit: int | None, as_json: bool
) -> int:
    """List sessions, newest first: all of them unless options say otherwise."""
    console = Console()
    with Client() as client:
        found = client.list(states=[State(state) for state in states], name=name)
        sessions = list(itertools.islice(found, limit))
        more = limit is not None and next(found, None) is not None
    if as_json:
        import json

        from shannotctl.json_view import list_object

        console.print([json.dumps([list_object(session) for session in sessions])])
        return 0
    from shannotctl.render.session import list_lines

    console.print(list_lines(sessions, console.out_style))
    if not sessions:
        console.say("no sessions")
    if more:
        console.say(f"there are more than these {limit}; without --limit all are shown")
    return 0
