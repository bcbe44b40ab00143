"""A whole daemon within the test's own event loop, over a scripted runner, and a client of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

from shannotd.config import load
from shannotd.service import Options, Service
from shannotd.sessions.runner import Launch, spawner
from shannotd.wire.errors import ShannotError, error_from_wire
from shannotd.wire.rpc import MAX_FRAME_BYTES, Decoder, Notification, Request, Response, pack

SCRIPTED_RUNNER = Path(__file__).with_name("scripted_runner.py")
SECONDS = 30.0  # what an event may take before a test fails


def scripted() -> Launch:
    """Launches the scripted runner."""
    return spawner(lambda descriptor: (sys.executable, str(SCRIPTED_RUNNER), str(descriptor)))


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def script(*actions: tuple[str, Any]) -> bytes:
    """A script for the scripted runner."""
    return json.dumps(actions).encode()


@asynccontextmanager
async def running_service(
    directory: Path,
    *,
    config: str = "",
    embedded: bool = True,
    launch: Launch | None = None,
) -> AsyncIterator[Service]:
    """A daemon that serves in `directory`; stopped in order at the end."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / "shannotd.toml"
    if not file.exists() or config:
        file.write_text(config)
    options = Options(
        embedded=embedded,
        socket=directory / "run" / "shannotd.sock",
        state=directory / "state",
        config=file,
        config_required=True,
        launch=launch or scripted(),
    )
    service = Service(options, load(file), directory / "state")
    await service.start()
    running = asyncio.ensure_future(service.run())
    try:
        yield service
    finally:
        service.request_stop()
        await asyncio.wait_for(running, SECONDS)


class Caller:
    """A client that speaks the wire and nothing more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.notifications: asyncio.Queue[Notification] = asyncio.Queue()
        self._decoder = Decoder(MAX_FRAME_BYTES)
        self._answers: dict[int, asyncio.Future[Response]] = {}
        self._next = 1
        self._closed = asyncio.Event()
        self._task = asyncio.ensure_future(self._read())

    @classmethod
    async def connect(cls, directory: Path) -> Caller:
        """A connection to the daemon that serves in `directory`."""
        path = directory / "run" / "shannotd.sock"
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)

    def send(self, method: str, **params: object) -> asyncio.Future[Response]:
        """Send a request; the future gets its answer."""
        identifier, self._next = self._next, self._next + 1
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._answers[identifier] = answer
        self.writer.write(pack(Request(identifier, method, params)))
        return answer

    async def call(self, method: str, **params: object) -> Any:
        """Call a method and give its result.

        :raises ShannotError: what the daemon answered.
        """
        response = await asyncio.wait_for(self.send(method, **params), SECONDS)
        if response.error is not None:
            raise error_from_wire(response.error)
        return response.result

    async def submit(self, *actions: tuple[str, Any], **params: object) -> Any:
        """Submit a script for the scripted runner."""
        given = {"kind": "python", "script": script(*actions), **params}
        return await self.call("sessions.submit", **given)

    async def failure(self, method: str, **params: object) -> ShannotError:
        """The error with which a call fails."""
        response = await asyncio.wait_for(self.send(method, **params), SECONDS)
        assert response.error is not None, response.result
        return error_from_wire(response.error)

    async def notification(self, method: str) -> Notification:
        """The next notification of that method; others before it are dropped."""
        while True:
            received = await asyncio.wait_for(self.notifications.get(), SECONDS)
            if received.method == method:
                return received

    async def changed_to(self, state: str) -> Any:
        """The next session that is said to be in `state`."""
        while True:
            received = await self.notification("session.changed")
            if received.params["state"] == state:
                return received.params

    async def closed(self) -> None:
        """Wait until the daemon has closed the connection."""
        await asyncio.wait_for(self._closed.wait(), SECONDS)

    async def raw_error(self) -> ShannotError:
        """The error that is sent beside any request, when bytes were no good."""
        self._answers[0] = asyncio.get_running_loop().create_future()
        response = await asyncio.wait_for(self._answers[0], SECONDS)
        return error_from_wire(response.error)

    async def _read(self) -> None:
        try:
            while data := await self.reader.read(1 << 20):
                for message in self._decoder.feed(data):
                    if isinstance(message, Notification):
                        self.notifications.put_nowait(message)
                    elif isinstance(message, Response):
                        answer = self._answers.pop(message.id, None)
                        if answer is not None and not answer.done():
                            answer.set_result(message)
        except ConnectionError:
            pass
        finally:
            self._closed.set()
