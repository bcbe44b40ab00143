"""Scratch that a command names is applied, with all that it needs; other scratch is not (P2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from shannotd.runner.needed import apply_named, contents_of
from shannotd.runner.plan import ABSENT, CommandStep, FileState, FileStep, TreeSummary

pytestmark = pytest.mark.P2
FILE = FileState("file", 0o644, 0, 0, 3, "f" * 64)
DIRECTORY = FileState("directory", 0o755, 0, 0)
PATTERNS = ("/tmp/**", "**/__pycache__/**")


def made(path: str, after: FileState = FILE, **more: Any) -> FileStep:
    scratch = path.startswith("/tmp/") or "__pycache__" in path
    return FileStep("create", path, ABSENT, after, scratch=scratch, **more)


def removed(path: str, before: FileState = FILE) -> FileStep:
    return FileStep("delete", path, before, ABSENT, scratch=path.startswith("/tmp/"))


def command(*argv: str, cwd: str = "/", decision: str = "review") -> CommandStep:
    return CommandStep(
        decision, "/bin/x", "0" * 64, ("x", *argv), cwd, {}, (), 0, "rule", "reason", "medium"
    )


def applied(steps: Sequence[object]) -> list[str]:
    found = apply_named(steps, PATTERNS)
    assert len(found) == len(steps)
    return [step.path for step in found if isinstance(step, FileStep) and not step.scratch]


@pytest.mark.parametrize(
    ("words", "cwd"),
    [
        (["/tmp/d/f"], "/"),
        (["--file=/tmp/d/f"], "/"),
        (["-f/tmp/d/f"], "/"),
        (["@/tmp/d/f"], "/"),
        (["a:/tmp/d/f:b"], "/"),
        (["read '/tmp/d/f'"], "/"),
        (["/tmp/./d//f"], "/"),
        (["d/f"], "/tmp"),
        (["--file=f"], "/tmp/d"),
        ([], "/tmp/d"),
        (["/tmp/d"], "/"),
    ],
)
def test_what_a_command_names_is_applied(words: list[str], cwd: str) -> None:
    steps = [made("/tmp/d", DIRECTORY), made("/tmp/d/f"), made("/tmp/g"), command(*words, cwd=cwd)]
    assert applied(steps) == ["/tmp/d", "/tmp/d/f"]


@pytest.mark.parametrize("decision", ["observe", "deny"])
def test_what_never_runs_needs_nothing(decision: str) -> None:
    assert applied([made("/tmp/f"), command("/tmp/f", decision=decision)]) == []


def test_what_comes_after_the_command_is_not_for_it() -> None:
    assert applied([command("/tmp/f"), made("/tmp/f")]) == []


def test_a_directory_above_scratch_names_none() -> None:
    assert applied([made("/tmp/f"), command("/", "/tmp", cwd="/tmp")]) == []


def test_every_change_of_a_named_path_comes_along() -> None:
    steps = [made("/tmp/f"), command("/tmp/f"), removed("/tmp/f"), removed("/tmp/g")]
    assert applied(steps) == ["/tmp/f", "/tmp/f"]


def test_what_a_link_leads_to_comes_along() -> None:
    link = FileState("symlink", 0o777, 0, 0, target="f")
    steps = [made("/tmp/f"), made("/tmp/l", link), command("/tmp/l")]
    assert applied(steps) == ["/tmp/f", "/tmp/l"]
    steps = [made("/tmp/f"), made("/tmp/h", link_to="/tmp/f"), command("/tmp/h")]
    assert applied(steps) == ["/tmp/f", "/tmp/h"]


def test_a_directory_that_goes_takes_its_scratch_along() -> None:
    tree = FileState("directory", 0o755, 0, 0, tree=TreeSummary(0, 0, "0" * 64))
    steps = [
        made("/app/__pycache__/a"),
        command(),
        FileStep("delete", "/app/__pycache__/a", FILE, ABSENT),
        FileStep("delete", "/app", tree, ABSENT),
    ]
    assert applied(steps) == ["/app/__pycache__/a", "/app/__pycache__/a", "/app"]


def test_a_plan_without_commands_is_left_as_it_is() -> None:
    steps = (made("/tmp/f"), made("/etc/f"))
    assert apply_named(steps, PATTERNS) == steps


def test_only_contents_that_are_applied_are_wanted() -> None:
    added = FileStep("append", "/a", FILE, FILE, appended=TreeSummary(1, 2, "a" * 64))
    assert contents_of([made("/tmp/f"), added]) == {"a" * 64}
    assert contents_of([made("/f"), made("/g", link_to="/f")]) == {"f" * 64}
