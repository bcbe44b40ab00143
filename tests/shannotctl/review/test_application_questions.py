"""What the reviewer asks, and what counts as an answer: whose, to what, and seen or not (P1)."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.data_structures import Size

from shannotctl.review import messages as m
from shannotctl.review.state import Ask, Kind
from shannotd.wire.errors import AuthenticationNeeded
from shannotd.wire.session import SessionPage, State
from tests.support import samples
from tests.support.accounts import is_root
from tests.support.peer import Link as PeerLink
from tests.support.peer import Peer
from tests.support.reviewing import Terminal, both, files, reviewing, state_of
from tests.support.service import Caller, in_loop, running_service, socket_of

pytestmark = pytest.mark.P7


def runs(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.P2
@in_loop
async def test_a_plan_is_approved_by_the_digest_that_was_shown(tmp_path: Path) -> None:
    async with both(tmp_path, files("a", "b")) as (screen, caller):
        await screen.press("enter")
        await screen.until("create /srv/b")
        opened = screen.review.opened
        assert opened is not None and opened.plan is not None
        await screen.press("x")
        assert "Apply this plan" in screen.text and opened.plan.digest in screen.text
        await screen.press("y")
        await screen.until("✓   1. ")
        await screen.until("approved by uid")
        (effect,) = screen.wanted(m.Approve)
        assert effect.digest == opened.plan.digest
        assert await state_of(caller, opened.session.id) == "executed"
        assert "steps      2 done" in screen.text


@pytest.mark.P1
@in_loop
async def test_no_key_approves_by_being_held_down(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/a")
        for key in ("x", "enter", "space"):
            await screen.press(*[key] * 12)
            await screen.press("escape")
        assert screen.wanted(m.Approve) == []


@pytest.mark.P1
@in_loop
async def test_what_was_typed_before_the_question_was_drawn_does_not_count(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/a")
        await screen.send("xyyyy", 5)
        assert screen.wanted(m.Approve) == []
        assert screen.review.panel is not None and screen.review.panel.ask is Ask.APPROVE


@pytest.mark.P1
@in_loop
async def test_a_question_is_not_answered_before_it_could_be_seen(tmp_path: Path) -> None:
    """Text that is pasted without saying so comes in pieces, between which the screen is drawn."""
    async with both(tmp_path, files("a"), settles=False) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/a")
        await screen.press("x", "y", "y", "y")
        assert "Apply this plan" in screen.text and screen.wanted(m.Approve) == []
        screen.reviewer.tell(m.Settled())
        await screen.press("y")
        assert len(screen.wanted(m.Approve)) == 1


@pytest.mark.P1
@in_loop
async def test_a_paste_is_no_key(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/a")
        await screen.send("\x1b[200~xyyes, danger\r\x1b[201~", 1)
        assert screen.review.panel is None
        await screen.press("x")
        await screen.send("\x1b[200~y\x1b[201~", 1)
        assert screen.wanted(m.Approve) == []


DANGER = [("files", ["/etc/sudoers.d/agent"])]


@pytest.mark.P1
@in_loop
async def test_danger_wants_its_words(tmp_path: Path) -> None:
    async with both(tmp_path, DANGER) as (screen, _):
        await screen.press("enter")
        await screen.until("/etc/sudoers.d/agent")
        assert "danger" in screen.lines[0]
        for words in ("y", "yes", "yes, danger!", ""):
            await screen.press("x")
            assert "Type `yes, danger`" in screen.text
            await screen.type(words)
            await screen.press("enter")
            assert screen.wanted(m.Approve) == []
        await screen.press("x")
        await screen.send("\x1b[200~yes, danger\x1b[201~", 1)
        await screen.press("enter")
        assert screen.wanted(m.Approve) == [], "a paste is nothing that one has typed"
        await screen.press("x")
        await screen.type("yes, danger")
        await screen.press("enter")
        await screen.until(lambda review: bool(screen.wanted(m.Approve)))
        await screen.until("approved by uid")


@in_loop
async def test_a_reason_reaches_the_submitter(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, caller):
        await screen.press("enter")
        await screen.until("create /srv/a")
        await screen.press("r")
        await screen.type("not ")
        await screen.send("\x1b[200~on a\n friday\x1b[201~", 1)
        await screen.press("backspace", "y", "enter")
        await screen.until("rejected")
        id = screen.review.opened.session.id if screen.review.opened else ""
        shown = await caller.call("sessions.get", id=id)
        assert (shown["state"], shown["reason"]) == ("rejected", "not on a friday")


@in_loop
async def test_a_question_can_be_left(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/a")
        for key in ("x", "r", "/"):
            await screen.press(key, "escape")
            assert screen.review.panel is None and screen.review.place.kind is Kind.SESSION
        for leave in ("n", "q", "c-c"):
            await screen.press("x", leave)
            assert screen.review.panel is None
        assert screen.wanted(m.Approve) == [] and not screen.running.done()


@in_loop
async def test_what_was_decided_elsewhere_is_not_approved(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, caller):
        await screen.press("enter")
        await screen.until("create /srv/a")
        await screen.press("x")
        opened = screen.review.opened
        assert opened is not None
        await caller.call("sessions.reject", id=opened.session.id, reason="elsewhere")
        await screen.until(
            lambda r: r.opened is not None and r.opened.session.state is State.REJECTED
        )
        await screen.press("y")
        assert screen.wanted(m.Approve) == []
        assert "elsewhere" in screen.text


@pytest.mark.P1
@in_loop
async def test_a_question_that_cannot_be_seen_waits_until_it_can(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/a")
        output = screen.reviewer.application.output
        assert isinstance(output, Terminal)
        large, output.size = output.size, Size(rows=8, columns=30)
        screen.reviewer.tell(m.Key("x"))
        for _ in range(3):
            await screen.redrawn()
        screen.reviewer.tell(m.Key("y"))
        panel = screen.review.panel
        assert panel is not None and not panel.drawn and not screen.wanted(m.Approve)
        output.size = large
        await screen.until(lambda review: review.panel is not None and review.panel.drawn)
        await screen.press("y")
        assert len(screen.wanted(m.Approve)) == 1


@pytest.mark.P5
@pytest.mark.skipif(not is_root(), reason="in a service, sessions run under another account")
@in_loop
async def test_a_service_refuses_ones_own_plan_and_the_screen_says_why(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path, embedded=False) as _,
        await Caller.connect(tmp_path) as caller,
    ):
        await caller.submit(*files("a"), name="own")
        async with reviewing(socket_of(tmp_path)) as screen:
            await screen.until("own")
            await screen.press("enter")
            await screen.until("create /srv/a")
            await screen.press("x", "y")
            await screen.until(lambda review: review.panel is not None)
            panel = screen.review.panel
            assert panel is not None and panel.ask is Ask.MESSAGE
            assert "may not approve" in " ".join(panel.text)
            await screen.press("enter")
            assert "waits for a decision" in screen.text


@pytest.mark.P5
@pytest.mark.parametrize("agent_starts", [True, False])
@in_loop
async def test_polkit_asks_on_the_terminal(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent_starts: bool
) -> None:
    """Where it wants a proof that one is there: with an agent, while the screen is the shell's."""
    made = samples.session(samples.file_step("create", "/etc/x"))
    seen = tmp_path / "asked"
    agent = tmp_path / "bin" / "pkttyagent"
    agent.parent.mkdir()
    if agent_starts:
        # $2 is the descriptor that it closes when it is ready to ask (dash knows one digit only).
        agent.write_text(f'#!/bin/bash\necho $$ > {seen}\neval "exec $2>&-"\nexec sleep 60\n')
        agent.chmod(0o755)
    monkeypatch.setenv(
        "PATH", f"{agent.parent}:/usr/bin:/bin" if agent_starts else str(agent.parent)
    )
    peer.answers("sessions.list", SessionPage((samples.bare(made),), 1))
    peer.answers("sessions.watch", {})
    peer.answers("sessions.get", made)
    peer.answers("daemon.status", samples.STATUS)

    def approve(link: PeerLink, params: dict[str, Any]) -> Any:
        if not seen.exists():
            raise AuthenticationNeeded(action="approve this plan", reason="nobody could ask")
        return samples.bare(made, state=State.APPROVED)

    peer.handlers["sessions.approve"] = approve
    async with reviewing(peer.path) as screen:
        await screen.until("1 pending")
        await screen.press("enter")
        await screen.until("create /etc/x")
        await screen.press("x")
        await screen.send("y", 1)
        if not agent_starts:
            await screen.until("only after you have proved that you are there")
            return
        await screen.until(lambda r: any(isinstance(t, m.Approved) for t in screen.reviewer.told))
        assert len(peer.asked("sessions.approve")) == 2
        assert not runs(seen.read_text().strip()), "it is gone again"


@pytest.mark.P5
@in_loop
async def test_a_signal_ends_the_question_on_the_terminal(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = samples.session(samples.file_step("create", "/etc/x"))
    fifo, agent = tmp_path / "asks", tmp_path / "pkttyagent"
    os.mkfifo(fifo)
    agent.write_text(f'#!/bin/bash\neval "exec $2>&-"\necho $$ > {fifo}\nexec sleep 60\n')
    agent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    peer.answers("sessions.list", SessionPage((samples.bare(made),), 1))
    peer.answers("sessions.watch", {})
    peer.answers("sessions.get", made)
    peer.answers("daemon.status", samples.STATUS)
    asked, over = threading.Semaphore(0), threading.Event()

    def approve(link: PeerLink, params: dict[str, Any]) -> Any:
        asked.release()
        if len(peer.asked("sessions.approve")) > 1:
            over.wait(60)
        raise AuthenticationNeeded(action="approve this plan", reason="nobody could ask")

    peer.handlers["sessions.approve"] = approve
    try:
        async with reviewing(peer.path) as screen:
            await screen.until("1 pending")
            await screen.press("enter")
            await screen.until("create /etc/x")
            await screen.press("x")
            pressing = asyncio.ensure_future(screen.send("y", 1))  # nothing is drawn meanwhile
            process = await asyncio.to_thread(fifo.read_text)
            for _ in range(2):
                assert await asyncio.to_thread(asked.acquire, True, 30)
            began = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)
            assert await asyncio.wait_for(screen.running, 30) == 128 + signal.SIGTERM
            assert time.monotonic() - began < 10
            assert not runs(process.strip()), "it is gone again"
            await pressing
    finally:
        over.set()
