"""The argument that most verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def session_id(function: _Decorated) -> _Decorated:
    """`ID`: a session's id or a prefix of it that fits only one; completed by the shell."""
    return click.argument("id", metavar="ID", shell_complete=complete_session)(function)


def complete_session(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The ids that begin like what was typed."""
    from shannotctl.client import Client, ShannotError

    try:
        with Client(start=False) as client:
            return [item.id for item in client.list() if item.id.startswith(incomplete)]
    except (ShannotError, OSError):
        return []
