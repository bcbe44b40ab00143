"""A whole daemon within the test's own event loop, over a scripted runner, and a client of it."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

import msgpack

from shannotd.config import load
from shannotd.server.peers import current_groups
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


@contextmanager
def public_directory() -> Iterator[Path]:
    """A directory in which every account can reach the socket of a daemon in service mode."""
    directory = Path(tempfile.mkdtemp(prefix="shannot-service-"))
    try:
        directory.chmod(0o755)
        (directory / "run").mkdir()
        yield directory
    finally:
        shutil.rmtree(directory)


def socket_of(directory: Path) -> Path:
    """The socket of the daemon that serves in `directory`."""
    return directory / "run" / "shannotd.sock"


def service_config(
    *,
    submit: Sequence[str],
    review: Sequence[str],
    audit: Sequence[str] = ("uid:0",),
    admin: Sequence[str] = (),
    approvals: int = 1,
) -> str:
    """The settings of a daemon in service mode where these groups and accounts have the roles."""
    roles = {"submit": submit, "review": review, "audit": audit, "admin": admin}
    return "\n".join(
        (
            '[daemon]\nrunner_socket = "/nowhere"',
            "[roles]",
            *(f"{role} = {json.dumps(list(who))}" for role, who in roles.items()),
            f"[profiles.default]\napprovals = {approvals}\n",
        )
    )


@asynccontextmanager
async def running_service(
    directory: Path,
    *,
    config: str = "",
    embedded: bool = True,
    launch: Launch | None = None,
) -> AsyncIterator[Service]:
    """A daemon that serves in `directory`; stopped in order at the end."""
    file = _prepare(directory, config)
    options = Options(
        embedded=embedded,
        socket=socket_of(directory),
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


def _prepare(directory: Path, config: str) -> Path:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / "shannotd.toml"
    if not file.exists() or config:
        file.write_text(config)
    return file


def change_stored(directory: Path, session: str, **changes: object) -> None:
    """Change fields of a session in the store of a daemon that does not run."""
    database = sqlite3.connect(directory / "state" / "store" / "store.sqlite")
    with database:
        (record,) = database.execute(
            "SELECT record FROM sessions WHERE id = ?", (session,)
        ).fetchone()
        value = msgpack.unpackb(record)
        value["session"].update(changes)
        database.execute(
            "UPDATE sessions SET state = ?, record = ? WHERE id = ?",
            (value["session"]["state"], msgpack.packb(value), session),
        )
    database.close()


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
        return cls(*await asyncio.open_unix_connection(str(socket_of(directory))))

    @classmethod
    async def connect_as(cls, directory: Path, uid: int, *groups: int) -> Caller:
        """A connection of another account, in these groups only. Root's privilege.

        The kernel notes who calls connect(2), so the account is changed for that moment.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.getgroups()
        group = groups[0] if groups else uid
        os.setgroups(groups)
        os.setegid(group)
        os.seteuid(uid)
        try:
            sock.connect(str(socket_of(directory)))
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(before)
        sock.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=sock))

    @classmethod
    async def connect_account(cls, directory: Path, name: str) -> Caller:
        """The same of an account in all of its groups."""
        account = pwd.getpwnam(name)
        groups = current_groups(account.pw_uid)
        assert groups is not None
        return await cls.connect_as(directory, account.pw_uid, *groups)

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


@asynccontextmanager
async def service_of(directory: Path, config: str, *names: str) -> AsyncIterator[list[Caller]]:
    """A daemon in service mode, and a connection of each of these accounts. Root's privilege."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running_service(directory, config=config, embedded=False))
        callers = [await Caller.connect_account(directory, name) for name in names]
        for caller in callers:
            await stack.enter_async_context(caller)
        yield callers
