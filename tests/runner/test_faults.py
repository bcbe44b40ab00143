"""An apply at every one of its system calls: killed there, or the call fails (P2, P3, P4)."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.runner import overlays
from tests.support import mixed, syscalls
from tests.support.accounts import is_root
from tests.support.applying import Applying, applying, resuming
from tests.support.faults import (
    ERRORS,
    Answer,
    Call,
    Decide,
    HalfThen,
    Lasting,
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
from tests.support.truth import check_between, check_order, check_told, files_told

pytestmark = [
    pytest.mark.P4,
    pytest.mark.skipif(not is_root(), reason="makes mounts and changes owners"),
]
# Calls are shared out among so many tests, which can run beside one another.
SHARES = 8
CHANGING = syscalls.compile_filter(opening=False)
OPENING = syscalls.compile_filter(opening=True)


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with mixed.bed(mixed.quick_place()) as found:
        yield found


def run(bed: Bed, decide: Decide, program: bytes, on_failure: str = "rollback") -> Applying:
    """Apply the plan from its start state."""
    bed.lay_out()

    def start(work: Callable[[], None]) -> Supervised:
        return Supervised(work, decide, program)

    with applying(
        bed.steps,
        overlays.ourselves(),
        contents=list(bed.contents.values()),
        on_failure=on_failure,
        start=start,
        state=bed.state,
    ) as applied:
        return applied.follow()


def resume(bed: Bed, decide: Decide | None = None, program: bytes = CHANGING) -> Applying:
    """Ask afterwards what became of it."""

    def start(work: Callable[[], None]) -> Supervised:
        return Supervised(work, decide or (lambda _, held: held.go()), program)

    with resuming(bed.state, start) as applied:
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


# Killed.


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("fault", [kill, torn], ids=["between", "in-the-middle"])
def test_killed_at_any_call_it_is_taken_back_or_all_done(
    bed: Bed, fault: Answer, share: int
) -> None:
    calls = recorded(bed, CHANGING)
    for number, call in list(enumerate(calls))[share::SHARES]:
        if fault is torn and call.name not in syscalls.WRITING:
            continue
        killed(bed, number, call, len(calls), fault)
        told = resume(bed)
        check_told(bed, told)
        assert told.error is None or "done" not in files_told(bed, told)
        assert resume(bed).steps == told.steps


def killed(bed: Bed, number: int, call: Call, count: int, fault: Answer = kill) -> None:
    """Kill an apply at one of its `count` calls, and look at what it left."""
    once = Once(number, fault, call.name)
    applied = run(bed, once, CHANGING)
    assert once.reached
    assert applied.lost == (number < count - 1)
    told = [bed.batch_of(i) for i, result in applied.steps.items() if result == "done"]
    batch = min(len(bed.seen()), len(bed.states) - 2)
    assert max(told, default=0) <= batch, call
    check_order(bed)
    check_between(bed, batch)


@pytest.mark.parametrize("share", range(SHARES))
def test_killed_again_while_it_is_taken_back(bed: Bed, share: int) -> None:
    calls = recorded(bed, CHANGING)
    chance = random.Random(share)
    for number, call in list(enumerate(calls))[share :: 2 * SHARES]:
        killed(bed, number, call, len(calls))
        resume(bed, Lasting(chance.randrange(60), kill))
        told = resume(bed)
        check_told(bed, told)
        assert told.error is None or "done" not in files_told(bed, told)


# Failing.


def fail_each(
    bed: Bed,
    program: bytes,
    share: int,
    on_failure: str,
    answers: Callable[[int], Sequence[Answer]],
) -> None:
    """Each call of a share is answered otherwise, once by each of its `answers`."""
    calls = recorded(bed, program)
    for number, call in list(enumerate(calls))[share::SHARES]:
        if call.name in TELLING:
            continue
        for answer in answers(number):
            once = Once(number, answer, call.name)
            applied = run(bed, once, program, on_failure)
            assert once.reached
            check_told(bed, applied)
            check_order(bed)


@pytest.mark.P2
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("on_failure", ["keep", "rollback"])
def test_when_any_call_fails_what_is_told_is_true(bed: Bed, share: int, on_failure: str) -> None:
    def answers(number: int) -> list[Answer]:
        # Half of them with the one, the others with the other.
        if number // SHARES % 2 == (on_failure == "keep"):
            return [failing(ERRORS[number % len(ERRORS)])]
        return []

    fail_each(bed, OPENING, share, on_failure, answers)


@pytest.mark.P2
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("on_failure", ["keep", "rollback"])
def test_when_any_call_fails_in_any_way_what_is_told_is_true(
    bed: Bed, share: int, on_failure: str
) -> None:
    program = syscalls.compile_filter(opening=True, reading=True)
    fail_each(bed, program, share, on_failure, lambda _: [failing(code) for code in ERRORS])


@pytest.mark.P2
@pytest.mark.parametrize("share", range(SHARES))
def test_when_nothing_can_be_changed_any_more_what_is_told_is_true(bed: Bed, share: int) -> None:
    """As when the filesystem becomes read-only: then nothing can be put back either, until it is
    as before."""
    calls = recorded(bed, CHANGING)
    names = {*syscalls.CHANGING, *syscalls.SYNCING}
    for number, call in list(enumerate(calls))[share :: 2 * SHARES]:
        if call.name in names:
            answer = failing(ERRORS[number // SHARES % len(ERRORS)])
            check_told(bed, run(bed, Lasting(number, answer, names), CHANGING))
            check_told(bed, resume(bed))


@pytest.mark.P2
def test_a_write_that_writes_less_is_gone_on_with(bed: Bed) -> None:
    for number, call in enumerate(recorded(bed, CHANGING)):
        if call.name in syscalls.WRITING:
            applied = run(bed, Once(number, half, call.name), CHANGING)
            assert applied.error is None
            check_told(bed, applied)


@pytest.mark.P2
def test_a_disk_that_is_full_in_the_middle_of_a_write(bed: Bed) -> None:
    for number, call in enumerate(recorded(bed, CHANGING)):
        if call.name in syscalls.WRITING:
            applied = run(bed, HalfThen(number, failing(errno.ENOSPC)), CHANGING)
            check_told(bed, applied)
            assert resume(bed).steps == applied.steps
