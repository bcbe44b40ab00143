"""What callers on D-Bus may have under way, without a bus."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from shannotd.bus.adapter import Incoming
from shannotd.bus.manager import MAX_CALLS, MAX_CALLS_OF_ACCOUNT, Manager
from shannotd.server.methods import Methods
from shannotd.server.roles import EmbeddedRoles
from shannotd.sessions.events import Events
from shannotd.wire.errors import TooManySessions
from tests.support.service import in_loop

UID = 7


class Waiting:
    """Methods that answer only when they may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    def find(self, name: str) -> None:
        """It has every method."""

    async def call(self, *_: object) -> dict[str, str]:
        """Answer."""
        await self.may.wait()
        return {"state": "cancelled"}


@pytest.mark.P10
@in_loop
async def test_how_many_calls_a_client_and_an_account_have_at_once() -> None:
    methods = Waiting()
    manager = Manager(
        cast(Methods, methods),
        lambda: EmbeddedRoles(UID),
        "0",
        lambda _: 0,
        Events(),
        lambda *_: None,
        lambda _: None,
    )

    async def begun(*clients: str) -> list[asyncio.Task[object]]:
        calls = [
            asyncio.ensure_future(
                manager.answer(Incoming(client, UID, frozenset(), False, "Cancel", ("id",)))
            )
            for client in clients
        ]
        await asyncio.wait(calls, timeout=0)
        return cast(list[asyncio.Task[object]], calls)

    of_one = await begun(*[":1.1"] * (MAX_CALLS + 1))
    assert [call.done() for call in of_one] == [False] * MAX_CALLS + [True]
    with pytest.raises(TooManySessions):
        await of_one[-1]
    of_others = await begun(*(f":1.{number}" for number in range(2, 202)))
    refused = [call for call in of_others if call.done()]
    assert len(of_others) - len(refused) == MAX_CALLS_OF_ACCOUNT - MAX_CALLS
    for call in refused:
        with pytest.raises(TooManySessions):
            await call
    methods.may.set()
    await asyncio.gather(*of_one[:-1], *(call for call in of_others if not call.done()))
    (again,) = await begun(":1.1")
    await again
