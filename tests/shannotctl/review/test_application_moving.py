"""Moving about in the reviewer: keys, the mouse, searches, and views in every size."""

from __future__ import annotations

from pathlib import Path

import pytest

from shannotctl.review.state import Ask, Kind
from tests.support.reviewing import Reviewing, both, files
from tests.support.service import in_loop

pytestmark = pytest.mark.P7


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
