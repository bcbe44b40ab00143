"""The connection to a bus, on a real one: what is answered when something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shannotd.bus.adapter import Adapter, BusUnavailable, CallFailed, Incoming
from shannotd.bus.interface import Value
from shannotd.wire.errors import NotFound
from tests.support.accounts import is_root
from tests.support.bus import Account, Bus, message_bus
from tests.support.service import SECONDS, in_loop

pytestmark = pytest.mark.P10

DAEMON = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
Answer = Callable[[Incoming], Coroutine[Any, Any, Sequence[Value]]]


async def nothing(incoming: Incoming) -> Sequence[Value]:
    return ()


@asynccontextmanager
async def on(
    bus: Bus, answer: Answer = nothing, left: Callable[[str], None] = lambda name: None
) -> AsyncIterator[Adapter]:
    adapter = Adapter(bus.address, answer, left, lambda: None)
    await asyncio.wait_for(adapter.start(), SECONDS)
    try:
        yield adapter
    finally:
        await adapter.stop()


@in_loop
async def test_every_call_is_answered_whatever_the_method_does() -> None:
    calls: list[Incoming] = []

    async def answer(incoming: Incoming) -> Sequence[Value]:
        calls.append(incoming)
        wanted = incoming.arguments[0]
        if wanted == "typed":
            raise NotFound(id="x")
        if wanted == "fault":
            raise ZeroDivisionError("secret")
        if wanted == "strange":
            return (Value("s", object()),)
        return (Value("s", "cancelled"),)

    with message_bus(system=False) as bus:
        async with on(bus, answer):
            client = Account(bus.address)
            assert "org.shannot.Error.NotFound" in await client.error("Cancel", "typed")
            for wanted, kind in (("fault", "ZeroDivisionError"), ("strange", "TypeError")):
                told = await client.error("Cancel", wanted)
                assert "org.shannot.Error.Internal" in told and kind in told
                assert "secret" not in told
            assert await client.call("Cancel", "s", "x") == ["cancelled"]
    assert [call.member for call in calls] == ["Cancel"] * 4
    assert all(call.sender.startswith(":") for call in calls)


@in_loop
async def test_a_client_that_left_before_it_was_watched_is_told_as_well() -> None:
    left: asyncio.Queue[str] = asyncio.Queue()
    with message_bus(system=False) as bus:
        async with on(bus, left=left.put_nowait) as adapter:
            async with on(bus) as other:
                (names,) = await other.call(DAEMON, "ListNames", [])
                unique = {name for name in names if name.startswith(":")}
                (mine,) = await adapter.call(
                    DAEMON, "GetNameOwner", [Value("s", "org.shannot.Shannot1")]
                )
                (theirs,) = unique - {mine}
                adapter.watch(theirs)
                adapter.watch(theirs)  # once is enough
                await adapter.call(DAEMON, "ListNames", [])  # both were seen to by now
            assert await asyncio.wait_for(left.get(), SECONDS) == theirs
            adapter.watch(theirs)
            assert await asyncio.wait_for(left.get(), SECONDS) == theirs
            # What comes after shows that nothing else did.
            adapter.watch(":1.999")
            assert await asyncio.wait_for(left.get(), SECONDS) == ":1.999"


@in_loop
async def test_what_others_do_not_answer_is_an_error() -> None:
    with message_bus(system=False) as bus:
        async with on(bus) as adapter:
            with pytest.raises(CallFailed) as caught:
                await adapter.call(("org.example.None", "/", "org.example.None"), "Do", [])
            assert caught.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"
            with pytest.raises(CallFailed) as caught:
                await adapter.call(DAEMON, "GetNameOwner", [Value("u", 7)])
            assert caught.value.name == "org.freedesktop.DBus.Error.InvalidArgs"
            bus.stop()
            await asyncio.wait_for(adapter.lost.wait(), SECONDS)
            with pytest.raises(CallFailed):
                await asyncio.wait_for(adapter.call(DAEMON, "ListNames", []), SECONDS)
            adapter.emit(":1.1", "SessionPending", Value("s", "x"))  # to nobody, and no fault


@in_loop
async def test_who_gives_up_connecting_leaves_nothing_behind() -> None:
    with message_bus(system=False) as bus:
        adapter = Adapter(bus.address, nothing, lambda name: None, lambda: None)
        starting = asyncio.ensure_future(adapter.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not adapter._thread.is_alive()
    adapter = Adapter("unix:path=/nowhere", nothing, lambda name: None, lambda: None)
    with pytest.raises(BusUnavailable):
        await adapter.start()
    assert not adapter._thread.is_alive()


@pytest.mark.skipif(not is_root(), reason="needs root, to name another account")
@in_loop
async def test_a_name_that_the_bus_does_not_allow() -> None:
    with message_bus(system=True, owner="nobody") as bus:
        async with on(bus) as adapter:
            assert adapter.nameless is not None and "not allowed to own" in adapter.nameless
            (names,) = await adapter.call(DAEMON, "ListNames", [])
            assert "org.shannot.Shannot1" not in names
