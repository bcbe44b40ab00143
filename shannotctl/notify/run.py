"""The notifier as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import NamedTuple

from shannotctl.async_client import AsyncClient
from shannotctl.cli.console import Console
from shannotctl.notify.follow import Follower, Output
from shannotctl.notify.text import Bell, Hook, Lines
from shannotd.wire.errors import NotificationsUnavailable


class Choices(NamedTuple):
    """How waiting plans are told: `command` and `terminal` are empty where there is none."""

    lines: bool
    command: tuple[str, ...]
    bell: bool
    desktop: bool
    terminal: tuple[str, ...]


async def run(console: Console, choices: Choices) -> None:
    """Tell of plans that wait, until SIGTERM.

    :raises NotificationsUnavailable: there is no desktop, or it has ended.
    :raises NotAllowed: this account reviews no plans.
    """
    me = asyncio.current_task()
    assert me is not None
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        me.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        await _run(console, choices)
    except asyncio.CancelledError:
        if not stopped.is_set():
            raise


async def _run(console: Console, choices: Choices) -> None:
    outputs: list[Output] = []
    if choices.lines:
        outputs.append(Lines(console))
    if choices.bell:
        outputs.append(Bell(console))
    if choices.command:
        outputs.append(Hook(choices.command))
    async with contextlib.AsyncExitStack() as ending:
        # It tells of what is there, and starts nothing.
        client = AsyncClient(start=False)
        ending.push_async_callback(client.close)
        follower = Follower(client, outputs)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def lost_bus() -> None:
            if not lost.done():
                lost.set_result(None)

        if choices.desktop:
            from shannotctl.notify.desk import Desk, terminal_command
            from shannotctl.notify.desktop import Desktop, session_bus

            address = session_bus()
            if address is None:
                raise NotificationsUnavailable(reason="there is no session bus")
            desktop = Desktop(address)
            desk = Desk(client, desktop, follower.changed, choices.terminal or terminal_command())
            await desktop.start(desk, lost_bus)
            ending.push_async_callback(desktop.stop)
            outputs.append(desk)
        following = asyncio.ensure_future(follower.run())
        either: set[asyncio.Future[None]] = {following, lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                await following
            raise NotificationsUnavailable(reason="the session bus has ended")
        finally:
            following.cancel()
            await asyncio.wait([following])
