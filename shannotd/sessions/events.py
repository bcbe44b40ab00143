"""What happens to sessions, told to whoever listens, at once and in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from shannotd.wire.decision import Verdict
from shannotd.wire.decode import encode
from shannotd.wire.rpc import Notification, pack
from shannotd.wire.session import Session


@dataclass(frozen=True)
class Event:
    """One notification about a session of `submitter`; packed once, however many listen."""

    session: str
    submitter: int
    notification: Notification

    @cached_property
    def packed(self) -> bytes:
        """The bytes of its frame."""
        return pack(self.notification)


@dataclass(frozen=True)
class Changed(Event):
    """The session is in another state, or another person approved it."""

    now: Session


@dataclass(frozen=True)
class Output(Event):
    """The script wrote something, or a command that is applied."""


@dataclass(frozen=True)
class Stepped(Event):
    """A step of the session's plan was applied, or was not."""


@dataclass(frozen=True)
class Decided(Event):
    """Policy said what becomes of a program that the script called."""


Listener = Callable[[Event], None]


class Events:
    """Hands every event to every listener. A listener returns at once and raises nothing."""

    def __init__(self) -> None:
        self._listeners: dict[object, Listener] = {}

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` from now on; the result ends that."""
        key = object()
        self._listeners[key] = listener

        def end() -> None:
            self._listeners.pop(key, None)

        return end

    def changed(self, session: Session) -> None:
        """Tell of a new state of `session` (without contents)."""
        if self._listeners:
            self._tell(change_of(session))

    def output(self, session: Session, stream: str, data: bytes) -> None:
        """Tell of output of the script of `session`."""
        if self._listeners:
            params: dict[str, object] = {"id": session.id, "stream": stream, "data": data}
            self._tell(
                Output(session.id, session.submitter, Notification("session.output", params))
            )

    def decided(self, session: Session, command: str, verdict: Verdict) -> None:
        """Tell what becomes of `command` of the script of `session`."""
        if self._listeners:
            params: dict[str, object] = {
                "id": session.id,
                "command": command,
                "decision": verdict.decision.value,
                "rule": verdict.rule,
                "reason": verdict.reason,
                "risk": verdict.risk.value,
            }
            self._tell(
                Decided(session.id, session.submitter, Notification("session.command", params))
            )

    def command_output(self, session: Session, index: int, stream: str, data: bytes) -> None:
        """Tell of output of the command that is step `index` of the plan of `session`."""
        if self._listeners:
            params: dict[str, object] = {
                "id": session.id,
                "index": index,
                "stream": stream,
                "data": data,
            }
            message = Notification("session.command_output", params)
            self._tell(Output(session.id, session.submitter, message))

    def stepped(self, session: Session, index: int, applied: str) -> None:
        """Tell what became of step `index` of the plan of `session`."""
        if self._listeners:
            params: dict[str, object] = {"id": session.id, "index": index, "applied": applied}
            self._tell(Stepped(session.id, session.submitter, Notification("session.step", params)))

    def _tell(self, event: Event) -> None:
        for listener in tuple(self._listeners.values()):
            listener(event)


def change_of(session: Session) -> Changed:
    """The event of a new state of `session` (without contents)."""
    encoded = encode(session)
    assert isinstance(encoded, dict)
    message = Notification("session.changed", encoded)
    return Changed(session.id, session.submitter, message, session)
