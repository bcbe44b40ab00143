"""What it costs to apply an approved plan, beside a copy of the same bytes."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator

from benchmarks.bench import Bench, python, timed_command
from benchmarks.figures import Row, interleave, ratio_row
from shannotctl.client import State

CHANGE = """\
import sys
directory, count, mark = sys.argv[1], int(sys.argv[2]), sys.argv[3]
for number in range(count):
    with open(f"{directory}/{number}.txt", "w") as file:
        file.write(f"changed by {mark}\\n" + "some lines of text\\n" * 50)
"""


def measure(bench: Bench, count: int, files: int = 1000) -> Iterator[Row]:
    """Approval to the end of the apply, for so many changed files."""
    directory, copied = bench.directory / "applied", bench.directory / "copied"
    directory.mkdir()
    for number in range(files):
        (directory / f"{number}.txt").write_text("some lines of text\n" * 50)
    copied.mkdir()
    marks, copies = itertools.count(), itertools.count()

    def ours() -> float:
        submission = python(CHANGE, str(directory), str(files), str(next(marks)))
        _, session = bench.dry_run(submission)
        if session.digest is None:
            raise RuntimeError("the dry run has no plan")
        bench.settle()
        started = time.perf_counter()
        bench.client.approve(session.id, session.digest)
        ended = bench.client.wait(session.id)
        seconds = time.perf_counter() - started
        if ended.state is not State.EXECUTED:
            raise RuntimeError(f"the plan was not applied: {ended.error}")
        return seconds

    def copy() -> float:
        bench.settle()
        seconds = timed_command("cp", "-a", str(directory), str(copied / str(next(copies))))
        return seconds + timed_command("sync", "-f", str(copied))

    applied, plain = interleave(count, ours, copy)
    shutil.rmtree(directory)
    shutil.rmtree(copied)
    yield ratio_row(
        f"apply of {files:,} changed files, approval to done",
        applied,
        [("`cp -a` and `sync -f`", plain)],
        most=5,
    )
