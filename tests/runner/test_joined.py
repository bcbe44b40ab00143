"""Which paths a plan may mean one file by (P2)."""

from __future__ import annotations

import pytest

from shannotd.runner.joined import Joined
from shannotd.runner.plan import ABSENT, FileState, FileStep

pytestmark = pytest.mark.P2

FILE = FileState("file", 0o644, 0, 0, 0, "a" * 64)
LINKED = FileState("file", 0o644, 0, 0, 0, "a" * 64, links=2)
DIRECTORY = FileState("directory", 0o755, 0, 0)


def mode(path: str, state: FileState = FILE) -> FileStep:
    return FileStep("metadata", path, state, state)


def link(path: str, target: str) -> FileStep:
    return FileStep("create", path, ABSENT, FILE, link_to=target)


def move(old: str, new: str, state: FileState = FILE) -> FileStep:
    return FileStep("rename", new, state, state, old_path=old)


def test_what_had_one_name_is_joined_with_nothing() -> None:
    found = Joined([mode("/a"), mode("/b"), mode("/c", LINKED)])
    assert len({found.group(path) for path in ("/a", "/b", "/c", "/d")}) == 4


def test_names_on_the_host_and_links_and_renames_are_joined() -> None:
    found = Joined([mode("/a", LINKED), mode("/b", LINKED), link("/c", "/a"), move("/c", "/d")])
    assert len({found.group(path) for path in ("/a", "/b", "/c", "/d")}) == 1
    assert found.group("/e") != found.group("/a")


def test_in_a_directory_that_was_renamed_paths_are_joined_with_what_they_were() -> None:
    steps = [move("/d", "/x", DIRECTORY), move("/x/e", "/y", DIRECTORY), mode("/y/a"), mode("/x/b")]
    found = Joined(steps)
    assert found.group("/y/a") == found.group("/x/e/a") == found.group("/d/e/a")
    assert found.group("/x/b") == found.group("/d/b") != found.group("/y/a")


def test_directories_that_change_places_for_ever_come_to_an_end() -> None:
    names = [f"/{number}" for number in range(20)]
    moves = [move(old, new, DIRECTORY) for old in names for new in names if old != new]
    found = Joined([*moves, mode("/0" + "/1" * 20)])
    assert found.group("/0/1") != found.group("/2")
