"""`shannotctl rollback` and `checkpoint` against a scripted daemon, with and without a terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shannotctl.cli import watch
from shannotctl.client import Client, StepApplied
from shannotctl.protocol import conflicts_of
from shannotctl.render.session import session_lines
from shannotctl.render.style import Style
from shannotd.wire.checkpoint import Checkpoint, CheckpointContents, SavedStep
from shannotd.wire.errors import (
    CheckpointUnknown,
    NotAllowed,
    RollbackConflict,
    RollbackPending,
)
from shannotd.wire.rollback import Conflict, RollbackAnswer
from shannotd.wire.session import State, StayingCommand
from shannotd.wire.submission import ScriptKind
from tests.support.peer import Link, Peer
from tests.support.samples import ID, bare, canonical, file_step, session
from tests.support.terminal import finish, on_terminal

Run = Any

BACK = "b" * 32
STEP = file_step("modify", "/etc/x")
STAYING = StayingCommand(2, ("systemctl", "start", "x\x1b"), "/usr/bin/systemctl", "no rule")
PENDING = replace(
    session(STEP),
    id=BACK,
    name="rollback of fix.py",
    kind=ScriptKind.ROLLBACK,
    plan_canonical=canonical(STEP, session=BACK),
    digest=None,
    exit_code=None,
    duration=None,
    rollback_of=ID,
    staying=(STAYING,),
)
assert PENDING.plan is not None
DIGEST = PENDING.plan.digest
PENDING = replace(PENDING, digest=DIGEST)
EXECUTED = replace(PENDING, state=State.EXECUTED, decided_at=2.0, decided_by=(0,))
CONFLICTS = (
    Conflict("/etc/x", "file 0644", "nothing"),
    Conflict("/etc/\x1b[2J", "a", "b", forcible=False),
)
CONFLICT = RollbackConflict(
    id=ID,
    shown="/etc/x (expected file 0644, found nothing)",
    remedy="`--force PATH` takes a path back all the same.",
    path="/etc/x",
    expected="file 0644",
    found="nothing",
    count=2,
    conflicts=json.dumps([vars(conflict) for conflict in CONFLICTS]),
)
SAVED = Checkpoint(ID, 1_700_000_000.0, 8192, True, "fix.py\x1b", State.EXECUTED)


@pytest.fixture
def waiting(peer: Peer) -> Peer:
    """A daemon that makes a rollback, and applies it when it is approved."""

    def wait(link: Link, params: dict[str, Any]) -> Any:
        link.notify("session.step", {"id": BACK, "index": 0, "applied": "undone"})
        return EXECUTED

    peer.answers("sessions.rollback", RollbackAnswer(PENDING))
    peer.answers("sessions.get", PENDING)
    peer.answers("sessions.watch", {})
    peer.answers("sessions.approve", bare(PENDING, state=State.APPROVED))
    peer.handlers["sessions.wait"] = wait
    return peer


@pytest.mark.P2
@pytest.mark.P7
def test_the_plan_that_was_shown_is_applied(waiting: Peer) -> None:
    child = on_terminal(waiting, "rollback", ID[:6])
    child.expect(r"Apply this plan\? \[yes/no\] ")
    assert "modify /etc/x" in child.before and DIGEST in child.before
    assert f"session {ID}" in child.before
    # What is not taken back stands beside the question once more.
    words = " ".join(child.before.split())
    assert words.count("not taken back: systemctl start 'x\\e' (step 3 of session") == 2
    assert "\x1b" not in child.before
    child.sendline("yes")
    shown, status = finish(child)
    assert status == 0 and f"{ID} is rolled back" in " ".join(shown.split())
    assert waiting.asked("sessions.rollback") == [
        {"id": ID[:6], "dry_run": False, "force": [], "force_all": False}
    ]
    assert waiting.asked("sessions.approve") == [{"id": BACK, "digest": DIGEST, "comment": ""}]


def test_who_says_no_leaves_it_waiting(waiting: Peer) -> None:
    child = on_terminal(waiting, "rollback", ID)
    child.expect(r"\[yes/no\] ")
    child.sendline("no")
    shown, status = finish(child)
    assert status == 3 and f"shannotctl reject {BACK}" in shown
    assert waiting.asked("sessions.approve") == []


@pytest.mark.P2
def test_without_a_terminal_it_waits(waiting: Peer, run: Run) -> None:
    for more in ((), ("--yes",)):
        done = run("rollback", ID, *more)
        assert done.returncode == 3 and done.stdout == b""
        assert f"shannotctl approve {BACK}".encode() in done.stderr
        assert b"not taken back" in done.stderr
    assert waiting.asked("sessions.approve") == []


@pytest.mark.P2
def test_one_that_waits_is_gone_on_with(waiting: Peer, run: Run) -> None:
    waiting.answers("sessions.rollback", RollbackPending(id=ID, by=BACK))
    done = run("rollback", ID, "--yes", "--digest", DIGEST.upper(), "--comment", "why")
    assert done.returncode == 0, done.stderr
    assert waiting.asked("sessions.get")[0] == {"id": BACK}
    (asked,) = waiting.asked("sessions.approve")
    assert asked == {"id": BACK, "digest": DIGEST, "comment": "why"}
    done = run("rollback", ID, "--yes", "--digest", "0" * 64)
    assert done.returncode == 7 and len(waiting.asked("sessions.approve")) == 1


def test_json(waiting: Peer, run: Run) -> None:
    done = run("rollback", ID, "--json")
    assert done.returncode == 3
    shown = json.loads(done.stdout)
    assert shown["id"] == BACK and shown["rollback_of"] == ID and shown["kind"] == "rollback"
    assert shown["staying"] == [
        {
            "step": 2,
            "argv": ["systemctl", "start", "x\x1b"],
            "program": "/usr/bin/systemctl",
            "reason": "no rule",
        }
    ]
    waiting.answers("sessions.get", EXECUTED)
    done = run("rollback", ID, "--json", "--yes", "--digest", DIGEST)
    assert done.returncode == 0 and json.loads(done.stdout)["state"] == "executed"


@pytest.mark.P9
@pytest.mark.P7
def test_what_is_in_the_way_is_all_named(waiting: Peer, run: Run) -> None:
    waiting.answers("sessions.rollback", CONFLICT)
    done = run("rollback", ID)
    assert done.returncode == 7
    assert b"/etc/x (expected file 0644, found nothing)" in done.stderr
    assert b"/etc/\\e[2J (expected a, found b; cannot be forced)" in done.stderr
    assert b"\x1b" not in done.stderr and b"--force PATH" in done.stderr
    done = run("rollback", ID, "--json")
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "rollback_conflict"
    assert error["details"]["conflicts"] == [vars(conflict) for conflict in CONFLICTS]
    with Client(waiting.path) as client, pytest.raises(RollbackConflict) as caught:
        client.rollback(ID)
    assert conflicts_of(caught.value) == CONFLICTS
    assert conflicts_of(RollbackConflict(conflicts="{")) == ()
    assert conflicts_of(RollbackConflict(conflicts="[1]")) == ()


@pytest.mark.P9
def test_what_is_forced(waiting: Peer, run: Run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    run("rollback", ID, "--force", cwd=tmp_path)
    run("rollback", ID, "--force", "/a", "link/../b", "link/c", cwd=tmp_path)
    first, second = waiting.asked("sessions.rollback")
    assert (first["force"], first["force_all"]) == ([], True)
    paths = ["/a", f"{tmp_path}/b", f"{tmp_path}/link/c"]
    assert (second["force"], second["force_all"]) == (paths, False)
    done = run("rollback", ID, "/a")
    assert done.returncode == 2 and len(waiting.asked("sessions.rollback")) == 2


def test_a_dry_run_shows_and_asks_nothing(waiting: Peer, run: Run) -> None:
    done = run("rollback", ID, "--dry-run", "--force", "/a")
    assert done.returncode == 0 and b"+new" in done.stdout and b"dry run" in done.stderr
    assert waiting.asked("sessions.rollback")[0]["dry_run"] is True
    shown = json.loads(run("rollback", ID, "--dry-run", "--json").stdout)
    assert shown["session"]["rollback_of"] == ID and shown["conflicts"] == []
    waiting.answers("sessions.rollback", RollbackAnswer(None, CONFLICTS))
    done = run("rollback", ID, "--dry-run")
    assert done.returncode == 7 and b"/etc/x (expected" in done.stdout
    shown = json.loads(run("rollback", ID, "--dry-run", "--json").stdout)
    assert shown["session"] is None and len(shown["conflicts"]) == 2


def test_a_refusal(peer: Peer, run: Run) -> None:
    peer.answers("sessions.rollback", NotAllowed(uid=1, action="roll back", reason="no role"))
    assert run("rollback", ID).returncode == 6


# show


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": State.ROLLED_BACK, "rolled_back_by": BACK}, f"taken back by session {BACK}"),
        ({"checkpoint": "kept"}, f"kept: `shannotctl rollback {ID}`"),
        ({"checkpoint": "dropped"}, "cannot be rolled back any more"),
        ({"rollback_of": BACK, "kind": ScriptKind.ROLLBACK}, f"takes back session {BACK}"),
    ],
)
def test_a_session_says_whether_it_can_be_rolled_back(
    changes: dict[str, Any], expected: str
) -> None:
    made = session(STEP, **{"state": State.EXECUTED, **changes})
    assert expected in " ".join(" ".join(session_lines(made, Style())).split())


def test_one_that_is_rolled_back_offers_nothing() -> None:
    made = session(STEP, state=State.ROLLED_BACK, rolled_back_by=BACK, checkpoint="kept")
    assert "shannotctl rollback" not in " ".join(session_lines(made, Style()))


@pytest.mark.parametrize(("applied", "offered"), [("undone", False), ("done", True)])
def test_one_of_which_nothing_is_left_offers_nothing(applied: str, offered: bool) -> None:
    steps = [replace(STEP, applied=applied), replace(STEP, applied="skipped")]
    made = session(*steps, state=State.FAILED, checkpoint="kept")
    assert ("shannotctl rollback" in " ".join(session_lines(made, Style()))) is offered


@pytest.mark.parametrize(
    ("applied", "expected"),
    [("undone", "it was done, and taken back"), ("in_doubt", "it was running when the apply")],
)
def test_what_became_of_a_step_in_words(applied: str, expected: str, peer: Peer, run: Run) -> None:
    made = session(replace(STEP, applied=applied), state=State.FAILED)
    assert expected in " ".join(" ".join(session_lines(made, Style())).split())
    assert expected in str(watch._as_text(StepApplied(ID, 0, applied)))
    peer.answers("sessions.get", made)
    shown = json.loads(run("show", ID, "--json").stdout)
    assert shown["plan"]["steps"][0]["applied"] == applied


# checkpoint


@pytest.mark.P7
def test_checkpoints_are_listed(peer: Peer, run: Run) -> None:
    unknown = replace(SAVED, session=BACK, name=None, state=None, finished=False)
    peer.answers("checkpoints.list", [SAVED, unknown])
    done = run("checkpoint", "list")
    assert done.returncode == 0 and b"\x1b" not in done.stdout
    first, second = done.stdout.decode().splitlines()[1:]
    assert first.startswith(ID) and "8.0 KiB" in first and "fix.py\\e" in first
    assert "unknown session" in second and "in use" in second
    shown = json.loads(run("checkpoint", "list", "--json").stdout)
    assert shown[0]["size"] == 8192 and shown[1]["name"] is None
    peer.answers("checkpoints.list", [])
    assert run("checkpoint", "list").stdout == b""


@pytest.mark.P7
def test_one_is_shown(peer: Peer, run: Run) -> None:
    steps = (SavedStep(0, "modify", "/etc/x\x1b", 1, 10), SavedStep(3, "delete", "/d", 12, 5000))
    peer.answers("checkpoints.get", CheckpointContents(SAVED, steps))
    done = run("checkpoint", "show", ID[:5])
    assert done.returncode == 0
    text = done.stdout.decode()
    assert "  1. modify /etc/x\\e (10 bytes)" in text
    assert "  4. delete /d (4.9 KiB, 12 entries)" in text
    assert json.loads(run("checkpoint", "show", ID, "--json").stdout)["steps"][1]["entries"] == 12
    peer.answers("checkpoints.get", CheckpointUnknown(id=ID))
    assert run("checkpoint", "show", ID).returncode == 2


def test_one_is_dropped(peer: Peer, run: Run) -> None:
    peer.answers("checkpoints.get", CheckpointContents(SAVED, ()))
    peer.answers("checkpoints.drop", {})
    assert run("checkpoint", "drop", ID).returncode == 2
    assert peer.asked("checkpoints.drop") == []
    done = run("checkpoint", "drop", ID[:6], "--yes")
    assert done.returncode == 0 and b"cannot be rolled back any more" in done.stderr
    assert peer.asked("checkpoints.drop") == [{"id": ID}]
    assert json.loads(run("checkpoint", "drop", ID, "--yes", "--json").stdout)["session"] == ID
    for answer, dropped in (("no", 2), ("yes", 3)):
        child = on_terminal(peer, "checkpoint", "drop", ID)
        child.expect(r"\[yes/no\] ")
        child.sendline(answer)
        assert finish(child)[1] == 0
        assert len(peer.asked("checkpoints.drop")) == dropped
