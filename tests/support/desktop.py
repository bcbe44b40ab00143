"""A desktop of a test's own: a screen (Xvfb), a session bus, a notification service (dunst)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.support.bus import Bus, message_bus
from tests.support.service import SECONDS

# `chosen` is the label that the next context menu picks.
_DUNSTRC = """\
[global]
    width = (300, 700)
    height = 400
    font = DejaVu Sans Mono 10
    markup = full
    ignore_newline = no
    format = "<b>%s</b>\\n%b"
    dmenu = {picker}
    show_indicators = no
    notification_limit = 10
"""
_PICKER = """\
#!/bin/sh
grep --max-count 1 --fixed-strings -e "$(cat {chosen})"
"""


class Desktop:
    """What a person sees and does."""

    def __init__(self, directory: Path, bus: Bus, display: str) -> None:
        self._directory = directory
        self.bus = bus
        self.environment = {
            **os.environ,
            "DBUS_SESSION_BUS_ADDRESS": bus.address,
            "DISPLAY": display,
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
        }
        self.service: subprocess.Popen[bytes] | None = None

    def start_service(self) -> None:
        """Start the notification service, and wait until it has its name."""
        picker, chosen = self._directory / "picker", self._directory / "chosen"
        picker.write_text(_PICKER.format(chosen=chosen))
        picker.chmod(0o755)
        config = self._directory / "dunstrc"
        config.write_text(_DUNSTRC.format(picker=picker))
        self.service = subprocess.Popen(
            ["dunst", "-config", str(config)],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait = ["gdbus", "wait", "--address", self.bus.address, "--timeout", str(int(SECONDS))]
        subprocess.run([*wait, "org.freedesktop.Notifications"], check=True)

    def stop_service(self) -> None:
        """End it."""
        if self.service is not None:
            self.service.terminate()
            self.service.wait(SECONDS)
            self.service = None

    async def choose(self, label: str) -> None:
        """Choose the first action of that label among those of all notifications."""
        (self._directory / "chosen").write_text(label)
        await self._command("dunstctl", "context")

    async def close_all(self) -> None:
        """Put all notifications away."""
        await self._command("dunstctl", "close-all")

    async def displayed(self) -> int:
        """How many notifications are on the screen."""
        return int(await self._command("dunstctl", "count", "displayed"))

    async def screenshot(self, path: Path) -> None:
        """What is on the screen."""
        await self._command("import", "-window", "root", str(path))

    async def _command(self, *command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *command, env=self.environment, stdout=subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), SECONDS)
        assert process.returncode == 0, command
        return out.decode()

    def notifier(self, socket: Path, *options: str) -> AbstractAsyncContextManager[Any]:
        """`shannotctl notify` on this desktop."""
        return running_notifier(socket, *options, environment=self.environment)

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[Traffic]:
        """All that is said on the bus to and by the notification service from now on."""
        process = await asyncio.create_subprocess_exec(
            *("busctl", f"--address={self.bus.address}", "--json=short", "monitor"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=2**20,
        )
        try:
            assert process.stderr is not None
            await asyncio.wait_for(process.stderr.readline(), SECONDS)  # it monitors
            yield Traffic(process)
        finally:
            process.terminate()
            await process.wait()


class Traffic:
    """Messages on a bus, as they come."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def next(self, member: str) -> list[Any]:
        """The arguments of the next message with that name."""
        assert self._process.stdout is not None
        while True:
            line = await asyncio.wait_for(self._process.stdout.readline(), SECONDS)
            assert line, f"no {member}"
            message = json.loads(line)
            if message.get("member") == member:
                return list(message["payload"]["data"])


@asynccontextmanager
async def running_notifier(
    socket: Path, *options: str, environment: Mapping[str, str] = os.environ, **more: Any
) -> AsyncIterator[Any]:
    """`shannotctl notify` of the daemon at `socket`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shannotctl", "notify", *options),
        env={**environment, "SHANNOT_SOCKET": str(socket)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), SECONDS)


@contextmanager
def desktop(directory: Path) -> Iterator[Desktop]:
    """A desktop with a notification service."""
    reader, writer = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1000x600x24", "-nolisten", "tcp"],
        pass_fds=(writer,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as told:
            number = told.readline().strip()
        assert number, "Xvfb does not start"
        with message_bus(system=False) as bus:
            made = Desktop(directory, bus, f":{number}")
            try:
                made.start_service()
                yield made
            finally:
                made.stop_service()
    finally:
        screen.terminate()
        screen.wait(SECONDS)
