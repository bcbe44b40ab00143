"""One apply at a time: who waits for its turn can be told that it is not wanted any more (P2)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner.frames import Channel, Closed
from shannotd.runner.orders import Orders
from shannotd.runner.turn import Turn

pytestmark = pytest.mark.P2


@pytest.fixture
def daemon() -> Iterator[tuple[Channel, Orders]]:
    """The daemon's end, and the orders that come of it."""
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel, Orders(theirs) as orders:
        yield channel, orders


def test_who_has_it_lets_nobody_else_until_it_is_over(
    tmp_path: Path, daemon: tuple[Channel, Orders]
) -> None:
    first, second = Turn(str(tmp_path)), Turn(str(tmp_path))
    assert first.wait()
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(second.wait(daemon[1])))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive() and not got
    with first:
        pass
    waiting.join(10)
    assert got == [True]
    with second:
        pass


def test_it_belongs_to_the_last_process_that_has_it_open(tmp_path: Path) -> None:
    with Turn(str(tmp_path)) as first:
        assert first.wait()
        kept = os.dup(first.descriptor)
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel, Orders(theirs) as orders, Turn(str(tmp_path)) as second:
        channel.send({"op": "cancel"})
        assert not second.wait(orders)
        os.close(kept)
        assert second.wait(orders)


def test_a_cancel_ends_the_waiting_at_once(tmp_path: Path, daemon: tuple[Channel, Orders]) -> None:
    channel, orders = daemon
    with Turn(str(tmp_path)) as first, Turn(str(tmp_path)) as second:
        assert first.wait()
        got: list[bool] = []
        waiting = threading.Thread(target=lambda: got.append(second.wait(orders)))
        waiting.start()
        channel.send({"op": "cancel"})
        waiting.join(10)
        assert got == [False]


def test_who_waits_for_nobody_any_more_ends(tmp_path: Path, daemon: tuple[Channel, Orders]) -> None:
    channel, orders = daemon
    with Turn(str(tmp_path)) as first, Turn(str(tmp_path)) as second:
        assert first.wait()
        channel.close()
        with pytest.raises(Closed):
            second.wait(orders)
