"""What callers on D-Bus may have under way, without a bus."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from shannotd.bus.adapter import Incoming
from shannotd.bus.interface import INTERFACE, Value
from shannotd.bus.manager import MAX_CALLS, MAX_CALLS_OF_ACCOUNT, MAX_SUBSCRIBERS, Manager
from shannotd.server.methods import Methods
from shannotd.server.roles import EmbeddedRoles, Roles
from shannotd.server.standing import Standing
from shannotd.sessions.access import Role
from shannotd.sessions.events import Events
from shannotd.wire.errors import InvalidRequest, NotAllowed, TooManySessions, UnknownMethod
from shannotd.wire.session import Session, State
from tests.support.service import SECONDS, in_loop

UID = 7
GROUP = 70


def session() -> Session:
    """One that runs."""
    return Session(
        id="0" * 32,
        name="test",
        state=State.RUNNING,
        profile="default",
        target="local",
        submitter=0,
        submitter_name="root",
        identity="root",
        created_at=0.0,
        expires_at=None,
    )


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
        Standing(lambda: EmbeddedRoles(UID)),
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


class Reviewers(EmbeddedRoles):
    """Whoever is in the group reviews."""

    def of(self, uid: int, groups: frozenset[int]) -> frozenset[Role]:
        """The role of reviewers, or none."""
        return frozenset({Role.REVIEW}) if GROUP in groups else frozenset()


@pytest.mark.P10
@in_loop
async def test_signals_that_wait_for_the_account_database_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[Any, ...]] = []
    may = threading.Event()

    def groups(uid: int) -> frozenset[int]:
        assert may.wait(SECONDS)
        return frozenset({GROUP})

    monkeypatch.setattr("shannotd.server.standing.current_groups", groups)
    monkeypatch.setattr("shannotd.bus.manager.MAX_WAITING_BYTES", 4096)
    events = Events()
    manager = Manager(
        cast(Methods, Waiting()),
        Standing(lambda: Reviewers(0)),
        "0",
        lambda _: 0,
        events,
        lambda *signal: told.append(signal),
        lambda _: None,
    )
    subscribe = Incoming(":1.1", UID, frozenset({GROUP}), False, "Subscribe", ())
    may.set()
    await manager.answer(subscribe)
    await manager.answer(subscribe)  # twice is once
    events.changed(session())
    assert told == [(":1.1", "SessionChanged", Value("s", "0" * 32), Value("s", "running"))]
    # The account database is asked again, and does not answer.
    may.clear()
    monkeypatch.setattr("shannotd.server.standing._FRESH_SECONDS", -1.0)
    for _ in range(100):
        events.changed(session())
    monkeypatch.undo()
    may.set()
    await manager.answer(subscribe)
    assert len(told) == 1
    events.changed(session())
    assert len(told) == 2
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "its subscription ends" in line]) == 1


def manager_of(roles: Roles, **more: Any) -> Manager:
    """A manager for whom nobody waits."""
    given: dict[str, Any] = {"methods": Waiting(), "emit": lambda *_: None, **more}
    return Manager(
        cast(Methods, given["methods"]),
        Standing(lambda: roles),
        "0.1",
        lambda _: 3,
        Events(),
        given["emit"],
        lambda _: None,
    )


@pytest.mark.P5
@pytest.mark.parametrize(("groups", "reviews"), [({GROUP}, True), (set(), False), (None, False)])
@in_loop
async def test_a_bus_that_tells_no_groups_has_them_looked_up(
    groups: set[int] | None, reviews: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = None if groups is None else frozenset(groups)
    monkeypatch.setattr("shannotd.server.standing.current_groups", lambda uid: found)
    manager = manager_of(Reviewers(0))
    subscribe = Incoming(":1.1", UID, None, False, "Subscribe", ())
    if reviews:
        assert await manager.answer(subscribe) == ()
    else:
        with pytest.raises(NotAllowed, match="may not use this daemon"):
            await manager.answer(subscribe)


@pytest.mark.P10
@in_loop
async def test_subscriptions_of_one_account_are_bounded() -> None:
    manager = manager_of(EmbeddedRoles(UID))

    def subscribe(client: str) -> Incoming:
        return Incoming(client, UID, frozenset(), False, "Subscribe", ())

    for number in range(MAX_SUBSCRIBERS):
        await manager.answer(subscribe(f":1.{number}"))
    with pytest.raises(TooManySessions):
        await manager.answer(subscribe(":1.999"))
    await manager.answer(subscribe(":1.0"))  # it is one of them
    manager.left(":1.0")
    await manager.answer(subscribe(":1.999"))
    manager.left(":1.nobody")


@pytest.mark.P10
@in_loop
async def test_properties() -> None:
    manager = manager_of(EmbeddedRoles(UID))

    async def ask(uid: int, member: str, *arguments: str) -> Any:
        ((value),) = await manager.answer(
            Incoming(":1.1", uid, frozenset(), False, member, arguments)
        )
        return value.value

    assert (await ask(UID, "Get", INTERFACE, "PendingCount")).value == 3
    both = await ask(UID, "GetAll", INTERFACE)
    assert {name: value.value for name, value in both.items()} == {
        "Version": "0.1",
        "PendingCount": 3,
    }
    # Who is not served learns nothing.
    assert (await ask(UID + 1, "Get", INTERFACE, "PendingCount")).value == 0
    for member, *arguments in (
        ("Get", INTERFACE, "Secret"),
        ("Get", "org.example.Other", "Version"),
        ("Set", INTERFACE, "PendingCount", "7"),
    ):
        with pytest.raises(InvalidRequest):
            await ask(UID, member, *arguments)
    with pytest.raises(UnknownMethod):
        await ask(UID, "Submit", "x")
