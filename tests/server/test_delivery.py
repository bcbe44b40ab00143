"""Events while the account database is asked: each by the roles of its time, in order, once."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shannotd.server.delivery import Delivery
from shannotd.server.peers import Peer
from shannotd.server.roles import EmbeddedRoles
from shannotd.server.standing import Standing
from shannotd.sessions.access import Role
from shannotd.sessions.events import Event
from shannotd.wire.rpc import Notification
from tests.support.service import SECONDS, in_loop

pytestmark = pytest.mark.P5

MEMBER, UID = 7, 1000


class Rules(EmbeddedRoles):
    """Everybody submits; whoever is in the group reviews."""

    def of(self, uid: int, groups: frozenset[int]) -> frozenset[Role]:
        return frozenset({Role.SUBMIT, Role.REVIEW} if MEMBER in groups else {Role.SUBMIT})


def event(name: str, submitter: int = 0) -> Event:
    return Event(name, submitter, Notification("session.changed", {}))


@dataclass
class Database:
    """Answers when it may, with what was true when it was asked."""

    file: Path
    may: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    groups: frozenset[int] = frozenset({MEMBER})
    changes: int = 0

    def answer(self, uid: int) -> frozenset[int]:
        found = self.groups
        self.begun.release()
        assert self.may.wait(SECONDS)
        return found

    def change(self, *groups: int) -> None:
        """Somebody changes the groups of the account."""
        self.groups, self.changes = frozenset(groups), self.changes + 1
        os.utime(self.file, ns=(0, self.changes))

    async def is_asked(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=SECONDS)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "group")
    made.file.touch()
    monkeypatch.setattr("shannotd.server.standing._FILES", (made.file,))
    monkeypatch.setattr("shannotd.server.standing.current_groups", made.answer)
    yield made
    made.may.set()


@dataclass
class Client:
    """Who is told."""

    told: list[str] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)

    def delivery(self) -> Delivery:
        return Delivery(
            Standing(lambda: Rules(0)),
            Peer(1, UID, frozenset({MEMBER})),
            lambda event: self.told.append(event.session),
            withheld=lambda caller, event: self.withheld.append(event.session),
            max_waiting_bytes=1 << 20,
            overflow=lambda: self.told.append("overflow"),
        )


def test_an_answer_from_before_a_change_shows_nothing_from_after_it(database: Database) -> None:
    @in_loop
    async def scenario() -> None:
        client = Client()
        delivery = client.delivery()
        delivery.take(event("before"))
        await database.is_asked()
        database.change()  # he is no member any more
        delivery.take(event("after"))
        delivery.take(event("own", UID))
        database.may.set()
        await delivery.settled()
        assert client.told == ["before", "own"]
        assert client.withheld == ["after"]

    scenario()


def test_one_s_own_sessions_wait_for_no_database(database: Database) -> None:
    @in_loop
    async def scenario() -> None:
        client = Client()
        delivery = client.delivery()
        delivery.take(event("own", UID))
        assert client.told == ["own"]
        # But not before what came before them.
        delivery.take(event("theirs"))
        delivery.take(event("own again", UID))
        assert client.told == ["own"]
        database.may.set()
        await delivery.settled()
        assert client.told == ["own", "theirs", "own again"]
        delivery.take(event("theirs at once"))
        assert client.told[-1] == "theirs at once"

    scenario()


def test_what_comes_while_others_are_handed_over_is_told_after_them(database: Database) -> None:
    @in_loop
    async def scenario() -> None:
        client = Client()
        delivery = client.delivery()
        database.may.set()
        for number in range(100):
            delivery.take(event(f"{number}"))
            if number % 7 == 0:
                database.change(MEMBER)
            await asyncio.sleep(0)
        await delivery.settled()
        assert client.told == [f"{number}" for number in range(100)]
        assert client.withheld == []

    scenario()


def test_what_is_closed_tells_nothing_more(database: Database) -> None:
    @in_loop
    async def scenario() -> None:
        client = Client()
        delivery = client.delivery()
        delivery.take(event("theirs"))
        await database.is_asked()
        delivery.close()
        database.may.set()
        with pytest.raises(asyncio.CancelledError):
            await delivery.settled()
        assert client.told == []

    scenario()
