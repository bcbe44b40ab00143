"""The SDK for asyncio: the methods of `shannotctl.client.Client`, as coroutines.

    async with AsyncClient() as client:
        session = await client.submit(Submission(ScriptKind.PYTHON, b"print(1 + 1)"))

Calls may run at once over the one connection. Watching, and a submission whose output is
wanted, use a connection of their own, so that events reach the right reader.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from shannotctl import protocol
from shannotctl.client import unreachable
from shannotctl.location import Location, find_socket
from shannotctl.protocol import Call, Changed, Event, Output
from shannotd.wire.audit import AuditRecord, AuditVerdict
from shannotd.wire.checkpoint import Checkpoint, CheckpointContents
from shannotd.wire.decision import Explanation
from shannotd.wire.errors import DaemonUnreachable, ShannotError, error_from_wire
from shannotd.wire.rollback import RollbackAnswer
from shannotd.wire.rpc import Message, Notification, Response
from shannotd.wire.session import FINAL_STATES, Session, State
from shannotd.wire.status import DaemonStatus
from shannotd.wire.submission import Submission

Result = TypeVar("Result")

_READ_BYTES = 256 * 1024
_PAGE_SESSIONS = 100


class AsyncClient:
    """A connection to the daemon, opened at the first call or by `async with`.

    :param path: the daemon's socket; without it the place is found as docs/embedded.md says,
        and a daemon of one's own is started there if need be and `start` allows it.
    """

    def __init__(self, path: str | None = None, *, start: bool = True) -> None:
        self._location = find_socket() if path is None else Location(path, embedded=False)
        self._start = start
        self._conversation = protocol.Conversation()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._answers: dict[int, asyncio.Future[Response]] = {}
        self._events: asyncio.Queue[Event | ShannotError] = asyncio.Queue()
        self._wants_events = False

    @property
    def path(self) -> str:
        """The path of the daemon's socket."""
        return self._location.path

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Open the connection, if it is not open.

        :raises DaemonUnreachable: nobody answers, and no daemon could be started.
        """
        async with self._opening:
            if self._writer is not None:
                return
            reader, self._writer = await self._open()
            self._reading = asyncio.create_task(self._read(reader))

    async def close(self) -> None:
        """Close the connection; calls that wait for an answer fail."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        self._fail(DaemonUnreachable(path=self.path, reason="the connection was closed"))
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self._conversation = protocol.Conversation()

    async def submit(
        self, submission: Submission, on_output: Callable[[Output], None] | None = None
    ) -> Session:
        """Run a script in the sandbox; return its session when the dry run has ended."""
        call = protocol.submit(submission)
        if on_output is None:
            return await self._perform(call)
        async with self._another() as client:
            answer = asyncio.ensure_future(client._perform(call))
            try:
                async for event in client._until(answer):
                    if isinstance(event, Output):
                        on_output(event)
                return await answer
            finally:
                await _abandon(answer)

    async def list(
        self, *, states: Iterable[State] = (), name: str | None = None
    ) -> AsyncGenerator[Session, None]:
        """All sessions that you may see, newest first, page after page."""
        chosen = tuple(states)
        cursor: str | None = None
        while True:
            page = await self._perform(protocol.page(chosen, name, _PAGE_SESSIONS, cursor))
            for session in page.sessions:
                yield session
            cursor = page.next
            if cursor is None:
                return

    async def get(self, id: str) -> Session:
        """One session with plan, notes, script and outputs; `id` may be a unique prefix."""
        return await self._perform(protocol.get(id))

    async def approve(self, id: str, digest: str, comment: str = "") -> Session:
        """Approve the plan whose digest you computed from what you displayed.

        :raises DigestMismatch: the session's plan is another one.
        :raises AuthenticationNeeded: you must prove that you are there, and could not be asked;
            `shannotctl.authentication` has an agent for terminals.
        :raises OutcomeUnknown: the daemon went away before it answered; so do `reject`, `cancel`
            and `wait`.
        """
        return await self._perform(protocol.approve(id, digest, comment))

    async def amend(
        self,
        id: str,
        digest: str,
        *,
        drop: Iterable[int] = (),
        edits: Mapping[int, bytes] | None = None,
        with_dependents: bool = False,
    ) -> Session:
        """Make another plan of the pending one whose digest you computed from what you displayed.

        `Client.amend` says what its parameters mean and what it raises.
        """
        return await self._perform(protocol.amend(id, digest, drop, edits or {}, with_dependents))

    async def rollback(
        self,
        id: str,
        *,
        dry_run: bool = False,
        force: Iterable[str] = (),
        force_all: bool = False,
    ) -> RollbackAnswer:
        """Make a session with a plan that takes another one back. It waits for approval like any
        other; with `dry_run` nothing is kept, and its id is nobody's.

        `Client.rollback` says what its parameters mean and what it raises.
        """
        return await self._perform(protocol.rollback(id, dry_run, force, force_all))

    async def checkpoints(self) -> tuple[Checkpoint, ...]:
        """What is saved of sessions, so that they can be rolled back, the oldest first."""
        return await self._perform(protocol.checkpoints())

    async def checkpoint(self, id: str) -> CheckpointContents:
        """What is saved of one session, step by step.

        :raises CheckpointUnknown: nothing is.
        """
        return await self._perform(protocol.checkpoint(id))

    async def drop_checkpoint(self, id: str) -> None:
        """Have it forgotten what was saved of a session: it cannot be rolled back any more.

        :raises CheckpointUnknown: nothing is saved.
        :raises CheckpointInUse: it is being applied, or to be rolled back.
        """
        await self._perform(protocol.drop_checkpoint(id))

    async def reject(self, id: str, reason: str = "") -> Session:
        """Refuse a pending plan for good."""
        return await self._perform(protocol.reject(id, reason))

    async def cancel(self, id: str) -> Session:
        """Stop a running dry run, or withdraw a pending plan."""
        return await self._perform(protocol.cancel(id))

    async def wait(
        self,
        id: str,
        states: Iterable[State] = (),
        timeout: float | None = None,  # noqa: ASYNC109 -- the daemon keeps this time
    ) -> Session:
        """The session when it is in one of `states` or has ended, or after `timeout` seconds."""
        return await self._perform(protocol.wait(id, states, timeout))

    @contextlib.asynccontextmanager
    async def subscription(self, id: str | None = None) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of one session, or of all, from the moment when the context is entered: what
        is asked after that is not older than they are."""
        async with self._another() as client:
            await client._perform(protocol.watch(id))
            yield client._each_event()

    async def watch(self, id: str | None = None) -> AsyncIterator[Event]:
        """Events as they happen; those of one session begin with its present state and end with
        its last one."""
        async with self._another() as client:
            await client._perform(protocol.watch(id))
            if id is not None:
                session = await client.get(id)
                yield Changed(session)
                if session.state in FINAL_STATES:
                    return
            async for event in client._each_event():
                yield event
                if id is not None and protocol.is_last(event):
                    return

    async def blobs(self, id: str, sha256: str) -> AsyncIterator[bytes]:
        """The content of a file that the session's plan names, before or after, in pieces."""
        offset = 0
        while True:
            piece = await self._perform(protocol.blob(id, sha256, offset))
            if piece.data:
                yield piece.data
            offset += len(piece.data)
            if offset >= piece.size or not piece.data:
                return

    async def audit_tail(
        self, limit: int = 50, session: str | None = None
    ) -> tuple[AuditRecord, ...]:
        """The last records of the audit log, oldest first."""
        return await self._perform(protocol.audit_tail(limit, session))

    async def audit_verify(self) -> AuditVerdict:
        """Check the whole audit log.

        :raises AuditBroken: it was changed; says where.
        """
        return await self._perform(protocol.audit_verify())

    async def explain(
        self, argv: Iterable[str], *, cwd: str = "/", profile: str | None = None
    ) -> Explanation:
        """What policy says of a call of the program `argv[0]`; nothing is run."""
        return await self._perform(protocol.explain(argv, cwd, profile))

    async def status(self) -> DaemonStatus:
        """What the daemon says of itself."""
        return await self._perform(protocol.status())

    def _another(self) -> AsyncClient:
        """A client of the same daemon whose connection also collects events."""
        client = AsyncClient(self.path, start=self._start)
        client._location = self._location
        client._wants_events = True
        return client

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(self.path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not (self._location.embedded and self._start):
                raise unreachable(self._location, error) from None
        except OSError as error:
            raise unreachable(self._location, error) from None
        from shannotctl import embedded

        await asyncio.to_thread(embedded.start, self.path)
        try:
            return await asyncio.open_unix_connection(self.path)
        except OSError as error:
            raise unreachable(self._location, error) from None

    async def _perform(self, call: Call[Result]) -> Result:
        await self.connect()
        assert self._writer is not None
        number, data = self._conversation.request(call.method, call.params)
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._writer.write(data)
            # The reader learns of a lost connection, and of a refusal that came before it.
            with contextlib.suppress(OSError):
                await self._writer.drain()
            try:
                response = await answer
            except DaemonUnreachable as error:
                raise call.unanswered(error) from None
            return protocol.read_response(call, response)
        finally:
            self._answers.pop(number, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        problem: ShannotError
        try:
            while data := await reader.read(_READ_BYTES):
                for message in self._conversation.feed(data):
                    self._take(message)
            problem = DaemonUnreachable(path=self.path, reason="it closed the connection")
        except ShannotError as error:
            problem = error
        except OSError as error:
            problem = unreachable(self._location, error)
        self._reading = None
        self._fail(problem)
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        self._conversation = protocol.Conversation()

    def _take(self, message: Message) -> None:
        if isinstance(message, Notification):
            event = protocol.read_event(message)
            if event is not None and self._wants_events:
                self._events.put_nowait(event)
        elif isinstance(message, Response):
            if message.id == 0 and message.error is not None:
                # No request of ours has this number: it is about the connection itself.
                raise error_from_wire(message.error)
            answer = self._answers.get(message.id)
            if answer is not None and not answer.done():
                answer.set_result(message)

    def _fail(self, problem: ShannotError) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(problem)
        if self._wants_events:
            self._events.put_nowait(problem)

    async def _each_event(self) -> AsyncIterator[Event]:
        while True:
            event = await self._events.get()
            if isinstance(event, ShannotError):
                raise event
            yield event

    async def _until(self, answer: asyncio.Future[Session]) -> AsyncIterator[Event]:
        """The events that arrive before `answer` does."""
        while True:
            waiting = asyncio.ensure_future(self._events.get())
            try:
                either: set[asyncio.Future[Any]] = {answer, waiting}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    return
                event = waiting.result()
            finally:
                await _abandon(waiting)
            if isinstance(event, ShannotError):
                return
            yield event


async def _abandon(future: asyncio.Future[Result]) -> None:
    if not future.done():
        future.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await future
