"""What it costs to take an apply back: by a rollback, and by recovery after a crash."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.applying import Places, apply, changed
from benchmarks.bench import Bench
from benchmarks.figures import Figures, Row, interleave, milliseconds, ratio_row
from shannotctl.client import State

_RECOVERY_SECONDS = 1.0
_POLL_SECONDS = 0.002
_APPLY_SECONDS = 120.0
_ATTEMPTS = 5


def measure(bench: Bench, count: int, files: int = 1000, many: int = 10_000) -> Iterator[Row]:
    """Rollbacks of so many changed files, and recoveries of applies with `many` steps."""
    yield from _rollback(bench, count, files)
    yield _recovery(bench, max(1, count // 6), many)


def _rollback(bench: Bench, count: int, files: int) -> Iterator[Row]:
    """From the request to the plan; and from its approval to the end."""
    planning: list[float] = []
    with Places(bench) as places:

        def ours() -> float:
            session = changed(bench, places.filled(files), files)
            apply(bench, session)
            bench.settle()
            started = time.perf_counter()
            back = bench.client.rollback(session.id).session
            planning.append(time.perf_counter() - started)
            bench.settle()
            started = time.perf_counter()
            apply(bench, back)
            return time.perf_counter() - started

        rolled, plain = interleave(count, ours, lambda: places.copy(files))
    planned = Figures(tuple(planning))
    yield ratio_row(f"rollback of {files:,} changed files, request to plan", planned, [])
    yield ratio_row(
        f"rollback of {files:,} changed files, approval to done",
        rolled,
        [("`cp -a` and `sync -f`", plain)],
        most=5,
    )


def _recovery(bench: Bench, count: int, steps: int) -> Row:
    """From the death of the process that applies, half of it done, to the session's end."""
    with Places(bench) as places:

        def ours() -> float:
            for _ in range(_ATTEMPTS):
                seconds = _cut_short(bench, places.filled(steps), steps)
                if seconds is not None:
                    return seconds
            raise RuntimeError("every apply was done before it could be cut short")

        (recovered,) = interleave(count, ours, warm_up=0)
    return Row(
        what=f"recovery of an apply of {steps:,} changed files that was killed half-way",
        median=milliseconds(recovered.median),
        p95=milliseconds(recovered.p95),
        runs=len(recovered),
        aim=f"under {milliseconds(_RECOVERY_SECONDS)}",
        met=recovered.median < _RECOVERY_SECONDS,
    )


def _cut_short(bench: Bench, directory: Path, steps: int) -> float | None:
    """Kill an apply half-way; the seconds until its end is known, None if it was done by then."""
    session = changed(bench, directory, steps)
    assert session.digest is not None
    bench.settle()
    bench.client.approve(session.id, session.digest)
    half = directory / f"{steps // 2}.txt"
    deadline = time.monotonic() + _APPLY_SECONDS
    # Nothing tells of a single file: the session's steps are told when all are done.
    while not half.read_text().startswith("changed"):
        if time.monotonic() > deadline:
            raise RuntimeError("the plan is not being applied")
        time.sleep(_POLL_SECONDS)
    process = _who_applies(bench.state)
    if process is not None:
        os.kill(process, signal.SIGKILL)
    started = time.perf_counter()
    ended = bench.client.wait(session.id)
    return time.perf_counter() - started if ended.state is State.FAILED else None


def _who_applies(state: Path) -> int | None:
    """The process that holds the lock of the runner's one apply at a time (proc_locks(5))."""
    inode = (state / "runner" / "apply.lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None
