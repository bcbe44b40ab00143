"""The reviewer in the test's own event loop: keys through a pipe, and what its screen shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from shannotctl.review import messages as m
from shannotctl.review.application import Reviewer
from shannotctl.review.connection import Connection
from shannotctl.review.screen import screen
from shannotctl.review.spans import guarded, plain
from shannotctl.review.state import Link, Review
from tests.support.service import Caller, running_service, socket_of

SECONDS = 30.0

KEYS = {
    "enter": "\r",
    "escape": "\x1b",
    "tab": "\t",
    "space": " ",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
    "pageup": "\x1b[5~",
    "pagedown": "\x1b[6~",
    "home": "\x1b[H",
    "end": "\x1b[F",
    "backspace": "\x7f",
    "delete": "\x1b[3~",
    "c-c": "\x03",
    "c-d": "\x04",
    "c-u": "\x15",
    "c-l": "\x0c",
}


def lines_of(review: Review) -> list[str]:
    """What the terminal shows, line by line."""
    return [plain(guarded(line, ascii_only=False)) for line in screen(review).lines]


class Terminal(DummyOutput):
    """A terminal of some size that shows nothing; `raw` is what went to it as it is."""

    def __init__(self, columns: int, rows: int) -> None:
        self.size = Size(rows=rows, columns=columns)
        self.raw: list[str] = []

    def get_size(self) -> Size:
        """Its size."""
        return self.size

    def write_raw(self, data: str) -> None:
        """Keep what is written."""
        self.raw.append(data)


class Watched(Reviewer):
    """A reviewer of which a test sees what it is told."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.told: list[m.Message] = []
        self.wanted: list[m.Effect] = []
        self.news = asyncio.Event()
        super().__init__(*arguments, **named)

    def tell(self, message: m.Message) -> None:
        """Take note of what comes."""
        self.told.append(message)
        super().tell(message)
        self.news.set()

    def _carry_out(self, effect: m.Effect) -> None:
        self.wanted.append(effect)
        super()._carry_out(effect)


class Reviewing:
    """A running reviewer, its keyboard and its screen."""

    def __init__(
        self, reviewer: Watched, pipe: Any, running: asyncio.Task[int], settles: bool
    ) -> None:
        self.settles = settles
        self.reviewer = reviewer
        self.running = running
        self._pipe = pipe

    @property
    def review(self) -> Review:
        """The state."""
        return self.reviewer.review

    @property
    def lines(self) -> list[str]:
        """What the screen shows."""
        return lines_of(self.review)

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    async def redrawn(self) -> None:
        """Wait until the screen shows the present state."""
        self.reviewer.application.invalidate()
        drawn = asyncio.ensure_future(self.reviewer.drawn())
        either: set[asyncio.Future[Any]] = {drawn, self.running}
        await asyncio.wait(either, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        drawn.cancel()

    async def until(self, wanted: str | Callable[[Review], bool]) -> None:
        """Wait until the screen has this text, or the state is like that."""

        async def wait() -> None:
            while not (wanted in self.text if isinstance(wanted, str) else wanted(self.review)):
                await self._news()

        try:
            await asyncio.wait_for(wait(), SECONDS)
        except TimeoutError:
            raise AssertionError(f"no {wanted!r} in\n{self.text}") from None
        await self.redrawn()

    async def type(self, text: str) -> None:
        """Type characters, each on what is drawn by then."""
        for character in text:
            await self.press(character)

    async def press(self, *names: str) -> None:
        """Press keys, each on what is drawn by then."""
        for name in names:
            await self.send(KEYS.get(name, name), 1)

    async def go_to(self, step: int) -> None:
        """Move down to a step of the plan."""
        while self.review.place.item != f"step:{step}":
            await self.press("J")

    async def send(self, data: str, keys: int) -> None:
        """Send `data` in one go, which is so many keys or events."""
        before = len(self._heard())
        self._pipe.send_text(data)

        async def heard() -> None:
            while len(self._heard()) < before + keys and not self.running.done():
                await self._news()

        await asyncio.wait_for(heard(), SECONDS)
        if not self.running.done():
            await self.redrawn()
            if self.settles:
                await self.until(lambda review: review.panel is None or review.panel.drawn)

    async def _news(self) -> None:
        """Wait until the reviewer is told something, or ends."""
        waiting = asyncio.ensure_future(self.reviewer.news.wait())
        either: set[asyncio.Future[Any]] = {waiting, self.running}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        self.reviewer.news.clear()
        if self.running.done():
            self.running.result()

    def _heard(self) -> list[m.Message]:
        kinds = (m.Key, m.Pasted, m.Clicked, m.Scrolled)
        return [message for message in self.reviewer.told if isinstance(message, kinds)]

    def wanted(self, kind: type[Any]) -> list[Any]:
        """What it has wanted done of that kind."""
        return [effect for effect in self.reviewer.wanted if isinstance(effect, kind)]


@asynccontextmanager
async def reviewing(
    path: Path | str,
    *,
    id: str | None = None,
    columns: int = 100,
    rows: int = 40,
    settles: bool = True,
) -> AsyncIterator[Reviewing]:
    """A reviewer of the daemon at the socket `path`; ended at the end, if it runs still."""
    with create_pipe_input() as pipe:
        output = Terminal(columns, rows)
        with create_app_session(input=pipe, output=output):
            connection = Connection(str(path))
            # Without settling, questions are asked for ever.
            seconds = 0.0 if settles else 3600.0
            reviewer = Watched(connection, id=id, input=pipe, output=output, settling=seconds)
            running = asyncio.ensure_future(reviewer.run())
            made = Reviewing(reviewer, pipe, running, settles)
            try:
                await asyncio.wait_for(reviewer.drawn(), SECONDS)
                yield made
            finally:
                if not running.done():
                    reviewer.application.exit(result=0)
                await asyncio.wait_for(asyncio.wait([running]), SECONDS)


class Both(NamedTuple):
    """A reviewer, and a client of the same daemon."""

    screen: Reviewing
    caller: Caller


@asynccontextmanager
async def both(directory: Path, *scripts: Any, **size: Any) -> AsyncIterator[Both]:
    """A daemon with these sessions, and a reviewer of it."""
    async with running_service(directory) as _, await Caller.connect(directory) as caller:
        for script in scripts:
            await caller.submit(*script)
        async with reviewing(socket_of(directory), **size) as screen:
            await screen.until(lambda review: review.link is Link.UP)
            yield Both(screen, caller)


def files(*names: str) -> list[tuple[str, Any]]:
    """A script that makes these files of /srv."""
    return [("files", [f"/srv/{name}" for name in names])]


async def state_of(caller: Caller, id: str) -> str:
    """The state that a session is in now."""
    return str((await caller.call("sessions.get", id=id))["state"])
