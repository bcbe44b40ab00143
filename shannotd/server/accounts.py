"""Asking the account database, which may be on the network: it may be slow, or never answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

_AT_ONCE = 8


class Accounts:
    """Asks in threads of its own, a few at once. Unlike asyncio's own, no end of the process waits
    for them: what they ask changes nothing."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def ask(self, question: Callable[[], Result]) -> Result:
        """What `question` returns, which blocks.

        :raises Exception: what it raises.
        :raises RuntimeError: no thread could be started.
        """
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()

        def ended(settle: Callable[[Any], None], value: object) -> None:
            self._room.release()
            if not answer.done():
                settle(value)

        def work() -> None:
            settle: Callable[[Any], None] = answer.set_result
            value: object
            try:
                value = question()
            except Exception as error:
                settle, value = answer.set_exception, error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ended, settle, value)

        try:
            threading.Thread(target=work, name="accounts", daemon=True).start()
        except BaseException:
            self._room.release()
            raise
        return await answer
