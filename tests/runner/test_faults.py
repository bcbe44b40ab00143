"""An apply at every one of its system calls: killed there, or the call fails (P2, P3, P4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.runner import overlays
from tests.support import mixed, syscalls
from tests.support.accounts import is_root
from tests.support.applying import Applying, applying
from tests.support.faults import (
    ERRORS,
    Answer,
    Call,
    Decide,
    Once,
    Recorder,
    Supervised,
    failing,
    half,
    kill,
    torn,
)
from tests.support.mixed import Bed
from tests.support.syscalls import TELLING

pytestmark = [
    pytest.mark.P4,
    pytest.mark.skipif(not is_root(), reason="makes mounts and changes owners"),
]
# Calls are shared out among so many tests, which can run beside one another.
SHARES = 8


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with mixed.bed(mixed.quick_place()) as found:
        yield found


def run(bed: Bed, decide: Decide, program: bytes) -> Applying:
    """Apply the plan from its start state."""
    bed.lay_out()

    def start(work: Callable[[], None]) -> Supervised:
        return Supervised(work, decide, program)

    contents = list(bed.contents.values())
    who = overlays.ourselves()
    with applying(bed.steps, who, contents=contents, on_failure="keep", start=start) as applied:
        return applied.follow()


def recorded(bed: Bed, program: bytes) -> list[Call]:
    """The calls of an apply to which nothing happens."""
    recorder = Recorder()
    applied = run(bed, recorder, program)
    assert applied.error is None
    assert overlays.snapshot(bed.host) == bed.states[-1]
    return recorder.calls


def test_the_plan_has_steps_of_every_kind(bed: Bed) -> None:
    assert mixed.kinds(bed.steps) >= {
        *("create absent file", "create absent directory", "create absent symlink", "link"),
        *("modify file file", "modify symlink symlink", "append file file"),
        *("modify directory file", "modify file directory"),
        *("delete file absent", "delete directory absent", "delete symlink absent"),
        *("rename file file", "rename directory directory"),
        *("metadata file file", "metadata directory directory"),
    }


# What is there, and what was told of it.


def check_between(bed: Bed, number: int) -> None:
    """Every path is as before the batch `number` or as after it."""
    found = overlays.snapshot(bed.host)
    assert mixed.is_between(found, *bed.states[number : number + 2]) is None


def check_told(bed: Bed, applied: Applying) -> None:
    """The tree is what was told: so many batches, but for the paths that are named."""
    assert not applied.lost
    told = ""
    if applied.error is not None:
        details = applied.error["details"]
        told = " ".join(str(details.get(name, "")) for name in ("before", "left"))
    done = batches_done(bed, applied)
    if applied.error is None:
        assert done == len(bed.states) - 1
    named = re.findall(rf"{re.escape(str(bed.host))}(?:/([^ ,]*))?(?= \(|,|$)", told)
    snapshots = [overlays.snapshot(bed.host), bed.states[done]]
    # What happens to one name of a file happens to the others.
    named += [twin for name in named for twin in snapshots[0].get(name, {}).get("twins", ())]
    found, expected = (
        {
            path: {**entry, "twins": ()}
            for path, entry in snapshot.items()
            if not any(path == name or path.startswith(name + "/") for name in named)
        }
        for snapshot in snapshots
    )
    different = {
        path: (found.get(path), expected.get(path))
        for path in {*found, *expected}
        if found.get(path) != expected.get(path)
    }
    assert different == {}, applied.error
    if named:
        check_between(bed, done if "undone" in told else done - 1)


def batches_done(bed: Bed, applied: Applying) -> int:
    """How many batches were told to be done; those before and their commands are too."""
    assert len(applied.steps) in (0, len(bed.steps))
    results = [applied.steps.get(index, "skipped") for index in range(len(bed.steps))]
    done = 0
    while done < len(bed.states) - 1:
        indexes = [index for index in range(len(bed.steps)) if bed.batch_of(index) == done]
        if results[indexes[0]] != "done":
            break
        done += 1
        files = [results[index] for index in indexes if bed.steps[index].kind == "file"]
        assert set(files) == {"done"}
        if results[indexes[-1]] != "done":
            break
    first = next((index for index, result in enumerate(results) if result != "done"), len(results))
    assert "done" not in results[first:]
    commands = [step.kind for step in bed.steps[:first]].count("command")
    assert len(bed.seen()) in (commands, commands + 1)
    return done


def check_order(bed: Bed) -> None:
    """Each command saw all that comes before it, and nothing that comes after."""
    for number, line in enumerate(bed.seen(), 1):
        paths = {path for path in bed.states[number] if path and path.count("/") < 2}
        assert set(line.split()) == paths, f"command {number}"


# Killed.


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("fault", [kill, torn], ids=["between", "in-the-middle"])
def test_killed_at_any_call_every_file_is_old_or_new(bed: Bed, fault: Answer, share: int) -> None:
    program = syscalls.compile_filter(opening=False)
    calls = recorded(bed, program)
    for number, call in list(enumerate(calls))[share::SHARES]:
        if fault is torn and call.name not in syscalls.WRITING:
            continue
        once = Once(number, fault, call.name)
        applied = run(bed, once, program)
        assert once.reached
        assert applied.lost == (number < len(calls) - 1)
        told = [bed.batch_of(i) for i, result in applied.steps.items() if result == "done"]
        batch = min(len(bed.seen()), len(bed.states) - 2)
        assert max(told, default=0) <= batch, call
        check_order(bed)
        check_between(bed, batch)


# Failing.


def fail_each(
    bed: Bed, program: bytes, share: int, answers: Callable[[int], Sequence[Answer]]
) -> None:
    """Each call of a share is answered otherwise, once by each of its `answers`."""
    calls = recorded(bed, program)
    for number, call in list(enumerate(calls))[share::SHARES]:
        if call.name in TELLING:
            continue
        for answer in answers(number):
            once = Once(number, answer, call.name)
            applied = run(bed, once, program)
            assert once.reached
            check_told(bed, applied)
            check_order(bed)


@pytest.mark.P2
@pytest.mark.parametrize("share", range(SHARES))
def test_when_any_call_fails_what_is_told_is_true(bed: Bed, share: int) -> None:
    program = syscalls.compile_filter(opening=True)
    fail_each(bed, program, share, lambda number: [failing(ERRORS[number % len(ERRORS)])])


@pytest.mark.P2
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("share", range(SHARES))
def test_when_any_call_fails_in_any_way_what_is_told_is_true(bed: Bed, share: int) -> None:
    program = syscalls.compile_filter(opening=True, reading=True)
    fail_each(bed, program, share, lambda _: [failing(code) for code in ERRORS])


@pytest.mark.P2
def test_a_write_that_writes_less_is_gone_on_with(bed: Bed) -> None:
    program = syscalls.compile_filter(opening=False)
    for number, call in enumerate(recorded(bed, program)):
        if call.name in syscalls.WRITING:
            applied = run(bed, Once(number, half, call.name), program)
            assert applied.error is None
            check_told(bed, applied)
