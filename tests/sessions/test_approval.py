"""Approval: who may, what exactly, when it counts, and what then happens."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from shannotd.sessions.access import ALL_ROLES, Role, require_approver, require_stopper
from shannotd.sessions.access import Caller as Account
from shannotd.wire.errors import DigestMismatch, NotAllowed, StoreFull, WrongState, error_from_wire
from shannotd.wire.session import Session, State
from tests.support.service import Caller, change_stored, in_loop, running_service

PATH = "/srv/example/new"
SUBMITTER, DAEMON, IDENTITY, REVIEWER = 1001, 990, 1003, 1004


def session(**changes: object) -> Session:
    """A pending session."""
    values: dict[str, object] = {
        "id": "0" * 32,
        "name": "test",
        "state": State.PENDING,
        "profile": "default",
        "target": "local",
        "submitter": SUBMITTER,
        "submitter_name": "submitter",
        "identity": "identity",
        "created_at": 0.0,
        "expires_at": None,
    }
    return Session(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.P5
@pytest.mark.parametrize("uid", [SUBMITTER, DAEMON, IDENTITY])
def test_some_never_approve_whatever_their_roles(uid: int) -> None:
    with pytest.raises(NotAllowed):
        require_approver(
            Account(uid, ALL_ROLES), session(), identity_uid=IDENTITY, daemon_uid=DAEMON
        )


@pytest.mark.P5
def test_who_changed_a_plan_counts_as_its_submitter() -> None:
    changed = session(editors=(REVIEWER, 1005))
    for uid in (SUBMITTER, REVIEWER, 1005):
        with pytest.raises(NotAllowed):
            require_approver(
                Account(uid, ALL_ROLES), changed, identity_uid=IDENTITY, daemon_uid=DAEMON
            )
    other = Account(1006, frozenset({Role.REVIEW}))
    require_approver(other, changed, identity_uid=IDENTITY, daemon_uid=DAEMON)
    own = Account(REVIEWER, ALL_ROLES, embedded=True)
    require_approver(own, changed, identity_uid=IDENTITY, daemon_uid=DAEMON)


@pytest.mark.P5
def test_a_reviewer_approves_and_others_do_not() -> None:
    reviewer = Account(REVIEWER, frozenset({Role.REVIEW}))
    require_approver(reviewer, session(), identity_uid=IDENTITY, daemon_uid=DAEMON)
    for roles in (frozenset[Role](), ALL_ROLES - {Role.REVIEW}):
        with pytest.raises(NotAllowed):
            require_approver(
                Account(REVIEWER, roles), session(), identity_uid=IDENTITY, daemon_uid=DAEMON
            )


@pytest.mark.P5
def test_the_embedded_daemon_lets_its_own_account_approve() -> None:
    own = Account(SUBMITTER, ALL_ROLES, embedded=True)
    require_approver(own, session(), identity_uid=SUBMITTER, daemon_uid=SUBMITTER)


def test_who_may_stop() -> None:
    require_stopper(Account(SUBMITTER, frozenset({Role.SUBMIT})), session(), "stop")
    require_stopper(Account(REVIEWER, frozenset({Role.REVIEW})), session(), "stop")
    require_stopper(Account(REVIEWER, frozenset({Role.ADMIN})), session(), "stop")
    with pytest.raises(NotAllowed):
        require_stopper(Account(REVIEWER, frozenset({Role.SUBMIT})), session(), "stop")


@pytest.mark.P2
@in_loop
async def test_only_the_digest_that_was_seen_is_approved(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        pending = await caller.submit(("files", [PATH]))
        for digest in ("", "0" * 64, pending["digest"][:-1], pending["digest"].upper()):
            with pytest.raises(DigestMismatch):
                await caller.call("sessions.approve", id=pending["id"], digest=digest)
        assert (await caller.call("sessions.get", id=pending["id"]))["state"] == "pending"


@pytest.mark.P6
@in_loop
async def test_the_approval_is_in_the_log_before_it_counts(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        pending = await caller.submit(("files", [PATH]))
        await caller.call(
            "sessions.approve", id=pending["id"], digest=pending["digest"], comment="seen"
        )
        ended = await caller.call("sessions.wait", id=pending["id"], states=[])
        assert ended["state"] == "executed"
        assert ended["decided_by"] == [os.getuid()]
        assert ended["notes"][0]["applied"] == "done"
        records = await caller.call("audit.tail", session=pending["id"])
        assert [record["event"] for record in records] == [
            "session.submitted",
            "session.pending",
            "session.approval",
            "session.approved",
            "session.executing",
            "session.executed",
        ]
        approval = records[2]
        assert approval["uid"] == os.getuid()
        assert approval["details"]["digest"] == pending["digest"]
        assert approval["details"]["comment"] == "seen"
        assert (await caller.call("audit.verify"))["records"] >= len(records)


@pytest.mark.P6
@in_loop
async def test_without_a_log_nothing_is_approved_and_everything_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        first = await caller.submit(("files", [PATH]))
        second = await caller.submit(("files", [PATH]))
        running = await caller.submit(("cancelled", None), wait=False)
        await caller.call("audit.tail")

        def refuse(*_: object, **__: object) -> None:
            raise StoreFull(reason="No space left on device", path="audit")

        with monkeypatch.context() as broken:
            broken.setattr(service._audit, "append", refuse)
            with pytest.raises(StoreFull):
                await caller.call("sessions.approve", id=first["id"], digest=first["digest"])
            assert (await caller.call("sessions.get", id=first["id"]))["state"] == "pending"
            rejected = await caller.call("sessions.reject", id=second["id"], reason="no")
            assert rejected["state"] == "rejected"
            cancelled = await caller.call("sessions.cancel", id=running["id"])
            assert cancelled["state"] == "cancelled"
        records = await caller.call("audit.tail", session=second["id"])
        assert records[-1]["event"] == "session.rejected"
        approved = await caller.call("sessions.approve", id=first["id"], digest=first["digest"])
        assert approved["state"] != "pending"


@pytest.mark.P6
@pytest.mark.parametrize(("part", "method"), [("_store", "commit"), ("_audit", "sync")])
@in_loop
async def test_an_approval_that_could_not_be_stored_is_void_in_the_log_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, method: str
) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        pending = await caller.submit(("files", [PATH]))

        def refuse(*_: object, **__: object) -> None:
            raise StoreFull(reason="No space left on device", path="store")

        with monkeypatch.context() as broken:
            broken.setattr(getattr(service, part), method, refuse)
            with pytest.raises(StoreFull):
                await caller.call("sessions.approve", id=pending["id"], digest=pending["digest"])
        records = await caller.call("audit.tail", session=pending["id"])
        assert [record["event"] for record in records][-2:] == [
            "session.approval",
            "session.approval_void",
        ]
        assert (await caller.call("sessions.get", id=pending["id"]))["state"] == "pending"


@pytest.mark.P2
@pytest.mark.parametrize(
    ("word", "state", "code"), [("stale", "stale", "stale"), ("failed", "failed", "apply_failed")]
)
@in_loop
async def test_an_apply_that_stops_says_where(
    tmp_path: Path, word: str, state: str, code: str
) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        paths = ["/srv/a", f"/srv/{word}", "/srv/c"]
        pending = await caller.submit(("files", paths))
        await caller.call("sessions.approve", id=pending["id"], digest=pending["digest"])
        ended = await caller.call("sessions.wait", id=pending["id"], states=[])
        assert ended["state"] == state
        assert ended["error"]["code"] == code
        assert paths[1] in ended["error"]["message"]
        assert [note["applied"] for note in ended["notes"]] == ["done", word, None]
        with pytest.raises(WrongState):
            await caller.call("sessions.approve", id=pending["id"], digest=pending["digest"])


@in_loop
async def test_a_runner_that_dies_while_it_applies_fails_the_session(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        pending = await caller.submit(("files", ["/srv/a", "/srv/die"]), ("large", 1_000_000))
        await caller.call("sessions.approve", id=pending["id"], digest=pending["digest"])
        ended = await caller.call("sessions.wait", id=pending["id"], states=[])
        assert ended["state"] == "failed"
        assert ended["error"]["code"] == "runner_lost"
        assert ended["notes"][0]["applied"] == "done"


@in_loop
async def test_two_approvals_at_once_apply_once(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as one,
        await Caller.connect(tmp_path) as other,
    ):
        pending = await one.submit(("files", [PATH]))
        arguments = {"id": pending["id"], "digest": pending["digest"]}
        answers = await asyncio.gather(
            one.send("sessions.approve", **arguments), other.send("sessions.approve", **arguments)
        )
        assert sorted(answer.error is None for answer in answers) == [False, True]
        await one.call("sessions.wait", id=pending["id"], states=[])
        events = [record["event"] for record in await one.call("audit.tail", session=pending["id"])]
        assert events.count("session.executing") == 1


@in_loop
async def test_plans_are_applied_one_at_a_time_and_one_that_waits_can_be_cancelled(
    tmp_path: Path,
) -> None:
    slow = str(tmp_path / "slow")
    os.mkfifo(slow + ".go")
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        first = await caller.submit(("files", [slow]))
        second = await caller.submit(("files", [PATH]))
        for pending in (first, second):
            await caller.call("sessions.approve", id=pending["id"], digest=pending["digest"])
        waiting = await caller.call("sessions.get", id=second["id"])
        assert waiting["state"] == "approved"
        too_late = caller.send("sessions.cancel", id=first["id"])
        cancelled = await caller.call("sessions.cancel", id=second["id"])
        assert cancelled["state"] == "cancelled"
        await asyncio.to_thread((tmp_path / "slow.go").write_bytes, b"")
        ended = await caller.call("sessions.wait", id=first["id"], states=[])
        assert ended["state"] == "executed"
        assert isinstance(error_from_wire((await too_late).error), WrongState)
        assert (await caller.call("sessions.get", id=second["id"]))["state"] == "cancelled"


@pytest.mark.P2
@in_loop
async def test_a_plan_that_was_changed_in_the_store_is_not_applied(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        pending = await caller.submit(("files", [PATH]))
        database = sqlite3.connect(tmp_path / "state" / "store" / "store.sqlite")
        with database:
            database.execute(
                "UPDATE contents SET data = ? WHERE part = 'plan'",
                (pending["plan_canonical"].replace(b"example", b"changed"),),
            )
        database.close()
        await caller.call("sessions.approve", id=pending["id"], digest=pending["digest"])
        ended = await caller.call("sessions.wait", id=pending["id"], states=[])
        assert ended["state"] == "failed"
        assert ended["error"]["code"] == "digest_mismatch"


@in_loop
async def test_approved_and_executing_sessions_of_a_dead_daemon_have_failed(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        sessions = [await caller.submit(("files", [PATH])) for _ in range(3)]
    for pending, state in zip(sessions, ("approved", "executing", "running"), strict=True):
        change_stored(tmp_path, pending["id"], state=state)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        found = [await caller.call("sessions.wait", id=each["id"], states=[]) for each in sessions]
        assert [each["state"] for each in found] == ["failed", "failed", "cancelled"]
        assert "nothing of it was" in found[0]["error"]["message"]
        assert found[1]["error"]["code"] == "runner_lost"
