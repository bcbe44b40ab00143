"""The reviewer on a terminal that is a pipe, with a real daemon over a scripted runner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prompt_toolkit.data_structures import Size

from shannotctl.review import messages as m
from shannotctl.review.state import Ask, Kind, Link
from shannotd.wire.errors import AuthenticationNeeded
from shannotd.wire.session import SessionPage, State
from tests.support import samples
from tests.support.accounts import is_root
from tests.support.peer import Link as PeerLink
from tests.support.peer import Peer
from tests.support.reviewing import Reviewing, Terminal, reviewing
from tests.support.service import Caller, in_loop, running_service

pytestmark = pytest.mark.P7


class Both(NamedTuple):
    """A reviewer, and a client of the same daemon."""

    screen: Reviewing
    caller: Caller


@asynccontextmanager
async def both(directory: Path, *scripts: Any, **size: Any) -> AsyncIterator[Both]:
    """A daemon with these sessions, and a reviewer of it."""
    async with running_service(directory) as _, await Caller.connect(directory) as caller:
        for script in scripts:
            await caller.submit(*script)
        async with reviewing(directory / "run" / "shannotd.sock", **size) as screen:
            await screen.until(lambda review: review.link is Link.UP)
            yield Both(screen, caller)


def files(*names: str) -> list[tuple[str, Any]]:
    return [("files", [f"/srv/{name}" for name in names])]


def runs(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


async def state_of(caller: Caller, id: str) -> str:
    return str((await caller.call("sessions.get", id=id))["state"])


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
async def test_a_step_is_dropped_and_the_other_plan_approved(tmp_path: Path) -> None:
    async with both(tmp_path, files("a", "b")) as (screen, caller):
        await screen.press("enter")
        await screen.until("create /srv/b")
        before = screen.review.opened
        assert before is not None
        while screen.review.place.item != "step:1":
            await screen.press("J")
        await screen.press("space")
        assert "dropped: not in the plan" in screen.text and "1 step dropped" in screen.text
        await screen.press("x")
        assert screen.review.panel is None, "the plan on the screen is not what it will be"
        await screen.press("A", "y")
        await screen.until("Changed by a reviewer")
        after = screen.review.opened
        assert after is not None and after.plan is not None
        assert after.session.amends == before.session.id
        assert await state_of(caller, before.session.id) == "rejected"
        await screen.press("x", "y")
        await screen.until("approved by uid")
        (effect,) = screen.wanted(m.Approve)
        assert effect.digest == after.plan.digest


@in_loop
async def test_changes_can_be_given_up(tmp_path: Path) -> None:
    async with both(tmp_path, files("a", "b")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/b")
        while screen.review.place.item != "step:0":
            await screen.press("J")
        await screen.press("space", "q")
        assert screen.review.panel is not None and screen.review.panel.ask is Ask.DISCARD
        await screen.press("n", "D", "y")
        assert screen.review.opened is not None and not screen.review.opened.changed
        await screen.press("q")
        assert screen.review.place.kind is Kind.LIST


@in_loop
async def test_an_editor_changes_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho edited > $1\n")
    editor.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(editor))
    async with both(tmp_path / "d", files("a")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/a")
        while screen.review.place.item != "step:0":
            await screen.press("J")
        await screen.press("e")
        await screen.until("is edited; A makes the changed plan")
        assert screen.review.opened is not None
        assert screen.review.opened.edits == {0: b"edited\n"}
        await screen.press("A", "y")
        await screen.until("Changed by a reviewer")
        (effect,) = screen.wanted(m.Amend)
        assert effect.edits == {0: b"edited\n"}


@in_loop
async def test_an_editor_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "false")
    async with both(tmp_path, files("a")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/a")
        while screen.review.place.item != "step:0":
            await screen.press("J")
        await screen.press("e")
        await screen.until("ended with status 1")
        await screen.press("enter")
        assert screen.review.panel is None


@in_loop
async def test_the_pager_gets_all_of_it_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paged = tmp_path / "paged"
    monkeypatch.setenv("PAGER", f"tee {paged}")
    async with both(tmp_path / "d", files("a\x1b[2J", "b")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/b")
        await screen.press("p")
        await screen.until(lambda review: paged.exists() and b"/srv/b" in paged.read_bytes())
        assert b"\x1b" not in paged.read_bytes() and b"\\e[2J" in paged.read_bytes()
        monkeypatch.setenv("PAGER", "/nonexistent/pager")
        await screen.press("p")
        await screen.until("cannot be started")


@in_loop
async def test_a_content_is_looked_at(tmp_path: Path) -> None:
    async with both(tmp_path, files("a")) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/a")
        while screen.review.place.item != "step:0":
            await screen.press("J")
        await screen.press("v")
        await screen.until("content of /srv/a")
        assert screen.review.place.kind is Kind.CONTENT
        await screen.press("h")
        assert "63 6f 6e 74 65 6e 74" in screen.text
        await screen.press("q", "b")
        assert "has no file before it" in screen.text


@in_loop
async def test_a_command_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    async with both(tmp_path, [("command", "a b;\x1b")]) as (screen, _):
        await screen.press("enter")
        await screen.until("run tool")
        while screen.review.place.item != "step:0":
            await screen.press("J")
        await screen.press("y")
        await screen.until("copied: tool $'a b;\\x1b'")
        (effect,) = screen.wanted(m.Copy)
        assert effect.text == "tool $'a b;\\x1b'"
        output: Any = screen.reviewer.application.output
        assert output.raw == ["\x1b]52;c;dG9vbCAkJ2EgYjtceDFiJw==\x07"]


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
        script = (("output", "begun\x1b[2J\n"), ("cancelled", None))
        running = caller.send(
            "sessions.submit",
            kind="python",
            script=__import__("json").dumps(script).encode(),
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


@in_loop
async def test_search_goes_round(tmp_path: Path) -> None:
    async with both(tmp_path, files(*(f"file{number}" for number in range(30)))) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/file0")
        await screen.press("/")
        await screen.type("FILE2")
        await screen.press("enter")
        assert "file2" in screen.lines[screen_row(screen)]
        before = screen.review.place
        await screen.press("n")
        assert screen.review.place != before
        await screen.press("N")
        assert screen.review.place.item == before.item
        await screen.press("/")
        await screen.type("nowhere")
        await screen.press("enter")
        assert "not found: nowhere" in screen.text


def screen_row(screen: Reviewing) -> int:
    from shannotctl.review.screen import screen as draw

    return draw(screen.review).cursor[0]


@in_loop
async def test_the_list_is_filtered_as_one_types(tmp_path: Path) -> None:
    async with both(tmp_path) as (screen, caller):
        for name in ("alpha", "beta", "gamma"):
            await caller.submit(*files(name), name=name)
        await screen.until("3 pending")
        await screen.press("/")
        await screen.type("bet")
        assert "beta" in screen.text and "alpha" not in screen.text
        await screen.press("enter")
        assert "only: bet" in screen.lines[0]
        await screen.press("escape")
        assert "alpha" in screen.text


@in_loop
async def test_help_lists_every_key_and_goes_away(tmp_path: Path) -> None:
    async with both(tmp_path) as (screen, _):
        for leave in ("?", "q", "escape"):
            await screen.press("?")
            assert "shannot · help" in screen.lines[0] and "choose a session" in screen.text
            await screen.press(leave)
            assert screen.review.place.kind is Kind.LIST


@in_loop
async def test_the_mouse(tmp_path: Path) -> None:
    async with both(tmp_path, files("a"), files("b"), rows=20) as (screen, _):
        await screen.until("2 pending")
        # SGR: a press and a release at column 10, row 4 (from 1): the second session.
        second = screen.lines[3]
        await screen.send("\x1b[<0;10;4M\x1b[<0;10;4m", 1)
        assert screen.lines[3] == second.replace("  ", "› ", 1) or screen.lines[3][0] == "›"
        await screen.send("\x1b[<0;10;4M\x1b[<0;10;4m", 1)
        await screen.until("create /srv/")
        await screen.send("\x1b[<65;10;4M", 1)
        assert screen.review.place.offset or screen.review.place.item != ""
        await screen.send("\x1b[<64;10;4M", 1)
        footer = screen.lines[-1].index("reject")
        await screen.send(f"\x1b[<0;{footer + 1};20M\x1b[<0;{footer + 1};20m", 1)
        assert screen.review.panel is not None and screen.review.panel.ask is Ask.REJECT


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


@in_loop
async def test_every_moving_key(tmp_path: Path) -> None:
    async with both(tmp_path, files(*(f"file{n}" for n in range(40)))) as (screen, _):
        await screen.press("enter")
        await screen.until("create /srv/file0")
        top = screen.lines[1]
        for down, up in (
            ("j", "k"),
            ("down", "up"),
            ("pagedown", "pageup"),
            ("c-d", "c-u"),
            ("J", "K"),
            ("]", "["),
            ("G", "g"),
            ("end", "home"),
        ):
            await screen.press(down)
            assert not screen.lines[1].startswith("›") or screen.lines[1] != top, down
            await screen.press(up, "g")
            assert screen.lines[1] == top, up


@in_loop
async def test_a_lost_daemon_is_told_and_found_again(tmp_path: Path) -> None:
    async with running_service(tmp_path) as _, await Caller.connect(tmp_path) as caller:
        session = await caller.submit(*files("a"), name="kept")
        socket = tmp_path / "run" / "shannotd.sock"
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
        socket = tmp_path / "run" / "shannotd.sock"
        async with reviewing(socket, id=session["id"][:8]) as screen:
            await screen.until("create /srv/a")
            await screen.press("q")
            await screen.until("1 pending")
        async with reviewing(socket, id="ffffffff") as screen:
            await screen.until("ffffffff")
            assert screen.review.panel is not None
            await screen.press("escape")
            assert screen.review.place.kind is Kind.LIST


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 60), (40, 10), (120, 15)])
@in_loop
async def test_every_view_in_every_size(tmp_path: Path, columns: int, rows: int) -> None:
    script = [*files("a", "b" * 300), ("command", "c" * 500), ("output", "x" * 1000)]
    async with both(tmp_path, script, columns=columns, rows=rows) as (screen, _):
        await screen.press("enter")
        await screen.until(lambda review: review.opened is not None)

        async def look(*keys: str) -> None:
            for key in keys:
                await screen.press(key)
                assert len(screen.lines) == rows
                long = [line for line in screen.lines if len(line) > columns]
                assert not long, key

        await look("z", "z", "x", "escape", "r", "escape", "/", "escape", "?", "G", "q", "G", "w")
        while screen.review.place.item != "step:1":
            await look("J")
        await look(
            "space", "space", "k", "enter", "s", "w", "right", "left", "w", "G", "]", "[", "q"
        )
        while screen.review.place.item != "step:1":
            await look("J")
        await look("v")
        await screen.until(lambda review: review.place.kind is Kind.CONTENT)
        await look("h", "G", "q", "q")


@pytest.mark.P5
@pytest.mark.skipif(not is_root(), reason="in a service, sessions run under another account")
@in_loop
async def test_a_service_refuses_ones_own_plan_and_the_screen_says_why(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path, embedded=False) as _,
        await Caller.connect(tmp_path) as caller,
    ):
        await caller.submit(*files("a"), name="own")
        async with reviewing(tmp_path / "run" / "shannotd.sock") as screen:
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
        # $2 is the descriptor that it closes when it is ready to ask.
        agent.write_text(f'#!/bin/sh\necho $$ > {seen}\neval "exec $2>&-"\nexec sleep 60\n')
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


@pytest.mark.P10
@in_loop
async def test_a_content_that_is_not_what_the_plan_names_is_not_shown(peer: Peer) -> None:
    made = samples.session(samples.file_step("create", "/etc/x"))
    peer.answers("sessions.list", SessionPage((samples.bare(made),), 1))
    peer.answers("sessions.watch", {})
    peer.answers("daemon.status", samples.STATUS)
    peer.answers("sessions.get", made)
    peer.answers("blobs.get", {"data": b"forged", "size": 6})
    async with reviewing(peer.path) as screen:
        await screen.until("1 pending")
        await screen.press("enter")
        await screen.until("create /etc/x")
        while screen.review.place.item != "step:0":
            await screen.press("J")
        await screen.press("v")
        await screen.until("is not what the plan of")
        assert "forged" not in screen.text
