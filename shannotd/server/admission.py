"""Who may still connect, and how much the connections of one account may hold."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass

from shannotd.sessions.access import Caller
from shannotd.wire.errors import (
    TooManyConnections,
    TooManySessions,
    TooMuchUnfinished,
)

_MOST_CONNECTIONS = 4096
# A connection is one descriptor; as many are left for jobs, contents and the store.
_DESCRIPTORS_EACH = 2
# Of the total, what accounts that cannot review leave free: one in this many.
_RESERVE = 4
# What each connection may hold besides the budget: so whoever has used it up still decides.
_FREE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Limits:
    """`connections` and `unfinished_bytes` are per account; `total` is of all connections."""

    connections: int
    unfinished_bytes: int
    total: int


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as it may have; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def total_connections(descriptors: int) -> int:
    """How many connections a process of that many descriptors serves."""
    return max(1, min(_MOST_CONNECTIONS, descriptors // _DESCRIPTORS_EACH))


class Admission:
    """Counts connections, and the bytes of messages that they have begun and not finished."""

    def __init__(self) -> None:
        self._connections: Counter[int] = Counter()
        self._unfinished: Counter[int] = Counter()

    def enter(self, caller: Caller, limits: Limits) -> None:
        """Count one more connection of `caller`.

        :raises TooManySessions: it is one too many of that account.
        :raises TooManyConnections: it is one too many of all.
        """
        own = self._connections[caller.uid]
        if own >= limits.connections:
            raise TooManySessions(count=own, kind="connections")
        # However many submitters there are: whoever reviews or administrates comes through.
        total = limits.total if caller.sees_all else limits.total - limits.total // _RESERVE
        count = self._connections.total()
        if count >= total:
            raise TooManyConnections(count=count)
        self._connections[caller.uid] += 1

    def leave(self, uid: int, unfinished: int) -> None:
        """Forget a connection that held `unfinished` bytes."""
        self._connections[uid] -= 1
        self._unfinished[uid] -= _counted(unfinished)
        for counter in (self._connections, self._unfinished):
            if not counter[uid]:
                del counter[uid]

    def hold(self, uid: int, before: int, now: int, limits: Limits) -> None:
        """A connection that held `before` bytes of an unfinished message holds `now`.

        :raises TooMuchUnfinished: the account's connections hold too much together.
        """
        more = _counted(now) - _counted(before)
        if not more:
            return
        self._unfinished[uid] += more
        if more > 0 and self._unfinished[uid] > limits.unfinished_bytes:
            raise TooMuchUnfinished(limit=limits.unfinished_bytes)


def _counted(unfinished: int) -> int:
    return max(0, unfinished - _FREE_BYTES)
