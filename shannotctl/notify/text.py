"""Waiting plans told without a desktop: lines, a command, the terminal's bell."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence

from shannotctl.cli.console import Console
from shannotctl.json_view import session_object
from shannotctl.notify.notices import Reader, cut, one_line, risk_of
from shannotctl.render.session import steps_text
from shannotd.wire.session import Session
from shannotd.wire.text import visible

_COMMANDS_AT_ONCE = 8


class News:
    """What is new among the plans that wait, and what waits no more."""

    def __init__(self) -> None:
        self._known: dict[str, Session] = {}

    def since(self, waiting: Sequence[Session]) -> tuple[list[Session], list[Session]]:
        """Those that are new, and those that are gone, since it was last asked."""
        now = {session.id: session for session in waiting}
        new = [session for session in waiting if session.id not in self._known]
        gone = [session for id, session in self._known.items() if id not in now]
        self._known = now
        return new, gone


class Lines:
    """A line for each plan that begins to wait, and for each that waits no more."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._news = News()

    async def update(self, waiting: Sequence[Session], reader: Reader) -> None:
        """Print what is new."""
        new, gone = self._news.since(waiting)
        self._console.print(f"waits {one_line(session)}" for session in new)
        self._console.print(f"gone  {session.id}" for session in gone)
        self._console.flush()


class Bell:
    """The terminal's bell, once for whatever is new."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._news = News()

    async def update(self, waiting: Sequence[Session], reader: Reader) -> None:
        """Ring."""
        new, _ = self._news.since(waiting)
        if new:
            self._console.ring()


class Hook:
    """A command for each plan that begins to wait.

    What was submitted is in its environment and its standard input, never in its arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._news = News()
        self._running: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_COMMANDS_AT_ONCE)

    async def update(self, waiting: Sequence[Session], reader: Reader) -> None:
        """Start it for what is new."""
        new, _ = self._news.since(waiting)
        for session in new:
            task = asyncio.create_task(self._run(session))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, session: Session) -> None:
        async with self._room:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    env={**os.environ, **_environment(session)},
                )
            except OSError as error:
                Console().say(f"{self._command[0]}: {error.strerror or error}")
                return
            told = json.dumps(session_object(session)).encode()
            await process.communicate(told)  # whether it reads that or not


def _environment(session: Session) -> dict[str, str]:
    return {
        "SHANNOT_ID": session.id,
        "SHANNOT_NAME": cut(visible(session.name)),
        "SHANNOT_SUBMITTER": cut(visible(session.submitter_name)),
        "SHANNOT_RISK": risk_of(session).value,
        "SHANNOT_COUNTS": visible(steps_text(session)),
        "SHANNOT_DIGEST": session.digest or "",
    }
