"""Deltas between barriers: applied one after the other they come to what the script did (P2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shannotd.runner.frames import RunnerError
from tests.runner import overlays
from tests.runner.overlays import Recording
from tests.support.accounts import is_root
from tests.support.phases import Phase, perform, record_phases

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


def check(wanted: Sequence[Phase], scratch: Sequence[str] = ()) -> list[Recording]:
    """Record, apply one after the other, and compare with what the phases do plainly."""
    account = overlays.ourselves()
    with twins() as top:
        before = overlays.snapshot(top / "host")
        recordings = record_phases(top, wanted, account, scratch=scratch)
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
