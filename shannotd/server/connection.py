"""One client's connection: frames in, answers and notifications out, all of it bounded.

A client that reads too slowly loses its connection, not the daemon's memory; one that
asks too much at once is not read from until some of it is answered; one that vanishes
takes only its own waiting with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, cast

from shannotd.server.delivery import Delivery
from shannotd.server.hangup import HangUps
from shannotd.server.methods import Method, Methods
from shannotd.server.peers import Peer, process_of
from shannotd.server.presence import Subject
from shannotd.server.standing import Standing
from shannotd.sessions.access import Caller, not_served
from shannotd.sessions.events import Event, Events
from shannotd.wire.errors import (
    BadFrame,
    DaemonStopping,
    FrameTooLarge,
    NotAllowed,
    ShannotError,
    TooManySessions,
    TooMuchUnfinished,
)
from shannotd.wire.rpc import MAX_FRAME_BYTES, Decoder, Request, Response, pack
from shannotd.wire.text import visible

log = logging.getLogger(__name__)

MAX_CALLS = 64  # at once on one connection
MAX_WATCHES = 64
_LOOK_SECONDS = 5.0  # while nothing happens, until a watcher's roles are looked at again
_NO_REQUEST = 0  # the id of an answer to something that was no request

Wanted = Callable[[Event], bool]


class Owner(Protocol):
    """The server, as its connections see it."""

    def admit(self, connection: Connection, transport: asyncio.Transport) -> tuple[Peer, Caller]:
        """Who connected.

        :raises ShannotError: it is not served.
        """

    def holds(self, connection: Connection, before: int, now: int) -> None:
        """The connection held `before` bytes of an unfinished message and holds `now`.

        :raises ShannotError: it is too much.
        """

    def closed(self, connection: Connection, unfinished: int) -> None:
        """The connection, which held `unfinished` bytes of a message, is over."""


class Connection(asyncio.Protocol):
    """One accepted connection."""

    def __init__(
        self,
        owner: Owner,
        methods: Methods,
        events: Events,
        standing: Standing,
        hang_ups: HangUps,
        *,
        max_unread_bytes: int,
    ) -> None:
        self._owner = owner
        self._methods = methods
        self._events = events
        self._standing = standing
        self._hang_ups = hang_ups
        self._max_unread_bytes = max_unread_bytes
        self._unfinished = 0  # bytes that the decoder holds
        self._decoder = Decoder()
        self._transport: asyncio.Transport
        self._descriptor = -1
        self._peer: Peer | None = None
        self._caller: Caller | None = None
        self._delivery: Delivery | None = None
        self._calls: dict[asyncio.Task[None], Method] = {}
        self._queued: deque[Request] = deque()  # came with others, beyond MAX_CALLS
        self._large_answer = asyncio.Lock()
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._wanted: dict[object, tuple[Wanted, bool]] = {}  # and whether of others as well
        self._looking: asyncio.Task[None] | None = None
        self._parting: ShannotError | None = None  # said when all is answered
        self._stop_listening: Callable[[], None] | None = None
        self._answered_bytes = 0  # of answers, since everything was last sent
        self._ending = False  # nothing more is read; closed when all is answered

    @property
    def peer(self) -> Peer:
        """Who is at the other end, as the kernel says."""
        assert self._peer is not None
        return self._peer

    @property
    def caller(self) -> Caller:
        """Who is at the other end, with his roles as last looked at."""
        assert self._caller is not None
        return self._caller

    @caller.setter
    def caller(self, caller: Caller) -> None:
        self._caller = caller

    @property
    def interactive(self) -> bool:
        """Who is at the other end waits until somebody has authenticated."""
        return True

    def subject(self) -> AbstractContextManager[Subject]:
        """The process at the other end.

        :raises ProcessLookupError: it is gone.
        """
        return process_of(self._transport.get_extra_info("socket"), self.peer)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out who it is."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1024 * 1024, low=0)
        self._descriptor = self._transport.get_extra_info("socket").fileno()
        try:
            self._peer, self._caller = self._owner.admit(self, self._transport)
        except ShannotError as error:
            self._refuse(error)
            return
        self._delivery = Delivery(
            self._standing,
            self._peer,
            self._write,
            withheld=self._withheld,
            max_waiting_bytes=self._max_unread_bytes,
            overflow=self._unanswered,
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """End what only this client waited for; what it began goes on."""
        self._ending = True
        self._hang_ups.forget(self._descriptor)
        self._queued.clear()
        self._may_send.set()
        if self._stop_listening is not None:
            self._stop_listening()
        if self._looking is not None:
            self._looking.cancel()
        if self._delivery is not None:
            self._delivery.close()
        self._end_waiting()
        self._owner.closed(self, self._unfinished)

    def data_received(self, data: bytes) -> None:
        """Answer the requests that `data` completes."""
        if self._ending:
            return
        try:
            for message in self._decoder.feed(data):
                if not isinstance(message, Request):
                    raise BadFrame(reason="a client sends requests only")
                self._queued.append(message)
            before, self._unfinished = self._unfinished, self._decoder.unfinished
            self._owner.holds(self, before, self._unfinished)
        except (BadFrame, FrameTooLarge, TooMuchUnfinished) as error:
            self._refuse(error)
            return
        self._advance()

    def eof_received(self) -> bool:
        """The client sends no more; it still gets its answers, unless it is gone altogether."""
        if not self._ending and self._decoder.unfinished:
            self._refuse(BadFrame(reason="the connection ended within a message"))
        self._ending = True
        if not self._has_work:
            return False
        self._hang_ups.watch(self._descriptor, self.abort)
        return True  # leaves it open for the answers

    def pause_writing(self) -> None:
        """The client does not read: take nothing more from it until it does."""
        self._may_send.clear()
        self._balance()

    def resume_writing(self) -> None:
        """All is sent."""
        self._may_send.set()
        self._answered_bytes = 0
        self._advance()

    # Calls

    @property
    def _has_work(self) -> bool:
        return bool(self._calls or self._queued)

    def _advance(self) -> None:
        """Begin with what is queued, as far as the client may have more at once."""
        while self._queued and len(self._calls) < MAX_CALLS and self._may_send.is_set():
            self._take(self._queued.popleft())
        self._balance()

    def _take(self, request: Request) -> None:
        try:
            method = self._methods.find(request.method)
        except ShannotError as error:
            self._answer(Response(request.id, error.to_wire(), None))
            return
        task = asyncio.get_running_loop().create_task(self._call(request, method))
        self._calls[task] = method
        task.add_done_callback(self._called)

    async def _call(self, request: Request, method: Method) -> None:
        if not method.large:
            self._answer(await self._response(request, method))
            return
        # One after the other, each when those before are read: many at once would fill the
        # daemon's memory.
        async with self._large_answer:
            await self._may_send.wait()
            if not self._transport.is_closing():
                self._answer(await self._response(request, method))

    async def _response(self, request: Request, method: Method) -> Response:
        try:
            result = await self._methods.call(self, request.method, method, request.params)
            await self._told()
            return Response(request.id, None, result)
        except ShannotError as error:
            return Response(request.id, error.to_wire(), None)
        except asyncio.CancelledError:  # by `farewell`, or the client is gone
            return Response(request.id, DaemonStopping().to_wire(), None)
        except Exception as error:
            log.exception("%s", visible(request.method))
            internal = ShannotError(reason=type(error).__name__)
            return Response(request.id, internal.to_wire(), None)

    def _called(self, task: asyncio.Task[None]) -> None:
        self._calls.pop(task, None)
        self._advance()
        if self._has_work:
            return
        if self._parting is not None and not self._transport.is_closing():
            self._refuse(self._parting)
        elif self._ending:
            self._transport.close()

    def _answer(self, response: Response) -> None:
        if self._transport.is_closing():
            return
        frame = pack(response)
        if len(frame) > MAX_FRAME_BYTES:
            error = FrameTooLarge(limit=MAX_FRAME_BYTES)
            frame = pack(Response(response.id, error.to_wire(), None))
        self._answered_bytes += len(frame)
        self._transport.write(frame)

    def _refuse(self, error: ShannotError) -> None:
        """Say what is wrong, and close."""
        self._ending = True
        self._transport.write(pack(Response(_NO_REQUEST, error.to_wire(), None)))
        self._transport.close()

    def _balance(self) -> None:
        """Read from the client only while it reads what it gets and waits for little."""
        if self._ending or self._transport.is_closing():
            return
        if self._queued or not self._may_send.is_set() or len(self._calls) >= MAX_CALLS:
            self._transport.pause_reading()
            self._hang_ups.watch(self._descriptor, self.abort)
        elif not self._transport.is_reading():
            self._hang_ups.forget(self._descriptor)
            self._transport.resume_reading()

    def _end_waiting(self) -> None:
        for task, method in self._calls.items():
            if method.ends_with_client:
                task.cancel()

    # Notifications

    def listen(self, wanted: Wanted, *, others: bool = False) -> Callable[[], None]:
        """Send the client the events that are `wanted`, until the result is called.

        :param others: he may see sessions of others among them, as long as his roles let him.

        :raises TooManySessions: it watches too much already.
        """
        if len(self._wanted) >= MAX_WATCHES:
            raise TooManySessions(count=len(self._wanted), kind="watches")
        key = object()
        self._wanted[key] = wanted, others
        if self._stop_listening is None and not self._ending:
            self._stop_listening = self._events.listen(self._notify)
        if others and self._looking is None and not self._ending:
            self._looking = asyncio.get_running_loop().create_task(self._look())

        def end() -> None:
            self._wanted.pop(key, None)
            if not self._wanted and self._stop_listening is not None:
                self._stop_listening()
                self._stop_listening = None

        return end

    def _notify(self, event: Event) -> None:
        if self._delivery is None or self._transport.is_closing():
            return
        if any(wanted(event) for wanted, _ in self._wanted.values()):
            self._delivery.take(event)

    def _withheld(self, caller: Caller, event: Event) -> None:
        """He may not see `event`: who could when he began to watch is told so, and not left to
        wait for what never comes."""
        own = event.submitter == caller.uid
        if any(wanted(event) and (own or others) for wanted, others in self._wanted.values()):
            self._part(caller)

    async def _look(self) -> None:
        """Part from who watches others' sessions and may not any more, though nothing happens."""
        while not self._transport.is_closing():
            await asyncio.sleep(_LOOK_SECONDS)
            if any(others for _, others in self._wanted.values()):
                caller = await self._standing.look(self.peer)
                if not caller.sees_all:
                    self._part(caller)

    def _part(self, caller: Caller) -> None:
        """Say that he lost a role, and close, as soon as he has the answers that he waits for."""
        if self._parting is not None or self._transport.is_closing():
            return
        self._parting = not_served(caller)
        if caller.roles:
            action, reason = "watch sessions of others any more", "it has lost the role for that"
            self._parting = NotAllowed(uid=caller.uid, action=action, reason=reason)
        if not self._has_work:
            self._refuse(self._parting)

    async def _told(self) -> None:
        """Return when the client was told of what had happened before: no answer overtakes that."""
        if self._delivery is not None:
            await self._delivery.settled()

    def _unanswered(self) -> None:
        log.warning("uid %d is not found in time to tell it more: disconnected", self.peer.uid)
        self._transport.abort()

    def _write(self, event: Event) -> None:
        if self._transport.is_closing():
            return
        unread = self._transport.get_write_buffer_size() - self._answered_bytes
        if unread > self._max_unread_bytes:
            log.warning("uid %d reads too slowly: disconnected", self.caller.uid)
            self._transport.abort()
            return
        self._transport.write(event.packed)

    def tell(self, event: Event) -> None:
        """Send the client one event, whatever it listens to."""
        if not self._transport.is_closing():
            self._transport.write(event.packed)

    def farewell(self) -> None:
        """The daemon stops: send what was answered, and close."""
        self._ending = True
        while self._queued:
            request = self._queued.popleft()
            self._answer(Response(request.id, DaemonStopping().to_wire(), None))
        self._end_waiting()
        if not self._calls:
            self._transport.close()

    def abort(self) -> None:
        """Close, whatever is unsent."""
        self._transport.abort()
