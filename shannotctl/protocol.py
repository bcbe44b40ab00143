"""What a client says to the daemon and how it reads the answers, without any socket.

A `Call` is one request with the function that reads its result; a `Conversation` turns
calls into bytes and bytes into messages. The blocking and the asyncio client share both.

Values here are named tuples: defining a dataclass takes seven times as long, and the program
`shannotctl` defines them all at every start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from shannotd.wire.audit import AuditRecord, AuditVerdict
from shannotd.wire.checkpoint import Checkpoint, CheckpointContents
from shannotd.wire.decision import Explanation
from shannotd.wire.decode import decode, encode
from shannotd.wire.errors import (
    BadFrame,
    DaemonUnreachable,
    OutcomeUnknown,
    RollbackConflict,
    error_from_wire,
)
from shannotd.wire.plan import Plan
from shannotd.wire.rollback import Conflict, RollbackAnswer
from shannotd.wire.rpc import (
    MAX_FRAME_BYTES,
    Decoder,
    Message,
    Notification,
    Request,
    Response,
    pack,
)
from shannotd.wire.session import FINAL_STATES, Session, SessionPage, State
from shannotd.wire.status import DaemonStatus
from shannotd.wire.submission import Submission

Result = TypeVar("Result")

BLOB_CHUNK_BYTES = 1024 * 1024


class Output(NamedTuple):
    """A piece of what a running script printed; `stream` is `stdout` or `stderr`."""

    id: str
    stream: str
    data: bytes


class Changed(NamedTuple):
    """A session reached another state. Its plan and outputs are not in the event."""

    session: Session


class StepApplied(NamedTuple):
    """An apply came to step number `step` (from 0): `applied` is done, failed, stale, skipped,
    undone or in_doubt (see StepNote)."""

    id: str
    step: int
    applied: str


class Decided(NamedTuple):
    """Policy said what becomes of a program that a script calls; `command` is its argv as text."""

    id: str
    command: str
    decision: str
    rule: str
    reason: str


class CommandPrinted(NamedTuple):
    """A piece of what the command of step number `step` (from 0) prints while it is applied."""

    id: str
    step: int
    stream: str
    data: bytes


Event = Output | Changed | StepApplied | Decided | CommandPrinted


class BlobPiece(NamedTuple):
    """Part of a file's content, and the size of the whole."""

    data: bytes
    size: int


class Call(NamedTuple, Generic[Result]):
    """One request and how its result is read.

    `decides` is the session of which nobody knows what became of it when the request was sent
    and no answer came.
    """

    method: str
    params: dict[str, object]
    read: Callable[[object], Result]
    decides: str | None = None

    def unanswered(self, error: DaemonUnreachable) -> DaemonUnreachable | OutcomeUnknown:
        """The error for a connection that was lost, by `error`, after the request was sent."""
        if self.decides is None:
            return error
        return OutcomeUnknown(id=self.decides, reason=error.details.get("reason"))


class Conversation:
    """One connection's messages, without the connection: numbers requests, splits frames."""

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_FRAME_BYTES)
        self._last = 0

    def request(self, method: str, params: dict[str, object]) -> tuple[int, bytes]:
        """The number and the bytes of a new request."""
        self._last = self._last % (2**32 - 1) + 1
        return self._last, pack(Request(self._last, method, params))

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes.

        :raises BadFrame: the daemon sent something that is no message.
        """
        return self._decoder.feed(data)


def read_response(call: Call[Result], response: Response) -> Result:
    """The result of `call`.

    :raises ShannotError: the daemon's own error, or BadFrame for an answer that is none.
    """
    if response.error is not None:
        raise error_from_wire(response.error)
    try:
        return call.read(response.result)
    except ValueError as error:
        raise BadFrame(reason=f"the answer to {call.method}: {error}") from None


def read_event(notification: Notification) -> Event | None:
    """The event in `notification`; None for a kind that this client does not know.

    :raises BadFrame: a kind that it knows, with other content.
    """
    try:
        if notification.method == "session.output":
            return Output(
                _field(notification.params, "id", str),
                _field(notification.params, "stream", str),
                _field(notification.params, "data", bytes),
            )
        if notification.method == "session.changed":
            return Changed(decode(Session, notification.params, notification.method))
        if notification.method == "session.step":
            return StepApplied(
                _field(notification.params, "id", str),
                _field(notification.params, "index", int),
                _field(notification.params, "applied", str),
            )
        if notification.method == "session.command":
            return Decided(
                _field(notification.params, "id", str),
                _field(notification.params, "command", str),
                _field(notification.params, "decision", str),
                _field(notification.params, "rule", str),
                _field(notification.params, "reason", str),
            )
        if notification.method == "session.command_output":
            return CommandPrinted(
                _field(notification.params, "id", str),
                _field(notification.params, "index", int),
                _field(notification.params, "stream", str),
                _field(notification.params, "data", bytes),
            )
    except ValueError as error:
        raise BadFrame(reason=str(error)) from None
    return None


def plan_of(session: Session) -> Plan | None:
    """The session's plan, parsed; None where there is none, or none was sent.

    :raises BadFrame: the daemon sent a plan that is none.
    """
    try:
        return session.plan
    except (ValueError, RecursionError) as error:
        raise BadFrame(reason=f"the plan of session {session.id}: {error}") from None


def conflicts_of(error: RollbackConflict) -> tuple[Conflict, ...]:
    """Everything that is in the way of a rollback; empty where that was not told."""
    import json

    try:
        told = json.loads(str(error.details.get("conflicts")))
        return tuple(decode(Conflict, conflict) for conflict in told)
    except (ValueError, TypeError, RecursionError):
        return ()


def is_last(event: Event) -> bool:
    """Whether nothing more follows in the session that `event` tells of."""
    return isinstance(event, Changed) and event.session.state in FINAL_STATES


def submit(submission: Submission) -> Call[Session]:
    """Run a script; the answer comes when its dry run has ended, or at once without `wait`."""
    params = encode(submission)
    assert isinstance(params, dict)
    return Call("sessions.submit", params, _session)


def page(
    states: Iterable[State], name: str | None, limit: int, cursor: str | None
) -> Call[SessionPage]:
    """One page of the list, newest first."""
    params: dict[str, object] = {"limit": limit}
    chosen = [state.value for state in states]
    if chosen:
        params["states"] = chosen
    if name is not None:
        params["name"] = name
    if cursor is not None:
        params["cursor"] = cursor
    return Call("sessions.list", params, lambda value: decode(SessionPage, value))


def get(session: str) -> Call[Session]:
    """One session with everything in it."""
    return Call("sessions.get", {"id": session}, _session)


def approve(session: str, digest: str, comment: str) -> Call[Session]:
    """Approve the plan that has this digest."""
    params: dict[str, object] = {"id": session, "digest": digest, "comment": comment}
    return Call("sessions.approve", params, _session, decides=session)


def amend(
    session: str,
    digest: str,
    drop: Iterable[int],
    edits: Mapping[int, bytes],
    with_dependents: bool,
) -> Call[Session]:
    """Make a plan with changes of the one that has this digest."""
    params: dict[str, object] = {
        "id": session,
        "digest": digest,
        "drop": list(drop),
        "edits": [{"index": index, "content": content} for index, content in edits.items()],
        "with_dependents": with_dependents,
    }
    return Call("sessions.amend", params, _session, decides=session)


def rollback(
    session: str, dry_run: bool, force: Iterable[str], force_all: bool
) -> Call[RollbackAnswer]:
    """Make a session that takes another one back, or with `dry_run` just show it."""
    params: dict[str, object] = {
        "id": session,
        "dry_run": dry_run,
        "force": list(force),
        "force_all": force_all,
    }
    decides = None if dry_run else session
    return Call("sessions.rollback", params, lambda v: decode(RollbackAnswer, v), decides)


def checkpoints() -> Call[tuple[Checkpoint, ...]]:
    """What is saved of sessions, the oldest first."""
    return Call("checkpoints.list", {}, _checkpoints)


def checkpoint(session: str) -> Call[CheckpointContents]:
    """What is saved of one session."""
    return Call("checkpoints.get", {"id": session}, lambda v: decode(CheckpointContents, v))


def drop_checkpoint(session: str) -> Call[None]:
    """Have it forgotten: the session cannot be rolled back any more."""
    return Call("checkpoints.drop", {"id": session}, _nothing, decides=session)


def reject(session: str, reason: str) -> Call[Session]:
    """Refuse a plan for good."""
    return Call("sessions.reject", {"id": session, "reason": reason}, _session, decides=session)


def cancel(session: str) -> Call[Session]:
    """Stop a dry run, or withdraw a plan."""
    return Call("sessions.cancel", {"id": session}, _session, decides=session)


def watch(session: str | None) -> Call[None]:
    """From now on, notifications of one session or of all that the caller may see."""
    return Call("sessions.watch", {} if session is None else {"id": session}, _nothing)


def wait(session: str, states: Iterable[State], timeout: float | None) -> Call[Session]:
    """A session when it is in one of `states` or in a final one, or the time is up."""
    params: dict[str, object] = {
        "id": session,
        "states": [state.value for state in states],
    }
    if timeout is not None:
        params["timeout"] = timeout
    return Call("sessions.wait", params, _session, decides=session)


def blob(session: str, sha256: str, offset: int) -> Call[BlobPiece]:
    """A piece of the content of a file that the session's plan names."""
    params: dict[str, object] = {
        "id": session,
        "sha256": sha256,
        "offset": offset,
        "length": BLOB_CHUNK_BYTES,
    }
    return Call("blobs.get", params, _blob_piece)


def audit_tail(limit: int, session: str | None) -> Call[tuple[AuditRecord, ...]]:
    """The last records of the audit log, oldest first."""
    params: dict[str, object] = {"limit": limit}
    if session is not None:
        params["session"] = session
    return Call("audit.tail", params, _records)


def audit_verify() -> Call[AuditVerdict]:
    """Check the whole audit log."""
    return Call("audit.verify", {}, lambda value: decode(AuditVerdict, value))


def explain(argv: Iterable[str], cwd: str, profile: str | None) -> Call[Explanation]:
    """What policy says of a call of a program."""
    params: dict[str, object] = {"argv": list(argv), "cwd": cwd}
    if profile is not None:
        params["profile"] = profile
    return Call("policy.explain", params, lambda value: decode(Explanation, value))


def status() -> Call[DaemonStatus]:
    """What the daemon says of itself."""
    return Call("daemon.status", {}, lambda value: decode(DaemonStatus, value))


def _session(value: object) -> Session:
    return decode(Session, value)


def _nothing(value: object) -> None:
    return None


def _records(value: object) -> tuple[AuditRecord, ...]:
    if not isinstance(value, list):
        raise ValueError("expected a list")
    return tuple(decode(AuditRecord, item) for item in value)


def _checkpoints(value: object) -> tuple[Checkpoint, ...]:
    if not isinstance(value, list):
        raise ValueError("expected a list")
    return tuple(decode(Checkpoint, item) for item in value)


def _blob_piece(value: object) -> BlobPiece:
    if not isinstance(value, dict):
        raise ValueError("expected a map")
    return BlobPiece(_field(value, "data", bytes), _field(value, "size", int))


def _field(params: Mapping[str, object], name: str, kind: type[Result]) -> Result:
    value = params.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {kind.__name__}")
    return value
