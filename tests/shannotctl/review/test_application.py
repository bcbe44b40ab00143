"""The reviewer with a real daemon over a scripted runner: sessions come, are followed and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from shannotctl.review import messages as m
from shannotctl.review.state import Kind, Link
from shannotd.wire.session import SessionPage, State
from tests.support import samples
from tests.support.peer import Peer
from tests.support.reviewing import both, files, reviewing, state_of
from tests.support.service import Caller, in_loop, running_service, script, socket_of

pytestmark = pytest.mark.P7


@in_loop
async def test_sessions_appear_and_leave_by_themselves(tmp_path: Path) -> None:
    async with both(tmp_path) as (screen, caller):
        await screen.until("Nothing waits for a decision")
        session = await caller.submit(*files("a"), name="first")
        await screen.until("first")
        assert "1 pending" in screen.lines[0]
        await caller.call("sessions.reject", id=session["id"], reason="")
        await screen.until("Nothing waits for a decision")
        await screen.press("f", "f")
        await screen.until("rejected")


@in_loop
async def test_several_are_reviewed_one_after_the_other(tmp_path: Path) -> None:
    async with both(tmp_path, files("a"), files("b"), files("c")) as (screen, caller):
        await screen.until("3 pending")
        await screen.press("a")
        assert "3 chosen" in screen.lines[0]
        await screen.press("x")
        await screen.until("create /srv/")
        assert "3 to review" in screen.lines[0]
        first = screen.review.opened
        assert first is not None
        await screen.press("r", "enter")
        await screen.until(
            lambda r: r.opened is not None and r.opened.session.id != first.session.id
        )
        assert "2 to review" in screen.lines[0]
        second = screen.review.opened
        assert second is not None
        await screen.press("x", "y")
        await screen.until(
            lambda r: r.opened is not None and r.opened.session.id != second.session.id
        )
        third = screen.review.opened
        assert third is not None
        assert await state_of(caller, third.session.id) == "pending"
        await screen.press("q")
        await screen.until("1 pending")


@in_loop
async def test_several_are_rejected_at_once(tmp_path: Path) -> None:
    async with both(tmp_path, files("a"), files("b"), files("c")) as (screen, _):
        await screen.until("3 pending")
        await screen.press("space", "space", "r")
        assert "Reject 2 plans" in screen.text
        await screen.type("no")
        await screen.press("enter")
        await screen.until("1 pending")
        assert {effect.reason for effect in screen.wanted(m.Reject)} == {"no"}


@in_loop
async def test_an_executed_session_is_taken_back(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, caller):
        await screen.press("enter")
        await screen.until("create /srv/a")
        before = screen.review.opened
        assert before is not None
        await screen.press("x", "y")
        await screen.until("kept: `u` takes the session back")
        await screen.press("u", "y")
        await screen.until("delete /srv/a")
        after = screen.review.opened
        assert after is not None and after.session.rollback_of == before.session.id
        await screen.press("x")
        await screen.press("y")
        await screen.until("approved by uid")
        assert await state_of(caller, before.session.id) == "rolled_back"


@in_loop
async def test_conflicts_of_a_rollback_are_shown_and_forced_by_a_word(tmp_path: Path) -> None:
    async with both(tmp_path, files("conflict")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/conflict")
        await screen.press("x", "y")
        await screen.until("kept: `u` takes the session back")
        await screen.press("u", "y")
        await screen.until("expected a file, found another")
        await screen.type("yes")
        await screen.press("enter")
        assert len(screen.wanted(m.Rollback)) == 1
        await screen.press("u", "y")
        await screen.until("Type `force`")
        await screen.type("force")
        await screen.press("enter")
        await screen.until("delete /srv/conflict")
        assert screen.wanted(m.Rollback)[-1].force


@in_loop
async def test_an_apply_is_followed_and_can_be_stopped(tmp_path: Path) -> None:
    script = [*files("a"), ("command", "says this"), ("command", "hang")]
    async with both(tmp_path, script) as (screen, _):
        await screen.press("enter")
        await screen.until("run tool hang")
        await screen.press("x", "y")
        await screen.until("says this")
        await screen.until(lambda r: r.opened is not None and 2 in r.opened.live.printed)
        assert "is being applied: 2 of 3 steps done" in screen.text
        await screen.press("c", "y")
        await screen.until("failed     approved by uid")
        assert "✗ failed   step 3, run tool hang" in screen.text


@in_loop
async def test_a_dry_run_is_followed(tmp_path: Path) -> None:
    async with both(tmp_path) as (screen, caller):
        actions = (("output", "begun\x1b[2J\n"), ("cancelled", None))
        running = caller.send(
            "sessions.submit",
            kind="python",
            script=script(*actions),
            name="runs",
            wait=False,
        )
        await screen.press("f")
        await screen.until("runs")
        await screen.press("enter")
        await screen.until("the dry run goes on")
        await running
        await screen.press("c", "y")
        await screen.until("cancelled")


@in_loop
async def test_a_lost_daemon_is_told_and_found_again(tmp_path: Path) -> None:
    async with running_service(tmp_path) as _, await Caller.connect(tmp_path) as caller:
        session = await caller.submit(*files("a"), name="kept")
        socket = socket_of(tmp_path)
        manager = reviewing(socket)
        screen = await manager.__aenter__()
        await screen.until("kept")
        await screen.press("enter")
        await screen.until("create /srv/a")
    try:
        await screen.until("No daemon")
        assert "create /srv/a" in screen.text
        await screen.press("x", "y")
        await screen.until(lambda review: review.panel is not None)
        await screen.press("escape")
        async with running_service(tmp_path) as _, await Caller.connect(tmp_path) as caller:
            await screen.until(lambda review: review.link is Link.UP)
            await screen.until("create /srv/a")
            assert await state_of(caller, session["id"]) == "pending"
            await screen.press("x", "y")
            await screen.until("approved by uid")
    finally:
        await manager.__aexit__(None, None, None)


@in_loop
async def test_leaving(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, _):
        await screen.press("q")
        assert await screen.running == 0
    async with both(tmp_path) as (screen, _):
        await screen.press("enter")
        await screen.press("c-c")
        assert await screen.running == 0


@in_loop
async def test_one_session_is_opened_at_once(tmp_path: Path) -> None:
    async with running_service(tmp_path) as _, await Caller.connect(tmp_path) as caller:
        session = await caller.submit(*files("a"), name="one")
        socket = socket_of(tmp_path)
        async with reviewing(socket, id=session["id"][:8]) as screen:
            await screen.until("create /srv/a")
            await screen.press("q")
            await screen.until("1 pending")
        async with reviewing(socket, id="ffffffff") as screen:
            await screen.until("ffffffff")
            assert screen.review.panel is not None
            await screen.press("escape")
            assert screen.review.place.kind is Kind.LIST


@pytest.mark.P10
@in_loop
async def test_a_plan_that_is_none_is_told_and_nothing_opened(peer: Peer) -> None:
    made = samples.session(samples.file_step("create", "/etc/x"))
    peer.answers("sessions.list", SessionPage((samples.bare(made),), 1))
    peer.answers("sessions.watch", {})
    peer.answers("daemon.status", samples.STATUS)
    peer.answers("sessions.get", samples.session(plan_canonical=b"{}", state=State.PENDING))
    async with reviewing(peer.path) as screen:
        await screen.until("1 pending")
        await screen.press("enter")
        await screen.until(lambda review: review.panel is not None)
        assert screen.review.place.kind is Kind.LIST and "the plan of session" in screen.text
        await screen.press("escape")
        assert "1 pending" in screen.lines[0]
