"""The reviewer on a terminal: draws the state, takes keys, carries effects out."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from prompt_toolkit.application import Application, in_terminal, run_in_terminal
from prompt_toolkit.data_structures import Point
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import Layout, UIContent, UIControl, Window
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType
from prompt_toolkit.output import Output

from shannotctl.authentication import terminal_agent
from shannotctl.render import layout
from shannotctl.review import messages as m
from shannotctl.review import outside
from shannotctl.review.connection import Connection
from shannotctl.review.screen import is_too_small, screen
from shannotctl.review.spans import GLYPHS, Line, guarded
from shannotctl.review.state import Panel, Review
from shannotctl.review.theme import STYLE, colour_depth
from shannotctl.review.update import first, update
from shannotd.wire.errors import AuthenticationNeeded, ShannotError

# How long after Esc the rest of a key's sequence may come: a slow line splits them.
_ESCAPE_SECONDS = 0.1
_WHEEL_LINES = 3

# Less than anybody needs to see a question and answer it, more than pasted pieces are apart.
SETTLING_SECONDS = 0.25

_NAMES = {
    Keys.ControlM: "enter",
    Keys.ControlJ: "enter",
    Keys.ControlI: "tab",
    Keys.ControlH: "backspace",
    Keys.SIGINT: "c-c",
}


class Reviewer:
    """One run of the reviewer, on one terminal, with one daemon.

    :param id: the session to open at once, or a beginning of its id.
    :param settling: for how many seconds a question is on the screen before keys answer it.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        id: str | None = None,
        mouse: bool = True,
        settling: float = SETTLING_SECONDS,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._connection = connection
        self._settling = settling
        self._asked: Panel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._watchers: list[asyncio.Future[None]] = []
        self.application: Application[int] = Application(
            layout=Layout(Window(_Canvas(self))),
            key_bindings=self._bindings(),
            full_screen=True,
            mouse_support=Condition(lambda: self.review.mouse),
            style=STYLE,
            color_depth=colour_depth(),
            input=input,
            output=output,
            include_default_pygments_style=False,
            after_render=self._after_render,
        )
        self.application.ttimeoutlen = _ESCAPE_SECONDS
        encoding = (self.application.output.encoding() or "").lower().replace("-", "")
        self.ascii_only = encoding not in ("utf8", "utf16", "utf32")
        size = self.application.output.get_size()
        self.review, _ = first(size.columns, size.rows, time.time(), id, mouse)

    async def run(self) -> int:
        """Until it is left; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread
                loop.add_signal_handler(number, self._asked_to_end, number)
        self._start(self._connection.follow(self.tell))
        self._start(self._tick())
        glyphs = "".join(map(chr, GLYPHS))
        widths = layout.ascii_only(glyphs) if self.ascii_only else contextlib.nullcontext()
        try:
            with widths:
                return await self.application.run_async()
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP):
                with contextlib.suppress(ValueError, RuntimeError):
                    loop.remove_signal_handler(number)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._connection.close()

    def tell(self, message: m.Message) -> None:
        """Let the state become what it is after `message`, and have done what is wanted then."""
        before = self.review
        self.review, effects = update(before, message)
        if self.review is not before:
            self.application.invalidate()
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: m.Effect) -> None:
        match effect:
            case m.Quit():
                self._end(0)
            case m.Redraw():
                self.application.renderer.clear()
                self.application.invalidate()
            case m.Suspend():
                self.application.suspend_to_background()
            case m.Copy(text):
                self._start(self._copy(effect, text))
            case m.Page(lines):
                self._start(self._in_terminal(effect, lambda: outside.page(lines)))
            case m.Edit():
                self._start(self._edit(effect))
            case m.Follow(id):
                if self._following is not None:
                    self._following.cancel()
                self._following = self._start(self._connection.follow_one(id, self.tell))
            case _:
                self._start(self._ask(effect))

    async def _ask(self, effect: m.Effect) -> None:
        message = await self._connection.perform(effect)
        if isinstance(message, m.Failed) and isinstance(message.error, AuthenticationNeeded):
            message = await self._authenticated(message)
        self.tell(message)

    async def _authenticated(self, failed: m.Failed) -> m.Message:
        """What comes of it when polkit may ask on the terminal, which is the shell's meanwhile."""
        async with in_terminal():
            agent = terminal_agent()
            entering = asyncio.create_task(asyncio.to_thread(agent.__enter__))
            try:
                if not await asyncio.shield(entering):
                    return failed
                return await self._connection.perform(failed.effect)
            finally:
                await entering
                await asyncio.to_thread(agent.__exit__, None, None, None)

    async def _copy(self, effect: m.Effect, text: str) -> None:
        try:
            output = self.application.output
            output.write_raw(outside.clipboard_sequence(text))
            output.flush()
            await asyncio.to_thread(outside.copy_in_tmux, text)
            self.tell(m.Done(f"copied: {text}"))
        except ShannotError as error:
            self.tell(m.Failed(effect, error))

    async def _in_terminal(self, effect: m.Effect, action: Callable[[], None]) -> None:
        try:
            await run_in_terminal(action)
        except ShannotError as error:
            self.tell(m.Failed(effect, error))

    async def _edit(self, effect: m.Edit) -> None:
        path = effect.plan.steps[effect.step].path or ""
        try:
            original = await self._connection.written(effect)
            before = original if effect.content is None else effect.content
            after = await run_in_terminal(lambda: outside.edited(before, effect.step, path))
        except ShannotError as error:
            self.tell(m.Failed(effect, error))
            return
        if after is None:
            after = effect.content
        content = None if after == original else after
        self.tell(m.Edited(effect.session.id, effect.step, content))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.tell(m.Ticked(time.time()))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # A fault of ours: better the end, with the terminal as it was, than half a screen.
        if error is not None and self.application.is_running and not self.application.is_done:
            self.application.exit(exception=error)

    def _asked_to_end(self, number: int) -> None:
        # The end waits for whoever has the terminal.
        for task in self._tasks:
            task.cancel()
        self._end(128 + number)

    def _end(self, status: int) -> None:
        if self.application.is_running and not self.application.is_done:
            self.application.exit(result=status)

    def _after_render(self, application: Application[int]) -> None:
        self.review, _ = update(self.review, m.Drawn())
        panel = self.review.panel
        visible = not is_too_small(self.review)
        if panel is not None and not panel.drawn and panel is not self._asked and visible:
            self._asked = panel
            asyncio.get_running_loop().call_later(self._settling, self._settled, panel)
        waiting, self._watchers = self._watchers, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _settled(self, panel: Panel) -> None:
        if self.review.panel is panel:
            self.tell(m.Settled())
            self._asked = None  # if it could not be seen, it is asked anew

    async def drawn(self) -> None:
        """Wait until the screen was drawn once more."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(future)
        await future

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()

        @bindings.add(Keys.Any)
        @bindings.add(Keys.SIGINT)
        def _(event: KeyPressEvent) -> None:
            press = event.key_sequence[0]
            if press.key == Keys.BracketedPaste:
                self.tell(m.Pasted(press.data))
                return
            key = press.key
            if isinstance(key, Keys):
                self.tell(m.Key(_NAMES.get(key, key.value)))
            else:
                self.tell(m.Key(key))

        return bindings


class _Canvas(UIControl):
    """All of the screen."""

    def __init__(self, reviewer: Reviewer) -> None:
        self._reviewer = reviewer

    def create_content(self, width: int, height: int) -> UIContent:
        """What is drawn: the state, in the terminal's size."""
        reviewer = self._reviewer
        review: Review = reviewer.review
        if (review.columns, review.rows) != (width, height):
            reviewer.review, _ = update(review, m.Resized(width, height))
        shown = screen(reviewer.review)
        row, column = shown.cursor
        return UIContent(
            get_line=lambda index: self._fragments(shown.lines[index]),
            line_count=len(shown.lines),
            cursor_position=Point(x=column, y=row),
        )

    def _fragments(self, line: Line) -> StyleAndTextTuples:
        return [
            (" ".join(f"class:{name}" for name in role.split()), text)
            for role, text in guarded(line, ascii_only=self._reviewer.ascii_only)
        ]

    def is_focusable(self) -> bool:
        """Whether keys go to it."""
        return True

    def mouse_handler(self, mouse_event: MouseEvent) -> None:
        """A click or the wheel."""
        kind, position = mouse_event.event_type, mouse_event.position
        if kind is MouseEventType.MOUSE_UP:
            self._reviewer.tell(m.Clicked(position.y, position.x))
        elif kind is MouseEventType.SCROLL_DOWN:
            self._reviewer.tell(m.Scrolled(_WHEEL_LINES))
        elif kind is MouseEventType.SCROLL_UP:
            self._reviewer.tell(m.Scrolled(-_WHEEL_LINES))
