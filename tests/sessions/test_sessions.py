"""Sessions from submission to their end, over a scripted runner."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from shannotd.sessions.runner import Connection
from shannotd.wire.decode import decode
from shannotd.wire.errors import (
    AmbiguousId,
    IdTooShort,
    InvalidRequest,
    NotFound,
    ProfileUnknown,
    ScriptTooLarge,
    StoreFull,
    TooManySessions,
    WrongState,
)
from shannotd.wire.session import Session
from tests.support.service import Caller, change_stored, in_loop, running_service, script

PATH = "/srv/example/new"


@in_loop
async def test_without_effects_it_is_executed_at_once(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("output", "out"), ("stderr", "err"), name="quick")
        assert (session["state"], session["stdout"], session["stderr"]) == (
            "executed",
            b"out",
            b"err",
        )
        assert session["risk"] == "safe"
        assert session["exit_code"] == 0
        assert session["submitter_name"]
        stored = await caller.call("sessions.get", id=session["id"][:6])
        assert stored == session
        output = await caller.notification("session.output")
        assert output.params == {"id": session["id"], "stream": "stdout", "data": b"out"}


@pytest.mark.P2
@in_loop
async def test_a_plan_with_effects_waits_for_a_decision(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("files", [PATH]))
        assert session["state"] == "pending"
        assert session["digest"] == hashlib.sha256(session["plan_canonical"]).hexdigest()
        assert json.loads(session["plan_canonical"])["session"] == session["id"]
        assert session["counts"]["create"] == 1
        assert session["expires_at"] > session["created_at"]
        assert session["notes"][0]["diff"] == "+x\n"
        assert session["notes"][0]["reason"]
        content = f"content of {PATH}\n".encode()
        name = hashlib.sha256(content).hexdigest()
        got = await caller.call("blobs.get", id=session["id"], sha256=name, offset=8)
        assert got == {"data": content[8:], "size": len(content)}
        with pytest.raises(InvalidRequest):
            await caller.call("blobs.get", id=session["id"], sha256="0" * 64)


@in_loop
async def test_a_large_content_is_served_in_parts(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("large", 3 * 1024 * 1024))
        name = json.loads(session["plan_canonical"])["steps"][0]["after"]["sha256"]
        content = b""
        while len(content) < 3 * 1024 * 1024:
            part = await caller.call(
                "blobs.get", id=session["id"], sha256=name, offset=len(content)
            )
            content += part["data"]
        assert hashlib.sha256(content).hexdigest() == name


@in_loop
async def test_without_wait_the_answer_comes_at_once(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("output", "so far"), ("cancelled", None), wait=False)
        assert session["state"] == "running"
        running = session
        while not running["stdout"]:
            running = await caller.call("sessions.get", id=session["id"])
        assert running["state"] == "running"
        cancelled = await caller.call("sessions.cancel", id=session["id"])
        assert cancelled["state"] == "cancelled"
        assert cancelled["stdout"] == b"so far"
        ended = await caller.call("sessions.wait", id=session["id"], states=["executed"])
        assert ended["state"] == "cancelled"


@pytest.mark.parametrize(
    ("name", "limit"), [("wall_seconds", "2.5"), ("output_bytes", None), ("processes", None)]
)
@in_loop
async def test_a_limit_fails_the_session(tmp_path: Path, name: str, limit: str | None) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("exited", {"stopped": name}), timeout=2.5)
        assert session["state"] == "failed"
        assert session["error"]["code"] == "limit_exceeded"
        assert session["error"]["details"]["name"] == name
        if limit is not None:
            assert session["error"]["details"]["limit"] == limit


@in_loop
async def test_an_error_of_the_runner_is_the_sessions(tmp_path: Path) -> None:
    error = {
        "event": "error",
        "code": "directory_not_entered",
        "details": {"identity": "i", "path": "/nowhere", "reason": "no such directory"},
    }
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("send", error))
        assert session["state"] == "failed"
        assert session["error"]["code"] == "directory_not_entered"
        assert "/nowhere" in session["error"]["message"]


@pytest.mark.parametrize(
    "action",
    [
        ("close", None),
        ("send", {"event": "plan", "digest": "no", "seal": "", "canonical_size": 0}),
        ("send", {"event": "blobs", "blobs": [["0" * 64, 5]]}),
        ("send", {"event": "blob", "sha256": "0" * 64, "size": 5}),
        ("send", {"event": "blobs", "blobs": "x"}),
    ],
)
@pytest.mark.P8
@in_loop
async def test_a_runner_that_speaks_nonsense_is_a_lost_one(
    tmp_path: Path, action: tuple[str, object]
) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(action)
        assert session["state"] == "failed"
        assert session["error"]["code"] == "runner_lost"
        assert (await caller.submit())["state"] == "executed"


@in_loop
async def test_a_runner_that_dies_is_started_again(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        bystander = await caller.submit(("hang", None), wait=False)
        dead = await caller.submit(("die", None))
        assert dead["state"] == "failed"
        assert dead["error"]["code"] == "runner_lost"
        lost = await caller.call("sessions.wait", id=bystander["id"], states=[])
        assert lost["error"]["code"] == "runner_lost"
        assert (await caller.submit())["state"] == "executed"


@pytest.mark.P8
@in_loop
async def test_without_a_runner_nothing_runs_and_the_rest_works(tmp_path: Path) -> None:
    async def launch() -> Connection:
        raise FileNotFoundError(2, "No such file or directory")

    async with (
        running_service(tmp_path, launch=launch),
        await Caller.connect(tmp_path) as caller,
    ):
        session = await caller.submit()
        assert session["state"] == "failed"
        assert session["error"]["code"] == "sandbox_unavailable"
        assert (await caller.call("daemon.status"))["builder"] == "none"
        assert (await caller.call("sessions.list"))["total"] == 1


@pytest.mark.P8
@in_loop
async def test_a_refusal_of_the_runner_is_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_REFUSAL", "1")
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit()
        assert session["error"]["code"] == "sandbox_unavailable"
        assert "told so" in session["error"]["message"]


@pytest.mark.P10
@in_loop
async def test_bad_submissions_are_refused(tmp_path: Path) -> None:
    config = "[daemon]\nmax_script_bytes = 1000\n"
    async with (
        running_service(tmp_path, config=config),
        await Caller.connect(tmp_path) as caller,
    ):
        with pytest.raises(ScriptTooLarge):
            await caller.call("sessions.submit", kind="python", script=b"x" * 1001)
        with pytest.raises(ProfileUnknown):
            await caller.submit(profile="nothing")
        for wrong in (
            {"cwd": "relative"},
            {"cwd": "/a\0b"},
            {"timeout": 0},
            {"timeout": float("nan")},
            {"kind": "command"},
            {"kind": "nonsense"},
            {"name": "x" * 1000},
            {"arguments": ["x" * 600_000]},
            {"arguments": "text"},
            {"script": "text"},
        ):
            with pytest.raises(InvalidRequest):
                await caller.submit(**wrong)
        assert (await caller.call("sessions.list"))["total"] == 0


@pytest.mark.P10
@in_loop
async def test_quotas_count_per_submitter(tmp_path: Path) -> None:
    config = "[daemon]\nmax_running = 2\nmax_pending = 2\n"
    async with (
        running_service(tmp_path, config=config),
        await Caller.connect(tmp_path) as caller,
    ):
        running = [await caller.submit(("cancelled", None), wait=False) for _ in range(2)]
        with pytest.raises(TooManySessions):
            await caller.submit()
        for session in running:
            await caller.call("sessions.cancel", id=session["id"])
        pending = [await caller.submit(("files", [PATH])) for _ in range(2)]
        with pytest.raises(TooManySessions):
            await caller.submit()
        await caller.call("sessions.reject", id=pending[0]["id"], reason="too many")
        assert (await caller.submit())["state"] == "executed"


@in_loop
async def test_expiry_is_a_no_everywhere(tmp_path: Path) -> None:
    config = "[daemon]\nttl_seconds = 1\n"
    async with (
        running_service(tmp_path, config=config),
        await Caller.connect(tmp_path) as caller,
    ):
        await caller.call("sessions.watch")
        session = await caller.submit(("files", [PATH]))
        expired = await caller.changed_to("expired")
        assert expired["id"] == session["id"]
        for method in ("sessions.approve", "sessions.reject", "sessions.cancel"):
            with pytest.raises(WrongState, match="expired"):
                await caller.call(method, id=session["id"], digest=session["digest"])
        assert (await caller.call("sessions.list", states=["pending"]))["total"] == 0
        assert (await caller.call("sessions.list", states=["expired"]))["total"] == 1


@in_loop
async def test_what_expired_while_no_daemon_ran_is_expired(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("files", [PATH]))
    change_stored(tmp_path, session["id"], expires_at=session["created_at"])
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        assert (await caller.call("sessions.get", id=session["id"]))["state"] == "expired"
        with pytest.raises(WrongState):
            await caller.call("sessions.approve", id=session["id"], digest=session["digest"])


@in_loop
async def test_pending_sessions_survive_a_restart_and_running_ones_end(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        pending = await caller.submit(("files", [PATH]))
        running = await caller.submit(("cancelled", None), wait=False)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        assert await caller.call("sessions.get", id=pending["id"]) == pending
        ended = await caller.call("sessions.get", id=running["id"])
        assert ended["state"] == "cancelled"
        assert ended["reason"] == "the daemon was stopped"
        approved = await caller.call("sessions.approve", id=pending["id"], digest=pending["digest"])
        assert approved["state"] in ("approved", "executing", "executed")
        ended = await caller.call("sessions.wait", id=pending["id"], states=[])
        assert ended["state"] == "executed"


@in_loop
async def test_ids(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit()
        identifier = session["id"]
        assert len(identifier) == 32
        assert int(identifier, 16) >= 0
        assert (await caller.call("sessions.get", id=identifier[:4]))["id"] == identifier
        with pytest.raises(IdTooShort):
            await caller.call("sessions.get", id=identifier[:3])
        for unknown in ("../../etc/passwd", "", "*", identifier + "0", "g" * 32, "f" * 31 + "%"):
            with pytest.raises(NotFound):
                await caller.call("sessions.get", id=unknown)
        prefixes = set[str]()
        while True:  # until two share their beginning
            prefix = (await caller.submit())["id"][:4]
            if len(prefixes) >= 3000 or prefix in prefixes:
                break
            prefixes.add(prefix)
        if prefix in prefixes:
            with pytest.raises(AmbiguousId):
                await caller.call("sessions.get", id=prefix)


@in_loop
async def test_lists_are_paged_and_filtered(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        names = [f"session {number}" for number in range(7)]
        for name in names:
            await caller.submit(name=name)
        first = await caller.call("sessions.list", limit=5)
        assert first["total"] == 7
        rest = await caller.call("sessions.list", limit=5, cursor=first["next"])
        assert rest["next"] is None
        listed = [session["name"] for session in first["sessions"] + rest["sessions"]]
        assert listed == names[::-1]
        one = await caller.call("sessions.list", name="session 3", states=["executed"])
        assert [session["name"] for session in one["sessions"]] == ["session 3"]
        for wrong in ({"limit": 0}, {"cursor": "x"}, {"states": ["nonsense"]}):
            with pytest.raises(InvalidRequest):
                await caller.call("sessions.list", **wrong)


@in_loop
async def test_watching_tells_every_state(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as caller,
        await Caller.connect(tmp_path) as watcher,
    ):
        await watcher.call("sessions.watch")
        session = await caller.submit(("files", [PATH]))
        await caller.call("sessions.approve", id=session["id"], digest=session["digest"])
        for state in ("running", "pending", "approved", "executing"):
            assert (await watcher.changed_to(state))["id"] == session["id"]
        step = await watcher.notification("session.step")
        assert step.params == {"id": session["id"], "index": 0, "applied": "done"}
        final = await watcher.changed_to("executed")
        assert final["plan_canonical"] is None
        assert final["script"] == b""


@in_loop
async def test_the_output_of_a_watched_session_is_sent_once(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as caller,
    ):
        await caller.call("sessions.watch")
        session = await caller.submit(("output", "a"), ("output", "b"))
        await caller.changed_to("executed")
        assert caller.notifications.empty()
        assert session["stdout"] == b"ab"


@in_loop
async def test_waiting_ends_after_its_time(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("files", [PATH]))
        waited = await caller.call("sessions.wait", id=session["id"], states=[], timeout=0.01)
        assert waited["state"] == "pending"


@in_loop
async def test_a_client_that_vanishes_takes_nothing_with_it(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as watcher,
    ):
        await watcher.call("sessions.watch")
        gone = await Caller.connect(tmp_path)
        gone.send("sessions.submit", kind="python", script=script(("files", [PATH])))
        await gone.writer.drain()
        await gone.close()
        session = await watcher.changed_to("pending")
        stored = await watcher.call("sessions.get", id=session["id"])
        assert stored["counts"]["create"] == 1


@in_loop
async def test_a_plan_of_ten_thousand_steps(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("many", 10_000))
        assert session["state"] == "pending"
        assert len(session["notes"]) == 10_000
        await caller.call("sessions.approve", id=session["id"], digest=session["digest"])
        ended = await caller.call("sessions.wait", id=session["id"], states=[])
        assert ended["state"] == "executed"
        assert {note["applied"] for note in ended["notes"]} == {"done"}


@in_loop
async def test_the_wire_model_fits_what_is_sent(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = decode(Session, await caller.submit(("files", [PATH])))
        assert session.plan is not None
        assert session.plan.digest == session.digest
        assert session.plan.steps[0].path == PATH


@pytest.mark.P10
@in_loop
async def test_a_full_disk_fails_plans_and_nothing_else(small_disk: Path) -> None:
    async with running_service(small_disk), await Caller.connect(small_disk) as caller:
        before = await caller.submit(("files", [PATH]))
        fill(small_disk / "filler")
        failed = await caller.submit(("many", 2000))
        assert failed["state"] == "failed"
        assert failed["error"]["code"] == "store_full"
        assert (await caller.submit(("output", "x")))["stdout"] == b"x"
        with pytest.raises(StoreFull):
            await caller.call("sessions.approve", id=before["id"], digest=before["digest"])
        rejected = await caller.call("sessions.reject", id=before["id"], reason="full")
        assert rejected["state"] == "rejected"
        (small_disk / "filler").unlink()
        assert (await caller.submit(("files", [PATH])))["state"] == "pending"
        listed = (await caller.call("sessions.list"))["sessions"]
        states = [session["state"] for session in listed]
        assert sorted(states) == ["executed", "failed", "pending", "rejected"]
        assert (await caller.call("audit.verify"))["records"] >= 8


def fill(path: Path) -> None:
    """Leave no room on the disk of `path`."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
