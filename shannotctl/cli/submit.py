"""`shannotctl submit`: dry-run a script and show what it would do."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import click

from shannotctl.cli.commandline import read_submit
from shannotctl.cli.console import Console
from shannotctl.cli.failure import json_option
from shannotctl.cli.outcome import session_status
from shannotctl.cli.sources import Script, read_script, read_stdin
from shannotctl.cli.submission import SubmissionRun
from shannotd.wire.errors import UsageError
from shannotd.wire.submission import Submission

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_LINE = "shannotctl.submit.line"


class SubmitCommand(click.Command):
    """Reads its words as `read_submit` says: after the script, they are the script's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give click the options only."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        flags = {name for option in options if option.is_flag for name in option.opts}
        valued = {name for option in options if not option.is_flag for name in option.opts}
        line = read_submit(args, flags, valued, {"-c", "--sh"})
        ctx.meta[_LINE] = line
        if line.unfinished:
            return super().parse_args(ctx, list(line.options))
        shown = [line.file] if line.file is not None else list(line.command or ())
        return super().parse_args(ctx, [*line.options, "--", *shown, *line.arguments])


def _complete_file(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def _complete_directory(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


@click.command(
    cls=SubmitCommand,
    options_metavar="[OPTIONS]",
    epilog="Options stand before the script or directly after it; `--` ends them. "
    "Examples: submit fix.py --check | submit -c 'print(1)' | submit --sh 'ls > list' | "
    "submit -- cp a b | submit - < fix.py",
)
@click.option("-c", "code", metavar="PYTHON", help="Run this Python code.")
@click.option("--sh", "shell", metavar="TEXT", help="Run this text with /bin/sh.")
@click.option("--name", default="", metavar="NAME", help="A name to show in lists.")
@click.option("--profile", metavar="PROFILE", help="The profile whose rules and limits hold.")
@click.option("--wait", is_flag=True, help="Wait until the plan is decided and applied.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Stop the dry run after this time.")
@click.option("--analysis", default="", metavar="TEXT", help="What a reviewer should know of it.")
@click.option(
    "--cwd",
    metavar="DIRECTORY",
    shell_complete=_complete_directory,
    help="Where it runs (default: here).",
)
@click.option(
    "--stdin",
    "stdin_file",
    metavar="FILE",
    shell_complete=_complete_file,
    help="The script's standard input (default: ours, where it is a file or a pipe).",
)
@json_option
@click.argument(
    "words",
    metavar="{FILE | - | -c PYTHON | --sh TEXT | -- COMMAND} [ARGS]...",
    nargs=-1,
    type=click.UNPROCESSED,
    shell_complete=_complete_file,
)
@click.pass_context
def submit(
    context: click.Context,
    code: str | None,
    shell: str | None,
    name: str,
    profile: str | None,
    wait: bool,
    timeout: float | None,
    analysis: str,
    cwd: str | None,
    stdin_file: str | None,
    as_json: bool,
    words: tuple[str, ...],
) -> int:
    """Dry-run a script in a sandbox; what it would change becomes a plan to approve.

    A script without effect needs nobody: its output is printed and that is all.
    """
    if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
        raise UsageError(reason="--timeout must be a number of seconds above 0")
    console = Console()
    script: Script = read_script(context.meta[_LINE], code, shell)
    submission = Submission(
        kind=script.kind,
        script=script.content,
        arguments=script.arguments,
        name=name or script.name,
        path=script.path,
        stdin=read_stdin(console, stdin_file, taken=script.is_stdin),
        cwd=_directory(cwd),
        profile=profile,
        timeout=timeout,
        analysis=analysis,
    )
    session = SubmissionRun(console, as_json=as_json).run(submission, wait=wait)
    return session_status(session)


def _directory(chosen: str | None) -> str:
    try:
        here = os.getcwd()  # noqa: PTH109 -- pathlib is slow to import
    except FileNotFoundError:
        if chosen is None or not chosen.startswith("/"):
            raise UsageError(
                reason="the working directory does not exist any more; choose one with --cwd"
            ) from None
        here = "/"
    return os.path.normpath(f"{here}/{chosen}") if chosen and chosen[0] != "/" else chosen or here
