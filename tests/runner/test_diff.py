"""Diffs: correct whatever the bytes, and never expensive."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shannotd.runner import diff
from shannotd.runner.diff import Budget

LINES = st.lists(
    st.sampled_from(
        [b"a", b"b", b"c", b"", b"\r", b"\xff", "\u2028".encode(), b"-x", b"+y", b"@@"]
    ),
    max_size=40,
)
TEXT = st.builds(
    lambda lines, last: b"".join(line + b"\n" for line in lines) + last,
    LINES,
    st.sampled_from([b"", b"last", b"\xfe"]),
)
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def patched(before: bytes, text: str) -> bytes:
    """What a unified diff makes of `before`; fails where the two do not fit."""
    old = before.decode("utf-8", "surrogateescape").split("\n")
    old = [line + "\n" for line in old[:-1]] + ([old[-1]] if old[-1] else [])
    new: list[str] = []
    position = 0
    lines = text.split("\n")
    assert lines.pop() == ""
    assert lines[0].startswith("--- ")
    assert lines[1].startswith("+++ ")
    index = 2
    while index < len(lines):
        match = HUNK.fullmatch(lines[index])
        assert match is not None, lines[index]
        begin = int(match[1]) - (0 if match[2] == "0" else 1)
        counts = [int(match[2] or 1), int(match[4] or 1)]
        new += old[position:begin]
        position = begin
        assert len(new) == int(match[3]) - (0 if match[4] == "0" else 1)
        index += 1
        while counts != [0, 0] or (index < len(lines) and lines[index].startswith("\\")):
            line = lines[index] + "\n"
            index += 1
            if index < len(lines) and lines[index] == "\\ No newline at end of file":
                line = line[:-1]
                index += 1
            mark, line = line[0], line[1:]
            if mark in " -":
                assert old[position] == line
                position += 1
                counts[0] -= 1
            if mark in " +":
                new.append(line)
                counts[1] -= 1
            assert mark in " -+"
    new += old[position:]
    return "".join(new).encode("utf-8", "surrogateescape")


@given(TEXT, TEXT, st.sampled_from([0, 30, 10_000]))
@settings(max_examples=400, deadline=None)
def test_a_diff_makes_after_of_before(before: bytes, after: bytes, effort: int) -> None:
    found = diff.difference("/f", "/f", before, after, Budget(effort=effort))
    assert found.text is not None or found.binary
    if found.text is not None and before != after:
        assert patched(before, found.text) == after


@given(TEXT.filter(bool), TEXT.filter(bool), st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_the_diff_of_an_append(before: bytes, suffix: bytes, kept: int) -> None:
    lines = before.split(b"\n")
    tail = b"\n".join(lines[-kept - 1 :])
    found = diff.appended("/f", tail, before.count(b"\n"), suffix, Budget())
    if found.text is not None:
        assert patched(before, found.text) == before + suffix


@given(TEXT, TEXT)
@settings(max_examples=100, deadline=None)
def test_a_diff_is_as_short_as_can_be(before: bytes, after: bytes) -> None:
    found = diff.difference("/f", "/f", before, after, Budget())
    if found.text is None:
        return
    changed = [line for line in found.text.split("\n")[2:] if line[:1] in ("-", "+")]
    old, new = before.split(b"\n"), after.split(b"\n")
    assert len(changed) <= len(old) + len(new)


def test_what_is_binary() -> None:
    assert diff.is_binary(b"a\0b")
    assert diff.is_binary(bytes(range(128, 256)) * 3)
    assert not diff.is_binary("grün\n".encode("latin-1"))
    assert not diff.is_binary("漢字".encode() * 40_000)
    assert not diff.is_binary(b"")
    assert diff.difference("/f", "/f", b"text", b"\0", Budget()) == diff.BINARY


def test_new_and_deleted_files_have_no_other_side() -> None:
    created = diff.difference(None, "/new", b"", b"one\ntwo", Budget())
    assert created.text == (
        "--- /dev/null\n+++ b/new\n@@ -0,0 +1,2 @@\n+one\n+two\n\\ No newline at end of file\n"
    )
    deleted = diff.difference("/old", None, b"one\n", b"", Budget())
    assert deleted.text == "--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n"


@pytest.mark.P7
def test_a_name_cannot_forge_lines_of_a_diff() -> None:
    found = diff.difference("/a\n+evil", "/a\n+evil", b"x\n", b"y\n", Budget())
    assert found.text is not None
    assert found.text.split("\n")[:2] == ['--- "a/a\\012+evil"', '+++ "b/a\\012+evil"']


def test_too_much_is_said_to_be_too_much() -> None:
    big = b"".join(b"%d\n" % number for number in range(100_000))
    assert diff.difference(None, "/f", b"", big, Budget()) == diff.TOO_LARGE
    assert diff.difference("/f", "/f", big, big[::-1], Budget()) == diff.TOO_LARGE
    assert diff.appended("/f", b"", 0, big, Budget()) == diff.TOO_LARGE
    budget = Budget(size=1000)
    texts = [diff.difference(None, "/f", b"", b"x" * 80, budget).text for _ in range(20)]
    assert sum(len(text) for text in texts if text) <= 1000
    assert texts[0] is not None
    assert texts[-1] is None


def test_the_cost_is_bounded() -> None:
    # Random lines of few kinds are the worst case: no two versions align.
    old = b"".join(b"%d\n" % (number * number % 7) for number in range(30_000))
    new = b"".join(b"%d\n" % (number * number % 11) for number in range(30_000))
    started = time.process_time()
    budget = Budget()
    for _ in range(30):
        diff.difference("/f", "/f", old, new, budget)
    assert time.process_time() - started < 10
