"""Diffs on the screen: every line is there, with its numbers and what changed in it."""

from __future__ import annotations

import difflib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotctl.review.diffs import parse, word_changes
from shannotctl.review.patch import Shown, side_by_side, styled, unified
from shannotctl.review.spans import plain, width_of
from shannotd.wire.text import visible

pytestmark = pytest.mark.P7

DIFF = """--- a/etc/x.py
+++ b/etc/x.py
@@ -3,5 +3,5 @@
 def main():
-    return one + 1
+    return two + 1
-\tgone
     # end
+new
\\ No newline at end of file
"""


def test_lines_have_their_numbers() -> None:
    lines = parse(DIFF)
    assert [(line.kind, line.old, line.new) for line in lines] == [
        ("h", None, None),
        ("h", None, None),
        ("@", None, None),
        (" ", 3, 3),
        ("-", 4, None),
        ("+", None, 4),
        ("-", 5, None),
        (" ", 6, 5),
        ("+", None, 6),
        ("\\", None, None),
    ]
    assert lines[6].text.startswith("→") and lines[6].text.endswith("gone")


def test_a_removed_line_that_looks_like_a_header_is_none() -> None:
    lines = parse("--- a\n+++ b\n@@ -1,2 +1,2 @@\n--- x\n+++ y\n")
    assert [line.kind for line in lines] == ["h", "h", "@", "-", "+"]
    assert [line.text for line in lines[3:]] == ["-- x", "++ y"]


def test_only_newlines_end_a_line() -> None:
    lines = parse("--- a\n+++ b\n@@ -1 +1 @@\n-a\x0bb\u2028c\x85d\n")
    assert [line.text for line in lines if line.kind == "-"] == ["a\\x0bb\\u2028c\\x85d"]


@pytest.mark.parametrize(
    ("old", "new", "removed", "added"),
    [
        ("port = 80", "port = 443", ["80"], ["443"]),
        ("a b c", "a c", ["b "], []),
        ("same", "same", [], []),
        ("x = f(1)", "x = g(1)", ["f"], ["g"]),
        ("nothing in common", "0123456789", [], []),
    ],
)
def test_words_that_changed(old: str, new: str, removed: list[str], added: list[str]) -> None:
    before, after = word_changes(old, new)
    assert [old[a:b].strip() for a, b in before] == [text.strip() for text in removed]
    assert [new[a:b].strip() for a, b in after] == [text.strip() for text in added]


@given(st.text(max_size=80), st.text(max_size=80))
def test_but_for_changed_words_lines_are_alike(old: str, new: str) -> None:
    before, after = word_changes(old, new)
    if not before and not after:
        return

    def without(text: str, ranges: tuple[tuple[int, int], ...]) -> str:
        for begin, end in reversed(ranges):
            text = text[:begin] + text[end:]
        return text

    assert without(old, before) == without(new, after)


content = st.lists(st.text(st.characters(exclude_characters="\n\r"), max_size=30), max_size=8)


def diff_of(old: list[str], new: list[str]) -> str:
    made = difflib.unified_diff(old, new, "a", "b", lineterm="")
    return "".join(f"{line}\n" for line in made)


@given(content, content, st.integers(40, 120))
def test_every_line_is_shown_whole(old: list[str], new: list[str], width: int) -> None:
    diff = diff_of(old, new)
    if not diff:
        return
    lines = parse(diff)
    for path in ("", "x.py"):
        assert [plain(line) for line in styled(diff, path)] == [line.text for line in lines]
        for shown in (
            unified(diff, path, width, numbers=True),
            unified(diff, path, width, numbers=False),
        ):
            assert all(width_of(line) <= width for _, line in shown)
            assert {index for index, _ in shown} == set(range(len(lines)))
            for index, line in enumerate(lines):
                assert line.text.replace(" ", "") in body(shown, index).replace(" ", "")
        both = side_by_side(diff, path, width)
        assert all(width_of(line) <= width for _, line in both)
        everything = "".join(plain(line) for _, line in both)
        for line in lines:
            if line.kind in "+-" and len(line.text) < 10:
                assert line.text in everything


def body(shown: list[Shown], index: int) -> str:
    """The text of a line, put together from its pieces."""
    first, *rest = [plain(line) for number, line in shown if number == index]
    # What goes on stands right of a gutter that ends with a colon and blanks.
    return first + "".join(re.sub("^ *: {1,2}", "", piece, count=1) for piece in rest)


def test_long_lines_can_be_scrolled_instead() -> None:
    diff = "--- a\n+++ b\n@@ -1 +1 @@\n-" + "x" * 200 + "y\n+short\n"
    here = unified(diff, "", 50, numbers=True, left=0)
    assert len(here) == 5 and plain(here[3][1]).endswith("›")
    there = unified(diff, "", 50, numbers=True, left=180)
    assert "‹" in plain(there[3][1]) and plain(there[3][1]).endswith("y")
    assert all(width_of(line) <= 50 for _, line in there)


def test_syntax_has_roles_and_changes_no_text() -> None:
    lines = styled(DIFF, "x.py")
    roles = {role for line in lines for span in line for role in span.role.split()}
    assert {"keyword", "comment", "added", "removed", "word"} <= roles
    assert plain(lines[4]) == "    return one + 1"


@pytest.mark.P10
def test_what_is_made_to_take_long_does_not() -> None:
    old = "".join(f"-{'x a' * 250}{n}\n" for n in range(300))
    new = "".join(f"+{'x b' * 250}{n}\n" for n in range(300))
    slow = {
        "/etc/x.txt": f"--- a\n+++ b\n@@ -1,300 +1,300 @@\n{old}{new}",
        "/etc/x.service": f"--- a\n+++ b\n@@ -0,0 +1 @@\n+{' ' * 20_000}x\n",
        "/etc/y.service": f"--- a\n+++ b\n@@ -0,0 +1,99 @@\n{('+' + ' ' * 990 + chr(10)) * 99}",
    }
    for path, diff in slow.items():
        begin = time.thread_time()
        shown = unified(diff, path, 100, numbers=True)
        assert time.thread_time() - begin < 5, path
        assert len(shown) >= diff.count("\n")


def test_a_language_that_nobody_knows_is_plain() -> None:
    lines = styled(DIFF, "unknown.zzz")
    roles = {role for line in lines for span in line for role in span.role.split()}
    assert roles <= {"added", "removed", "word", "hunk", "faint"}


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_bytes_at_all(text: str) -> None:
    for line in parse(text):
        assert visible(line.text) == line.text
