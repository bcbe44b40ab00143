"""How a failure is told: one message on standard error, or one JSON object on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from shannotctl.cli.console import Console
from shannotd.wire.errors import ShannotError, UsageError
from shannotd.wire.text import visible

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class _Mode:
    """Whether this run was asked for JSON: known once the options are read."""

    json = False


def json_option(function: _Decorated) -> _Decorated:
    """The option `--json`: one JSON value on standard output, and nothing else."""

    def remember(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
        _Mode.json = value
        return value

    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        callback=remember,
        is_eager=True,
        help="Print JSON (docs/json.md) and nothing else.",
    )(function)


def report(error: ShannotError) -> int:
    """Tell of `error`; return its exit status."""
    if _Mode.json:
        import json

        from shannotctl.json_view import error_object

        sys.stdout.write(json.dumps(error_object(error)) + "\n")
    else:
        Console().say(str(error))
    return error.exit_status


def report_usage(error: click.ClickException, arguments: Sequence[str]) -> int:
    """Tell of a wrong command line; return the status 2."""
    # The options may be what could not be read: then look for the word itself.
    if _Mode.json or "--json" in _before_dashes(arguments):
        _Mode.json = True
        return report(UsageError(reason=error.format_message()))
    console = Console()
    console.say(error.format_message())
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        console.note([f"Try `{visible(context.command_path)} --help`."])
    return UsageError.exit_status


def report_system(error: OSError) -> int:
    """Tell of a system call of ours that failed; return the status 1."""
    where = f"{error.filename}: " if error.filename is not None else ""
    return report(ShannotError(reason=f"{where}{error.strerror or error}"))


def _before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments
