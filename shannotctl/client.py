"""The SDK: a blocking client of the daemon.

    from shannotctl.client import Client, ScriptKind, Submission

    with Client() as client:
        session = client.submit(Submission(ScriptKind.PYTHON, b"print(1 + 1)"))
        print(session.state, session.stdout)

`shannotctl.async_client.AsyncClient` has the same methods for asyncio. Every failure is a
`ShannotError` with a `code` and `details`. A client belongs to one thread.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TypeVar

from shannotctl import protocol
from shannotctl.location import Location, find_socket
from shannotctl.protocol import Call, Changed, CommandPrinted, Decided, Event, Output, StepApplied
from shannotd.wire.audit import AuditRecord, AuditVerdict
from shannotd.wire.checkpoint import Checkpoint, CheckpointContents
from shannotd.wire.decision import Explanation
from shannotd.wire.errors import DaemonUnreachable, ShannotError, error_from_wire
from shannotd.wire.plan import Plan
from shannotd.wire.rollback import RollbackAnswer
from shannotd.wire.rpc import Notification, Response
from shannotd.wire.session import FINAL_STATES, Session, State
from shannotd.wire.status import DaemonStatus
from shannotd.wire.submission import ScriptKind as ScriptKind
from shannotd.wire.submission import Submission

__all__ = [
    "AuditRecord",
    "AuditVerdict",
    "Changed",
    "Checkpoint",
    "CheckpointContents",
    "Client",
    "CommandPrinted",
    "DaemonStatus",
    "DaemonUnreachable",
    "Decided",
    "Event",
    "Explanation",
    "Output",
    "Plan",
    "RollbackAnswer",
    "ScriptKind",
    "Session",
    "ShannotError",
    "State",
    "StepApplied",
    "Submission",
]

Result = TypeVar("Result")

_READ_BYTES = 256 * 1024
_PAGE_SESSIONS = 100
_IDLE_SECONDS = 0.5


class Client:
    """A connection to the daemon, opened at the first call or by `with`.

    :param path: the daemon's socket; without it the place is found as docs/embedded.md says,
        and a daemon of one's own is started there if need be and `start` allows it.
    :param on_idle: called about twice a second while an answer is awaited.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        start: bool = True,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        self._location = find_socket() if path is None else Location(path, embedded=False)
        self._start = start
        self._on_idle = on_idle
        self._socket: socket.socket | None = None
        self._conversation = protocol.Conversation()
        self._answers: dict[int, Response] = {}
        self._watching = False
        self._answered_at = 0  # how many events were queued when the last answer came
        self._events: deque[Event] = deque()
        self._refusal: ShannotError | None = None  # came after what is still to be read
        self._sent = False  # maybe: an interrupt may come before we know
        self._submission: Call[Session] | None = None
        self.last_session: str | None = None

    @property
    def path(self) -> str:
        """The path of the daemon's socket."""
        return self._location.path

    @property
    def embedded(self) -> bool:
        """Whether the daemon is one's own rather than a service."""
        return self._location.embedded

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Open the connection, if it is not open.

        :raises DaemonUnreachable: nobody answers, and no daemon could be started.
        """
        if self._socket is not None:
            return
        try:
            self._socket = connect(self.path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not (self._location.embedded and self._start):
                raise unreachable(self._location, error) from None
            from shannotctl import embedded

            embedded.start(self.path)
            try:
                self._socket = connect(self.path)
            except OSError as second:
                raise unreachable(self._location, second) from None
        except OSError as error:
            raise unreachable(self._location, error) from None
        if self._on_idle is not None:
            self._socket.settimeout(_IDLE_SECONDS)

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._conversation = protocol.Conversation()
        self._answers.clear()
        self._watching = False
        self._events.clear()
        self._refusal = None

    def submit(
        self, submission: Submission, on_output: Callable[[Output], None] | None = None
    ) -> Session:
        """Run a script in the sandbox; return its session when the dry run has ended.

        With `submission.wait` false it returns at once, in state `running`. `on_output` gets
        what the script prints, as it prints it. `last_session` holds the session's id as
        soon as it is known, so that another connection can cancel it.
        """

        def pass_on(event: Event) -> None:
            if isinstance(event, Output):
                self.last_session = event.id
                if on_output is not None:
                    on_output(event)
            elif isinstance(event, Changed):
                self.last_session = event.session.id

        self.last_session = None
        self._submission = protocol.submit(submission)
        session = self._perform(self._submission, pass_on)
        self.last_session = session.id
        return session

    def interrupted(self, seconds: float) -> str | None:
        """The id of the session that an interrupted `submit` began, for which the daemon gets
        `seconds`; the connection is closed. None where nothing was begun, or none came."""

        def note(event: Event) -> None:
            if isinstance(event, Changed):
                self.last_session = event.session.id

        self._on_idle = None
        deadline = time.monotonic() + seconds
        try:
            while self.last_session is None and self._socket is not None and self._sent:
                left = deadline - time.monotonic()
                if left <= 0 or self._answers:
                    break
                self._socket.settimeout(left)
                self._receive(note)
            if self.last_session is None and self._submission is not None:
                for answer in self._answers.values():
                    self.last_session = protocol.read_response(self._submission, answer).id
        except ShannotError:
            pass  # the daemon is gone, and the dry run with it
        finally:
            self.close()
        return self.last_session

    def list(self, *, states: Iterable[State] = (), name: str | None = None) -> Iterator[Session]:
        """All sessions that you may see, newest first, page after page."""
        chosen = tuple(states)
        cursor: str | None = None
        while True:
            page = self._perform(protocol.page(chosen, name, _PAGE_SESSIONS, cursor))
            yield from page.sessions
            cursor = page.next
            if cursor is None:
                return

    def get(self, id: str) -> Session:
        """One session with plan, notes, script and outputs; `id` may be a unique prefix."""
        return self._perform(protocol.get(id))

    def approve(self, id: str, digest: str, comment: str = "") -> Session:
        """Approve the plan whose digest you computed from what you displayed.

        :raises DigestMismatch: the session's plan is another one.
        :raises AuthenticationNeeded: you must prove that you are there, and could not be asked;
            `shannotctl.authentication` has an agent for terminals.
        :raises OutcomeUnknown: the daemon went away before it answered; so do `reject`, `cancel`
            and `wait`.
        """
        return self._perform(protocol.approve(id, digest, comment))

    def amend(
        self,
        id: str,
        digest: str,
        *,
        drop: Iterable[int] = (),
        edits: Mapping[int, bytes] | None = None,
        with_dependents: bool = False,
    ) -> Session:
        """Make another plan of the pending one whose digest you computed from what you displayed.

        Returns the session that waits with it; the one before is rejected. Steps are named by
        their indexes: those in `drop` are left out, with `with_dependents` also what cannot stay
        without them; those in `edits` write another content (an `append` appends it).

        :raises StepNeeded: other steps cannot stay without what is dropped.
        :raises NotAmendable: the plan cannot be changed like that.
        :raises DigestMismatch: the session's plan is another one.
        :raises OutcomeUnknown: the daemon went away before it answered.
        """
        return self._perform(protocol.amend(id, digest, drop, edits or {}, with_dependents))

    def rollback(
        self,
        id: str,
        *,
        dry_run: bool = False,
        force: Iterable[str] = (),
        force_all: bool = False,
    ) -> RollbackAnswer:
        """Make a session with a plan that takes another one back. It waits for approval like any
        other; with `dry_run` nothing is kept, and its id is nobody's.

        At the paths in `force`, or with `force_all` at all, it counts for nothing that somebody has
        changed something since: what is there then is replaced (and can be had back by a rollback
        of the rollback).

        :raises RollbackConflict: somebody has changed something since; its details have `path`,
            `expected`, `found`, and in `conflicts` all of them as JSON. A `dry_run` returns them.
        :raises NotReversible, CheckpointUnknown, CheckpointInUse, WrongState, RollbackPending: it
            cannot be rolled back, or not now.
        :raises OutcomeUnknown: the daemon went away before it answered.
        """
        return self._perform(protocol.rollback(id, dry_run, force, force_all))

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """What is saved of sessions, so that they can be rolled back, the oldest first."""
        return self._perform(protocol.checkpoints())

    def checkpoint(self, id: str) -> CheckpointContents:
        """What is saved of one session, step by step.

        :raises CheckpointUnknown: nothing is.
        """
        return self._perform(protocol.checkpoint(id))

    def drop_checkpoint(self, id: str) -> None:
        """Have it forgotten what was saved of a session: it cannot be rolled back any more.

        :raises CheckpointUnknown: nothing is saved.
        :raises CheckpointInUse: it is being applied, or to be rolled back.
        """
        self._perform(protocol.drop_checkpoint(id))

    def reject(self, id: str, reason: str = "") -> Session:
        """Refuse a pending plan for good."""
        return self._perform(protocol.reject(id, reason))

    def cancel(self, id: str) -> Session:
        """Stop a running dry run, or withdraw a pending plan."""
        return self._perform(protocol.cancel(id))

    def wait(
        self,
        id: str,
        states: Iterable[State] = (),
        timeout: float | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Session:
        """The session when it is in one of `states` or has ended, or after `timeout` seconds.

        After `subscribe`, `on_event` gets what happens meanwhile.
        """
        return self._perform(protocol.wait(id, states, timeout), on_event)

    def subscribe(self, id: str | None = None) -> None:
        """Ask for the events of one session, or of all; `watch` or `wait` then pass them on."""
        self.connect()
        before, self._watching = self._watching, True  # events may come with the answer
        try:
            self._perform(protocol.watch(id))
        except BaseException:
            self._watching = before
            raise

    def watch(self, id: str | None = None) -> Iterator[Event]:
        """Events as they happen; those of one session begin with its present state and end with
        its last one."""
        self.subscribe(id)
        if id is not None:
            session = self.get(id)
            # What was queued before the answer is not newer than the answer.
            self._events = deque(
                event
                for position, event in enumerate(self._events)
                if position >= self._answered_at or not isinstance(event, Changed)
            )
            yield Changed(session)
            if session.state in FINAL_STATES:
                return
        while True:
            while not self._events:
                self._receive()
            event = self._events.popleft()
            yield event
            if id is not None and protocol.is_last(event):
                return

    def blobs(self, id: str, sha256: str) -> Iterator[bytes]:
        """The content of a file that the session's plan names, before or after, in pieces."""
        offset = 0
        while True:
            piece = self._perform(protocol.blob(id, sha256, offset))
            if piece.data:
                yield piece.data
            offset += len(piece.data)
            if offset >= piece.size or not piece.data:
                return

    def audit_tail(self, limit: int = 50, session: str | None = None) -> tuple[AuditRecord, ...]:
        """The last records of the audit log, oldest first."""
        return self._perform(protocol.audit_tail(limit, session))

    def audit_verify(self) -> AuditVerdict:
        """Check the whole audit log.

        :raises AuditBroken: it was changed; says where.
        """
        return self._perform(protocol.audit_verify())

    def explain(
        self, argv: Iterable[str], *, cwd: str = "/", profile: str | None = None
    ) -> Explanation:
        """What policy says of a call of the program `argv[0]`; nothing is run."""
        return self._perform(protocol.explain(argv, cwd, profile))

    def status(self) -> DaemonStatus:
        """What the daemon says of itself."""
        return self._perform(protocol.status())

    def _perform(
        self, call: Call[Result], on_event: Callable[[Event], None] | None = None
    ) -> Result:
        self._sent = False
        self._answers.clear()  # not earlier: an interrupted submission looks for its own
        self.connect()
        assert self._socket is not None
        while on_event is not None and self._events:
            on_event(self._events.popleft())
        number, data = self._conversation.request(call.method, call.params)
        self._sent = True
        try:
            _send(self._socket, data)
        except OSError as error:
            # A refusal may be on its way still: it says more than a broken pipe does.
            with contextlib.suppress(DaemonUnreachable):
                while number not in self._answers:
                    self._receive(on_event)
            if number not in self._answers:
                self.close()
                raise unreachable(self._location, error) from None
        try:
            while number not in self._answers:
                self._receive(on_event)
        except DaemonUnreachable as error:
            raise call.unanswered(error) from None
        return protocol.read_response(call, self._answers[number])

    def _receive(self, on_event: Callable[[Event], None] | None = None) -> None:
        assert self._socket is not None
        if (refusal := self._refusal) is not None:
            self.close()
            raise refusal
        try:
            # Only then receive: an interrupt of the waiting must not lose what has just arrived.
            _wait_until_readable(self._socket)
            data = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            if self._on_idle is not None:
                self._on_idle()
            return
        except OSError as error:
            self.close()
            raise unreachable(self._location, error) from None
        if not data:
            self.close()
            raise DaemonUnreachable(path=self.path, reason="it closed the connection")
        for message in self._conversation.feed(data):
            if isinstance(message, Response):
                if message.id == 0 and message.error is not None:
                    # No request of ours has this number: it is about the connection itself.
                    self._refusal = error_from_wire(message.error)
                    return
                self._answers[message.id] = message
                self._answered_at = len(self._events)
            elif isinstance(message, Notification):
                event = protocol.read_event(message)
                if event is None:
                    continue
                if on_event is not None:
                    on_event(event)
                elif self._watching:
                    self._events.append(event)


def connect(path: str) -> socket.socket:
    """A connected Unix stream socket.

    :raises OSError: as connect(2) does; also for a path that is too long.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def unreachable(location: Location, error: OSError) -> DaemonUnreachable:
    """The error for a socket that cannot be used, in words that help."""
    if isinstance(error, FileNotFoundError):
        reason = "there is no such socket"
    elif isinstance(error, ConnectionRefusedError):
        reason = "no daemon listens there"
    elif isinstance(error, PermissionError):
        reason = "permission denied (members of the group shannot may connect)"
    else:
        reason = error.strerror or str(error)
    return DaemonUnreachable(path=location.path, reason=reason)


def _wait_until_readable(connection: socket.socket) -> None:
    """Wait for as long as the connection's timeout says.

    :raises TimeoutError: nothing came.
    """
    timeout = connection.gettimeout()
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if not poll.poll(None if timeout is None else timeout * 1000):
        raise TimeoutError


def _send(connection: socket.socket, data: bytes) -> None:
    # sendall gives up at the socket's timeout, which here only paces the idle calls.
    timeout = connection.gettimeout()
    connection.settimeout(None)
    try:
        connection.sendall(data)
    finally:
        connection.settimeout(timeout)
