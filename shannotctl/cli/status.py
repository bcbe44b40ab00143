"""`shannotctl status`: the daemon itself."""

from __future__ import annotations

import click

from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.client import Client


@click.command()
@json_option
def status(as_json: bool) -> int:
    """Show whether a daemon runs, what it does and what you may do. Starts none."""
    console = Console()
    with Client(start=False) as client:
        found = client.status()
    if as_json:
        import json

        from shannotd.wire.decode import encode

        console.print([json.dumps({"socket": client.path, "daemon": encode(found)})])
        return 0
    from shannotctl.render.amounts import moment
    from shannotctl.render.layout import labelled

    for label, text in (
        ("daemon", f"shannotd {found.version}, {found.mode}, process {found.pid}, uid {found.uid}"),
        ("socket", client.path),
        ("started", moment(found.started_at)),
        ("sandbox", f"{found.builder}, {found.pool_ready} ready"),
        ("sessions", f"{found.running} running, {found.pending} pending"),
        ("your roles", ", ".join(found.roles) or "none"),
        ("store", found.store),
        ("D-Bus", f"{found.bus} bus" if found.bus_missing is None else f"no: {found.bus_missing}"),
        ("polkit", "asked" if found.polkit_missing is None else f"no: {found.polkit_missing}"),
    ):
        console.print(labelled(label, text, console.out_style, indent=""))
    return 0
