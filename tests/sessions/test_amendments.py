"""Plans that reviewers change: a new session in the place of the old one, or nothing at all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pwd
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shannotd.server.peers import current_groups
from shannotd.sessions import amending
from shannotd.sessions.amending import Result, Told, follow
from shannotd.sessions.plans import Notes
from shannotd.sessions.recorded import Recorded
from shannotd.sessions.store import Store
from shannotd.wire.amendment import Amendment, DroppedStep, EditedStep
from shannotd.wire.errors import (
    DigestMismatch,
    EditTooLarge,
    InvalidRequest,
    NotAllowed,
    NotAmendable,
    NotFound,
    SandboxUnavailable,
    StepNeeded,
    StoreFull,
    WrongState,
    error_from_wire,
)
from shannotd.wire.plan import Plan
from shannotd.wire.rpc import MAX_EDIT_BYTES
from tests.support.accounts import is_root, temporary_account
from tests.support.service import (
    Caller,
    change_stored,
    in_loop,
    public_directory,
    running_service,
    scripted,
)

PATHS = ["/srv/example/a", "/srv/example/b", "/srv/example/c"]
MEBIBYTE = 1024 * 1024

needs_root = pytest.mark.skipif(not is_root(), reason="needs root, to connect as other accounts")


async def amend(caller: Caller, session: Any, **changes: Any) -> Any:
    """The session that comes of changes of another's plan."""
    return await caller.call("sessions.amend", **asked(session, **changes))


def asked(session: Any, **changes: Any) -> dict[str, Any]:
    """The parameters; edits as a map."""
    edits = [{"index": index, "content": data} for index, data in changes.pop("edits", {}).items()]
    return {"id": session["id"], "digest": session["digest"], "edits": edits, **changes}


async def get(caller: Caller, session: Any) -> Any:
    """The session as it is now."""
    return await caller.call("sessions.get", id=session["id"])


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.P2
@in_loop
async def test_a_new_session_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("output", "out"), ("files", PATHS), name="three", analysis="why")
        new = await amend(caller, old, drop=[1], edits={2: b"edited"})
        assert new["id"] != old["id"] and new["state"] == "pending"
        plan = json.loads(new["plan_canonical"])
        assert plan["session"] == new["id"]
        assert new["digest"] == hashlib.sha256(new["plan_canonical"]).hexdigest() != old["digest"]
        assert [step["path"] for step in plan["steps"]] == [PATHS[0], PATHS[2]]
        assert plan["steps"][1]["after"]["sha256"] == name_of(b"edited")
        assert [note["diff"] for note in new["notes"]] == ["+x\n", "+edited\n"]
        assert new["counts"]["create"] == 2
        same = ("name", "analysis", "script", "stdout", "submitter", "submitter_name", "profile")
        for field in (*same, "kind", "exit_code", "duration", "programs", "approvals", "identity"):
            assert new[field] == old[field], field
        assert new["expires_at"] > old["expires_at"] and new["decided_by"] == []
        assert new["amends"] == old["id"] and new["replaced_by"] is None
        assert new["editors"] == [os.getuid()] and new["editor_name"] == old["submitter_name"]
        assert new["amendment"] == {
            "dropped": [{"index": 1, "what": f"create {PATHS[1]}", "missed_by": [0]}],
            "edited": [{"index": 1, "origin": 2, "replaced_by": None}],
        }
        over = await get(caller, old)
        assert over["state"] == "rejected" and over["decided_by"] == [os.getuid()]
        assert over["replaced_by"] == new["id"] and over["amends"] is None
        assert over["reason"] == (
            f"replaced by session {new['id']}, as changed by {new['editor_name']}"
        )
        assert over["plan_canonical"] == old["plan_canonical"]
        listed = (await caller.call("sessions.list"))["sessions"]
        assert [each["id"] for each in listed] == [new["id"], old["id"]]
        assert listed[0]["amends"] == old["id"] and listed[0]["amendment"] is None
        assert await get(caller, new) == new


@pytest.mark.P2
@in_loop
async def test_each_digest_holds_for_its_session_only_and_the_old_one_never_runs(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", PATHS))
        new = await amend(caller, old, drop=[0])
        for session, digest, error in (
            (new, old["digest"], DigestMismatch),
            (old, new["digest"], WrongState),
            (old, old["digest"], WrongState),
        ):
            with pytest.raises(error):
                await caller.call("sessions.approve", id=session["id"], digest=digest)
        with pytest.raises(DigestMismatch):
            await caller.call("sessions.amend", id=new["id"], digest=old["digest"], drop=[0])
        with pytest.raises(WrongState):
            await amend(caller, old, drop=[0])
        await caller.call("sessions.approve", id=new["id"], digest=new["digest"])
        ended = await caller.call("sessions.wait", id=new["id"], states=[])
        assert ended["state"] == "executed"
        assert [note["applied"] for note in ended["notes"]] == ["done", "done"]
        assert ended["amendment"] == new["amendment"]
        with pytest.raises(WrongState):
            await caller.call("sessions.approve", id=old["id"], digest=old["digest"])
        with pytest.raises(WrongState):
            await amend(caller, new, drop=[0])


@pytest.mark.P6
@in_loop
async def test_the_change_is_in_the_log_before_the_sessions_change(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", PATHS))
        new = await amend(caller, old, drop=[0, 1], edits={2: b"edited"})
        records = await caller.call("audit.tail", limit=3)
        assert [(record["event"], record["session"]) for record in records] == [
            ("session.amended", new["id"]),
            ("session.rejected", old["id"]),
            ("session.pending", new["id"]),
        ]
        assert {record["uid"] for record in records} == {os.getuid()}
        details = records[0]["details"]
        assert (details["amends"], details["amends_digest"]) == (old["id"], old["digest"])
        assert (details["digest"], details["dropped"]) == (new["digest"], "0-1")
        assert details["edited"] == "2"
        assert records[2]["details"]["digest"] == new["digest"]


@pytest.mark.P6
@pytest.mark.parametrize(("part", "method"), [("_store", "commit"), ("_audit", "sync")])
def test_what_cannot_be_logged_or_stored_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, method: str
) -> None:
    @in_loop
    async def scenario() -> None:
        async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
            old = await caller.submit(("files", PATHS))

            def refuse(*_: object, **__: object) -> None:
                raise StoreFull(reason="No space left on device", path="store")

            with monkeypatch.context() as broken:
                broken.setattr(getattr(service, part), method, refuse)
                with pytest.raises(StoreFull):
                    await amend(caller, old, drop=[0], edits={1: b"edited"})
            records = await caller.call("audit.tail")
            assert [record["event"] for record in records[-2:]] == [
                "session.amended",
                "session.amendment_void",
            ]
            assert records[-1]["session"] == records[-2]["session"] != old["id"]
            assert await get(caller, old) == old
            assert (await caller.call("sessions.list"))["total"] == 1
            new = await amend(caller, old, drop=[0])
            assert new["state"] == "pending"
        assert referring(tmp_path) == {old["id"], new["id"]}

    scenario()


def referring(directory: Path) -> set[str]:
    """The sessions that refer to contents in the store."""
    database = sqlite3.connect(directory / "state" / "store" / "store.sqlite")
    found = {session for (session,) in database.execute("SELECT session FROM session_blobs")}
    database.close()
    return found


@in_loop
async def test_contents_of_both_are_kept(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", PATHS), ("large", 3 * MEBIBYTE))
        large = b"0123456789abcdef" * (10 * MEBIBYTE // 16)
        new = await amend(caller, old, edits={0: b"\x00\xff", 3: large})
        for content in (b"\x00\xff", large):
            sha256 = name_of(content)
            got = await caller.call("blobs.get", id=new["id"], sha256=sha256)
            assert got == {"data": content[:MEBIBYTE], "size": len(content)}
            with pytest.raises(InvalidRequest):
                await caller.call("blobs.get", id=old["id"], sha256=sha256)
        first = f"content of {PATHS[1]}\n".encode()
        for session in (old, new):
            got = await caller.call("blobs.get", id=session["id"], sha256=name_of(first))
            assert got["data"] == first
        await caller.call("sessions.approve", id=new["id"], digest=new["digest"])
        ended = await caller.call("sessions.wait", id=new["id"], states=[])
        assert ended["state"] == "executed"


@pytest.mark.P10
@in_loop
async def test_what_is_no_change_is_refused(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", PATHS))
        half = b"x" * (MEBIBYTE // 2)
        too_large = {"edits": {0: b"x" * (MAX_EDIT_BYTES - MEBIBYTE // 2 + 1), 1: half}}
        with pytest.raises(EditTooLarge) as caught:
            await amend(caller, old, **too_large)
        assert caught.value.details == {"size": MAX_EDIT_BYTES + 1, "limit": MAX_EDIT_BYTES}
        twice = [{"index": 0, "content": b"1"}, {"index": 0, "content": b"2"}]
        for wrong in (
            {"edits": twice},
            {"edits": [{"index": 0, "content": "text"}]},
            {"edits": [{"content": b""}]},
            {"drop": ["0"]},
            {"drop": 0},
            {"drop": [None]},
            {"with_dependents": 1},
            {"digest": None},
        ):
            arguments = {"id": old["id"], "digest": old["digest"], **wrong}
            assert isinstance(await caller.failure("sessions.amend", **arguments), InvalidRequest)
        for digest in ("", "0" * 64):
            with pytest.raises(DigestMismatch):
                await caller.call("sessions.amend", id=old["id"], digest=digest, drop=[0])
        with pytest.raises(NotFound):
            await caller.call("sessions.amend", id="f" * 32, digest=old["digest"], drop=[0])
        assert await get(caller, old) == old
    assert referring(tmp_path) == {old["id"]}


@pytest.mark.P10
@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"close", NotAmendable),
        (b'send {"event": "plan"}', NotAmendable),
        (b'send {"event": "need", "sha256": ["%s"]}' % (b"0" * 64), NotAmendable),
        (b'send {"event": "amended"}', NotAmendable),
        (b'send {"event": "other"}', NotAmendable),
        (b'send {"event": "error", "code": "step_needed", "details": {}}', StepNeeded),
    ],
)
def test_a_runner_that_makes_no_plan_changes_nothing(
    tmp_path: Path, sent: bytes, error: type[Exception]
) -> None:
    @in_loop
    async def scenario() -> None:
        async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
            old = await caller.submit(("files", PATHS))
            with pytest.raises(error):
                await amend(caller, old, edits={0: sent})
            assert await get(caller, old) == old
            assert (await caller.call("sessions.list"))["total"] == 1
            assert (await amend(caller, old, drop=[0]))["state"] == "pending"

    scenario()


@in_loop
async def test_a_runner_that_takes_too_long_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, gate = slow(tmp_path)
    monkeypatch.setattr(amending, "_SECONDS", 0.2)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", [path, *PATHS]))
        with pytest.raises(NotAmendable, match=r"more than 0\.2 seconds"):
            await amend(caller, old, drop=[1])
        assert await get(caller, old) == old
        with await asyncio.to_thread(gate.open, "wb"):
            pass


@in_loop
async def test_a_runner_that_refuses_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", PATHS))
    monkeypatch.setenv("SCRIPTED_REFUSAL", "1")
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        failure = await caller.failure("sessions.amend", **asked(old, drop=[0]))
        assert isinstance(failure, SandboxUnavailable)
        assert await get(caller, old) == old


# Races. While the runner waits for a FIFO, somebody else decides.


def slow(tmp_path: Path) -> tuple[str, Path]:
    """A path of which the runner waits for a FIFO, and that FIFO."""
    gate = tmp_path / "slow.go"
    os.mkfifo(gate)
    return str(tmp_path / "slow"), gate


@pytest.mark.P2
@pytest.mark.parametrize("method", ["sessions.reject", "sessions.cancel"])
def test_one_that_was_stopped_meanwhile_is_not_replaced(tmp_path: Path, method: str) -> None:
    @in_loop
    async def scenario() -> None:
        path, gate = slow(tmp_path)
        async with (
            running_service(tmp_path),
            await Caller.connect(tmp_path) as one,
            await Caller.connect(tmp_path) as other,
        ):
            old = await one.submit(("files", [path, *PATHS]))
            answer = one.send("sessions.amend", **asked(old, drop=[1]))
            opened = asyncio.ensure_future(asyncio.to_thread(gate.open, "wb"))
            with await opened:
                await other.call(method, id=old["id"])
            assert isinstance(error_from_wire((await answer).error), WrongState)
            assert (await get(other, old))["replaced_by"] is None
            assert (await other.call("sessions.list"))["total"] == 1
        assert referring(tmp_path) == {old["id"]}

    scenario()


@pytest.mark.P2
@in_loop
async def test_of_two_changes_at_once_one_holds(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as one,
        await Caller.connect(tmp_path) as other,
    ):
        old = await one.submit(("files", PATHS))
        answers = await asyncio.gather(
            one.send("sessions.amend", **asked(old, drop=[0])),
            other.send("sessions.amend", **asked(old, drop=[1])),
        )
        errors = [answer.error for answer in answers if answer.error is not None]
        assert [type(error_from_wire(error)) for error in errors] == [WrongState]
        assert (await one.call("sessions.list"))["total"] == 2


@pytest.mark.P2
@in_loop
async def test_one_that_expires_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path, gate = slow(tmp_path)
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", [path, *PATHS]))
        answer = caller.send("sessions.amend", **asked(old, drop=[1]))
        with await asyncio.to_thread(gate.open, "wb"):
            live = service._registry.current(old["id"])
            assert live is not None
            service._registry._expire(live, old["expires_at"] + 1)
        assert isinstance(error_from_wire((await answer).error), WrongState)
        assert (await get(caller, old))["state"] == "expired"


@pytest.mark.P2
@pytest.mark.P6
@in_loop
async def test_one_that_was_stopped_while_it_was_written_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as one,
        await Caller.connect(tmp_path) as other,
    ):
        old = await one.submit(("files", PATHS))
        commit = Store.commit

        async def stop_first(store: Store, *entries: Any) -> None:
            with monkeypatch.context() as original:
                original.setattr(Store, "commit", commit)
                await commit(store, *entries)
                await other.call("sessions.reject", id=old["id"], reason="no")

        with monkeypatch.context() as patched:
            patched.setattr(Store, "commit", stop_first)
            with pytest.raises(WrongState):
                await amend(one, old, drop=[0])
        over = await get(one, old)
        assert (over["state"], over["reason"], over["replaced_by"]) == ("rejected", "no", None)
        records = await one.call("audit.tail")
        (void,) = [each for each in records if each["event"] == "session.amendment_void"]
        stopped = await one.call("sessions.get", id=void["session"])
        assert stopped["state"] == "cancelled"
        with pytest.raises(WrongState):
            await one.call("sessions.approve", id=stopped["id"], digest=stopped["digest"])
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        assert (await get(caller, old))["reason"] == "no"
        assert (await get(caller, stopped))["state"] == "cancelled"


@in_loop
async def test_who_waits_for_the_old_one_hears_of_the_new_one(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as agent,
        await Caller.connect(tmp_path) as person,
    ):
        old = await agent.submit(("files", PATHS))
        await agent.call("sessions.watch")
        waiting = agent.send("sessions.wait", id=old["id"], states=[])
        new = await amend(person, old, drop=[0])
        over: Any = (await waiting).result
        assert (over["state"], over["replaced_by"]) == ("rejected", new["id"])
        assert (await agent.changed_to("rejected"))["id"] == old["id"]
        assert (await agent.changed_to("pending"))["id"] == new["id"]


@in_loop
async def test_both_are_there_after_a_restart(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", PATHS))
        new = await amend(caller, old, drop=[0], edits={1: b"edited"})
        over = await get(caller, old)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        assert await get(caller, old) == over
        assert await get(caller, new) == new
        await caller.call("sessions.approve", id=new["id"], digest=new["digest"])
        ended = await caller.call("sessions.wait", id=new["id"], states=[])
        assert ended["state"] == "executed"


@in_loop
async def test_a_profile_that_is_no_more_and_a_record_of_before(tmp_path: Path) -> None:
    """A session that was stored by a daemon that knew no amendments can be changed."""
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", PATHS))
    database = sqlite3.connect(tmp_path / "state" / "store" / "store.sqlite")
    with database:
        import msgpack

        (data,) = database.execute("SELECT record FROM sessions").fetchone()
        value = msgpack.unpackb(data)
        for name in ("amends", "replaced_by", "editors", "editor_name", "amendment"):
            del value["session"][name]
        database.execute("UPDATE sessions SET record = ?", (msgpack.packb(value),))
    database.close()
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        new = await amend(caller, old, drop=[0])
        assert new["amends"] == old["id"]
    change_stored(tmp_path, new["id"], profile="gone")
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        failure = await caller.failure("sessions.amend", **asked(new, drop=[0]))
        assert failure.code == "profile_unknown"
        assert (await get(caller, new))["state"] == "pending"


# In service mode, with other accounts

CONFIG = """
[daemon]
runner_socket = "/nowhere"
[roles]
submit = ["uid:{submitter}"]
review = ["uid:{one}", "uid:{two}", "uid:{submitter}"]
audit = ["uid:0"]
admin = []
[profiles.default]
approvals = {approvals}
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a daemon in service mode is reached by everybody."""
    with public_directory() as made:
        yield made


@pytest.fixture
def people() -> Iterator[dict[str, int]]:
    """Three accounts: one submits, all review."""
    with temporary_account() as one, temporary_account() as two, temporary_account() as three:
        uids = [pwd.getpwnam(name).pw_uid for name in (one, two, three)]
        yield dict(zip(("submitter", "one", "two"), uids, strict=True))


async def connect(directory: Path, uid: int) -> Caller:
    return await Caller.connect_as(directory, uid, *(current_groups(uid) or ()))


@needs_root
@pytest.mark.P5
def test_who_changed_a_plan_never_approves_it(directory: Path, people: dict[str, int]) -> None:
    @in_loop
    async def scenario() -> None:
        config = CONFIG.format(approvals=1, **people)
        async with running_service(directory, config=config, embedded=False, launch=scripted()):
            agent = await connect(directory, people["submitter"])
            one = await connect(directory, people["one"])
            two = await connect(directory, people["two"])
            async with agent, one, two:
                old = await agent.submit(("files", PATHS))
                new = await amend(one, old, drop=[0])
                assert new["editors"] == [people["one"]]
                assert new["submitter"] == people["submitter"]
                arguments = {"id": new["id"], "digest": new["digest"]}
                for caller in (agent, one):
                    with pytest.raises(NotAllowed) as caught:
                        await caller.call("sessions.approve", **arguments)
                    assert "never approves" in str(caught.value)
                assert (await get(agent, new))["state"] == "pending"
                again = await amend(two, new, drop=[0])
                assert again["editors"] == [people["one"], people["two"]]
                for caller in (agent, one, two):
                    failure = await caller.failure(
                        "sessions.approve", id=again["id"], digest=again["digest"]
                    )
                    assert isinstance(failure, NotAllowed)

    scenario()


@needs_root
@pytest.mark.P5
def test_another_person_approves_a_changed_plan(directory: Path, people: dict[str, int]) -> None:
    @in_loop
    async def scenario() -> None:
        config = CONFIG.format(approvals=1, **people)
        async with running_service(directory, config=config, embedded=False, launch=scripted()):
            agent = await connect(directory, people["submitter"])
            one = await connect(directory, people["one"])
            two = await connect(directory, people["two"])
            async with agent, one, two:
                old = await agent.submit(("files", PATHS))
                new = await amend(one, old, drop=[0])
                await two.call("sessions.approve", id=new["id"], digest=new["digest"])
                ended = await two.call("sessions.wait", id=new["id"], states=[])
                assert ended["state"] == "executed"
                assert ended["decided_by"] == [people["two"]]

    scenario()


@needs_root
@pytest.mark.P5
def test_approvals_of_the_old_plan_do_not_count_for_the_new_one(
    directory: Path, people: dict[str, int]
) -> None:
    @in_loop
    async def scenario() -> None:
        config = CONFIG.format(approvals=2, **people)
        async with running_service(directory, config=config, embedded=False, launch=scripted()):
            agent = await connect(directory, people["submitter"])
            one = await connect(directory, people["one"])
            two = await connect(directory, people["two"])
            async with agent, one, two:
                old = await agent.submit(("files", PATHS))
                half = await two.call("sessions.approve", id=old["id"], digest=old["digest"])
                assert half["decided_by"] == [people["two"]]
                new = await amend(one, old, drop=[0])
                assert (new["decided_by"], new["approvals"]) == ([], 2)
                half = await two.call("sessions.approve", id=new["id"], digest=new["digest"])
                assert (half["state"], half["decided_by"]) == ("pending", [people["two"]])

    scenario()


@needs_root
@pytest.mark.P5
def test_only_reviewers_change_plans(directory: Path, people: dict[str, int]) -> None:
    @in_loop
    async def scenario() -> None:
        config = CONFIG.format(approvals=1, **people)
        config = config.replace(f', "uid:{people["submitter"]}"', "")
        async with running_service(directory, config=config, embedded=False, launch=scripted()):
            agent = await connect(directory, people["submitter"])
            async with agent:
                old = await agent.submit(("files", PATHS))
                assert isinstance(
                    await agent.failure("sessions.amend", **asked(old, drop=[0])), NotAllowed
                )
                await agent.call("sessions.cancel", id=old["id"])
                assert isinstance(
                    await agent.failure("sessions.amend", **asked(old, drop=[0])), NotAllowed
                )

    scenario()


# What the runner tells.


def plan_before() -> Plan:
    steps = [
        {"kind": "file", "change": "create", "path": "/a"},
        {"kind": "file", "change": "rename", "path": "/c", "old_path": "/b"},
        {"kind": "command", "argv": ["systemctl", "reload", "x y"], "decision": "review"},
    ]
    plan = {
        "format": 1,
        "session": "s",
        "target": {"kind": "local", "host": "h"},
        "identity": {"name": "n", "uid": 0, "gid": 0, "groups": [], "umask": 18},
        "policy_version": "1",
        "on_failure": "rollback",
        "steps": steps,
    }
    return Plan.parse(json.dumps(plan).encode())


def followed(told: Told, notes: object) -> tuple[Recorded, Amendment]:
    before = [
        {"diff": f"+{name}\n", "binary": name == "b", "too_large": False, "risk": "safe"}
        for name in "abc"
    ]
    made = Recorded("d", "s", b"{}", json.dumps(notes).encode())
    return follow(Result(made, told), plan_before(), Notes(before, []))


def test_notes_that_hold_are_taken_over_and_words_say_what_is_gone() -> None:
    told = Told((1,), (0, 2), ((0, 2), (0, 0)), (0,), ((0, 0),))
    plan, amendment = followed(told, [{}])
    assert json.loads(plan.notes) == [{"diff": "+b\n", "binary": True, "too_large": False}]
    assert amendment == Amendment(
        (DroppedStep(0, "create /a", (0,)), DroppedStep(2, "run systemctl reload 'x y'", (0,))),
        (EditedStep(0, 1, 0),),
    )
    _, other = followed(Told((0, 2), (1,)), [{"diff": None}, {}])
    assert other.dropped == (DroppedStep(1, "rename /b to /c"),)


@pytest.mark.P10
@pytest.mark.parametrize(
    ("told", "notes"),
    [
        (Told((0, 1), ()), [{}, {}]),
        (Told((0, 1, 3), (2,)), [{}] * 3),
        (Told((0, 1), (1, 2)), [{}] * 2),
        (Told((0, 1), (2,)), [{}]),
        (Told((0, 1), (2,)), [{}, None]),
        (Told((0, 1), (2,)), {}),
        (Told((0, 1), (2,), ((2, 2),)), [{}] * 2),
        (Told((0, 1), (2,), ((0, 1),)), [{}] * 2),
        (Told((0, 1), (2,), ((0, 2, 3),)), [{}] * 2),
        (Told((0, 1), (2,), (), (2,)), [{}] * 2),
        (Told((0, 1), (2,), (), (0,), ((1, 0),)), [{}] * 2),
        (Told((0, 1), (2,), (), (0,), ((0, -1),)), [{}] * 2),
    ],
)
def test_what_does_not_fit_is_refused(told: Told, notes: object) -> None:
    with pytest.raises(ValueError):
        followed(told, notes)
