"""Any script, with commands between its changes: applied it comes to what it does plainly (P2, P3),
and rolled back to what was there before (P4)."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.support import operations
from tests.support.operations import perform
from tests.support.runner import Outcome, review

pytestmark = [pytest.mark.P2, pytest.mark.P3, pytest.mark.P4]

PATHS = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "n", "n/a", "n/e", "n/e/b", ".dot", "é"]
TEXTS = ["", "one\n", "two\n", "one\ntwo\n", "\0binary"]
MODES = [0o600, 0o644, 0o755, 0o700]
HOST: operations.Phase = [
    ("write", "a", "one\n"),
    ("write", "b", "two\n"),
    ("mkdir", "d"),
    ("write", "d/a", "in d\n"),
    ("symlink", "d/b", "../a"),
    ("mkdir", "d/e"),
    ("write", "d/e/a", "deep\n"),
]
path = st.sampled_from(PATHS)
text = st.sampled_from(TEXTS)
# Files that have several names before are not among them: a change parts them, as a plan says.
unlinked = st.one_of(
    st.tuples(st.just("write"), path, text),
    st.tuples(st.just("append"), path, text),
    st.tuples(st.just("large"), path, st.sampled_from(["x", "y"])),
    st.tuples(st.just("replace"), path, text),
    st.tuples(st.just("remove"), path),
    st.tuples(st.just("mkdir"), path),
    st.tuples(st.just("mode"), path, st.sampled_from(MODES)),
    st.tuples(st.just("symlink"), path, st.sampled_from(["a", "elsewhere", ".."])),
    st.tuples(st.just("age"), path),
    st.tuples(st.just("attribute"), path, st.sampled_from(["x", "y"])),
    st.tuples(st.just("rename-file"), path, path),
    st.tuples(st.just("rename"), path, path),
)
operation = st.one_of(unlinked, st.tuples(st.just("link"), path, path))
trees = st.lists(unlinked, max_size=6)
scripts = st.lists(st.lists(operation, max_size=5), min_size=1, max_size=4)

# What a script is in the sandbox: the operations, and between two phases a command that waits
# for the review. The last one fails where its directory is missing.
_SCRIPT = """
{source}
import subprocess
for number, phase in enumerate({phases!r}):
    if number:
        subprocess.run(["truncate", "--size=+1", {marks!r}], check=True)
    perform({top!r}, phase)
subprocess.run(["truncate", "--size=+1", {gate!r}], check=True)
"""


@dataclass(frozen=True)
class Plot:
    """A directory with a host, its copy, and what the commands write."""

    bench: Bench
    top: Path

    @property
    def marks(self) -> Path:
        """A file that each command makes longer by a byte."""
        return self.top / "marks"

    @property
    def gate(self) -> Path:
        """The same for the last command; its directory may be missing."""
        return self.top / "gate/marks"

    def perform(self, side: str, phases: Sequence[operations.Phase]) -> None:
        """Do it plainly, as the identity."""

        def work() -> None:
            for phase in phases:
                perform(str(self.top / side), phase)

        who = None if self.bench.account is None else overlays.who(self.bench.account)
        overlays.in_child(work, who)

    def dry_run_at_once(self, phases: Sequence[operations.Phase]) -> Outcome:
        """What the script would do, without any command."""
        everything = [operation for phase in phases for operation in phase]
        script = (
            f"{inspect.getsource(operations)}\nperform({str(self.top / 'host')!r}, {everything})"
        )
        return self.bench.run("python", script, cwd="/")

    def dry_run(self, phases: Sequence[operations.Phase]) -> Outcome:
        """What the script would do."""
        script = _SCRIPT.format(
            source=inspect.getsource(operations),
            phases=list(phases),
            marks=str(self.marks),
            gate=str(self.gate),
            top=str(self.top / "host"),
        )
        return self.bench.run(
            "python", script, cwd="/", shims=["truncate"], decide=lambda _: review()
        )


@contextmanager
def plot(bench: Bench, tree: operations.Phase) -> Iterator[Plot]:
    """Two directories alike."""
    top = Path(tempfile.mkdtemp(prefix="shannot-any-", dir=bench.home))
    try:
        found = Plot(bench, top)
        owner = os.stat(bench.home)
        for path in (top / "host", top / "copy", top):
            path.mkdir(exist_ok=True)
            os.chown(path, owner.st_uid, owner.st_gid)
        for side in ("host", "copy"):
            found.perform(side, [HOST, tree, [("age-all",)]])
        yield found
    finally:
        shutil.rmtree(top)


def check(
    bench: Bench, tree: operations.Phase, phases: Sequence[operations.Phase], *, fails: bool
) -> None:
    """Applied it is as if it was run; if its last command `fails`, it is as before."""
    if bench.builder == "one-uid":
        # Its overlays rename no directories (EXDEV), as sandbox.md says.
        phases = [[_without_directories(one) for one in phase] for phase in phases]
    with plot(bench, tree) as found:
        host = found.top / "host"
        before = overlays.snapshot(host)
        outcome = found.dry_run(phases)
        assert overlays.snapshot(host) == before, "the dry run touched the host"
        if outcome.error is not None:
            # A directory that was renamed after a barrier may not be told: then nothing is.
            assert outcome.error["code"] == "capture_failed", outcome.error
            assert any(one[0] == "rename" for phase in phases for one in phase)
            return
        assert outcome.exit_code == 0, outcome.stderr.decode()
        if not fails:
            make_gate(found)
        steps, error = bench.runner.apply(outcome)
        assert size(found.marks) == len(phases) - 1
        if fails:
            check_taken_back(outcome, steps, error)
            assert one_name_each(overlays.snapshot(host)) == one_name_each(before), outcome.steps
        else:
            assert error is None, (error, outcome.steps)
            found.perform("copy", phases)
            assert overlays.snapshot(host) == overlays.snapshot(found.top / "copy"), outcome.steps
            assert size(found.gate) == 1


def make_gate(found: Plot) -> None:
    """Let the last command succeed."""
    found.gate.parent.mkdir()
    status = found.top.stat()
    os.chown(found.gate.parent, status.st_uid, status.st_gid)


def _without_directories(operation: operations.Operation) -> operations.Operation:
    return ("rename-file", *operation[1:]) if operation[0] == "rename" else operation


def check_taken_back(
    outcome: Outcome, steps: Sequence[dict[str, Any]], error: dict[str, Any] | None
) -> None:
    """Everything was taken back but what the commands did."""
    assert error is not None
    assert error["code"] == "command_failed", error
    results: dict[int, str] = {step["index"]: step["applied"] for step in steps}
    files = {
        results[index]
        for index, step in enumerate(outcome.steps)
        if step["kind"] == "file" and not step["scratch"]
    }
    assert files <= {"undone"}, (results, error, outcome.steps)


def one_name_each(snapshot: overlays.Snapshot) -> dict[str, Any]:
    """A tree without which names are of one file: what is restored has one name."""
    return {path: {**entry, "twins": ()} for path, entry in snapshot.items()}


def size(path: Path) -> int:
    """How often a command was run."""
    return path.stat().st_size if path.exists() else 0


def many(count: int) -> settings:
    """So many examples."""
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )


@pytest.mark.timeout(900)
@many(125)
@given(tree=trees, phases=scripts, fails=st.booleans())
@example([], [[("remove", "d")], [("mkdir", "d"), ("write", "d/a", "x")]], True)
@example([], [[("write", "a", "")], [("attribute", "a", "x")]], True)
@example([], [[("rename-file", "a", "n")], [("mode", "n", 0o600)]], True)
@example([], [[("mkdir", "n"), ("write", "n/a", "")], [("write", "n/a", "one\n")]], True)
@example([], [[("link", "a", "n")], [("mode", "a", 0o600)]], True)
@example([], [[("link", "a", "n")], [("replace", "a", "one\n")]], False)
@example(
    [],
    [[("write", "n", "x"), ("link", "n", ".dot")], [("replace", "n", "x")], [("mode", "n", 0o600)]],
    False,
)
@example([], [[("link", "a", "n")], [("mode", "a", 0o600)], [("write", "a", "")]], False)
@example(
    [],
    [
        [("rename-file", "b", "a"), ("link", "d/e/a", "b")],
        [("remove", "d"), ("mode", "b", 0o600)],
        [],
    ],
    True,
)
@example(
    [],
    [[("rename-file", "b", "a"), ("link", "a", "b"), ("write", "a", "")], [("mode", "a", 0o600)]],
    True,
)
@pytest.mark.parametrize("share", range(2))
def test_any_script(bench: Bench, share: int, tree: Any, phases: Any, fails: bool) -> None:
    check(bench, tree, phases, fails=fails)


@pytest.mark.long
@pytest.mark.timeout(0)
@many(int(os.environ.get("SHANNOT_EXAMPLES", "20000")))
@given(tree=trees, phases=scripts, fails=st.booleans())
def test_any_script_for_long(bench: Bench, tree: Any, phases: Any, fails: bool) -> None:
    check(bench, tree, phases, fails=fails)


@pytest.mark.parametrize("fails", [False, True])
def test_what_the_script_may_not_read_any_more_is_as_it_left_it(bench: Bench, fails: bool) -> None:
    check(bench, [], [[("mode", "a", 0o200)], [("write", "b", "x")], []], fails=fails)


@pytest.mark.parametrize("last", [("append", "a", "x"), ("mode", "a", 0o600), ("remove", "a")])
def test_what_nobody_could_check_between_two_changes_is_refused(bench: Bench, last: Any) -> None:
    with plot(bench, []) as found:
        outcome = found.dry_run([[("mode", "a", 0o200)], [last]])
        if bench.builder == "privileged":
            assert outcome.error is None
        else:
            assert outcome.error is not None
            assert outcome.error["code"] == "capture_failed"
            assert "both sides of a command" in outcome.error["details"]["reason"]


@pytest.mark.P2
def test_a_renamed_file_that_is_written_again_alike_has_another_time(bench: Bench) -> None:
    phases = [[("rename-file", "b", ".dot")], [("write", ".dot", "two\n")]]
    check(bench, [], phases, fails=False)
