"""`shannotctl watch`: sessions as they change."""

from __future__ import annotations

import click

from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.client import Changed, Client, Decided, Event, StepApplied


@click.command()
@click.argument("id", required=False, metavar="[ID]")
@json_option
def watch(id: str | None, as_json: bool) -> int:
    """Print a line whenever a session changes; ends with Ctrl-C, or with the session ID."""
    from shannotctl.render.layout import hanging
    from shannotctl.render.printed import PrintedLines

    console = Console()
    printed = PrintedLines(named=True)
    with Client() as client:
        for event in client.watch(id):
            if as_json:
                console.print([_as_json(event)])
            else:
                console.print(printed.lines(event, console.out_style))
                line = _as_text(event)
                if line is not None:
                    console.print(hanging(line, console.out_style))
            console.flush()
    return 0


def _as_json(event: Event) -> str:
    import json

    from shannotctl.json_view import event_object

    return json.dumps(event_object(event))


def _as_text(event: Event) -> str | None:
    from shannotctl.render.plan import applied_text
    from shannotctl.render.session import change_line
    from shannotd.wire.text import visible

    if isinstance(event, Changed):
        return change_line(event.session)
    if isinstance(event, StepApplied):
        return f"{visible(event.id)} step {event.step + 1} {visible(applied_text(event.applied))}"
    if isinstance(event, Decided):
        return (
            f"{visible(event.id)} {visible(event.decision)}: {visible(event.command)}"
            f" (rule {visible(event.rule)})"
        )
    return None
