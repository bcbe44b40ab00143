"""Commands of an approved plan: logged before they run, told of, kept, and stopped on request."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from shannotd.audit.log import AuditLog
from shannotd.sessions import progress
from shannotd.wire.errors import WrongState
from tests.support.service import Caller, in_loop, running_service

FIRST, LAST = "/srv/example/first", "/srv/example/last"


async def approved(caller: Caller, *actions: tuple[str, Any]) -> Any:
    """A session whose plan is being applied from now on."""
    pending = await caller.submit(*actions)
    assert pending["state"] == "pending"
    await caller.call("sessions.approve", id=pending["id"], digest=pending["digest"])
    return pending


async def applied(caller: Caller, *actions: tuple[str, Any]) -> Any:
    """A session whose plan was applied, or was not."""
    session = await approved(caller, *actions)
    return await caller.call("sessions.wait", id=session["id"], states=[])


async def logged(caller: Caller, session: str, beginning: str = "") -> list[Any]:
    """What the audit log says of a session."""
    records = await caller.call("audit.tail", session=session)
    return [record for record in records if record["event"].startswith(beginning)]


@pytest.mark.P6
@in_loop
async def test_a_command_is_logged_before_and_after(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        ended = await applied(caller, ("files", [FIRST]), ("command", "hello"), ("files", [LAST]))
        assert ended["state"] == "executed"
        assert [note["applied"] for note in ended["notes"]] == ["done"] * 3
        records = await logged(caller, ended["id"])
        assert [record["event"] for record in records][-4:] == [
            "session.executing",
            "command.started",
            "command.ended",
            "session.executed",
        ]
        started, over = records[-3]["details"], records[-2]["details"]
        assert started["step"] == over["step"] == 1
        assert (started["program"], started["command"]) == ("/usr/bin/tool", "tool hello")
        assert started["digest"] == ended["digest"]
        assert (over["exit_status"], over["duration"], over["stopped"]) == (0, 0.5, None)


@in_loop
async def test_what_a_command_did_is_kept_with_its_step(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        ended = await applied(caller, ("command", "hello"), ("command", "fail"), ("command", "x"))
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        again = await caller.call("sessions.get", id=ended["id"])
        assert again["notes"] == ended["notes"]
    assert ended["state"] == "failed"
    assert ended["error"]["code"] == "command_failed"
    hello, fail, never = [note["result"] for note in ended["notes"]]
    assert hello == {
        "exit_status": 0,
        "stdout": "hello",
        "stderr": "\udcff",
        "duration": 0.5,
        "signal": None,
        "stopped": None,
        "truncated": [],
    }
    assert (fail["exit_status"], fail["stdout"]) == (3, "fail")
    assert never is None
    assert [note["applied"] for note in ended["notes"]] == ["done", "failed", None]


@in_loop
async def test_outputs_are_kept_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "KEPT_IN_ALL_BYTES", 700_000)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        ended = await applied(caller, *[("command", "flood")] * 2, ("command", "quiet"))
        results = [note["result"] for note in ended["notes"]]
    kept = progress.KEPT_BYTES
    assert results[0]["stdout"] == "o" * kept
    assert results[0]["stderr"] == "e" * kept
    assert results[0]["truncated"] == ["stderr", "stdout"]
    assert len(results[1]["stdout"]) == 700_000 - 2 * kept
    assert results[1]["stderr"] == ""
    assert results[1]["truncated"] == ["stderr", "stdout"]
    assert results[2]["stdout"] == ""
    assert results[2]["truncated"] == ["stderr", "stdout"]


@in_loop
async def test_who_watches_the_session_sees_the_output(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as caller,
        await Caller.connect(tmp_path) as other,
    ):
        await other.call("sessions.watch")
        pending = await caller.submit(("command", "hello"))
        await caller.call("sessions.watch", id=pending["id"])
        await caller.call("sessions.approve", id=pending["id"], digest=pending["digest"])
        for stream, data in (("stdout", b"hello"), ("stderr", b"\xff")):
            told = await caller.notification("session.command_output")
            assert told.params == {
                "id": pending["id"],
                "index": 0,
                "stream": stream,
                "data": data,
            }
        assert (await caller.notification("session.step")).params["applied"] == "done"
        # Who watches all sessions would drown in their outputs.
        seen = []
        while not seen or seen[-1] != ("session.changed", "executed"):
            event = await other.notifications.get()
            seen.append((event.method, event.params.get("state")))
        assert "session.command_output" not in [method for method, _ in seen]


@in_loop
async def test_a_cancel_ends_the_command_and_the_plan(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        await caller.call("sessions.watch")
        session = await caller.submit(("command", "hang"), ("files", [LAST]))
        await caller.call("sessions.watch", id=session["id"])
        await caller.call("sessions.approve", id=session["id"], digest=session["digest"])
        await caller.notification("session.command_output")
        cancelled = await caller.call("sessions.cancel", id=session["id"])
        assert cancelled["state"] == "failed"
        assert cancelled["error"]["code"] == "command_failed"
        assert [note["applied"] for note in cancelled["notes"]] == ["failed", None]
        assert cancelled["notes"][0]["result"]["stopped"] == "cancelled"
        assert cancelled["notes"][0]["result"]["signal"] == 15
        (record,) = await logged(caller, session["id"], "session.cancel")
        assert (record["event"], record["uid"]) == ("session.cancel_requested", os.getuid())
        with pytest.raises(WrongState):
            await caller.call("sessions.cancel", id=session["id"])


@in_loop
async def test_a_cancel_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    gate = tmp_path / "slow.go"
    os.mkfifo(gate)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        await caller.call("sessions.watch")
        session = await approved(caller, ("files", [str(tmp_path / "slow")]))
        await caller.changed_to("executing")
        async with await Caller.connect(tmp_path) as other:
            refused = other.send("sessions.cancel", id=session["id"])
            await asyncio.to_thread(gate.write_bytes, b"")
            response = await refused
            assert response.error is not None
        ended = await caller.call("sessions.wait", id=session["id"], states=[])
        assert ended["state"] == "executed"


@pytest.mark.P6
@in_loop
async def test_a_command_that_cannot_be_logged_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = AuditLog.append

    def full(log: AuditLog, event: str, **more: Any) -> None:
        if event == "command.started":
            raise OSError(28, "No space left on device")
        append(log, event, **more)

    monkeypatch.setattr(AuditLog, "append", full)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        ended = await applied(caller, ("command", "hello"), ("files", [LAST]))
        assert ended["state"] == "failed"
        assert ended["error"]["code"] == "store_full"
        assert [note["applied"] for note in ended["notes"]] == ["failed", None]
        assert ended["notes"][0]["result"] is None
        assert await logged(caller, ended["id"], "command.") == []


@in_loop
async def test_a_runner_that_dies_under_a_command_leaves_it_unknown(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        ended = await applied(caller, ("files", [FIRST]), ("command", "die"), ("files", [LAST]))
        assert ended["state"] == "failed"
        assert ended["error"]["code"] == "runner_lost"
        assert "command of step 2 was running" in ended["error"]["message"]
        assert [note["applied"] for note in ended["notes"]] == ["done", None, None]
        result = ended["notes"][1]["result"]
        assert (result["stdout"], result["stopped"]) == ("die", "lost")
        assert (result["exit_status"], result["signal"]) == (None, None)
        records = await logged(caller, ended["id"], "command.")
        assert [record["event"] for record in records] == ["command.started", "command.ended"]
        assert records[1]["details"]["stopped"] == "lost"


@pytest.mark.P10
@pytest.mark.parametrize("text", ["strange", "other"])
@in_loop
async def test_a_runner_that_makes_up_commands_is_not_believed(text: str, tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        ended = await applied(caller, ("command", text))
        assert ended["state"] == "failed"
        assert ended["error"]["code"] == "runner_lost"
        # The daemon goes on.
        assert (await applied(caller, ("command", "hello")))["state"] == "executed"


@in_loop
async def test_a_large_plan_with_commands_is_applied(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        ended = await applied(caller, ("many", 1000), *[("command", "hello")] * 3)
        assert ended["state"] == "executed"
        assert [note["result"]["stdout"] for note in ended["notes"][1000:]] == ["hello"] * 3
