"""`shannotctl checkpoint`: what is saved of sessions, so that they can be rolled back."""

from __future__ import annotations

import click

from shannotctl.cli.arguments import session_id
from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.client import Checkpoint, CheckpointContents, Client
from shannotd.wire.errors import UsageError


@click.group()
def checkpoint() -> None:
    """What is saved of sessions, so that they can be rolled back."""


@checkpoint.command("list")
@json_option
def list_checkpoints(as_json: bool) -> int:
    """Print all checkpoints, the oldest first."""
    console = Console()
    with Client() as client:
        found = client.checkpoints()
    if as_json:
        _print_json(console, found)
        return 0
    from shannotctl.render.layout import table

    if found:
        headings = ("SESSION", "CREATED", "SIZE", "STATE", "NAME")
        console.print(table(headings, [_row(one) for one in found], console.out_style))
    return 0


@checkpoint.command()
@session_id
@json_option
def show(id: str, as_json: bool) -> int:
    """Print what is saved of each step of a session."""
    console = Console()
    with Client() as client:
        found = client.checkpoint(id)
    if as_json:
        _print_json(console, found)
        return 0
    _print_contents(console, found)
    return 0


@checkpoint.command()
@session_id
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def drop(id: str, yes: bool, as_json: bool) -> int:
    """Drop what is saved of a session: it cannot be rolled back any more."""
    console = Console()
    interactive = console.in_is_terminal and console.error_is_terminal and not as_json
    if not yes and not interactive:
        raise UsageError(reason="drop asks on a terminal; without one give --yes")
    with Client() as client:
        found = client.checkpoint(id).checkpoint
        if not yes:
            console.note([*_summary(found)])
            answer = console.ask("Drop it, so that the session stays as it is? [yes/no] ")
            if answer.lower() not in ("y", "yes"):
                console.say("not dropped")
                return 0
        client.drop_checkpoint(found.session)
    if as_json:
        _print_json(console, found)
    else:
        console.say(f"session {found.session} cannot be rolled back any more")
    return 0


def _row(one: Checkpoint) -> tuple[str, ...]:
    from shannotctl.render.amounts import moment, size

    state = "?" if one.state is None else one.state.value
    name = "(unknown session)" if one.name is None else one.name or "(none)"
    finished = state if one.finished else f"{state}, in use"
    return one.session, moment(one.created_at)[:19], size(one.size), finished, name


def _summary(one: Checkpoint) -> list[str]:
    from shannotctl.render.amounts import moment, size
    from shannotd.wire.text import visible

    named = f" ({visible(one.name)})" if one.name else ""
    return [
        f"checkpoint of session {visible(one.session)}{named}, {moment(one.created_at)},"
        f" {size(one.size)} on disk"
    ]


def _print_contents(console: Console, found: CheckpointContents) -> None:
    from shannotctl.render.amounts import number, size
    from shannotctl.render.layout import hanging
    from shannotd.wire.text import visible

    console.print(_summary(found.checkpoint))
    for step in found.steps:
        entries = "" if step.entries == 1 else f", {number(step.entries, 'entry', 'entries')}"
        line = f"{step.step + 1:>3}. {visible(step.change)} {visible(step.path)}"
        console.print(hanging(f"{line} ({size(step.size)}{entries})", console.out_style))


def _print_json(console: Console, value: object) -> None:
    import json

    from shannotd.wire.decode import encode

    console.print([json.dumps(encode(value))])
