"""`shannotctl notify`: a notification for each plan that waits."""

from __future__ import annotations

import click

from shannotctl.cli.console import Console


@click.command()
@click.option("--print", "lines", is_flag=True, help="Print lines instead.")
@click.option("--exec", "command", metavar="COMMAND", help="Run a command for each plan instead.")
@click.option("--bell", is_flag=True, help="Ring the terminal's bell instead.")
@click.option("--desktop", is_flag=True, help="Notifications as well as what else is given.")
@click.option(
    "--terminal", metavar="COMMAND", help="What runs the reviewer: a command that it is added to."
)
def notify(
    lines: bool, command: str | None, bell: bool, desktop: bool, terminal: str | None
) -> int:
    """Tell of each plan that waits for you to review it, until Ctrl-C.

    Desktop notifications offer to review it, to reject it and, where it is no danger, to approve
    it after one more question. The command of --exec is not given to a shell; it has the plan in
    its environment (SHANNOT_ID, SHANNOT_NAME, SHANNOT_SUBMITTER, SHANNOT_RISK, SHANNOT_COUNTS,
    SHANNOT_DIGEST) and, as JSON, on its standard input.
    """
    import asyncio
    import shlex

    from shannotctl.notify.run import Choices, run
    from shannotd.wire.errors import UsageError

    try:
        words = tuple(shlex.split(command)) if command is not None else ()
        terminal_words = tuple(shlex.split(terminal)) if terminal else ()
    except ValueError as error:
        raise UsageError(reason=f"a command cannot be read: {error}") from None
    if command is not None and not words:
        raise UsageError(reason="--exec needs a command")
    choices = Choices(
        lines=lines,
        command=words,
        bell=bell,
        desktop=desktop or not (lines or bell or words),
        terminal=terminal_words,
    )
    asyncio.run(run(Console(), choices))
    return 0
