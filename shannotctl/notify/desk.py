"""Waiting plans as desktop notifications, and what people do with them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence

from shannotctl.async_client import AsyncClient
from shannotctl.cli.console import Console
from shannotctl.notify.board import Board, Shower
from shannotctl.notify.notices import (
    APPROVE,
    CONFIRM,
    KEEP,
    REJECT,
    REVIEW,
    TOGETHER,
    Notice,
    Reader,
    cut,
    notices,
)
from shannotd.wire.errors import ShannotError
from shannotd.wire.session import Session
from shannotd.wire.text import visible

REASON = "rejected from a desktop notification"

_FAILED_SECONDS = 15.0
# Terminals and how each is told to run a command, the host's own choice first.
_TERMINALS = (
    ("xdg-terminal-exec",),
    ("x-terminal-emulator", "-e"),
    ("gnome-terminal", "--"),
    ("kgx", "--"),
    ("konsole", "-e"),
    ("xfce4-terminal", "-x"),
    ("foot",),
    ("alacritty", "-e"),
    ("kitty",),
    ("xterm", "-e"),
)


def terminal_command(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What runs the words after it in a terminal: `$TERMINAL`, or one that is installed; empty
    without any."""
    terminal = environment.get("TERMINAL")
    if terminal and shutil.which(terminal, path=environment.get("PATH")):
        return (terminal, "-e")
    for command in _TERMINALS:
        if shutil.which(command[0], path=environment.get("PATH")):
            return command
    return ()


class Desk:
    """Shows notices and does what is chosen in them."""

    def __init__(
        self,
        client: AsyncClient,
        shower: Shower,
        changed: Callable[[], None],
        terminal: Sequence[str],
    ) -> None:
        """:param changed: has `update` called soon.
        :param terminal: runs the words after it in a terminal; empty where there is none.
        """
        self._client = client
        self._board = Board(shower)
        self._changed = changed
        self._terminal = terminal
        self._waiting: dict[str, Session] = {}
        self._confirming: dict[str, Session] = {}
        self._failures: dict[str, Notice] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def update(self, waiting: Sequence[Session], reader: Reader) -> None:
        """Show the notices of these plans."""
        self._waiting = {session.id: session for session in waiting}
        # A question about a plan that is decided meanwhile, or is another by now, is moot.
        self._confirming = {
            id: asked
            for id, asked in self._confirming.items()
            if id in self._waiting and self._waiting[id].digest == asked.digest
        }
        await self._board.update({**notices(waiting, self._confirming, reader), **self._failures})

    # What people do: called by the desktop, in the loop

    def invoked(self, key: str, action: str) -> None:
        """Somebody chose `action` in the notice of that key."""
        if action != "default" and not self._board.offers(key, action):
            return  # what a notice does not offer, nobody has chosen in it
        if action == REVIEW or action == "default":
            self._begin(self._review(None if key == TOGETHER else key))
        elif action == APPROVE and key in self._waiting:
            self._confirming[key] = self._waiting[key]
        elif action == REJECT and key in self._waiting:
            self._begin(self._decide(key, self._client.reject(key, REASON)))
        elif action in (CONFIRM, KEEP):
            asked = self._confirming.pop(key.removeprefix(f"{CONFIRM} "), None)
            if asked is not None and action == CONFIRM:
                assert asked.digest is not None
                # Of the plan that was shown, whatever it is by now.
                self._begin(self._decide(asked.id, self._client.approve(asked.id, asked.digest)))
        self._changed()

    def closed(self, key: str) -> None:
        """The notice of that key is not shown any more."""
        self._board.put_away(key)
        self._confirming.pop(key.removeprefix(f"{CONFIRM} "), None)
        self._failures.pop(key, None)

    def restarted(self) -> None:
        """Nothing is shown any more."""
        self._board.forget()
        self._changed()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _decide(self, id: str, decision: Coroutine[None, None, Session]) -> None:
        try:
            await decision
        except ShannotError as error:
            self._fail(id, str(error))

    async def _review(self, id: str | None) -> None:
        if not self._terminal:
            self._fail(id or TOGETHER, "There is no terminal to review in: --terminal names one.")
            return
        # -P: nothing is imported from the working directory.
        command = [*self._terminal, sys.executable, "-P", "-m", "shannotctl", "review"]
        try:
            process = await asyncio.create_subprocess_exec(
                *command, *([] if id is None else [id]), stdin=asyncio.subprocess.DEVNULL
            )
        except OSError as error:
            self._fail(id or TOGETHER, f"{command[0]}: {error.strerror or error}")
            return
        await process.wait()

    def _fail(self, id: str, reason: str) -> None:
        Console().say(reason)
        key = f"failed {id}"
        self._failures[key] = Notice(
            key, "Nothing was decided", cut(visible(reason)), 1, (), frozenset(), _FAILED_SECONDS
        )
        self._changed()
