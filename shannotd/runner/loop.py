"""Waits for descriptors, and tells who waits for each."""

from __future__ import annotations

import select
from typing import Callable, Dict, Set

Handler = Callable[[int], None]


class Loop:
    """What one process waits for; single-threaded."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: Dict[int, Handler] = {}
        self._added: Set[int] = set()

    def add(self, descriptor: int, handler: Handler) -> None:
        """Have `handler` told, with the events (poll(2)), when `descriptor` can be read."""
        self._handlers[descriptor] = handler
        self._added.add(descriptor)
        self._poll.register(descriptor, select.POLLIN)

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events on it; for none, not even of its end, where there are none."""
        if events:
            self._poll.register(descriptor, events)
            return
        try:
            self._poll.unregister(descriptor)
        except KeyError:
            pass  # It was so before.

    def remove(self, descriptor: int) -> None:
        """Wait for it no more; to be called before it is closed."""
        self._handlers.pop(descriptor, None)
        self.change(descriptor, 0)

    def turn(self, seconds: float) -> None:
        """Wait until something happens, at most so long, and tell of it."""
        self._added.clear()
        for descriptor, events in self._poll.poll(max(0.0, seconds * 1000)):
            handler = self._handlers.get(descriptor)
            # A number that was given to another since then has not been waited for.
            if handler is not None and descriptor not in self._added:
                handler(events)
