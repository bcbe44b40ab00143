"""Deletions as a tree with counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shannotctl.review.deletions import deleted, total_text, tree_lines
from shannotctl.review.spans import plain, width_of
from shannotd.wire.step import FileState, Step, TreeSummary
from tests.support.samples import file_step, regular

pytestmark = pytest.mark.P7


def gone(path: str, size: int = 10) -> Step:
    return file_step("delete", path, before=regular("a", size=size))


def tree(path: str, entries: int, size: int) -> Step:
    state = FileState("directory", tree=TreeSummary(entries, size, "0" * 64))
    return file_step("delete", path, before=state)


def drawn(*steps: Step, width: int = 80) -> list[str]:
    return [plain(line) for line in tree_lines(steps, width)]


def test_directories_have_the_sum_of_what_goes_in_them() -> None:
    steps = (
        file_step("create", "/etc/new"),
        gone("/etc/a/one"),
        gone("/etc/a/two", 20),
        tree("/var/lib/old", 1204, 5 * 1024),
        replace(gone("/tmp/x"), scratch=True),
    )
    assert deleted(steps) == [1, 2, 3]
    assert total_text(steps) == "1,206 entries, 5.0 KiB"
    assert drawn(*steps) == [
        "/  1,206 entries, 5.0 KiB",
        "  etc/a/  2 entries, 30 bytes",
        "    one  step 2, 1 entry, 10 bytes",
        "    two  step 3, 1 entry, 20 bytes",
        "  var/lib/old  step 4, 1,204 entries, 5.0 KiB",
    ]


def test_a_directory_that_goes_with_what_was_in_it() -> None:
    lines = drawn(gone("/srv/a/x"), gone("/srv/a/y"), tree("/srv/a", 1, 0))
    assert lines[0].startswith("/srv/a  step 3")
    assert [line.split()[0] for line in lines[1:]] == ["x", "y"]


def test_names_are_escaped_and_none_is_cut() -> None:
    lines = drawn(gone("/srv/\x1b[2J/a"), gone("/srv/" + "long" * 50), width=60)
    text = "".join(line.strip() for line in lines)
    assert "\\e[2J" in text and "long" * 50 in text
    assert all(len(line) <= 60 for line in lines)


def test_no_name_passes_for_what_stands_after_it() -> None:
    lines = drawn(gone("/srv/a  step 2, 1 entry, 0 bytes"), gone("/srv/b  9 entries, 1 byte/c"))
    assert lines == [
        "/srv/  2 entries, 20 bytes",
        "  'a  step 2, 1 entry, 0 bytes'  step 1, 1 entry, 10 bytes",
        "  'b  9 entries, 1 byte/c'  step 2, 1 entry, 10 bytes",
    ]


def test_paths_may_be_thousands_deep() -> None:
    deep = "/d" * 3000
    steps = [gone(deep[: 2 * depth]) for depth in range(1, 3001)]
    lines = list(tree_lines(steps, 100))
    assert len(lines) >= 3000 and all(width_of(line) <= 100 for line in lines)
