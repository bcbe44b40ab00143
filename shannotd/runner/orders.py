"""An apply's channel: answers come in order, and a cancel may come at any time among them."""

from __future__ import annotations

import select
import socket
from typing import List, Tuple

from shannotd.runner.frames import Channel, Closed, Header


class Orders(Channel):
    """Frames to and from the daemon; `cancelled` is set once it said so."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.cancelled = False

    def receive(self) -> Tuple[Header, bytes, List[int]]:
        """The next frame that is no cancel; see Channel.receive."""
        while True:
            frame = super().receive()
            if not self._is_cancel(frame[0]):
                return frame

    def look(self) -> None:
        """Take in what came unasked, without waiting.

        :raises Closed: the daemon is gone, or sent anything but a cancel.
        """
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        while self.pending() or poll.poll(0):
            header, _, _ = super().receive()
            if not self._is_cancel(header):
                raise Closed("an answer to nothing")

    def may_start(self, index: int) -> bool:
        """Ask whether the command at `index` may start now: it is in the log when it may.

        :raises Closed: the daemon is gone: it may not.
        """
        self.send({"event": "command_starting", "index": index})
        while not self.cancelled:
            header, _, _ = super().receive()
            if header.get("op") == "go":
                return True
            if not self._is_cancel(header):
                raise Closed("neither yes nor no")
        return False

    def _is_cancel(self, header: Header) -> bool:
        if header.get("op") != "cancel":
            return False
        self.cancelled = True
        return True
