"""One observation in a process of its own, while the loop that serves its caller goes on."""

from __future__ import annotations

import math
import os
import socket
from typing import NoReturn, Tuple

from shannotd.runner import kernel
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.loop import Loop
from shannotd.runner.observe import Observation, Output, observe
from shannotd.runner.warm import Settings


class Observer:
    """A process that observes one program; owns it and the channel on which it tells of it.

    :raises OSError: no process can be had.
    """

    def __init__(self, request: Observation, settings: Settings) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if self._pid == 0:
            _main(theirs, request, settings)
        theirs.close()
        # A program that prints without end keeps nobody waiting: poll tells of each frame.
        self._channel = Channel(ours, ahead=False)

    def fileno(self) -> int:
        """The channel, for poll."""
        return self._channel.fileno()

    def receive(self) -> Tuple[Header, bytes]:
        """{event: "output", stream} with bytes, and at the end {event: "observed", ...} (see
        `Observed`) or {event: "error", code, details}.

        :raises Closed: it was killed.
        """
        event, payload, _ = self._channel.receive()
        return event, payload

    def close(self, loop: Loop) -> None:
        """End it and what it observes; it is reaped by `loop` when it has."""
        loop.remove(self._channel.fileno())
        self._channel.close()
        handle = os.pidfd_open(self._pid)

        def reap(_: int) -> None:
            os.waitpid(self._pid, 0)
            loop.remove(handle)
            os.close(handle)

        loop.add(handle, reap)


def _main(theirs: socket.socket, request: Observation, settings: Settings) -> NoReturn:
    """Observe and tell of it; never returns."""
    status = 1
    try:
        os.dup2(theirs.detach(), 3, inheritable=False)
        kernel.close_range(4)
        with Channel(socket.socket(fileno=3)) as answers:
            # Who called may stop to read: then nobody reads here.
            answers.limit_sending(math.ceil(request.seconds))
            try:
                observe(
                    request,
                    _output(answers),
                    settings,
                    answers.fileno(),
                    ended=lambda observed: answers.send(observed.header()),
                )
            except RunnerError as error:
                answers.send(error.header())
        status = 0
    except Closed:
        pass
    finally:
        os._exit(status)


def _output(answers: Channel) -> Output:
    def tell(stream: str, data: bytes) -> None:
        try:
            answers.send({"event": "output", "stream": stream}, data)
        except Closed as error:
            raise TimeoutError from error

    return tell
