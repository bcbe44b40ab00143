"""`shannotctl approve` against a scripted daemon, with and without a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from shannotd.wire.decision import Risk
from shannotd.wire.errors import DigestMismatch
from shannotd.wire.session import Failure, Session, State
from tests.support.peer import Link, Peer
from tests.support.samples import ABSENT, ID, RELOAD, bare, digest_of, file_step, session
from tests.support.terminal import finish, on_terminal

Run = Any

pytestmark = pytest.mark.P2

STEP = file_step("create", "/etc/x", before=ABSENT)
PENDING = session(STEP)
EXECUTED = session(STEP, state=State.EXECUTED, decided_at=2.0, decided_by=(0,))
DANGEROUS = session(file_step("create", "/etc/sudoers.d/x", before=ABSENT, risk=Risk.DANGER))


@pytest.fixture
def applying(peer: Peer) -> Peer:
    """A daemon with a pending plan that it applies when it is approved."""

    def wait(link: Link, params: dict[str, Any]) -> Any:
        link.notify("session.step", {"id": ID, "index": 0, "applied": "done"})
        return EXECUTED

    peer.answers("sessions.get", PENDING)
    peer.answers("sessions.watch", {})
    peer.answers("sessions.approve", bare(PENDING, state=State.APPROVED))
    peer.handlers["sessions.wait"] = wait
    return peer


def approve(peer: Peer, *arguments: str) -> Any:
    return on_terminal(peer, "approve", *arguments)


@pytest.mark.parametrize("answer", ["yes", "y", "YES"])
def test_yes_applies_the_plan_that_was_shown(applying: Peer, answer: str) -> None:
    child = approve(applying, ID[:6])
    child.expect(r"Apply this plan\? \[yes/no\] ")
    assert "create /etc/x" in child.before and "+new" in child.before
    assert digest_of(PENDING) in child.before
    child.sendline(answer)
    shown, status = finish(child)
    assert status == 0
    assert f"session {ID} executed" in shown
    (asked,) = applying.asked("sessions.approve")
    assert asked == {"id": ID, "digest": digest_of(PENDING), "comment": ""}


@pytest.mark.P7
def test_what_a_long_plan_amounts_to_stands_beside_the_question(applying: Peer) -> None:
    diff = "--- a\n+++ b\n@@ -0,0 +1 @@\n" + "".join(f"+line {number}\n" for number in range(500))
    long = file_step("create", "/etc/x", before=ABSENT, diff=diff)
    applying.answers("sessions.get", session(long))
    child = approve(applying, ID)
    child.expect(r"\[yes/no\] ")
    assert "1 step: 1 create; risk caution" in "".join(child.before.splitlines()[-2:])
    child.sendline("no")
    assert finish(child)[1] == 3


@pytest.mark.P7
def test_warnings_of_commands_stand_beside_the_question(applying: Peer) -> None:
    applying.answers("sessions.get", session(STEP, RELOAD))
    child = approve(applying, ID)
    child.expect(r"\[yes/no\] ")
    beside = " ".join("".join(child.before.splitlines()[-6:]).split())
    assert "2 steps: 1 create, 1 command; risk caution" in beside
    assert "is in no checkpoint" in beside and "step 2 assumed" in beside
    child.sendline("no")
    assert finish(child)[1] == 3


@pytest.mark.P7
def test_what_commands_print_is_shown_while_the_plan_is_applied(applying: Peer) -> None:
    made = session(STEP, RELOAD)

    def wait(link: Link, params: dict[str, Any]) -> Any:
        printed = {"id": ID, "index": 1, "stream": "stdout", "data": b"reload\x1b[2Jed"}
        link.notify("session.command_output", printed)
        link.notify("session.step", {"id": ID, "index": 1, "applied": "done"})
        return EXECUTED

    applying.answers("sessions.get", made)
    applying.handlers["sessions.wait"] = wait
    child = approve(applying, ID, "--yes")
    shown, status = finish(child)
    assert status == 0
    assert "  step 2 | reload\\e[2Jed" in shown


@pytest.mark.parametrize("answer", ["no", "", "yess", "yes, danger", "\x04"])
def test_anything_else_approves_nothing(applying: Peer, answer: str) -> None:
    child = approve(applying, ID)
    child.expect(r"\[yes/no\] ")
    child.send(answer if answer == "\x04" else f"{answer}\n")
    shown, status = finish(child)
    assert status == 3
    assert "still pending" in shown
    assert applying.asked("sessions.approve") == []


@pytest.mark.parametrize("made", [DANGEROUS, session(STEP, risk=Risk.DANGER)])
@pytest.mark.parametrize(("answer", "status"), [("yes", 3), ("y", 3), ("yes, danger", 0)])
def test_danger_wants_its_own_words(
    applying: Peer, made: Session, answer: str, status: int
) -> None:
    applying.answers("sessions.get", made)
    child = approve(applying, ID)
    child.expect("Type `yes, danger` to apply it: ")
    child.sendline(answer)
    assert finish(child)[1] == status
    assert len(applying.asked("sessions.approve")) == (1 if status == 0 else 0)


def test_what_was_typed_before_the_question_does_not_count(peer: Peer, applying: Peer) -> None:
    import threading

    typed = threading.Event()

    def get(link: Link, params: dict[str, Any]) -> Any:
        assert typed.wait(30)
        return PENDING

    peer.handlers["sessions.get"] = get
    child = approve(applying, ID)
    child.sendline("yes")
    child.expect("yes")
    typed.set()
    child.expect(r"\[yes/no\] ")
    child.sendline("no")
    assert finish(child)[1] == 3
    assert applying.asked("sessions.approve") == []


def test_an_interrupt_at_the_question(applying: Peer) -> None:
    child = approve(applying, ID)
    child.expect(r"\[yes/no\] ")
    child.sendintr()
    shown, status = finish(child)
    assert status == 130
    assert "Traceback" not in shown
    assert applying.asked("sessions.approve") == []


def test_without_a_terminal_it_says_how(applying: Peer, run: Run) -> None:
    for extra in ([], ["--yes"], ["--digest", digest_of(PENDING)]):
        done = run("approve", ID, *extra)
        assert done.returncode == 2
        assert f"shannotctl show {ID} --diff".encode() in done.stderr
        assert b"--yes --digest" in done.stderr
    assert applying.requests == []


def test_without_a_terminal_yes_and_the_digest_approve(applying: Peer, run: Run) -> None:
    done = run("approve", ID, "--yes", "--digest", digest_of(PENDING), "--comment", "ok")
    assert done.returncode == 0
    (asked,) = applying.asked("sessions.approve")
    assert asked == {"id": ID, "digest": digest_of(PENDING), "comment": "ok"}


@pytest.mark.parametrize("digest", ["", "f" * 64, "f"])
def test_another_digest_is_refused_before_anything_is_sent(
    applying: Peer, run: Run, digest: str
) -> None:
    done = run("approve", ID, "--yes", "--digest", digest)
    assert done.returncode == (7 if digest else 2)
    assert applying.asked("sessions.approve") == []


def test_the_digest_is_computed_and_not_believed(applying: Peer, run: Run) -> None:
    applying.answers("sessions.get", session(STEP, digest="f" * 64))
    assert run("approve", ID, "--yes", "--digest", "f" * 64).returncode == 7
    assert applying.asked("sessions.approve") == []


def test_the_daemon_may_still_refuse(applying: Peer, run: Run) -> None:
    applying.answers("sessions.approve", DigestMismatch(id=ID, digest="e" * 64))
    done = run("approve", ID, "--yes", "--digest", digest_of(PENDING))
    assert done.returncode == 7
    assert b"not the one that you saw" in done.stderr


@pytest.mark.parametrize(
    ("state", "status"), [(State.REJECTED, 4), (State.EXPIRED, 4), (State.EXECUTED, 4)]
)
def test_only_pending_plans_can_be_approved(
    applying: Peer, run: Run, state: State, status: int
) -> None:
    applying.answers("sessions.get", session(STEP, state=state))
    done = run("approve", ID, "--yes", "--digest", digest_of(PENDING))
    assert done.returncode == status
    assert state.value.encode() in done.stderr


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        (session(STEP, state=State.STALE, error=Failure("stale", "/etc/x changed")), 7),
        (session(STEP, state=State.FAILED, error=Failure("apply_failed", "no")), 5),
        (session(STEP, state=State.ROLLED_BACK, decided_at=1.0), 5),
    ],
)
def test_how_the_apply_ended_is_the_exit_status(
    applying: Peer, run: Run, ended: Any, status: int
) -> None:
    applying.answers("sessions.wait", ended)
    done = run("approve", ID, "--yes", "--digest", digest_of(PENDING))
    assert done.returncode == status
    assert ID.encode() in done.stderr


@pytest.mark.parametrize(
    ("decided_by", "text"), [((0,), b"2 more approvals"), ((0, 1), b"1 more approval ")]
)
def test_a_plan_that_needs_more_approvals(
    applying: Peer, run: Run, decided_by: tuple[int, ...], text: bytes
) -> None:
    applying.answers("sessions.approve", bare(PENDING, approvals=3, decided_by=decided_by))
    done = run("approve", ID, "--yes", "--digest", digest_of(PENDING))
    assert done.returncode == 3
    assert text in done.stderr


def test_a_plan_that_was_executed_is_not_approved_again(applying: Peer, run: Run) -> None:
    applying.answers("sessions.get", EXECUTED)
    done = run("approve", ID, "--yes", "--digest", digest_of(PENDING))
    assert done.returncode == 4
    assert b"is executed" in done.stderr


@pytest.mark.P10
def test_a_plan_that_is_none(applying: Peer, run: Run) -> None:
    applying.answers("sessions.get", session(STEP, plan_canonical=b"{}"))
    done = run("approve", ID, "--yes", "--digest", "f" * 64)
    assert done.returncode == 8
    assert b"Traceback" not in done.stderr
