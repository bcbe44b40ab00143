"""Deltas between barriers: applied one after the other they come to what the script did (P2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shannotd.runner.delta import CLOCK_LAG_NS, History, Version, can_be_checked
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import ABSENT, FileState
from shannotd.runner.tree import HASHED_BYTES
from tests.runner import overlays
from tests.runner.overlays import Recording, file_steps
from tests.support.accounts import is_root
from tests.support.operations import Operation, Phase, perform
from tests.support.phases import record_phases

pytestmark = pytest.mark.P2
roots = pytest.mark.skipif(not is_root(), reason="makes mounts")

PATHS = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "new", "new/a", "new/e", "new/e/b"]
TEXTS = ["", "one\n", "two\n", "one\ntwo\n", "\0binary"]
# A host to begin with.
HOST: Phase = [
    ("write", "a", "one\n"),
    ("write", "b", "two\n"),
    ("mkdir", "d"),
    ("write", "d/a", "in d\n"),
    ("write", "d/b", "more in d\n"),
    ("mkdir", "d/e"),
    ("write", "d/e/a", "deep\n"),
]

path = st.sampled_from(PATHS)
text = st.sampled_from(TEXTS)
operation = st.one_of(
    st.tuples(st.just("write"), path, text),
    st.tuples(st.just("append"), path, text),
    st.tuples(st.just("replace"), path, text),
    st.tuples(st.just("remove"), path),
    st.tuples(st.just("mkdir"), path),
    st.tuples(st.just("chmod"), path, st.sampled_from([0o600, 0o755])),
    st.tuples(st.just("symlink"), path, st.sampled_from(["a", "elsewhere"])),
    st.tuples(st.just("link"), path, path),
    st.tuples(st.just("age"), path),
    st.tuples(st.just("attribute"), path, st.sampled_from(["x", "y"])),
    st.tuples(st.just("rename-file"), path, path),
)
phases = st.lists(st.lists(operation, max_size=6), min_size=2, max_size=4)
many = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@contextmanager
def twins() -> Iterator[Path]:
    """A directory with a host and its copy."""
    with overlays.workplace(overlays.ourselves()) as top:
        for name in ("host", "copy"):
            perform(str(top / name), HOST)
        yield top


def check(wanted: Sequence[Phase]) -> list[Recording]:
    """Record, apply one after the other, and compare with what the phases do plainly."""
    account = overlays.ourselves()
    with twins() as top:
        before = overlays.snapshot(top / "host")
        recordings = record_phases(top, wanted, account)
        assert overlays.snapshot(top / "host") == before
        for number, (phase, recording) in enumerate(zip(wanted, recordings, strict=True)):
            perform(str(top / "copy"), phase)
            found = overlays.plan_of(recording, account, f"session-{number}")
            applied = overlays.apply_plan(found, recording.contents)
            assert applied.error is None, (number, applied.error, found.steps)
            assert overlays.snapshot(top / "host") == overlays.snapshot(top / "copy"), found.steps
        return recordings


@roots
@many
@given(phases)
@example([[("remove", "d")], [("mkdir", "d"), ("write", "d/a", "in d\n")], [("remove", "d")]])
@example([[("write", "d/a", "x")], [("remove", "d"), ("write", "d", "a file")], [("remove", "d")]])
@example([[("chmod", "d/e", 0o700)], [("remove", "d")]])
@example([[("write", "new", "x"), ("link", "new", "b2")], [("chmod", "new", 0o600)]])
def test_any_files_over_any_barriers(wanted: list[Phase]) -> None:
    check(wanted)


with_directories = st.one_of(operation, st.tuples(st.just("rename"), path, path))


@roots
@many
@given(st.lists(st.lists(with_directories, max_size=5), min_size=2, max_size=3))
def test_renamed_directories_are_told_exactly_or_not_at_all(wanted: list[Phase]) -> None:
    try:
        check(wanted)
    except RunnerError as error:
        assert error.code == "capture_failed"
        assert any(step[0] == "rename" for phase in wanted for step in phase)


# What a version tells, and what cannot be told again.

FILE = FileState("file", 0o644, 0, 0, 3, "f" * 64)


def test_a_file_that_changed_just_before_a_barrier_is_looked_at_again() -> None:
    found = Version(1, 2, 3, 4, 10**9)
    history = History(versions={"/f": found}, captured_ns=10**9 + CLOCK_LAG_NS + 1)
    assert history.unchanged("/f", found)
    assert not history.unchanged("/f", found._replace(ctime_ns=10**9 - 1))
    assert not history.unchanged("/g", found)
    assert not replace(history, captured_ns=10**9 + CLOCK_LAG_NS).unchanged("/f", found)


@pytest.mark.parametrize(
    ("state", "uid", "told"),
    [
        (FILE, 1000, True),
        (ABSENT, 1000, True),
        (replace(FILE, mode=0o200, uid=1000), 1000, False),
        (replace(FILE, mode=0o200, uid=1000), 0, True),
        (replace(FILE, sha256=None, fingerprint="1:2:3:4"), 0, False),
        (replace(FILE, size=HASHED_BYTES + 1), 0, False),
    ],
)
def test_what_a_later_batch_could_not_check_is_not_recorded(
    state: FileState, uid: int, told: bool
) -> None:
    assert can_be_checked(state, uid) is told


@roots
def test_a_directory_renamed_after_a_barrier_changed_it_is_refused() -> None:
    with pytest.raises(RunnerError) as raised:
        check([[("write", "d/a", "changed")], [("rename", "d", "new")]])
    assert raised.value.code == "capture_failed"
    assert "renamed" in raised.value.details["reason"]


@roots
def test_renamed_directories_stay_where_they_are_over_barriers() -> None:
    first, second, third = check(
        [[("rename", "d", "new")], [("write", "new/a", "x")], [("remove", "new/b")]]
    )
    assert [step.change for step in file_steps(first)] == ["rename"]
    assert [step.change for step in file_steps(second)] == ["modify"]
    assert [step.change for step in file_steps(third)] == ["delete"]


@roots
def test_what_was_told_once_is_not_told_again() -> None:
    steps = [("write", "a", "x"), ("link", "b", "twin"), ("chmod", "d", 0o700), ("remove", "d/b")]
    recordings = check([steps, [], [("age", "b")]])
    assert recordings[1].steps == ()
    # It has two names by now, and the plan says it of both.
    assert [step.change for step in file_steps(recordings[2])] == ["metadata", "metadata"]


@roots
@pytest.mark.parametrize("change", [("chmod", "a", 0o600), ("rename", "a", "new")])
def test_a_time_that_nobody_changed_is_not_told(change: Operation) -> None:
    """Files of the host are older than the script, as those are whose time it set."""
    with twins() as top:
        perform(str(top / "host"), [("age-all",)])
        first, second = record_phases(top, [[change], []], overlays.ourselves())
    assert len(file_steps(first)) == 1
    assert second.steps == ()


@roots
def test_appends_stay_appends() -> None:
    recordings = check([[("append", "a", "two\n")], [("append", "a", "three\n")]])
    for recording in recordings:
        (step,) = file_steps(recording)
        assert step.change == "append"
    assert "+three" in (recordings[1].notes[0].diff or "")
