"""The reviewer and the steps of a plan: left out, edited, paged, looked at, copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shannotctl.review import messages as m
from shannotctl.review.state import Ask, Kind
from shannotd.wire.session import SessionPage
from tests.support import samples
from tests.support.peer import Peer
from tests.support.reviewing import both, files, reviewing, state_of
from tests.support.service import in_loop

pytestmark = pytest.mark.P7


@in_loop
async def test_a_step_is_dropped_and_the_other_plan_approved(tmp_path: Path) -> None:
    async with both(tmp_path, files("a", "b")) as (screen, caller):
        await screen.press("enter")
        await screen.until("create /srv/b")
        before = screen.review.opened
        assert before is not None
        await screen.go_to(1)
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
        await screen.go_to(0)
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
        await screen.go_to(0)
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
        await screen.go_to(0)
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
        await screen.go_to(0)
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
        await screen.go_to(0)
        await screen.press("y")
        await screen.until("copied: tool $'a b;\\x1b'")
        (effect,) = screen.wanted(m.Copy)
        assert effect.text == "tool $'a b;\\x1b'"
        output: Any = screen.reviewer.application.output
        assert output.raw == ["\x1b]52;c;dG9vbCAkJ2EgYjtceDFiJw==\x07"]


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
        await screen.go_to(0)
        await screen.press("v")
        await screen.until("is not what the plan of")
        assert "forged" not in screen.text
