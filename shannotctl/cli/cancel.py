"""`shannotctl cancel`: stop a dry run or an apply, or withdraw a plan."""

from __future__ import annotations

import click

from shannotctl.cli import report
from shannotctl.cli.arguments import session_id
from shannotctl.cli.console import Console
from shannotctl.client import Client


@click.command()
@session_id
def cancel(id: str) -> int:
    """Stop a dry run, withdraw a plan, or end an apply after the step at hand."""
    with Client() as client:
        session = client.cancel(id)
    report.ended(Console(), session)
    return 0
