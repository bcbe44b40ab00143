"""`shannotctl show`: one session with its plan."""

from __future__ import annotations

import click

from shannotctl.cli.arguments import session_id
from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.client import Client


@click.command()
@session_id
@click.option("--diff", is_flag=True, help="With the contents of changed files.")
@click.option("--script", is_flag=True, help="The script itself, and nothing else.")
@json_option
def show(id: str, diff: bool, script: bool, as_json: bool) -> int:
    """Show a session: what was submitted, how it ended, its plan."""
    console = Console()
    with Client() as client:
        session = client.get(id)
    if as_json:
        import json

        from shannotctl.json_view import session_object

        console.print([json.dumps(session_object(session))])
    elif script:
        console.script_output("stdout", session.script)
    else:
        from shannotctl.render.session import session_lines

        console.print(session_lines(session, console.out_style, diffs=diff))
    return 0
