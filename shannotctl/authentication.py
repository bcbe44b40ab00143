"""Proving that one is there, where polkit wants that and no desktop could ask: on the terminal.

As systemctl does it: polkit's own program for terminals asks, for this process and while it is
needed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from shannotd.wire.errors import AuthenticationNeeded

_PROGRAM = "pkttyagent"
_SECONDS = 20.0  # polkit may have to be started first

Result = TypeVar("Result")


def authenticated(act: Callable[[], Result]) -> Result:
    """What `act` returns, which is called again with an agent on the terminal if it needs one.

    :raises AuthenticationNeeded: there is no terminal, or no agent could be started.
    """
    try:
        return act()
    except AuthenticationNeeded:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        with terminal_agent() as there:
            if not there:
                raise
            return act()


@contextlib.contextmanager
def terminal_agent() -> Iterator[bool]:
    """Have polkit ask on the terminal of this process meanwhile; False where that cannot be."""
    import select
    import subprocess  # slow to import, and seldom needed

    reader, writer = os.pipe()
    try:
        try:
            # It closes the pipe when polkit knows it, and acts for the process that started it.
            # (systemctl's --fallback would let it give way to another agent: there is none, and
            # where logind has no session for us, polkit finds no fallback either.)
            process = subprocess.Popen([_PROGRAM, "--notify-fd", str(writer)], pass_fds=(writer,))
        except FileNotFoundError:
            yield False
            return
        finally:
            os.close(writer)
        try:
            ready, _, _ = select.select([reader], [], [], _SECONDS)
            yield bool(ready)
        finally:
            process.terminate()
            process.wait()
    finally:
        os.close(reader)
