"""Asks polkit whether somebody may go on, which asks himself where its rules say so (P5).

polkit stands beside the roles, never in their place: it is asked after them. A host without it
works by roles alone, and there nobody approves what he submitted. Where it was there once, its
silence is a "no".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from shannotd.bus.adapter import CallFailed
from shannotd.bus.interface import Value, text
from shannotd.server.presence import Action, BusName, Person, Presence, Process, Subject
from shannotd.wire.errors import (
    AuthenticationNeeded,
    AuthenticationRefused,
    AuthenticationUnavailable,
)
from shannotd.wire.session import Session
from shannotd.wire.text import visible

Result = TypeVar("Result")

log = logging.getLogger(__name__)

_AUTHORITY = (
    "org.freedesktop.PolicyKit1",
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1.Authority",
)
_START_MILLISECONDS = 30_000  # polkit may have to be started for the question
_ALLOW_INTERACTION = 1
_NAME_CHARACTERS = 80
# What the bus daemon says where a service is neither there nor can be started.
_NOT_THERE = frozenset(
    {
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.Spawn.ServiceNotFound",
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitMasked",
    }
)
_WORDS = {
    Action.APPROVE: "approve session {id}",
    Action.APPROVE_OWN: "approve session {id}, which you submitted or changed yourself",
    Action.ROLLBACK: "roll back session {id}",
}


class Bus(Protocol):
    """The part of the adapter that polkit is asked by."""

    def call(
        self,
        place: tuple[str, str, str],
        method: str,
        values: Any,
        descriptors: Any = ...,
        *,
        milliseconds: int | None = ...,
    ) -> Awaitable[tuple[Any, ...]]:
        """What a method answers."""


class Polkit(Presence):
    """Presence by polkit; `missing` says why it is not asked, and is None where it is."""

    def __init__(self, bus: Callable[[], Bus | None]) -> None:
        """:param bus: the connection to the system bus; None while there is none."""
        self._bus = bus
        self._asked: set[int] = set()
        self._known = False
        self._looked = asyncio.Event()
        self.missing: str | None = "it was not looked for yet"

    async def look(self) -> None:
        """Find out whether polkit is there and knows our actions."""
        try:
            self.missing = await self._look()
            self._known = self.missing is None
        except CallFailed as error:
            # There, and broken, or out of reach: that is no reason to go without it.
            log.error("polkit does not answer: %s", visible(str(error)))
            self.missing = None
        finally:
            self._looked.set()

    async def _look(self) -> str | None:
        bus = self._bus()
        if bus is None:
            return "there is no connection to a system bus"
        try:
            (actions,) = await bus.call(
                _AUTHORITY, "EnumerateActions", [Value("s", "C")], milliseconds=_START_MILLISECONDS
            )
        except CallFailed as error:
            if error.name in _NOT_THERE:
                return "it is not installed"
            raise
        if Action.APPROVE_OWN in {action[0] for action in actions}:
            return None
        return "it has no file of shannot's actions (org.shannot.policy)"

    async def ask(self, person: Person, action: Action, session: Session) -> bool:
        """Whether polkit lets `person` do `action` with `session`; False where it is not asked."""
        uid = person.caller.uid
        if uid == 0:
            return False  # polkit says yes to root without a question: that proves nothing
        words = _WORDS[action].format(id=session.id)
        await self._looked.wait()  # a daemon that has just started looks for it
        if not self._known:
            await self.look()
        if self.missing is not None:
            return False
        if uid in self._asked:
            reason = "you are being asked already, for another plan"
            raise AuthenticationNeeded(action=words, reason=reason)
        self._asked.add(uid)
        try:
            with person.subject() as subject:
                check = self._check(person, subject, action, session)
                authorized, challenge, details = await _while_there(subject, check)
        except ProcessLookupError as error:
            raise AuthenticationNeeded(action=words, reason=str(error)) from None
        except CallFailed as error:
            raise AuthenticationUnavailable(
                action=words, reason=f"polkit does not answer: {error}"
            ) from None
        finally:
            self._asked.discard(uid)
        if authorized:
            return True
        if details.get("polkit.dismissed"):
            raise AuthenticationRefused(action=words, reason="you did not answer")
        if challenge:
            reason = (
                "you have no authentication agent"
                if person.interactive
                else "the call did not allow it"
            )
            raise AuthenticationNeeded(action=words, reason=reason)
        raise AuthenticationRefused(action=words, reason="polkit was not convinced")

    async def _check(
        self, person: Person, subject: Subject, action: Action, session: Session
    ) -> tuple[bool, bool, dict[str, str]]:
        bus = self._bus()
        if bus is None:
            raise CallFailed("", "the connection to the system bus is lost")
        kind, facts, descriptors = _told(subject)
        told = {
            "session": session.id[:8],
            "name": _cut(text(session.name)),
            "submitter": text(session.submitter_name),
            "risk": "unknown" if session.risk is None else session.risk.value,
        }
        cancellation = secrets.token_hex(16)
        values = [
            Value("(sa{sv})", (kind, facts)),
            Value("s", action.value),
            Value("a{ss}", told),
            Value("u", _ALLOW_INTERACTION if person.interactive else 0),
            Value("s", cancellation),
        ]
        try:
            # A person takes as long as he takes.
            ((authorized, challenge, details),) = await bus.call(
                _AUTHORITY, "CheckAuthorization", values, descriptors, milliseconds=None
            )
        except asyncio.CancelledError:
            with contextlib.suppress(CallFailed):
                await bus.call(_AUTHORITY, "CancelCheckAuthorization", [Value("s", cancellation)])
            raise
        return authorized, challenge, details


async def _while_there(subject: Subject, check: Coroutine[Any, Any, Result]) -> Result:
    """The result of `check`, which is given up when the process that it is about ends.

    polkit may have gone by the number of the process: if it has not ended, it was that one.

    :raises ProcessLookupError: it has ended.
    """
    if not isinstance(subject, Process):
        return await check
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(subject.descriptor, ended.set)
    checking, ending = loop.create_task(check), loop.create_task(ended.wait())
    either: set[asyncio.Task[Any]] = {checking, ending}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if checking.done() and subject.is_alive():
            return checking.result()
        raise ProcessLookupError("the process that connected has ended")
    finally:
        loop.remove_reader(subject.descriptor)
        for task in either:
            task.cancel()
        await asyncio.wait(either)


def _told(subject: Subject) -> tuple[str, dict[str, Value], list[int]]:
    """The subject's kind, what polkit needs to know of it, and the descriptors with that."""
    if isinstance(subject, BusName):
        return "system-bus-name", {"name": Value("s", subject.name)}, []
    # polkit before 124 takes the number and looks up the start time, later ones the descriptor. The
    # uid is that of the connection: the process may have become another's by exec.
    facts = {
        "pid": Value("u", subject.pid),
        "start-time": Value("t", 0),
        "uid": Value("i", subject.uid),
        "pidfd": Value("h", 0),
    }
    return "unix-process", facts, [subject.descriptor]


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else name[:_NAME_CHARACTERS] + "…"
