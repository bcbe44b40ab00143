"""`shannotctl audit`: read and check the audit log."""

from __future__ import annotations

import click

from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.client import AuditRecord, Client


@click.group()
def audit() -> None:
    """Read and check the audit log."""


@audit.command()
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    metavar="N",
    help="The last N records.",
)
@click.option("--session", metavar="ID", help="Only those of one session.")
@json_option
def tail(limit: int, session: str | None, as_json: bool) -> int:
    """Print the last records, oldest first."""
    console = Console()
    with Client() as client:
        records = client.audit_tail(limit, session)
    if as_json:
        import json

        from shannotd.wire.decode import encode

        console.print([json.dumps([encode(record) for record in records])])
        return 0
    from shannotctl.render.layout import hanging

    for record in records:
        console.print(hanging(_line(record), console.out_style))
    return 0


@audit.command()
@json_option
def verify(as_json: bool) -> int:
    """Check the whole log; exit 12 where it was changed."""
    console = Console()
    with Client() as client:
        verdict = client.audit_verify()
    if as_json:
        import json

        from shannotd.wire.decode import encode

        console.print([json.dumps(encode(verdict))])
        return 0
    from shannotctl.render.amounts import moment, number
    from shannotd.wire.text import visible

    when = ""
    if verdict.first_time is not None and verdict.last_time is not None:
        when = f" from {moment(verdict.first_time)} to {moment(verdict.last_time)}"
    console.print(
        [
            f"intact: {number(verdict.records, 'record')} in {number(verdict.files, 'file')}{when}",
            f"head {visible(verdict.head)}",
        ]
    )
    return 0


def _line(record: AuditRecord) -> str:
    from shannotctl.render.amounts import moment
    from shannotctl.render.command import quoted
    from shannotd.wire.text import visible

    who = "-" if record.uid is None else f"uid {record.uid}"
    details = "".join(
        f" {visible(name)}={quoted(str(value))}" for name, value in record.details.items()
    )
    session = "" if record.session is None else f" {visible(record.session)}"
    event = visible(record.event)
    return f"{record.sequence} {moment(record.time)} {who} {event}{session}{details}"
