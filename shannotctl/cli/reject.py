"""`shannotctl reject`: refuse a plan for good."""

from __future__ import annotations

import click

from shannotctl.cli import report
from shannotctl.cli.arguments import session_id
from shannotctl.cli.console import Console
from shannotctl.client import Client


@click.command()
@session_id
@click.option("--reason", default="", metavar="TEXT", help="Why; the submitter sees it.")
def reject(id: str, reason: str) -> int:
    """Refuse a pending plan for good."""
    with Client() as client:
        session = client.reject(id, reason)
    report.ended(Console(), session)
    return 0
