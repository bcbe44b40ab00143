"""Dropping steps: what cannot stay then is found, all of it and nothing else (P2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shannotd.runner.dependents import Need, dependents
from shannotd.runner.plan import (
    ABSENT,
    CommandStep,
    FileState,
    FileStep,
    Interpreter,
    TreeSummary,
)
from tests.support.modelled import Act, Model, Stale, apply_all

pytestmark = pytest.mark.P2

FILE = FileState("file", 0o644, 0, 0, 3, "f" * 64)
OTHER = FileState("file", 0o644, 0, 0, 5, "e" * 64)
DIRECTORY = FileState("directory", 0o755, 0, 0)
TREE = replace(DIRECTORY, tree=TreeSummary(1, 3, "d" * 64))


def create(path: str, after: FileState = FILE, **more: Any) -> FileStep:
    return FileStep("create", path, ABSENT, after, **more)


def modify(path: str, before: FileState = FILE, after: FileState = OTHER) -> FileStep:
    return FileStep("modify", path, before, after)


def delete(path: str, before: FileState = FILE) -> FileStep:
    return FileStep("delete", path, before, ABSENT)


def rename(old: str, new: str, state: FileState = FILE) -> FileStep:
    return FileStep("rename", new, state, replace(state, tree=None), old_path=old)


def chmod(path: str, before: FileState, mode: int) -> FileStep:
    return FileStep("metadata", path, before, replace(before, mode=mode))


def command(*argv: str, cwd: str = "/", program: str = "/bin/x", **more: Any) -> CommandStep:
    words = ("x", *argv)
    return CommandStep(
        "review", program, "0" * 64, words, cwd, {}, (), 0, "rule", "reason", "caution", **more
    )


def needing(steps: Sequence[object], *dropped: int) -> list[tuple[int, int]]:
    """Which steps cannot stay, each with the one that it needs."""
    return [(need.index, need.needed) for need in dependents(steps, set(dropped)).needs]


def missing(steps: Sequence[object], *dropped: int) -> list[tuple[int, int]]:
    """Which steps may miss which that are dropped."""
    return [(miss.index, miss.dropped) for miss in dependents(steps, set(dropped)).missed]


@pytest.mark.parametrize(
    "steps",
    [
        [create("/d", DIRECTORY), create("/d/f")],
        [create("/d", DIRECTORY), create("/d/e", DIRECTORY)],
        [create("/a"), rename("/a", "/b")],
        [create("/a"), create("/b", link_to="/a")],
        [create("/a"), modify("/a")],
        [create("/a"), delete("/a")],
        [create("/a"), chmod("/a", FILE, 0o600)],
        [modify("/a"), modify("/a", OTHER, FILE)],
        [modify("/a"), delete("/a", OTHER)],
        [modify("/a"), create("/b", OTHER, link_to="/a")],
        [chmod("/a", FILE, 0o600), modify("/a", replace(FILE, mode=0o600), OTHER)],
        [delete("/a"), create("/a", OTHER)],
        [delete("/a"), rename("/b", "/a", OTHER)],
        [delete("/d", TREE), create("/d", DIRECTORY)],
        [rename("/a", "/b"), modify("/b")],
        [rename("/a", "/b"), create("/a", OTHER)],
        [rename("/d", "/e", TREE), create("/e/f")],
        [rename("/d", "/e", TREE), delete("/e/f")],
        [modify("/d", FILE, DIRECTORY), create("/d/f")],
        [modify("/d", TREE, FILE), delete("/d")],
        [create("/d/f"), delete("/d", TREE)],
        [delete("/d/f"), delete("/d", TREE)],
        [modify("/d/f"), rename("/d", "/e", TREE)],
        [delete("/d/f"), modify("/d", TREE, FILE)],
    ],
)
def test_a_step_that_begins_from_another_cannot_stay_without_it(steps: list[object]) -> None:
    assert needing(steps, 0) == [(1, 0)]
    assert needing(steps, 1) == []


@pytest.mark.parametrize(
    "steps",
    [
        [create("/a"), create("/b")],
        [create("/a"), create("/ab")],
        [create("/d/a"), create("/d/b")],
        [chmod("/d", DIRECTORY, 0o700), create("/d/f")],
        [delete("/d/f"), create("/d/g")],
        [create("/d/f"), chmod("/d", DIRECTORY, 0o700)],
        [create("/a"), command("/a"), create("/b")],
        [command("a"), create("/a")],
        [rename("/a", "/b"), create("/c", link_to="/d")],
    ],
)
def test_others_stay(steps: list[object]) -> None:
    assert needing(steps, 0) == []


def test_what_needs_one_that_cannot_stay_goes_too() -> None:
    steps = [
        create("/d", DIRECTORY),
        create("/d/e", DIRECTORY),
        create("/x"),
        create("/d/e/f"),
        command("/d/e/f"),
        delete("/d/e/f"),
        rename("/x", "/y"),
        delete("/d/e", replace(DIRECTORY, tree=TreeSummary(0, 0, "0" * 64))),
    ]
    assert needing(steps, 0) == [(1, 0), (3, 1), (5, 1), (7, 0)]
    assert needing(steps, 3) == [(5, 3)]
    assert needing(steps, 2) == [(6, 2)]
    assert dependents(steps, {2}).needs == (Need(6, 2, "/x"),)


PRIVATE = replace(FILE, mode=0o600)
NAMES = [
    create("/a"),
    create("/b", link_to="/a"),
    create("/c", link_to="/b"),
    rename("/c", "/d"),
    command(),
    chmod("/a", FILE, 0o600),
    chmod("/b", FILE, 0o600),
    chmod("/d", FILE, 0o600),
]


def test_what_one_name_of_a_file_is_given_the_others_are() -> None:
    assert needing(NAMES, 5) == [(6, 5), (7, 6)]
    assert needing(NAMES, 6) == [(5, 6), (7, 6)]
    assert needing(NAMES, 7) == [(5, 7), (6, 5)]


@pytest.mark.parametrize(
    "steps",
    [
        # One that is no name of it any more, or is not made.
        [*NAMES[:4], modify("/b", after=FILE), *NAMES[4:], delete("/b", PRIVATE)],
        # In another batch the other names have got it already, or will.
        [*NAMES[:6], command(), NAMES[6], delete("/b", PRIVATE)],
    ],
)
def test_what_a_name_that_was_parted_is_given_is_its_own(steps: list[object]) -> None:
    (dropped,) = (i for i, step in enumerate(steps) if step is NAMES[6])
    assert needing(steps, dropped) == [(len(steps) - 1, dropped)]


def test_a_name_that_is_not_made_is_given_nothing() -> None:
    assert needing(NAMES[:7], 1) == [(2, 1), (3, 2), (6, 1)]


def test_what_is_made_and_removed_again_is_needed_by_nothing_else() -> None:
    steps = [create("/d/f"), command("/d/f"), delete("/d/f"), delete("/d", TREE)]
    assert needing(steps, 0) == [(2, 0)]
    assert needing(steps, 0, 2) == []


def test_scratch_and_what_only_tells_of_the_dry_run_need_nothing() -> None:
    denied = replace(command("/a"), decision="deny")
    steps = [create("/a"), replace(modify("/a"), scratch=True), denied, command("/a")]
    assert needing(steps, 0) == []
    assert missing(steps, 0) == [(3, 0)]


@pytest.mark.P7
@pytest.mark.parametrize(
    "one",
    [
        command("/srv/d/f"),
        command("--file=/srv/d/f"),
        command("/srv/d/f/below"),
        command("/srv/d"),
        command("f", cwd="/srv/d"),
        command(cwd="/srv/d/f"),
        command(program="/srv/d/f"),
    ],
)
def test_a_command_may_miss_what_it_names(one: CommandStep) -> None:
    steps = [create("/srv/d/f"), one, create("/other"), one]
    assert missing(steps, 0) == [(1, 0), (3, 0)]
    assert missing(steps, 2) == []


@pytest.mark.parametrize(
    "one", [command("/srv/d/g"), command("/"), command(cwd="/srv/d"), command()]
)
def test_a_command_does_not_miss_what_it_does_not_name(one: CommandStep) -> None:
    assert missing([create("/srv/d/f"), one], 0) == []
    assert missing([one, create("/srv/d/g")], 1) == []


def test_a_command_may_miss_the_last_one_before_it() -> None:
    steps = [command("a"), command("b"), create("/f"), command("c"), command("d")]
    assert missing(steps, 0) == [(1, 0), (3, 0), (4, 0)]
    assert missing(steps, 0, 3) == [(1, 0), (4, 3)]


def test_what_is_in_a_directory_may_miss_its_mode() -> None:
    steps = [chmod("/d", DIRECTORY, 0o700), create("/d/f"), create("/d/e/f"), create("/f")]
    assert missing(steps, 0) == [(1, 0), (2, 0)]


# Random plans over a model.

HOST = ("/a", "/b", "/d/", "/d/a", "/d/e/", "/d/e/a", "/x/")
PATHS = st.sampled_from(["/a", "/b", "/c", "/d", "/x", "/d/a", "/d/b", "/d/e", "/d/e/a", "/x/a"])
ACTS = st.one_of(
    st.tuples(st.just("write"), PATHS, st.sampled_from([b"1", b"22", b"333"])),
    st.tuples(st.just("append"), PATHS, st.sampled_from([b"+", b"++"])),
    st.tuples(st.just("make"), PATHS),
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o600, 0o700])),
    st.tuples(st.just("link"), PATHS, PATHS),
)


def record(acts: list[Any]) -> tuple[list[Act], dict[str, bytes]]:
    """The steps of what was done on a copy of the host, and the contents that they need."""
    model = Model.host(*HOST)
    found = [getattr(model, name)(*arguments) for name, *arguments in acts]
    contents = {}
    for name, *arguments in acts:
        if name in ("write", "append"):
            state = Model().write("/x", arguments[1])
            assert state is not None
            contents[state.step.after.sha256 or ""] = arguments[1]
    return [act for act in found if act is not None], contents


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTS, max_size=12), st.sets(st.integers(0, 11), max_size=4))
def test_what_stays_can_be_applied_and_what_goes_could_not(acts: list[Any], drop: set[int]) -> None:
    recorded, contents = record(acts)
    steps = [act.step for act in recorded]
    dropped = {index for index in drop if index < len(steps)}
    needs = {need.index for need in dependents(steps, dropped).needs}
    kept = [index for index in range(len(steps)) if index not in dropped | needs]
    apply_all(Model.host(*HOST), [recorded[index] for index in kept], contents)
    for need in needs:
        before = [recorded[index] for index in kept if index < need]
        with pytest.raises(Stale):
            apply_all(Model.host(*HOST), [*before, recorded[need]], contents)


def test_a_script_needs_what_runs_it() -> None:
    """A command whose interpreter a step that goes makes or changes could not run as reviewed."""
    script = command("a", interpreters=(Interpreter("/srv/run", OTHER.sha256 or ""),))
    steps = [modify("/srv/run"), script, command("b"), create("/x")]
    assert needing(steps, 0) == [(1, 0)]
    assert missing(steps, 0) == [(2, 1)]
    assert needing(steps, 3) == missing(steps, 3) == []
    assert needing([rename("/srv", "/old", DIRECTORY), script], 0) == [(1, 0)]
    assert needing([script, modify("/srv/run")], 1) == []
