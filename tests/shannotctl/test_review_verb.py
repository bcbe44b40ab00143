"""`shannotctl review` and `approve` without a terminal, or as plain text."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from shannotd.wire.decision import Risk
from shannotd.wire.errors import NotAllowed
from shannotd.wire.session import SessionPage, State
from tests.support.peer import Link, Peer
from tests.support.samples import ABSENT, ID, bare, digest_of, file_step, session
from tests.support.terminal import finish, on_terminal

Run = Any

STEP = file_step("create", "/etc/x\x1b[2J", before=ABSENT)
PENDING = session(STEP)
OTHER = "0" * 31 + "1"
DANGEROUS = session(
    file_step("create", "/etc/sudoers.d/x", before=ABSENT, risk=Risk.DANGER), id=OTHER, name="other"
)
EXECUTED = session(STEP, state=State.EXECUTED, decided_at=2.0, decided_by=(0,))


@pytest.fixture
def waiting(peer: Peer) -> Peer:
    """A daemon with two pending sessions."""
    sessions = {ID: PENDING, OTHER: DANGEROUS}
    peer.answers("sessions.list", SessionPage((bare(PENDING), bare(DANGEROUS)), 2))
    peer.handlers["sessions.get"] = lambda link, params: sessions[params["id"]]
    peer.answers("sessions.watch", {})
    peer.answers("sessions.approve", bare(PENDING, state=State.APPROVED))
    peer.answers("sessions.wait", EXECUTED)
    peer.answers("sessions.reject", session(state=State.REJECTED, reason="no"))
    return peer


@pytest.mark.parametrize("words", [("review",), ("approve",), ("review", ID)])
def test_without_a_terminal_it_says_what_does_without(
    waiting: Peer, run: Run, words: tuple[str, ...]
) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert b"shannotctl review --plain" in done.stderr and b"--digest" in done.stderr
    assert waiting.requests == []


def test_options_of_one_approval_need_an_id(waiting: Peer, run: Run) -> None:
    for extra in (["--yes"], ["--digest", "f" * 64], ["--comment", "x"]):
        done = run("approve", *extra)
        assert done.returncode == 2 and b"with an ID" in done.stderr
    assert waiting.requests == []


@pytest.mark.P7
@pytest.mark.parametrize("verb", ["review", "approve"])
def test_in_a_pipe_all_that_waits_is_printed_and_nothing_asked(
    waiting: Peer, run: Run, verb: str
) -> None:
    done = run(verb, "--plain")
    assert done.returncode == 3
    text = done.stdout.decode()
    assert "\x1b" not in text and "/etc/x\\e[2J" in text
    # The highest risk first, the warnings of each before all else.
    first, second = text.index("Session 1 of 2: risk danger"), text.index("Session 2 of 2")
    assert first < text.index("danger     step 1") < text.index(f"Session {OTHER}") < second
    for made in (PENDING, DANGEROUS):
        assert f"approve {made.id} --yes --digest {digest_of(made)}" in text
    assert b"2 sessions still wait" in done.stderr
    assert waiting.asked("sessions.approve") == []


def test_one_session_as_text(waiting: Peer, run: Run) -> None:
    text = run("review", "--plain", ID).stdout.decode()
    assert "Session 1 of 1" in text and OTHER not in text


def test_nothing_waits(peer: Peer, run: Run) -> None:
    peer.answers("sessions.list", SessionPage((), 0))
    done = run("review", "--plain")
    assert (done.returncode, done.stdout) == (0, b"Nothing waits for a decision.\n")


@pytest.mark.P2
def test_questions_on_a_terminal(waiting: Peer) -> None:
    child = on_terminal(waiting, "review", "--plain")
    child.expect("approve, reject, skip or quit")
    child.sendline("nonsense")
    child.expect("type one of these words")
    child.sendline("approve")
    child.expect("Type `yes, danger`")
    child.sendline("yes")
    child.expect("not approved")
    child.sendline("r")
    child.expect("Why")
    child.sendline("no")
    child.expect("Session 2 of 2")
    child.expect("quit")
    child.sendline("a")
    child.expect(r"\[yes/no\] ")
    child.sendline("yes")
    _, status = finish(child)
    assert status == 0
    assert waiting.asked("sessions.reject") == [{"id": OTHER, "reason": "no"}]
    (asked,) = waiting.asked("sessions.approve")
    assert asked == {"id": ID, "digest": digest_of(PENDING), "comment": ""}


def test_skipping_and_quitting(waiting: Peer) -> None:
    child = on_terminal(waiting, "approve", TERM="dumb")
    child.expect("skip or quit")
    child.sendline("s")
    child.expect("skip or quit")
    child.sendline("q")
    assert finish(child)[1] == 3
    child = on_terminal(waiting, "review", "--plain")
    child.expect("skip or quit")
    child.sendeof()
    assert finish(child)[1] == 3
    assert waiting.asked("sessions.approve") == []


def test_a_refusal_is_told_and_the_next_one_asked(waiting: Peer) -> None:
    def refuse(link: Link, params: dict[str, Any]) -> Any:
        raise NotAllowed(action="reject", reason="you submitted it")

    waiting.handlers["sessions.reject"] = refuse
    child = on_terminal(waiting, "review", "--plain")
    child.expect("skip or quit")
    child.sendline("r")
    child.expect("Why")
    child.sendline("")
    child.expect("Session 2 of 2")
    child.expect("skip or quit")
    child.sendline("q")
    assert finish(child)[1] == 3


@pytest.mark.parametrize("verb", ["submit", "approve", "show", "list", "review"])
def test_the_screen_is_loaded_only_where_it_is_wanted(verb: str) -> None:
    code = (
        "import sys; from shannotctl.cli import program;"
        f"program.shannotctl.get_command(None, {verb!r});"
        "loaded = {'prompt_toolkit', 'pygments', 'rich', 'asyncio'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
