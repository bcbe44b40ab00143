"""What it costs to apply an approved plan, beside a copy of the same bytes."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench, python, spread, timed_command
from benchmarks.figures import Row, interleave, ratio_row
from shannotctl.client import Session, State

_MARKS = itertools.count()
CHANGE = """\
import sys
directory, count, mark = sys.argv[1], int(sys.argv[2]), sys.argv[3]
for number in range(count):
    with open(f"{directory}/{number}.txt", "w") as file:
        file.write(f"changed by {mark}\\n" + "some lines of text\\n" * 50)
"""


def measure(bench: Bench, count: int, files: int = 1000) -> Iterator[Row]:
    """Approval to the end of the apply, for so many changed files."""
    with Places(bench) as places:

        def ours() -> float:
            session = changed(bench, places.filled(files), files)
            bench.settle()
            started = time.perf_counter()
            apply(bench, session)
            return time.perf_counter() - started

        applied, plain = interleave(count, ours, lambda: places.copy(files))
    yield ratio_row(
        f"apply of {files:,} changed files, approval to done",
        applied,
        [("`cp -a` and `sync -f`", plain)],
        most=5,
    )


class Places:
    """Makes a new directory for every run, far from the others (see `spread`); owns them."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._top = bench.directory / "places"

    def __enter__(self) -> Places:
        self._top.mkdir()
        spread(self._top)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._top)

    def new(self) -> Path:
        """An empty directory."""
        return Path(tempfile.mkdtemp(dir=self._top))

    def filled(self, files: int) -> Path:
        """A directory with so many files, each of which `changed` changes."""
        directory = self.new()
        for number in range(files):
            (directory / f"{number}.txt").write_text("some lines of text\n" * 50)
        return directory

    def copy(self, files: int) -> float:
        """The seconds that it takes to copy such a directory onto the disk."""
        directory, copied = self.filled(files), self.new()
        self._bench.settle()
        seconds = timed_command("cp", "-a", str(directory), str(copied))
        return seconds + timed_command("sync", "-f", str(copied))


def changed(bench: Bench, directory: Path, files: int) -> Session:
    """A session whose plan changes so many files in `directory`, all of them."""
    mark = next(_MARKS)
    _, session = bench.dry_run(python(CHANGE, str(directory), str(files), str(mark)))
    return session


def apply(bench: Bench, session: Session) -> None:
    """Approve a plan and wait until it was applied.

    :raises RuntimeError: it was not.
    """
    if session.digest is None:
        raise RuntimeError("the session has no plan")
    bench.client.approve(session.id, session.digest)
    ended = bench.client.wait(session.id)
    if ended.state is not State.EXECUTED:
        raise RuntimeError(f"the plan was not applied: {ended.error}")
