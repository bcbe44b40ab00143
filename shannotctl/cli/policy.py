"""`shannotctl policy`: what the rules say of a command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.client import Client, Explanation
from shannotd.wire.decision import Observation


@click.group()
def policy() -> None:
    """Look at the rules for commands."""


@policy.command(context_settings={"allow_interspersed_args": False})
@click.option("--profile", metavar="NAME", help="Under this profile.")
@click.option("--cwd", metavar="PATH", help="Called in this directory (default: this one).")
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def explain(profile: str | None, cwd: str | None, as_json: bool, command: tuple[str, ...]) -> int:
    """Say what becomes of a command that a script starts: decision, rule, reason and risk.

    Nothing is run. Put `--` before a command with options.
    """
    console = Console()
    where = cwd if cwd is not None else str(Path.cwd())
    with Client() as client:
        found = client.explain(command, cwd=where, profile=profile)
    if as_json:
        import json

        from shannotd.wire.decode import encode

        console.print([json.dumps(encode(found))])
        return 0
    from shannotctl.render.layout import labelled

    for label, text in _lines(found):
        console.print(labelled(label, text, console.out_style, indent=""))
    return 0


def _account(observation: Observation) -> str:
    with_groups = f", with group {', '.join(observation.groups)}" if observation.groups else ""
    return f"an unprivileged account where it can{with_groups}"


def _lines(found: Explanation) -> Iterator[tuple[str, str]]:
    from shannotctl.render.command import quoted

    verdict = found.verdict
    yield "command", " ".join(quoted(word) for word in found.call.argv)
    leads = "" if found.call.program == found.call.path else f" ({found.call.program})"
    yield "program", found.call.path + leads if found.found else "not on this host"
    yield "decision", verdict.decision.value
    yield "rule", verdict.rule
    yield "reason", verdict.reason
    yield "risk", verdict.risk.value
    yield "profile", found.profile
    observation, recording = verdict.observation, verdict.recording
    if observation is not None:
        yield "runs", " ".join(quoted(word) for word in observation.argv)
        yield "as", "root, without its rights" if observation.as_root else _account(observation)
        reach = [f"network {observation.net}", *observation.sockets]
        yield "reaches", ", ".join(reach)
        if observation.shows:
            yield "is shown", ", ".join(observation.shows)
        yield "limits", f"{observation.seconds:g} s, {observation.output_bytes} bytes of output"
    if recording is not None:
        output = f", output {quoted(recording.stdout)}" if recording.stdout else ", no output"
        yield "answers", f"exit status {recording.exit_status}{output}"
        yield "input", "kept, up to a limit" if recording.stdin else "kept only from a file"
        if recording.undo is not None:
            yield "undo", " ".join(quoted(word) for word in recording.undo)
        yield "limits", f"{recording.seconds:g} s"
