"""One apply at a time: what two plans do to the same paths never interleaves.

The lock belongs to an open file, so it is held until the last process that has it is gone: that
is also whoever still looks after a command of an apply that was killed.
"""

from __future__ import annotations

import fcntl
import os
import select
from types import TracebackType
from typing import Optional, Type

from shannotd.runner.orders import Orders

_LOCK = "apply.lock"
_LOOK_MILLISECONDS = 100


class Turn:
    """The right to change the host, as long as it is open."""

    def __init__(self, state: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(os.path.join(state, _LOCK), flags, 0o600)

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        os.close(self.descriptor)

    def wait(self, orders: Optional[Orders] = None) -> bool:
        """Wait for the turn; False if `orders` say meanwhile that it is not wanted any more.

        :raises Closed: nobody is there any more to give orders.
        """
        while True:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if orders is not None:
                    orders.look()
                    if orders.cancelled:
                        return False
                # flock(2) cannot be waited for together with anything else.
                poll = select.poll()
                if orders is not None:
                    poll.register(orders.fileno(), select.POLLIN)
                poll.poll(_LOOK_MILLISECONDS)
