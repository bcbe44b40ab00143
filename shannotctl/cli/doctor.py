"""`shannotctl doctor`: whether sandboxes can be built here, and what to do if not."""

from __future__ import annotations

from collections.abc import Iterator

import click

from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.cli.outcome import DONE, SANDBOX
from shannotctl.render.style import Style

_ROLES = {"ok": "good", "warning": "warning", "error": "bad"}


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check this machine; exit 9 if no sandbox can be built on it."""
    from shannotctl.doctor import ERROR, all_checks

    console = Console()
    if not as_json:
        console.progress("checking")
    checks = all_checks()
    if as_json:
        import json
        from dataclasses import asdict

        console.print([json.dumps([asdict(check) for check in checks])])
    else:
        for check in checks:
            console.print(
                _lines(check.name, check.level, check.detail, check.remedy, console.out_style)
            )
    return SANDBOX if any(check.level == ERROR for check in checks) else DONE


def _lines(name: str, level: str, detail: str, remedy: str | None, style: Style) -> Iterator[str]:
    from shannotctl.render.layout import fold
    from shannotd.wire.text import visible

    start = f"{level:<8} "
    text = f"{visible(name)}: {visible(detail)}"
    if remedy:
        text += f"; remedy: {visible(remedy)}"
    room = None if style.width is None else style.width - len(start)
    for number, piece in enumerate(fold(text, room, at_blanks=True)):
        head = style.paint(start, _ROLES.get(level, "")) if number == 0 else " " * len(start)
        yield head + piece
