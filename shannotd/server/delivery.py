"""Events for one client, in their order: each is shown if he may see it when it is handed over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from shannotd.server.peers import Peer
from shannotd.server.standing import Standing
from shannotd.sessions.access import Caller, may_see
from shannotd.sessions.events import Event


class Delivery:
    """Hands events over at once where the client's roles are known, and else when they are."""

    def __init__(
        self,
        standing: Standing,
        peer: Peer,
        deliver: Callable[[Event], None],
        *,
        withheld: Callable[[Caller, Event], None] = lambda caller, event: None,
        max_waiting_bytes: int,
        overflow: Callable[[], None],
    ) -> None:
        """:param withheld: told of an event that the client may not see, with his roles.
        :param overflow: called instead when more is waiting, for the account database.
        """
        self._standing = standing
        self._peer = peer
        self._deliver = deliver
        self._withheld = withheld
        self._max_waiting_bytes = max_waiting_bytes
        self._overflow = overflow
        self._waiting: deque[Event] = deque()
        self._waiting_bytes = 0
        self._settling: asyncio.Task[None] | None = None

    def take(self, event: Event) -> None:
        """Hand `event` over after those that wait, if the client may see it by then."""
        caller = None if self._waiting else self._caller(event)
        if caller is not None:
            self._hand_over(caller, event)
            return
        self._waiting.append(event)
        self._waiting_bytes += len(event.packed)
        if self._waiting_bytes > self._max_waiting_bytes:
            self._overflow()
        elif self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._settle())

    async def settled(self) -> None:
        """Return when what was taken before is handed over."""
        if self._settling is not None:
            await asyncio.shield(self._settling)

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        if self._settling is not None:
            self._settling.cancel()

    def _caller(self, event: Event) -> Caller | None:
        """The client with roles enough to decide; None where he must be looked up first."""
        caller = self._standing.at_least(self._peer)
        if caller.roles and caller.uid == event.submitter:
            return caller  # of his own sessions he hears whatever else he is
        return self._standing.now(self._peer)

    async def _settle(self) -> None:
        while self._waiting:
            # What comes while he is looked up may be after he lost a role.
            before = len(self._waiting)
            caller = await self._standing.look(self._peer)
            for _ in range(before):
                event = self._waiting.popleft()
                self._waiting_bytes -= len(event.packed)
                self._hand_over(caller, event)
        self._settling = None

    def _hand_over(self, caller: Caller, event: Event) -> None:
        if caller.roles and may_see(caller, event.submitter):
            self._deliver(event)
        else:
            self._withheld(caller, event)
