"""The methods of the D-Bus interface, over those of the socket: rights and errors are the same."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shannotd.bus import interface
from shannotd.bus.adapter import Incoming
from shannotd.bus.interface import INTERFACE, Value
from shannotd.server.delivery import Delivery
from shannotd.server.methods import Methods
from shannotd.server.peers import Peer
from shannotd.server.presence import BusName, Subject
from shannotd.server.standing import Standing
from shannotd.sessions.access import Caller, not_served
from shannotd.sessions.events import Changed, Event, Events
from shannotd.wire.errors import (
    FrameTooLarge,
    InvalidRequest,
    TooManySessions,
    UnknownMethod,
)
from shannotd.wire.session import State

log = logging.getLogger(__name__)

# A system bus throws out who sends it more than 32 MiB.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_CALLS = 16  # of one client at once
MAX_CALLS_OF_ACCOUNT = 64  # of all its clients
MAX_SUBSCRIBERS = 64  # of one account
MAX_WAITING_BYTES = 1024 * 1024  # of events, until a subscriber's roles are known


@dataclass(frozen=True)
class Subscriber:
    """A client that is told of sessions."""

    uid: int
    delivery: Delivery


class BusClient:
    """Who called, as the methods see it."""

    def __init__(self, peer: Peer, caller: Caller, incoming: Incoming) -> None:
        self.peer = peer
        self.caller = caller
        self.interactive = incoming.interactive
        self._name = incoming.sender

    @contextlib.contextmanager
    def subject(self) -> Iterator[Subject]:
        """The client, as polkit is told."""
        yield BusName(self._name)

    def listen(
        self, wanted: Callable[[Event], bool], *, others: bool = False
    ) -> Callable[[], None]:
        """Refused: no method that D-Bus has sends events.

        :raises UnknownMethod: always.
        """
        raise UnknownMethod(method="sessions.watch")

    def tell(self, event: Event) -> None:
        """Refused like `listen`.

        :raises UnknownMethod: always.
        """
        raise UnknownMethod(method="sessions.watch")


class Manager:
    """Answers calls, and knows who wants to hear of what."""

    def __init__(
        self,
        methods: Methods,
        standing: Standing,
        version: str,
        pending: Callable[[Caller], int],
        events: Events,
        emit: Callable[..., None],
        watch: Callable[[str], None],
    ) -> None:
        """:param pending: how many sessions that a caller may see wait for a decision.
        :param emit: sends a signal to one client: its name, the signal's, values.
        :param watch: has `left` called when a client has left.
        """
        self._methods = methods
        self._standing = standing
        self._version = version
        self._pending = pending
        self._events = events
        self._emit = emit
        self._watch = watch
        self._calls: Counter[str | int] = Counter()  # by client, and by account
        self._large_answer = asyncio.Lock()
        self._subscribers: dict[str, Subscriber] = {}
        self._end_listening: Callable[[], None] | None = None  # there are subscribers

    async def answer(self, incoming: Incoming) -> Sequence[Value]:
        """The values that a call is answered with.

        :raises ShannotError: what went wrong.
        """
        both = ((incoming.sender, MAX_CALLS), (incoming.uid, MAX_CALLS_OF_ACCOUNT))
        for who, most in both:
            if self._calls[who] >= most:
                raise TooManySessions(count=most, kind="calls")
        for who, _ in both:
            self._calls[who] += 1
        try:
            return await self._answer(incoming)
        finally:
            for who, _ in both:
                self._calls[who] -= 1
                if not self._calls[who]:
                    del self._calls[who]

    async def _answer(self, incoming: Incoming) -> Sequence[Value]:
        peer = await self._peer(incoming)
        caller = await self._standing.look(peer)
        if incoming.member in ("Get", "GetAll", "Set"):
            return self._property(caller, incoming)
        if not caller.roles:
            raise not_served(caller)
        client = BusClient(peer, caller, incoming)
        match (incoming.member, *incoming.arguments):
            case ("ListSessions", states, limit):
                return await self._list(client, states, limit)
            case ("GetSession", identifier):
                async with self._large_answer:
                    session = await self._call(client, "sessions.get", id=identifier)
                    _bound(*(len(session[name]) for name in ("script", "stdout", "stderr")))
                    return (Value("a{sv}", interface.whole(session)),)
            case ("GetPlan", identifier):
                async with self._large_answer:
                    return await self._plan(client, identifier)
            case ("Approve", identifier, digest, comment):
                given = {"id": identifier, "digest": digest, "comment": comment}
                return _state(await self._call(client, "sessions.approve", **given))
            case ("Reject", identifier, reason):
                given = {"id": identifier, "reason": reason}
                return _state(await self._call(client, "sessions.reject", **given))
            case ("Cancel", identifier):
                return _state(await self._call(client, "sessions.cancel", id=identifier))
            case ("Subscribe",):
                self._subscribe(incoming.sender, peer)
                return ()
        raise UnknownMethod(method=incoming.member)

    async def _peer(self, incoming: Incoming) -> Peer:
        groups = incoming.groups
        if groups is None:
            groups = await self._standing.groups(incoming.uid)
        return Peer(0, incoming.uid, groups)

    async def _call(self, client: BusClient, name: str, **params: object) -> Mapping[str, Any]:
        result = await self._methods.call(client, name, self._methods.find(name), params)
        assert isinstance(result, dict)
        return result

    async def _list(self, client: BusClient, states: Sequence[str], limit: int) -> Sequence[Value]:
        async with self._large_answer:
            page = await self._call(client, "sessions.list", states=states, limit=limit)
            return (Value("aa{sv}", [interface.summary(each) for each in page["sessions"]]),)

    async def _plan(self, client: BusClient, identifier: str) -> Sequence[Value]:
        session = await self._call(client, "sessions.get", id=identifier)
        canonical, notes = interface.plan(session)
        _bound(len(canonical), len(notes))
        return (Value("ay", canonical), Value("s", notes))

    # Properties: GDBus answers Introspect by itself, and has seen to it that they are ours.

    def _property(self, caller: Caller, incoming: Incoming) -> Sequence[Value]:
        name = incoming.arguments[0]
        if name != INTERFACE or incoming.member == "Set":
            raise InvalidRequest(method=incoming.member, reason="there is nothing to set there")
        values = {
            "Version": Value("s", self._version),
            "PendingCount": Value("u", self._pending(caller) if caller.roles else 0),
        }
        if incoming.member == "GetAll":
            return (Value("a{sv}", values),)
        wanted = values.get(incoming.arguments[1])
        if wanted is None:
            raise InvalidRequest(method="Get", reason="there is no such property")
        return (Value("v", wanted),)

    # Signals

    def _subscribe(self, name: str, peer: Peer) -> None:
        if name in self._subscribers:
            return
        mine = [known for known in self._subscribers.values() if known.uid == peer.uid]
        if len(mine) >= MAX_SUBSCRIBERS:
            raise TooManySessions(count=MAX_SUBSCRIBERS, kind="subscriptions")
        self._subscribers[name] = Subscriber(
            peer.uid,
            Delivery(
                self._standing,
                peer,
                lambda event: self._tell(name, event),
                max_waiting_bytes=MAX_WAITING_BYTES,
                overflow=lambda: self._unanswered(name),
            ),
        )
        self._watch(name)
        if self._end_listening is None:
            self._end_listening = self._events.listen(self._heard)

    def left(self, name: str) -> None:
        """The client of that name has left the bus."""
        subscriber = self._subscribers.pop(name, None)
        if subscriber is not None:
            subscriber.delivery.close()
        if not self._subscribers:
            self.close()

    def close(self) -> None:
        """Forget all clients: the bus is gone."""
        for subscriber in self._subscribers.values():
            subscriber.delivery.close()
        self._subscribers.clear()
        if self._end_listening is not None:
            self._end_listening()
            self._end_listening = None

    def _heard(self, event: Event) -> None:
        """Tell each subscriber that may see the session of it, and nobody else."""
        if isinstance(event, Changed):
            for subscriber in tuple(self._subscribers.values()):
                subscriber.delivery.take(event)

    def _tell(self, name: str, event: Event) -> None:
        assert isinstance(event, Changed)
        identifier, now = Value("s", event.session), event.now
        if now.state is State.PENDING and not now.decided_by:
            self._emit(name, "SessionPending", identifier)
        self._emit(name, "SessionChanged", identifier, Value("s", now.state.value))

    def _unanswered(self, name: str) -> None:
        uid = self._subscribers[name].uid
        log.warning("uid %d is not found in time to tell it more: its subscription ends", uid)
        self.left(name)


def _state(session: Mapping[str, Any]) -> Sequence[Value]:
    return (Value("s", session["state"]),)


def _bound(*sizes: int) -> None:
    if sum(sizes) > MAX_ANSWER_BYTES:
        raise FrameTooLarge(limit=MAX_ANSWER_BYTES)
