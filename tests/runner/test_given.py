"""Files with several names, of which a plan changes the metadata through one or more (P2, P4)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shannotd.runner import tree
from shannotd.runner.given import Given
from shannotd.runner.joined import Joined
from shannotd.runner.plan import FileStep
from tests.runner.conftest import Bench
from tests.runner.test_any_script import check, make_gate, plot

pytestmark = [pytest.mark.P2, pytest.mark.P4]

LINKED = [("link", "a", "n"), ("link", "a", "d/e/b")]
SECRET = 0o600
WRITE_ONLY = 0o200
# What does to names that are one file on the host, and not in the sandbox, what it does plainly.
ALIKE = [
    [[("mode", "a", SECRET)]],
    [[("mode", "a", SECRET), ("mode", "n", SECRET), ("mode", "d/e/b", SECRET)]],
    [[("mode", "a", SECRET), ("mode", "n", 0o640)]],
    [[("mode", "a", SECRET)], [("mode", "n", SECRET)], [("mode", "d/e/b", 0o640)]],
    [[("mode", "a", SECRET), ("remove", "n")]],
    [[("mode", "a", SECRET)], [("remove", "n")]],
    [[("mode", "a", SECRET), ("remove", "d")]],
    [[("mode", "a", SECRET)], [("remove", "d")]],
    [[("mode", "a", SECRET), ("replace", "n", "one\ntwo\n")]],
    [[("age", "a"), ("age", "n")]],
    [[("age", "a")], [("age", "n")]],
    [[("attribute", "a", "x"), ("attribute", "n", "x")]],
    [[("attribute", "a", "x")], [("attribute", "n", "x")]],
    [[("attribute", "a", "x"), ("mode", "n", SECRET)]],
    [[("attribute", "a", "x")], [("mode", "n", SECRET)], [("age", "d/e/b")]],
]
# What parts them, as a plan says; and the modes that are left at the names.
PARTED = [
    ([[("mode", "a", SECRET)], [("write", "n", "one\ntwo\n")]], (0o600, 0o644, 0o600)),
    ([[("mode", "a", SECRET), ("append", "n", "two\n")]], (0o600, 0o644, 0o600)),
    ([[("mode", "a", SECRET)], [("append", "n", "two\n")]], (0o600, 0o644, 0o600)),
    ([[("mode", "a", SECRET), ("append", "a", "two\n")]], (0o600, 0o644, 0o644)),
    ([[("mode", "a", SECRET), ("rename-file", "n", "b")]], (0o600, None, 0o600)),
]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("phases", ALIKE, ids=str)
def test_names_that_are_one_file(bench: Bench, phases: Any, fails: bool) -> None:
    check(bench, LINKED, phases, fails=fails)


@pytest.mark.parametrize(("phases", "modes"), PARTED, ids=str)
def test_names_that_are_parted(bench: Bench, phases: Any, modes: Any) -> None:
    check(bench, LINKED, phases, fails=True)
    with plot(bench, LINKED) as found:
        outcome = found.dry_run(phases)
        make_gate(found)
        _, error = bench.runner.apply(outcome)
        assert error is None
        assert tuple(_mode(found.top / "host" / name) for name in ("a", "n", "d/e/b")) == modes


def _mode(path: Path) -> int | None:
    return path.stat().st_mode & 0o7777 if path.exists() else None


@pytest.mark.parametrize("fails", [False, True])
def test_who_may_not_read_it_any_more_goes_on(bench: Bench, fails: bool) -> None:
    phases = [[("mode", name, WRITE_ONLY) for name in ("a", "n")] + [("remove", "d/e/b")]]
    with plot(bench, LINKED) as found:
        before = {name: _mode(found.top / "host" / name) for name in ("a", "n", "d/e/b")}
        outcome = found.dry_run_at_once(phases)
        assert outcome.error is None
        _, error = bench.runner.apply(outcome)
        assert error is None
        assert [_mode(found.top / "host" / name) for name in before] == [0o200, 0o200, None]


def test_a_plan_says_it_of_every_name_that_it_makes(bench: Bench) -> None:
    with plot(bench, []) as found:
        outcome = found.dry_run([[("link", "a", "n")], [("mode", "n", SECRET)]])
        changed = {
            os.path.basename(step["path"]): (step["before"]["mode"], step["after"]["mode"])
            for step in outcome.steps
            if step["kind"] == "file" and step["change"] == "metadata"
        }
        assert changed == {"a": (0o644, 0o600), "n": (0o644, 0o600)}


# Of the host alone.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("content")
    path.chmod(0o644)
    os.link(path, tmp_path / "twin")
    return path


def look(path: Path) -> tree.Entry:
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        return tree.entry(directory, path.name)
    finally:
        os.close(directory)


def names(path: Path) -> Joined:
    """A plan changes the file by both of its names."""
    state = look(path).state
    twin = str(path.with_name("twin"))
    return Joined([FileStep("metadata", one, state, state) for one in (str(path), twin)])


def changed(given: Given, path: Path, mode: int) -> tree.Entry:
    """A step has changed the mode; what it found."""
    found = look(path)
    after = replace(found.state, mode=mode)
    given.intend(FileStep("metadata", str(path), found.state, after), found)
    path.chmod(mode)
    given.changed(str(path), found, after, look(path))
    return found


def test_what_a_step_gave_is_seen_as_expected(file: Path) -> None:
    given = Given(names(file))
    before = changed(given, file, 0o600)
    twin = look(file.with_name("twin"))
    assert twin.state.mode == 0o600
    seen = given.seen(str(file.with_name("twin")), before.state, twin)
    assert (seen.state, seen.status and seen.status.ctime_ns) == (
        before.state,
        before.status and before.status.ctime_ns,
    )
    assert given.seen("/twin", twin.state, twin) == twin


@pytest.mark.P9
@pytest.mark.parametrize(
    "act",
    [
        lambda path: path.chmod(0o640),
        lambda path: os.utime(path, (1, 1)),
        lambda path: os.setxattr(path, "user.other", b"x"),
        lambda path: path.write_text("longer content"),
        lambda path: (path.write_text("CONTENT"), os.utime(path, ns=(1, 1))),
    ],
)
def test_what_somebody_else_did_since_is_not(file: Path, act: Any) -> None:
    os.utime(file, ns=(1, 1))
    given = Given(names(file))
    before = changed(given, file, 0o600)
    act(file)
    found = look(file.with_name("twin"))
    assert given.seen(str(file.with_name("twin")), before.state, found) == found


def test_what_no_step_had_there_is_seen_as_it_is_now(file: Path) -> None:
    given = Given(names(file))
    before = changed(given, file, 0o600)
    found = look(file)
    assert given.seen(str(file), replace(before.state, mode=0o4755), found).state.mode == 0o600


def test_of_a_batch_that_failed_nothing_is_kept(file: Path) -> None:
    given = Given(names(file))
    batch = given.copy()
    before = changed(batch, file, 0o600)
    found = look(file)
    assert given.seen(str(file.with_name("twin")), before.state, found).state.mode == 0o600
    given.take(batch)
    assert given.seen(str(file.with_name("twin")), before.state, found).state.mode == 0o644
