"""Lines of spans: nothing is lost where they are folded, and nothing is cut without a mark."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth

from shannotctl.render.layout import display_width
from shannotctl.review.spans import (
    Line,
    Span,
    clipped,
    folded,
    guarded,
    marked,
    overlaid,
    padded,
    part,
    plain,
    spans,
    width_of,
    window,
)
from shannotd.wire.text import visible

pytestmark = pytest.mark.P7

shown_text = st.text(st.characters(exclude_categories=()), max_size=40).map(visible)
lines = st.lists(
    st.tuples(st.sampled_from(["", "added", "danger"]), shown_text).map(lambda pair: Span(*pair)),
    max_size=5,
).map(tuple)


@given(lines, st.integers(8, 60))
def test_folding_loses_nothing(line: Line, width: int) -> None:
    pieces = folded(line, width)
    assert "".join(map(plain, pieces)) == plain(line)
    assert all(width_of(piece) <= width for piece in pieces)


@given(lines, st.integers(0, 60))
def test_what_is_cut_is_marked(line: Line, width: int) -> None:
    cut = clipped(line, width)
    assert width_of(cut) <= width
    if width_of(line) > width > 0:
        assert plain(cut).endswith("…")
        assert plain(line).startswith(plain(cut)[:-1])
    elif width > 0:
        assert cut == line


@given(lines, st.integers(0, 80), st.integers(8, 40))
def test_a_window_marks_what_is_beside_it(line: Line, left: int, width: int) -> None:
    seen = window(line, left, width)
    assert width_of(seen) <= width
    if left and plain(line):
        assert plain(seen).startswith("‹")
    if left == 0 and width_of(line) > width:
        assert plain(seen).endswith("›")


@given(lines, st.integers(0, 30), st.integers(0, 30))
def test_a_part_is_a_slice(line: Line, begin: int, length: int) -> None:
    assert plain(part(line, begin, begin + length)) == plain(line)[begin : begin + length]


@given(lines, st.integers(0, 20), st.integers(0, 20))
def test_a_role_that_is_laid_over_changes_no_text(line: Line, begin: int, length: int) -> None:
    text = plain(line)
    end = min(begin + length, len(text))
    over = overlaid(line, [(min(begin, end), end)], "match")
    assert plain(over) == text
    marked_text = "".join(span.text for span in over if "match" in span.role.split())
    assert marked_text == text[min(begin, end) : end]


@given(lines, st.integers(0, 80))
def test_padding(line: Line, width: int) -> None:
    assert width_of(padded(line, width)) == max(width, width_of(line))


def test_roles_of_rendered_text() -> None:
    style = marked(80)
    line = spans("a " + style.paint("b", "title") + style.paint("c d", "added") + "e")
    assert line == (Span("", "a "), Span("title", "b"), Span("added", "c d"), Span("", "e"))


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_nothing_raw_gets_past_the_guard(text: str) -> None:
    for ascii_only in (False, True):
        shown = plain(guarded((Span("", text[:7]), Span("added", text[7:])), ascii_only=ascii_only))
        assert shown.isprintable()
        assert shown.isascii() or not ascii_only


def test_no_character_is_wider_than_it_is_taken_for() -> None:
    """Else a line that fits by our count would be cut by the terminal's."""
    wider = [
        hex(code)
        for code in range(sys.maxunicode + 1)
        if visible(chr(code)) == chr(code) and get_cwidth(chr(code)) > display_width(chr(code))
    ]
    assert wider == []
