"""Plans that reviewers change: a new session in the place of the old one, or nothing at all."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from shannotd.wire.errors import (
    DigestMismatch,
    EditTooLarge,
    InvalidRequest,
    NotAmendable,
    NotFound,
    SandboxUnavailable,
    StepNeeded,
    StoreFull,
    WrongState,
)
from shannotd.wire.rpc import MAX_EDIT_BYTES
from tests.support.service import Caller, change_stored, in_loop, running_service
from tests.support.sessions import amend, asked, get, referring

PATHS = ["/srv/example/a", "/srv/example/b", "/srv/example/c"]
MEBIBYTE = 1024 * 1024


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
@in_loop
async def test_what_cannot_be_logged_or_stored_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, method: str
) -> None:
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
@in_loop
async def test_a_runner_that_makes_no_plan_changes_nothing(
    tmp_path: Path, sent: bytes, error: type[Exception]
) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", PATHS))
        with pytest.raises(error):
            await amend(caller, old, edits={0: sent})
        assert await get(caller, old) == old
        assert (await caller.call("sessions.list"))["total"] == 1
        assert (await amend(caller, old, drop=[0]))["state"] == "pending"


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
