"""Who holds open for writing what a plan replaces or deletes: of real processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shannotd.runner import tree
from shannotd.runner.holders import holders
from shannotd.runner.plan import ABSENT, FileState, FileStep, Identity, TreeSummary
from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.holding import PROGRAM, holding


def step(change: str, path: Path, **more: object) -> FileStep:
    """A step over what is at `path` now."""
    before = tree.state(str(path))
    after = ABSENT if change == "delete" else FileState("file", sha256="0" * 64)
    if before.type == "directory":
        summary = TreeSummary(1, 1, "0" * 64)
        before = FileState(**{**vars(before), "tree": summary})
    return FileStep(change, str(path), before, after, **more)  # type: ignore[arg-type]


def found(*steps: FileStep) -> dict[int, list[int]]:
    """The processes of each step, those apart that other tests have started."""
    mine = os.getpid()
    return {
        index: [one.pid for one in some if parent(one.pid) == mine]
        for index, some in holders(steps).items()
    }


def parent(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[1])


@pytest.mark.parametrize(
    ("mode", "writes"),
    [("r", False), ("w", True), ("a", True), ("r+", True), ("shared", True), ("private", False)],
)
@pytest.mark.parametrize("change", ["modify", "append", "delete"])
def test_who_writes_is_found_however_it_opened_the_file(
    change: str, mode: str, writes: bool, top: Path
) -> None:
    file = top / "host/file"
    file.write_text("x")
    with holding((mode, file)) as process:
        expected = {0: [process.pid]} if writes else {}
        assert found(step(change, file)) == expected
        program = os.path.realpath(PROGRAM)
        assert [one.program for one in holders([step(change, file)]).get(0, [])] == (
            [program] if writes else []
        )
    assert found(step(change, file)) == {}


def test_another_name_is_the_same_file(top: Path) -> None:
    file = top / "host/file"
    file.touch()
    os.link(file, top / "host/twin")
    with holding(("a", top / "host/twin")) as process:
        assert found(step("modify", file)) == {0: [process.pid]}


@pytest.mark.parametrize("change", ["create", "metadata", "rename"])
def test_what_stays_in_its_place_is_of_no_interest(change: str, top: Path) -> None:
    """Who has a renamed file open goes on writing into just that."""
    file = top / "host/file"
    file.touch()
    more = {"old_path": f"{top}/host/old"} if change == "rename" else {}
    with holding(("a", file)):
        assert found(step(change, file, **more)) == {}


def test_a_tree_that_goes(top: Path) -> None:
    directory = top / "host/d"
    (directory / "sub").mkdir(parents=True)
    (top / "host/d2").mkdir()
    with (
        holding(("w", directory / "sub/one"), ("w", directory / "two")) as first,
        holding(("w", directory / "sub/three")) as second,
        holding(("w", top / "host/d2/other")),
        holding(("w", directory / "gone")),
    ):
        (directory / "gone").unlink()
        assert found(step("delete", directory)) == {0: sorted([first.pid, second.pid])}


def test_paths_are_those_before_the_plan(top: Path) -> None:
    """A step names a file by where earlier steps have put it."""
    (top / "host/d").mkdir()
    file = top / "host/d/file"
    file.touch()
    changed = step("modify", file)
    moved = FileStep(
        "rename", f"{top}/host/e", tree.state(f"{top}/host/d"), ABSENT, f"{top}/host/d"
    )
    after = FileStep("modify", f"{top}/host/e/file", changed.before, changed.after)
    made = FileStep("modify", str(file), changed.before, changed.after)
    with holding(("a", file)) as process:
        assert found(moved, after) == {1: [process.pid]}
        assert found(moved, made) == {}
        # Once it was replaced the plan's own file is there.
        assert found(changed, changed) == {0: [process.pid]}


@pytest.mark.skipif(not is_root(), reason="makes accounts")
def test_an_account_sees_its_own_processes_only(ordinary: Identity) -> None:
    """Root sees all."""
    with overlays.workplace(ordinary) as top:
        file = top / "host/file"
        file.touch()
        file.chmod(0o666)
        who = {"user": ordinary.uid, "group": ordinary.gid, "extra_groups": []}
        with holding(("a", file)) as theirs, holding(("a", file), **who) as own:
            steps = [step("modify", file)]
            assert found(*steps) == {0: sorted([theirs.pid, own.pid])}
            seen = overlays.in_child(lambda: holders(steps), ordinary)
            assert [one.pid for one in seen[0]] == [own.pid]


def test_it_comes_with_the_plan(bench: Bench, place: Path) -> None:
    for name in ("log", "other"):
        (place / name).write_text("old\n")
        os.chown(place / name, bench.uid, place.stat().st_gid)
    group = place.stat().st_gid
    who = {"user": bench.uid, "group": group, "extra_groups": []} if is_root() else {}
    with holding(("a", place / "log"), **who) as process:
        script = "echo new >> log; echo new > other; echo new > fresh; mkfifo fifo"
        outcome = bench.run("shell", script, cwd=str(place))
    assert outcome.error is None
    told = {
        step.get("path", step.get("target")): note["holders"]
        for step, note in zip(outcome.steps, outcome.notes, strict=True)
    }
    program = os.path.realpath(PROGRAM)
    assert told == {
        f"{place}/log": [{"pid": process.pid, "program": program}],
        f"{place}/other": [],
        f"{place}/fresh": [],
        f"{place}/fifo": [],
    }
