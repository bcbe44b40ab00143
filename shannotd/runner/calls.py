"""The calls of one session's shims: accepts them, a bounded number at a time and in all."""

from __future__ import annotations

import select
import socket
from typing import Set

from shannotd.runner.call import Call, Desk
from shannotd.runner.caller import accept
from shannotd.runner.starts import Starts

# Shims that are served at a time; further ones wait to be accepted.
MAX_CALLS_AT_A_TIME = 64


class Calls:
    """Serves the shims of one sandbox; owns the socket on which they call."""

    def __init__(self, listener: socket.socket, namespace: int, desk: Desk, starts: Starts) -> None:
        """`namespace` is the inode of the sandbox's pid namespace, `starts` has what was called."""
        self._listener = listener
        self._namespace = namespace
        self._desk = desk
        self._starts = starts
        self._calls: Set[Call] = set()
        listener.setblocking(False)
        desk.loop.add(listener.fileno(), self._on_call)

    def end(self) -> None:
        """Nothing that called is left: record what its calls have had, and close.

        :raises RunnerError: it is more than a session may keep.
        """
        for call in tuple(self._calls):
            call.lose_caller()
        self.close()

    def close(self) -> None:
        """End every call and accept no more."""
        if self._listener.fileno() < 0:
            return
        self._desk.loop.remove(self._listener.fileno())
        self._listener.close()
        for call in tuple(self._calls):
            call.close()

    def _on_call(self, _: int) -> None:
        caller = accept(self._listener, self._namespace)
        if caller is None:
            return
        turned = self._starts.claim(caller.process)
        if turned is None:  # no shim, whatever it is
            caller.close()
            return
        self._calls.add(Call(caller, turned, self._desk, self._on_end))
        if len(self._calls) >= MAX_CALLS_AT_A_TIME:
            self._desk.loop.change(self._listener.fileno(), 0)

    def _on_end(self, call: Call) -> None:
        self._calls.discard(call)
        if self._listener.fileno() >= 0:
            self._desk.loop.change(self._listener.fileno(), select.POLLIN)
