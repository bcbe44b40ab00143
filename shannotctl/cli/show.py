"""`shannotctl show`: one session with its plan."""

from __future__ import annotations

import click

from shannotctl.cli.arguments import session_id
from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.client import Client
from shannotctl.contents import command_contents


@click.command()
@session_id
@click.option("--diff", is_flag=True, help="With contents: changes, input, output, programs.")
@click.option("--script", is_flag=True, help="The script itself, and nothing else.")
@json_option
def show(id: str, diff: bool, script: bool, as_json: bool) -> int:
    """Show a session: what was submitted, how it ended, its plan."""
    console = Console()
    with Client() as client:
        session = client.get(id)
        contents = command_contents(client, session) if diff or as_json else {}
    if as_json:
        import json

        from shannotctl.json_view import session_object

        console.print([json.dumps(session_object(session, contents))])
    elif script:
        console.script_output("stdout", session.script)
    else:
        from shannotctl.render.command import View
        from shannotctl.render.session import session_lines

        view = View(diffs=diff, whole=diff, contents=contents)
        console.print(session_lines(session, console.out_style, view))
    return 0
