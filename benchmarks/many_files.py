"""Scripts that write or read many files: what capture, diffs and the store cost."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator

from benchmarks.bench import PYTHON, Bench, python, timed_command
from benchmarks.figures import Figures, Row, interleave, milliseconds, ratio_row

WRITE = """\
import os, sys
directory, count = sys.argv[1], int(sys.argv[2])
os.makedirs(directory, exist_ok=True)
for number in range(count):
    with open(f"{directory}/{number}.txt", "w") as file:
        file.write(f"file {number}\\n" + "some lines of text\\n" * 15)
"""
READ_AND_WRITE = """\
import sys
source, target = sys.argv[1], sys.argv[2]
reads, writes = int(sys.argv[3]), int(sys.argv[4])
read = 0
for number in range(reads):
    with open(f"{source}/{number}.txt") as file:
        read += len(file.read())
for number in range(writes):
    with open(f"{target}/{number}.out", "w") as file:
        file.write(f"{read}\\n")
"""


def measure(bench: Bench, count: int, few: int = 1000, many: int = 10_000) -> Iterator[Row]:
    """`few` files written beside the plain write, `many` beside the few, and reads."""
    written_few, plain_few, _ = _write(bench, count, few)
    yield ratio_row(
        f"{few:,} files written: run, capture, diff, store",
        written_few,
        [("plain write", plain_few)],
        most=4,
    )
    written_many, plain_many, beside = _write(bench, count, many, few)
    growth = written_many.median / beside.median
    yield Row(
        what=f"{many:,} files written",
        median=milliseconds(written_many.median),
        p95=milliseconds(written_many.p95),
        runs=len(written_many),
        beside=f"{few:,} files: {growth:.2f} x; plain write {milliseconds(plain_many.median)}",
        aim=f"at most {1.1 * many / few:g} x {few:,} files",
        met=growth <= 1.1 * many / few,
    )
    yield _read_and_write(bench, count, few, few // 10)


def _write(
    bench: Bench, count: int, files: int, beside: int = 1
) -> tuple[Figures, Figures, Figures]:
    """The dry run and the plain write of so many files into a new directory, and the dry run of
    so many others `beside` them."""
    script = bench.directory / "write.py"
    script.write_text(WRITE)
    # A new directory each time, removed at the end: ext4 searches long for inodes that were
    # not freed just now, which would make the plain write slow.
    target = bench.directory / "written"
    target.mkdir()
    numbers = itertools.count()

    def ours(files: int) -> float:
        bench.settle()
        seconds, session = bench.dry_run(python(WRITE, str(target / "dry"), str(files)))
        bench.reject(session)
        return seconds

    def plain() -> float:
        bench.settle()
        return timed_command(PYTHON, str(script), str(target / str(next(numbers))), str(files))

    written, bare, others = interleave(count, lambda: ours(files), plain, lambda: ours(beside))
    shutil.rmtree(target)
    return written, bare, others


def _read_and_write(bench: Bench, count: int, reads: int, writes: int) -> Row:
    source, target = bench.directory / "source", bench.directory / "target"
    source.mkdir()
    target.mkdir()
    for number in range(reads):
        (source / f"{number}.txt").write_text("some lines of text\n" * 50)
    script = bench.directory / "read.py"
    script.write_text(READ_AND_WRITE)
    counts = (str(reads), str(writes))
    numbers = itertools.count()
    submission = python(READ_AND_WRITE, str(source), str(target), *counts)

    def ours() -> float:
        bench.settle()
        seconds, session = bench.dry_run(submission)
        bench.reject(session)
        return seconds

    def bare() -> float:
        bench.settle()
        place = target / str(next(numbers))
        place.mkdir()
        return timed_command(PYTHON, str(script), str(source), str(place), *counts)

    taken, plain = interleave(count, ours, bare)
    shutil.rmtree(source)
    shutil.rmtree(target)
    return ratio_row(f"{reads:,} reads and {writes:,} writes", taken, [("bare", plain)], most=1.5)
