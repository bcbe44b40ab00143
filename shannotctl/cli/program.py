"""`shannotctl`: finds the verb, runs it, turns every failure into a message and a status."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from shannotctl.cli.outcome import BROKEN_PIPE, DONE, INTERNAL, INTERRUPTED, STATUSES, USAGE

# Verb -> the module and the name of its command: only the verb that is used is imported.
VERBS = {
    "submit": ("submit", "submit"),
    "list": ("list", "list_sessions"),
    "show": ("show", "show"),
    "review": ("review", "review"),
    "approve": ("approve", "approve"),
    "amend": ("amend", "amend"),
    "reject": ("reject", "reject"),
    "cancel": ("cancel", "cancel"),
    "rollback": ("rollback", "rollback"),
    "checkpoint": ("checkpoint", "checkpoint"),
    "watch": ("watch", "watch"),
    "notify": ("notify", "notify"),
    "status": ("status", "status"),
    "doctor": ("doctor", "doctor"),
    "audit": ("audit", "audit"),
    "policy": ("policy", "policy"),
    "completion": ("completion", "completion"),
}

# click before 8.2 shows the help and exits by itself.
_NO_ARGUMENTS: tuple[type[click.UsageError], ...] = tuple(
    kind for kind in [getattr(click.exceptions, "NoArgsIsHelpError", None)] if kind is not None
)

EPILOG = "\b\nExit status:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in STATUSES)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of a session's life."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one verb."""
        if cmd_name not in VERBS:
            return None
        module, name = VERBS[cmd_name]
        command = getattr(importlib.import_module(f"shannotctl.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shannot", prog_name="shannotctl")
def shannotctl() -> None:
    """Dry-run scripts, review the plans that come of them, have them applied.

    The daemon is found by $SHANNOT_SOCKET, else /run/shannot/shannotd.sock; where neither
    is there, one of your own is started.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit status.

    The verbs return their status, or raise a ShannotError.
    """
    _replace_closed_streams()
    try:
        if "_SHANNOTCTL_COMPLETE" in os.environ:
            shannotctl.main(args=list(arguments), prog_name="shannotctl")
        status = _invoke(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:
        # A full disk under standard output.
        _discard_output()
        from shannotctl.cli.failure import report_system

        return report_system(error)


def _replace_closed_streams() -> None:
    """Who starts us with a closed stream (`>&-`) wants nothing of it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115


def _discard_output() -> None:
    # The interpreter flushes once more at its end: give it something that takes it.
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 -- pathlib is slow to import
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _invoke(arguments: Sequence[str]) -> int:
    from shannotd.wire.errors import ShannotError

    try:
        with shannotctl.make_context("shannotctl", list(arguments)) as context:
            status = shannotctl.invoke(context)
        return status if isinstance(status, int) else DONE
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.Abort:
        return INTERRUPTED
    except _NO_ARGUMENTS as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        from shannotctl.cli.failure import report_usage

        return report_usage(error, arguments)
    except ShannotError as error:
        from shannotctl.cli.failure import report

        return report(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        from shannotctl.cli.failure import report_system

        return report_system(error)
    except RecursionError:
        from shannotctl.cli.failure import report

        report(ShannotError(reason="a plan is nested too deeply"))
        return INTERNAL
