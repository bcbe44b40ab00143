"""Notices that the other end of a connection is gone while nobody reads from it."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class HangUps:
    """Watches sockets that are not read from, within the running loop.

    asyncio looks at a socket only to read or to write. EPOLLHUP comes without asking for
    anything (epoll_ctl(2)), and for a Unix stream only when both directions are closed: a
    client that merely sends no more has not hung up.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._gone: dict[int, Callable[[], None]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._look)

    def watch(self, descriptor: int, gone: Callable[[], None]) -> None:
        """Call `gone` once when the socket's other end is closed; at once where it is."""
        if descriptor not in self._gone:
            self._epoll.register(descriptor, 0)
        self._gone[descriptor] = gone

    def forget(self, descriptor: int) -> None:
        """Watch the socket no more. To be called before it is closed."""
        if self._gone.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Watch nothing any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._gone.clear()

    def _look(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            gone = self._gone.get(descriptor)
            self.forget(descriptor)
            if gone is not None:
                gone()
