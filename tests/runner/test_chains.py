"""Steps that change the same path one after the other are one (P7)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shannotd.runner.chains import joined
from shannotd.runner.plan import ABSENT, FileState, FileStep
from tests.support.applying import shell

pytestmark = pytest.mark.P7

DIRECTORY = FileState("directory", 0o755, 0, 0)


def file(content: str, mode: int = 0o644, **more: object) -> FileState:
    return FileState("file", mode, 0, 0, 1, content * 64, **more)  # type: ignore[arg-type]


def create(path: str, after: FileState) -> FileStep:
    return FileStep("create", path, ABSENT, after)


def modify(path: str, before: FileState, after: FileState) -> FileStep:
    return FileStep("modify", path, before, after)


def delete(path: str, before: FileState) -> FileStep:
    return FileStep("delete", path, before, ABSENT)


def metadata(path: str, before: FileState, after: FileState) -> FileStep:
    return FileStep("metadata", path, before, after)


def rename(old: str, new: str, state: FileState = DIRECTORY) -> FileStep:
    return FileStep("rename", new, state, state, old_path=old)


A, B, C = file("a"), file("b"), file("c")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([modify("/f", C, B), modify("/f", B, A)], [modify("/f", C, A)]),
        ([create("/f", B), modify("/f", B, A)], [create("/f", A)]),
        ([modify("/f", C, B), delete("/f", B)], [delete("/f", C)]),
        ([create("/f", B), delete("/f", B)], []),
        # What was there before somebody made it anew is no chain.
        ([delete("/f", B), create("/f", A)], [delete("/f", B), create("/f", A)]),
        (
            [delete("/f", C), create("/f", B), modify("/f", B, A)],
            [delete("/f", C), create("/f", A)],
        ),
        ([metadata("/f", B, A), modify("/f", A, C)], [metadata("/f", B, A), modify("/f", A, C)]),
        # A directory with what is in it.
        (
            [
                create("/d", DIRECTORY),
                create("/d/f", A),
                delete("/d/f", A),
                delete("/d", DIRECTORY),
            ],
            [],
        ),
        # Under another name by then.
        (
            [modify("/d/f", C, B), rename("/d", "/e"), modify("/e/f", B, A)],
            [modify("/d/f", C, A), rename("/d", "/e")],
        ),
        (
            [modify("/f", C, B), rename("/f", "/g", B), delete("/g", B)],
            [delete("/f", C)],
        ),
        # Something else went through it: it must be there.
        (
            [
                create("/d", DIRECTORY),
                rename("/x", "/d/x"),
                rename("/d/x", "/y"),
                delete("/d", DIRECTORY),
            ],
            None,
        ),
        ([modify("/f", B, A), modify("/g", B, A)], None),
    ],
)
def test_what_is_in_between_is_left_out(
    steps: list[FileStep], expected: list[FileStep] | None
) -> None:
    found = [step for _, step in joined(list(enumerate(steps)))]
    assert found == (steps if expected is None else expected)


def test_metadata_go_with_what_is_made() -> None:
    made = file("a", mtime_ns=5)
    given = replace(file("a", 0o600), uid=7, xattrs={"user.x": "00"})
    ((_, step),) = joined([(0, create("/f", made)), (1, metadata("/f", A, given))])
    assert isinstance(step, FileStep)
    assert step.after == replace(made, mode=0o600, uid=7, xattrs={"user.x": "00"})
    later = replace(given, mtime_ns=9)
    ((_, step),) = joined([(0, create("/f", made)), (1, metadata("/f", A, later))])
    assert isinstance(step, FileStep) and step.after.mtime_ns == 9


def test_a_command_parts_them() -> None:
    steps = [(0, modify("/f", C, B)), (1, shell("true")), (2, modify("/f", B, A))]
    assert joined(steps) == steps
    # The first of two that are one gives its number.
    pair = [(4, modify("/f", C, B)), (2, modify("/f", B, A))]
    assert joined(pair) == [(4, modify("/f", C, A))]
