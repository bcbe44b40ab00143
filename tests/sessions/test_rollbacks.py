"""Rollbacks as the daemon sees them: what is asked, what becomes of which session."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from shannotd.sessions import reversing
from shannotd.sessions.rollbacks import conflict_error
from shannotd.wire.errors import (
    CheckpointInUse,
    CheckpointUnknown,
    InvalidRequest,
    NotFound,
    NotReversible,
    RollbackConflict,
    RollbackPending,
    SandboxUnavailable,
    StoreFull,
    WrongState,
)
from shannotd.wire.rollback import Conflict
from tests.support.service import Caller, change_stored, in_loop, running_service
from tests.support.sessions import PATHS, events, execute, executed, get, roll_back, states


@pytest.mark.P9
@in_loop
async def test_a_rollback_is_a_session_like_any_other(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await execute(
            caller, await caller.submit(("files", PATHS), ("command", "go"), name="deploy")
        )
        assert old["checkpoint"] == "kept" and old["rolled_back_by"] is None
        await caller.call("sessions.watch")
        back = await roll_back(caller, old)
        assert (await caller.changed_to("pending"))["id"] == back["id"]
        assert back["state"] == "pending" and back["kind"] == "rollback"
        assert back["name"] == "rollback of deploy" and back["rollback_of"] == old["id"]
        for name in ("submitter", "submitter_name", "profile", "approvals", "identity", "target"):
            assert back[name] == old[name], name
        assert back["expires_at"] > back["created_at"]
        plan = json.loads(back["plan_canonical"])
        assert plan["session"] == back["id"] and plan["identity"]["uid"] == 4242
        assert [(step["change"], step["path"]) for step in plan["steps"]] == [
            ("delete", path) for path in PATHS
        ]
        assert [note["diff"] for note in back["notes"]] == ["+back\n"] * 2
        assert back["staying"] == [
            {"step": 2, "argv": ["tool", "go"], "program": "/usr/bin/tool", "reason": "told so"}
        ]
        assert await get(caller, back) == back
        listed = (await caller.call("sessions.list"))["sessions"]
        assert [each["id"] for each in listed] == [back["id"], old["id"]]
        assert listed[0]["rollback_of"] == old["id"] and listed[0]["staying"] == []

        ended = await execute(caller, back)
        assert ended["state"] == "executed" and ended["checkpoint"] == "kept"
        assert ended["staying"] == back["staying"]
        over = await get(caller, old)
        assert over["state"] == "rolled_back" and over["rolled_back_by"] == back["id"]
        assert (await caller.changed_to("rolled_back"))["id"] == old["id"]
        names = [record["event"] for record in await events(caller, old)]
        assert names[-2:] == ["session.rollback_requested", "session.rolled_back"]
        requested, turned = (await events(caller, old))[-2:]
        assert requested["uid"] == os.getuid() and requested["details"]["by"] == back["id"]
        assert turned["details"] == {"by": back["id"]}
        assert "session.approval" in [record["event"] for record in await events(caller, back)]


@pytest.mark.P9
@in_loop
async def test_a_rollback_is_rolled_back(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await executed(caller)
        first = await roll_back(caller, old)
        await execute(caller, first)
        assert await states(caller, old, first) == ["rolled_back", "executed"]
        with pytest.raises(WrongState):
            await roll_back(caller, old)
        redo = await roll_back(caller, first)
        assert redo["name"].startswith("rollback of rollback of ")
        assert [s["change"] for s in json.loads(redo["plan_canonical"])["steps"]] == ["create"] * 2
        await execute(caller, redo)
        assert await states(caller, old, first, redo) == ["executed", "rolled_back", "executed"]
        assert (await get(caller, old))["rolled_back_by"] is None
        restored = [record["event"] for record in await events(caller, old)][-1]
        assert restored == "session.restored"
        # Three deep, and the first one anew.
        again = await roll_back(caller, redo)
        await execute(caller, again)
        found = await states(caller, old, first, redo, again)
        assert found == ["rolled_back", "executed", "rolled_back", "executed"]
        assert (await get(caller, old))["rolled_back_by"] == first["id"]


@in_loop
async def test_what_has_failed_is_that_again_when_its_rollback_is_taken_back(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        for word, state in (("failed", "failed"), ("stale", "stale")):
            old = await executed(caller, "/srv/first", f"/srv/{word}")
            assert (old["state"], old["checkpoint"]) == (state, "kept")
            back = await roll_back(caller, old)
            # The scripted runner takes the whole plan back, and fails at the same path again.
            assert (await execute(caller, back))["state"] == state
            assert await states(caller, old) == [state]
            again = await roll_back(caller, back)
            assert again["rollback_of"] == back["id"]


@in_loop
async def test_only_what_was_applied_is_rolled_back(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        pending = await caller.submit(("files", PATHS))
        with pytest.raises(NotReversible):
            await roll_back(caller, pending)
        await caller.call("sessions.reject", id=pending["id"])
        with pytest.raises(NotReversible) as caught:
            await roll_back(caller, pending)
        assert "rejected" in str(caught.value)
        nothing = await caller.submit(("output", "x"))
        assert nothing["state"] == "executed" and nothing["checkpoint"] is None
        with pytest.raises(CheckpointUnknown):
            await roll_back(caller, nothing)
        with pytest.raises(NotFound):
            await caller.call("sessions.rollback", id="f" * 32)
        with pytest.raises(InvalidRequest):
            await caller.submit(("files", PATHS), kind="rollback")


@in_loop
async def test_what_is_being_applied_is_not_rolled_back_yet(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    os.mkfifo(f"{slow}.go")
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("files", [str(slow)]))
        await caller.call("sessions.watch", id=session["id"])
        await caller.call("sessions.approve", id=session["id"], digest=session["digest"])
        await caller.changed_to("executing")
        with pytest.raises(CheckpointInUse):
            await roll_back(caller, session)
        await asyncio.to_thread(Path(f"{slow}.go").write_bytes, b"")
        await caller.call("sessions.wait", id=session["id"], states=[])
        assert (await roll_back(caller, session))["state"] == "pending"


@in_loop
async def test_one_rollback_at_a_time(tmp_path: Path) -> None:
    path = str(tmp_path / "wait")
    os.mkfifo(f"{path}.go")
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await executed(caller, path)

        async def answer(**more: Any) -> Any:
            """What comes of asking, when the runner may go on."""
            asked = caller.send("sessions.rollback", id=old["id"], **more)
            # No reader, no writer: the runner is at it when this returns.
            gate = await asyncio.to_thread(os.open, f"{path}.go", os.O_WRONLY)
            try:
                async with await Caller.connect(tmp_path) as other:
                    if not more:
                        with pytest.raises(RollbackPending):
                            await roll_back(other, old)
            finally:
                os.close(gate)
            return (await asked).result["session"]

        first = await answer()
        assert (await answer(dry_run=True))["id"] != first["id"]
        with pytest.raises(RollbackPending) as caught:
            await roll_back(caller, old)
        assert caught.value.details["by"] == first["id"]
        await caller.call("sessions.reject", id=first["id"])
        assert (await answer())["id"] != first["id"]


@pytest.mark.P9
@in_loop
async def test_conflicts_are_named_and_only_forced_ones_are_taken_back(tmp_path: Path) -> None:
    paths = ["/srv/conflict-1", "/srv/a", "/srv/conflict-2"]
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await executed(caller, *paths)
        with pytest.raises(RollbackConflict) as caught:
            await roll_back(caller, old)
        details = caught.value.details
        assert (details["path"], details["count"]) == (paths[0], 2)
        assert (details["expected"], details["found"]) == ("a file", "another")
        told = json.loads(str(details["conflicts"]))
        assert [conflict["path"] for conflict in told] == [paths[0], paths[2]]
        assert f"{paths[0]} (expected a file, found another)" in str(caught.value)
        assert "--force" in str(caught.value)
        with pytest.raises(RollbackConflict):
            await roll_back(caller, old, force=[paths[0]])
        answer = await caller.call("sessions.rollback", id=old["id"], dry_run=True)
        assert answer["session"] is None and answer["conflicts"] == told
        assert (await caller.call("sessions.list"))["total"] == 1
        forced = await roll_back(caller, old, force=[paths[0], paths[2]])
        assert forced["risk"] == "danger"
        assert [note["risk"] for note in forced["notes"]] == ["danger", "caution", "danger"]
        assert "somebody has changed it since: it was a file" in forced["notes"][0]["reason"]
        await caller.call("sessions.reject", id=forced["id"])
        assert (await roll_back(caller, old, force_all=True))["state"] == "pending"
        asked = [
            record["details"]
            for record in await events(caller, old)
            if record["event"] == "session.rollback_requested"
        ]
        assert [details["forced"] for details in asked] == [0, 1, 0, 2, "all"]
        assert [details["dry_run"] for details in asked] == [False, False, True, False, False]


def test_the_message_has_the_first_conflicts_and_their_number() -> None:
    conflicts = [Conflict(f"/p{number}", "e", "f", number != 4) for number in range(6)]
    error = conflict_error("abc", conflicts)
    assert "/p0 (expected e, found f); /p1" in str(error) and "; and 3 more" in str(error)
    assert "/p4" in str(error) and "/p5" not in str(error)
    only = conflict_error("abc", [conflicts[4]])
    assert "--force" not in str(only) and "by hand" in str(only)
    assert error.to_wire()["code"] == "rollback_conflict"


@in_loop
async def test_a_dry_run_keeps_nothing(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await executed(caller)
        back = await roll_back(caller, old)
        await execute(caller, back)
        answer = await caller.call("sessions.rollback", id=back["id"], dry_run=True)
        preview = answer["session"]
        assert answer["conflicts"] == [] and preview["plan_canonical"]
        with pytest.raises(NotFound):
            await get(caller, preview)
        assert await states(caller, old, back) == ["rolled_back", "executed"]
    database = sqlite3.connect(tmp_path / "state" / "store" / "store.sqlite")
    kept = database.execute("SELECT count(*) FROM session_blobs WHERE session = ?", [preview["id"]])
    assert kept.fetchone() == (0,)
    database.close()


@pytest.mark.P6
@in_loop
async def test_nothing_is_asked_of_the_runner_before_it_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        old = await executed(caller)
        asked: list[str] = []

        async def rollback_job() -> Any:
            asked.append("runner")
            raise AssertionError

        async def full(*_: object, **__: object) -> None:
            raise StoreFull(reason="full", path="/")

        monkeypatch.setattr(service._runner, "rollback_job", rollback_job)
        monkeypatch.setattr(service._journal, "decide", full)
        with pytest.raises(StoreFull):
            await roll_back(caller, old)
        assert asked == []


@in_loop
async def test_commands_that_make_up_for_others_are_judged_and_logged(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await executed(caller, "/srv/decide")
        back = await roll_back(caller, old)
        decided = [
            record for record in await events(caller, back) if record["event"] == "command.decided"
        ]
        assert [record["details"]["command"] for record in decided] == ["tool undo"]


@pytest.mark.P8
@pytest.mark.parametrize("word", ["strange", "close"])
@in_loop
async def test_what_the_runner_cannot_do_changes_nothing(word: str, tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await executed(caller, f"/srv/{word}")
        with pytest.raises(NotReversible):
            await roll_back(caller, old)
        assert (await caller.call("sessions.list"))["total"] == 1
        assert await states(caller, old) == ["executed"]
        # And another may be asked for.
        with pytest.raises(NotReversible):
            await roll_back(caller, old)


@in_loop
async def test_a_runner_that_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "wait")
    os.mkfifo(f"{path}.go")
    monkeypatch.setattr(reversing, "_SECONDS", 0.1)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await executed(caller, path)
        with pytest.raises(NotReversible) as caught:
            await roll_back(caller, old)
        assert "took more than" in str(caught.value)
        await asyncio.to_thread(Path(f"{path}.go").write_bytes, b"")


@in_loop
async def test_a_runner_that_refuses_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await executed(caller)
    monkeypatch.setenv("SCRIPTED_REFUSAL", "1")
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        with pytest.raises(SandboxUnavailable):
            await roll_back(caller, old)


@in_loop
async def test_what_was_taken_back_meanwhile_is_not_taken_back_again(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await executed(caller)
        back = await roll_back(caller, old)
    change_stored(tmp_path, old["id"], state="rolled_back", rolled_back_by="f" * 32)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        ended = await execute(caller, back)
        assert ended["state"] == "failed" and ended["error"]["code"] == "wrong_state"
        assert (await get(caller, old))["rolled_back_by"] == "f" * 32


@in_loop
async def test_a_profile_that_is_gone_prevents_no_rollback(tmp_path: Path) -> None:
    config = "[profiles.special]\napprovals = 1\n"
    async with running_service(tmp_path, config=config), await Caller.connect(tmp_path) as caller:
        old = await executed(caller, profile="special")
    (tmp_path / "shannotd.toml").write_text("[profiles.other]\nrun_as = 'nobody'\n")
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        # The runner is another one, and knows nothing; the daemon has asked it.
        with pytest.raises(CheckpointUnknown):
            await roll_back(caller, old)


@in_loop
async def test_a_changed_rollback_is_one_too(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await execute(caller, await caller.submit(("files", PATHS), ("command", "go")))
        back = await roll_back(caller, old)
        new = await caller.call("sessions.amend", id=back["id"], digest=back["digest"], drop=[0])
        assert new["rollback_of"] == old["id"] and new["staying"] == back["staying"]
        with pytest.raises(RollbackPending):
            await roll_back(caller, old)
        await execute(caller, new)
        assert (await get(caller, old))["rolled_back_by"] == new["id"]
