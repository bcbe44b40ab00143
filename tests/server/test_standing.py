"""Who is connected has the roles of now, not those of when he connected."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from shannotd.config import RoleRules
from shannotd.server.peers import Peer, current_groups
from shannotd.server.presence import Action, Person, RolesAlone
from shannotd.server.roles import EmbeddedRoles, Roles, ServiceRoles
from shannotd.server.standing import Standing
from shannotd.service import Service
from shannotd.sessions.access import Role
from shannotd.wire.errors import NotAllowed, NotFound
from shannotd.wire.session import Session
from tests.support.accounts import is_root, run, temporary_account, temporary_group
from tests.support.service import (
    SECONDS,
    Caller,
    in_loop,
    public_directory,
    running_service,
    script,
)

pytestmark = [
    pytest.mark.P5,
    pytest.mark.skipif(not is_root(), reason="needs root, to connect as other accounts"),
]

FILE = "/srv/example/new"
ROLES = """
[roles]
submit = ["uid:0"{submitter}]
review = ["{reviewers}"]
audit = ["{reviewers}"]
admin = ["uid:0"]
"""


@dataclass(frozen=True)
class Place:
    """A daemon's directory, an account that reviews there, and the group that lets it."""

    directory: Path
    name: str
    uid: int
    group: str

    def config(self, *, submits: bool = True, group: str | None = None) -> str:
        """The configuration in which `group` reviews."""
        submitter = f', "uid:{self.uid}"' if submits else ""
        return ROLES.format(submitter=submitter, reviewers=group or self.group)

    async def person(self) -> Caller:
        """A connection of the account's, in its groups of now."""
        account = pwd.getpwnam(self.name)
        groups = os.getgrouplist(self.name, account.pw_gid)
        return await Caller.connect_as(self.directory, account.pw_uid, *groups)

    @asynccontextmanager
    async def serving(
        self, config: str | None = None
    ) -> AsyncIterator[tuple[Service, Caller, Caller]]:
        """A daemon that serves, an agent of root's and the account's person."""
        wanted = self.config() if config is None else config
        async with running_service(self.directory, config=wanted, embedded=False) as service:
            agent, person = await Caller.connect(self.directory), await self.person()
            async with agent, person:
                yield service, agent, person


@pytest.fixture
def place() -> Iterator[Place]:
    with public_directory() as directory, temporary_group() as group, temporary_account() as name:
        subprocess.run(["usermod", "--append", "--groups", group.gr_name, name], check=True)
        yield Place(directory, name, pwd.getpwnam(name).pw_uid, group.gr_name)


async def leave(service: Service, place: Place) -> None:
    """He is no member of the group any more."""
    await leave_group(place)


async def leave_group(place: Place) -> None:
    """Take him out of the group."""
    await run("gpasswd", "--delete", place.name, place.group)


async def vanish(service: Service, place: Place) -> None:
    """There is no such account any more."""
    await run("userdel", "--force", place.name)


async def reconfigure(service: Service, place: Place) -> None:
    """The group has the role no more, by the configuration."""
    (place.directory / "shannotd.toml").write_text(place.config(group="root"))
    await service.reload()


Loss = Callable[[Service, Place], Any]
ways = pytest.mark.parametrize("lose", [leave, vanish, reconfigure])


async def heard(person: Caller, until: str) -> list[tuple[str, str]]:
    """Sessions and states that he is told of, until that session waits for a decision."""
    told: list[tuple[str, str]] = []
    while (until, "pending") not in told:
        event = await person.notification("session.changed")
        told.append((event.params["id"], event.params["state"]))
    return told


@ways
def test_who_lost_the_role_is_told_so_and_hears_of_his_own_sessions_only(
    place: Place, lose: Loss
) -> None:
    gid = grp.getgrnam(place.group).gr_gid

    @in_loop
    async def scenario() -> None:
        async with running_service(
            place.directory, config=place.config(), embedded=False
        ) as service:
            agent, person = await Caller.connect(place.directory), await place.person()
            watcher, other = await place.person(), await place.person()
            async with agent, person, watcher, other:
                await person.call("sessions.watch")
                before = await agent.submit(("files", [FILE]))
                assert {told for told, _ in await heard(person, before["id"])} == {before["id"]}
                await watcher.call("sessions.watch", id=before["id"])
                own = await other.submit(("files", [FILE]))
                await other.call("sessions.watch", id=own["id"])
                await heard(person, own["id"])
                refusals = [asyncio.ensure_future(one.raw_error()) for one in (person, watcher)]
                await asyncio.sleep(0)
                await lose(service, place)
                await agent.submit(("output", "secret"), ("files", [FILE]))
                await agent.call("sessions.cancel", id=before["id"])
                # Nobody is left to wait for what he is told no more.
                for one, refusal in zip((person, watcher), refusals, strict=True):
                    refused = await refusal
                    assert isinstance(refused, NotAllowed) and "lost the role" in str(refused)
                    await one.closed()
                    assert one.notifications.empty()
                async with await Caller.connect_as(place.directory, place.uid, gid) as again:
                    await again.call("sessions.watch")
                    await agent.submit(("files", [FILE]))
                    more = await again.submit(("files", [FILE]))
                    assert {told for told, _ in await heard(again, more["id"])} == {more["id"]}
                    await other.call("sessions.cancel", id=own["id"])
                    for one in (again, other):
                        assert (await one.changed_to("cancelled"))["id"] == own["id"]
                        assert one.notifications.empty()

    scenario()


@ways
def test_who_lost_the_role_is_told_so_though_nothing_happens(
    place: Place, lose: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shannotd.server.connection._LOOK_SECONDS", 0.01)

    @in_loop
    async def scenario() -> None:
        async with running_service(
            place.directory, config=place.config(), embedded=False
        ) as service:
            person, other = await place.person(), await place.person()
            async with person, other:
                own = await other.submit(("files", [FILE]))
                await other.call("sessions.watch", id=own["id"])
                await person.call("sessions.watch")
                refusal = asyncio.ensure_future(person.raw_error())
                await asyncio.sleep(0)
                await lose(service, place)
                assert isinstance(await refusal, NotAllowed)
                await person.closed()
                assert (await other.call("daemon.status"))["roles"] == ["submit"]

    scenario()


def test_who_lost_the_role_has_the_answers_first_that_he_waits_for(place: Place) -> None:
    @in_loop
    async def scenario() -> None:
        async with place.serving() as (service, agent, person):
            await person.call("sessions.watch")
            answer = person.send(
                "sessions.submit", kind="python", script=script(("cancelled", None))
            )
            own = (await person.notification("session.changed")).params["id"]
            refusal = asyncio.ensure_future(person.raw_error())
            await asyncio.sleep(0)
            await leave(service, place)
            await agent.submit(("files", [FILE]))
            assert (await person.call("daemon.status"))["roles"] == ["submit"]
            await agent.call("sessions.list")
            assert not refusal.done() and not answer.done()
            await person.call("sessions.cancel", id=own)
            assert (await answer).result["state"] == "cancelled"
            assert isinstance(await refusal, NotAllowed)
            await person.closed()

    scenario()


@ways
def test_a_request_on_an_open_connection_is_answered_by_the_roles_of_now(
    place: Place, lose: Loss
) -> None:
    @in_loop
    async def scenario() -> None:
        async with place.serving() as (service, agent, person):
            theirs = await agent.submit(("files", [FILE]))
            own = await person.submit(("files", [FILE]))
            requests = {
                "sessions.get": {},
                "sessions.watch": {},
                "sessions.wait": {"timeout": 0},
                "sessions.reject": {},
                "sessions.cancel": {},
                "sessions.rollback": {"dry_run": True},
                "sessions.approve": {"digest": theirs["digest"]},
                "sessions.amend": {"digest": theirs["digest"], "drop": [0]},
                "blobs.get": {"sha256": "0" * 64},
                "checkpoints.get": {},
                "checkpoints.drop": {},
            }
            assert (await person.call("sessions.get", id=theirs["id"]))["state"] == "pending"
            assert await person.call("audit.tail")
            assert set((await person.call("daemon.status"))["roles"]) == {
                "submit",
                "review",
                "audit",
            }
            await lose(service, place)
            for method, more in requests.items():
                refused = await person.failure(method, id=theirs["id"], **more)
                assert isinstance(refused, NotFound), method
            assert isinstance(await person.failure("audit.tail"), NotAllowed)
            assert isinstance(await person.failure("audit.verify"), NotAllowed)
            listed = (await person.call("sessions.list"))["sessions"]
            assert [session["id"] for session in listed] == [own["id"]]
            assert (await person.call("daemon.status"))["roles"] == ["submit"]
            assert (await person.call("sessions.get", id=own["id"]))["state"] == "pending"
            assert (await agent.call("sessions.get", id=theirs["id"]))["state"] == "pending"

    scenario()


@ways
def test_who_waits_for_a_session_is_not_told_of_it_when_he_lost_the_role(
    place: Place, lose: Loss
) -> None:
    @in_loop
    async def scenario() -> None:
        async with place.serving() as (service, agent, person):
            theirs = await agent.submit(("files", [FILE]))
            waiting = person.send("sessions.wait", id=theirs["id"], states=[])
            await person.call("daemon.status")  # it waits by now
            await lose(service, place)
            await agent.call("sessions.cancel", id=theirs["id"])
            response = await waiting
            assert response.error is not None
            assert response.error["code"] == "not_found"

    scenario()


def test_who_has_no_role_left_is_not_served(place: Place) -> None:
    @in_loop
    async def scenario() -> None:
        config, gid = place.config(submits=False), grp.getgrnam(place.group).gr_gid
        async with place.serving(config) as (service, agent, person):
            await person.call("sessions.watch")
            refusal = asyncio.ensure_future(person.raw_error())
            await asyncio.sleep(0)
            await leave(service, place)
            await agent.submit(("files", [FILE]))
            refused = await refusal
            assert isinstance(refused, NotAllowed) and "no role" in str(refused)
            await person.closed()
            assert person.notifications.empty()
            async with await Caller.connect_as(place.directory, place.uid, gid) as former:
                refused = await former.failure("daemon.status")
                assert isinstance(refused, NotAllowed) and "no role" in str(refused)
                # He has it again, and hears again.
                await run("gpasswd", "--add", place.name, place.group)
                await former.call("sessions.watch")
                again = await agent.submit(("files", [FILE]))
                assert {told for told, _ in await heard(former, again["id"])} == {again["id"]}

    scenario()


class Database:
    """The account database, which answers only when it may. What is known of it is as good as
    new until `changed`: other tests make accounts meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
        self._file, self._changes = file, 0
        file.touch()
        monkeypatch.setattr("shannotd.server.standing._FILES", (file,))
        monkeypatch.setattr("shannotd.server.standing._FRESH_SECONDS", 1000.0)
        self.may = threading.Event()
        self.may.set()
        self.asked: list[int] = []
        monkeypatch.setattr("shannotd.server.standing.current_groups", self._groups)

    def _groups(self, uid: int) -> frozenset[int] | None:
        self.asked.append(uid)
        assert self.may.wait(SECONDS)
        return current_groups(uid)

    def changed(self) -> None:
        """What is known of accounts is old."""
        self._changes += 1
        os.utime(self._file, ns=(0, self._changes))

    async def is_asked(self) -> None:
        """Wait until somebody has asked."""
        async with asyncio.timeout(SECONDS):
            while not self.asked:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Database]:
    made = Database(monkeypatch, tmp_path / "group")
    yield made
    made.may.set()


def test_no_answer_overtakes_the_events_before_it(place: Place, database: Database) -> None:
    """While the account database is asked events wait, in order, and with them the answers."""

    @in_loop
    async def scenario() -> None:
        async with place.serving() as (_, agent, person):
            await person.call("sessions.watch")
            answer = person.send(
                "sessions.submit", kind="python", script=script(("cancelled", None))
            )
            own = (await person.notification("session.changed")).params["id"]
            database.changed()
            database.asked.clear()
            database.may.clear()
            theirs = await agent.submit(("files", [FILE]))
            await agent.call("sessions.cancel", id=own)
            await agent.call("sessions.cancel", id=theirs["id"])
            while not person.notifications.empty():  # from before
                assert person.notifications.get_nowait().params["id"] == own
            assert not answer.done()
            assert len(database.asked) == 1  # once for all of them
            database.may.set()
            assert (await answer).result["state"] == "cancelled"
            told = []
            while not person.notifications.empty():
                event = person.notifications.get_nowait()
                told.append((event.params["id"], event.params["state"]))
            assert told == [
                (theirs["id"], "running"),
                (theirs["id"], "pending"),
                (own, "cancelled"),
                (theirs["id"], "cancelled"),
            ]

    scenario()


@pytest.mark.P10
def test_events_that_wait_for_the_account_database_are_bounded(
    place: Place, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    @in_loop
    async def scenario() -> None:
        config = "[daemon]\nmax_unread_bytes = 4096\n" + place.config()
        async with place.serving(config) as (_, agent, person):
            await person.call("sessions.watch")
            database.may.clear()
            database.changed()
            for _ in range(10):
                await agent.submit(("files", [FILE]))
            await person.closed()
            assert person.notifications.empty()
            database.may.set()
            # It goes on for others, and for him.
            async with await place.person() as again:
                assert (await again.call("sessions.list"))["total"] == 10

    scenario()
    said = [record.getMessage() for record in caplog.records]
    assert said.count(f"uid {place.uid} is not found in time to tell it more: disconnected") == 1


def test_who_has_gone_meanwhile_is_forgotten(place: Place, database: Database) -> None:
    @in_loop
    async def scenario() -> None:
        async with running_service(place.directory, config=place.config(), embedded=False):
            agent, person = await Caller.connect(place.directory), await place.person()
            async with agent:
                async with person:
                    await person.call("sessions.watch")
                    database.changed()
                    database.asked.clear()
                    database.may.clear()
                    await agent.submit(("files", [FILE]))
                    await database.is_asked()
                database.may.set()
                await agent.submit(("files", [FILE]))
                assert len(database.asked) == 1

    scenario()


def test_what_is_known_is_used_until_the_database_changes(
    place: Place, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    @in_loop
    async def scenario() -> None:
        submitter = f"uid:{place.uid}"
        rules = RoleRules(submit=(submitter,), review=(place.group,), audit=(), admin=())
        roles: list[Roles] = [ServiceRoles(rules)]
        standing = Standing(lambda: roles[0])
        group = grp.getgrnam(place.group).gr_gid
        peer, other = Peer(1, place.uid, frozenset({group})), Peer(1, 0, frozenset({0}))
        assert standing.claimed(peer).roles == {Role.SUBMIT, Role.REVIEW}
        # Nothing has to be asked of an account whose roles are no group's.
        caller = standing.now(other)
        assert caller is not None and caller.roles == frozenset() and not database.asked
        assert standing.now(peer) is None
        both = await asyncio.gather(standing.look(peer), standing.look(peer))
        assert [caller.roles for caller in both] == [{Role.SUBMIT, Role.REVIEW}] * 2
        assert standing.now(peer) == both[0] and len(database.asked) == 1
        # Whoever must know exactly asks again.
        await standing.look(peer, anew=True)
        assert len(database.asked) == 2
        await leave_group(place)
        database.changed()
        assert standing.now(peer) is None
        assert (await standing.look(peer)).roles == {Role.SUBMIT}
        # A database that no file tells of is asked again after a while.
        assert standing.now(peer) is not None
        later = time.monotonic() + 2000
        monkeypatch.setattr("shannotd.server.standing.time.monotonic", lambda: later)
        assert standing.now(peer) is None
        roles[0] = ServiceRoles(replace(rules, review=(submitter,)))
        caller = standing.now(peer)
        assert caller is not None and caller.roles == {Role.SUBMIT, Role.REVIEW}

    scenario()


def test_an_earlier_answer_of_the_database_is_not_taken_for_the_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A directory on the network, of which no file tells that somebody has left a group."""
    member, reached, late = 7, threading.Event(), threading.Event()

    def groups(uid: int) -> frozenset[int]:
        if reached.is_set():
            return frozenset()
        reached.set()
        assert late.wait(SECONDS)
        return frozenset({member})

    monkeypatch.setattr("shannotd.server.standing.current_groups", groups)
    monkeypatch.setattr("shannotd.server.standing._FILES", ())
    monkeypatch.setattr("shannotd.server.standing._FRESH_SECONDS", 1000.0)

    class Rules(EmbeddedRoles):
        def of(self, uid: int, groups: frozenset[int]) -> frozenset[Role]:
            return frozenset({Role.REVIEW}) if member in groups else frozenset()

    @in_loop
    async def scenario() -> None:
        standing, peer = Standing(lambda: Rules(0)), Peer(1, 1000, frozenset({member}))
        first = asyncio.ensure_future(standing.look(peer))
        assert await asyncio.to_thread(reached.wait, SECONDS)
        assert (await standing.look(peer, anew=True)).roles == frozenset()
        late.set()
        assert (await first).roles == frozenset()
        caller = standing.now(peer)
        assert caller is not None and caller.roles == frozenset()

    scenario()


def test_a_database_that_fails_gives_no_role(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(uid: int) -> None:
        raise OSError("out of memory")

    monkeypatch.setattr("shannotd.server.standing.current_groups", broken)

    @in_loop
    async def scenario() -> None:
        rules = RoleRules(submit=(place.group,), review=(place.group,), audit=(), admin=())
        roles = ServiceRoles(rules)
        peer = Peer(1, place.uid, frozenset({grp.getgrnam(place.group).gr_gid}))
        assert (await Standing(lambda: roles).look(peer)).roles == {Role.SUBMIT}

    scenario()


@pytest.mark.parametrize("method", ["approve", "rollback"])
def test_who_loses_the_role_while_he_proves_that_he_is_there_decides_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    class Slow(RolesAlone):
        """Asks, and meanwhile he is taken out of the group."""

        async def ask(self, person: Person, action: Action, session: Session) -> bool:
            await leave_group(place)
            return True

    monkeypatch.setattr(Service, "_presence", lambda service: Slow())

    @in_loop
    async def scenario() -> None:
        async with place.serving() as (_, agent, person):
            theirs = await agent.submit(("files", [FILE]))
            refused = await person.failure(
                f"sessions.{method}",
                id=theirs["id"],
                **({"digest": theirs["digest"]} if method == "approve" else {}),
            )
            assert isinstance(refused, NotAllowed)
            now = await agent.call("sessions.get", id=theirs["id"])
            assert now["state"] == "pending" and not now["decided_by"]

    scenario()
