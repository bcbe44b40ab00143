"""The account database may be slow, broken or asked too often: who waits for it is answered."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shannotd.server.peers import Peer
from shannotd.server.roles import EmbeddedRoles
from shannotd.server.standing import Standing
from shannotd.sessions.access import Role
from tests.support.service import SECONDS, in_loop

pytestmark = [pytest.mark.P5, pytest.mark.P10]

MEMBER = 7


class Rules(EmbeddedRoles):
    """Whoever is in the group reviews."""

    def of(self, uid: int, groups: frozenset[int]) -> frozenset[Role]:
        return frozenset({Role.REVIEW}) if MEMBER in groups else frozenset()


def reviewer(uid: int = 1000) -> Peer:
    return Peer(1, uid, frozenset({MEMBER}))


def standing() -> Standing:
    return Standing(lambda: Rules(0))


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], frozenset[int]]], None]:
    """Sets what answers instead of the account database."""
    return lambda groups: monkeypatch.setattr("shannotd.server.standing.current_groups", groups)


Use = Callable[[Callable[[int], frozenset[int]]], None]


def test_after_a_lookup_that_failed_the_database_is_asked_again(database: Use) -> None:
    asked: list[int] = []

    def groups(uid: int) -> frozenset[int]:
        asked.append(uid)
        if len(asked) == 1:
            raise RuntimeError("can't start new thread")
        return frozenset({MEMBER})

    database(groups)

    @in_loop
    async def scenario() -> None:
        roles = standing()
        assert (await roles.look(reviewer())).roles == frozenset()
        assert (await roles.look(reviewer(), anew=True)).roles == {Role.REVIEW}
        assert (await roles.look(reviewer())).roles == {Role.REVIEW}

    scenario()


def test_who_waits_is_answered_although_others_ask_anew(database: Use) -> None:
    """Approvals ask anew; whoever waited before them has what was asked for him."""
    begun = [threading.Event() for _ in range(3)]
    may = [threading.Event() for _ in range(3)]
    asked: list[int] = []

    def groups(uid: int) -> frozenset[int]:
        number = len(asked)
        asked.append(uid)
        begun[number].set()
        assert may[number].wait(SECONDS)
        return frozenset({MEMBER})

    database(groups)

    @in_loop
    async def scenario() -> None:
        roles = standing()
        try:
            async with asyncio.timeout(SECONDS / 3):
                event = asyncio.ensure_future(roles.look(reviewer()))
                await asyncio.to_thread(begun[0].wait, SECONDS)
                first = asyncio.ensure_future(roles.look(reviewer(), anew=True))
                await asyncio.to_thread(begun[1].wait, SECONDS)
                second = asyncio.ensure_future(roles.look(reviewer(), anew=True))
                await asyncio.to_thread(begun[2].wait, SECONDS)
                may[0].set()
                assert (await event).roles == {Role.REVIEW}
                assert not first.done()
                may[1].set()
                assert (await first).roles == {Role.REVIEW}
                assert not second.done()
                may[2].set()
                assert (await second).roles == {Role.REVIEW}
        finally:
            for one in may:
                one.set()

    scenario()


def test_files_that_change_all_the_time_hold_nobody_up(
    database: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "group"
    file.touch()
    monkeypatch.setattr("shannotd.server.standing._FILES", (file,))
    asked: list[int] = []

    def groups(uid: int) -> frozenset[int]:
        asked.append(uid)
        os.utime(file, ns=(0, len(asked)))
        return frozenset({MEMBER})

    database(groups)

    @in_loop
    async def scenario() -> None:
        async with asyncio.timeout(SECONDS / 3):
            assert (await standing().look(reviewer())).roles == {Role.REVIEW}
        assert len(asked) == 1

    scenario()


def test_an_account_that_asks_over_and_over_does_not_fill_the_threads(database: Use) -> None:
    asked: list[int] = []
    may = threading.Event()

    def groups(uid: int) -> frozenset[int]:
        asked.append(uid)
        assert may.wait(SECONDS)
        return frozenset({MEMBER})

    database(groups)

    @in_loop
    async def scenario() -> None:
        roles = standing()
        looks = [asyncio.ensure_future(roles.look(reviewer(), anew=True)) for _ in range(500)]
        await asyncio.sleep(0)
        may.set()
        assert {(await look).roles for look in looks} == {frozenset({Role.REVIEW})}
        assert len(asked) < 50

    scenario()


def test_what_is_known_of_accounts_is_forgotten(
    database: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    database(lambda uid: frozenset({MEMBER}))
    now = [0.0]
    monkeypatch.setattr("shannotd.server.standing.time.monotonic", lambda: now[0])

    @in_loop
    async def scenario() -> None:
        roles = standing()
        for uid in range(5000):
            now[0] += 0.1
            await roles.look(reviewer(uid))
        assert len(roles._known) <= 1100

    scenario()
