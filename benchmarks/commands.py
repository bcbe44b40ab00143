"""Scripts whose programs are observed, contained or wait for review."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator

from benchmarks.bench import Bench, timed_command
from benchmarks.figures import Figures, Row, interleave, milliseconds, ratio_row
from shannotctl.client import ScriptKind, Submission

# `df` is observed, `logger` waits for review, the others run inside; `rm` has rules that deny.
OBSERVED = "i=0; while [ $i -lt $1 ]; do df / >/dev/null; i=$((i+1)); done\n"
CONTAINED = """\
cd "$1" || exit 1
i=0
while [ $i -lt $2 ]; do
    cp /etc/hostname copy
    sed -i s/^/x/ copy
    grep -q x copy
    /usr/bin/test -s copy
    rm -f copy
    i=$((i+1))
done
"""
REVIEWED = """\
import json, subprocess, sys, time
directory, count = sys.argv[1], int(sys.argv[2])
taken = []
for number in range(count):
    with open(f"{directory}/{number}.txt", "w") as file:
        file.write(f"before command {number}\\n")
    started = time.perf_counter()
    subprocess.run(["logger", "command", str(number)], check=True)
    taken.append(time.perf_counter() - started)
print(json.dumps(taken))
"""
_OBSERVE_SECONDS = 0.025
_BARRIER_SECONDS = 0.030
_FIRST = 3


def measure(
    bench: Bench, count: int, observed: int = 20, contained: int = 1000, reviewed: int = 100
) -> Iterator[Row]:
    """Calls of an observed program, many contained ones, and many barriers in one session."""
    yield _observe(bench, count, observed)
    yield _contain(bench, max(1, count // 3), contained)
    yield from _review(bench, max(1, count // 10), reviewed)


def _observe(bench: Bench, count: int, calls: int) -> Row:
    """One call of an observed program, beside the bare program."""

    def ours(number: int) -> float:
        return bench.dry_run(_shell(OBSERVED, str(number)))[0]

    def bare(number: int) -> float:
        return timed_command("sh", "-c", OBSERVED, "sh", str(number))

    def one_call(run: list[float]) -> float:
        return (run[0] - run[1]) / calls

    inside, outside = interleave(
        count,
        lambda: one_call([ours(calls), ours(0)]),
        lambda: one_call([bare(calls), bare(0)]),
    )
    more = inside.median - outside.median
    return Row(
        what="a call of an observed program (`df /`)",
        median=milliseconds(inside.median),
        p95=milliseconds(inside.p95),
        runs=len(inside) * calls,
        beside=f"bare {milliseconds(outside.median)}: {milliseconds(more)} more",
        aim=f"at most {milliseconds(_OBSERVE_SECONDS)} more than bare",
        met=more <= _OBSERVE_SECONDS,
    )


def _contain(bench: Bench, count: int, programs: int) -> Row:
    """A shell script that runs so many contained programs, each of which is recorded."""
    target = bench.directory / "contained"
    target.mkdir()
    numbers = itertools.count()
    rounds = str(programs // 5)

    def place() -> str:
        path = target / str(next(numbers))
        path.mkdir()
        return str(path)

    def ours() -> float:
        seconds, session = bench.dry_run(_shell(CONTAINED, place(), rounds))
        bench.reject(session)
        return seconds

    def bare() -> float:
        return timed_command("sh", "-c", CONTAINED, "sh", place(), rounds)

    taken, plain = interleave(count, ours, bare, warm_up=1)
    shutil.rmtree(target)
    what = f"a shell script with {programs:,} contained programs (rm among them)"
    return ratio_row(what, taken, [("bare", plain)], most=1.3)


def _review(bench: Bench, count: int, commands: int) -> Iterator[Row]:
    """So many commands that wait for review in one session, with a change before each."""
    target = bench.directory / "reviewed"
    target.mkdir()
    calls: list[float] = []
    first: list[float] = []
    for _ in range(count):
        submission = Submission(
            ScriptKind.PYTHON, REVIEWED.encode(), arguments=(str(target), str(commands))
        )
        _, session = bench.dry_run(submission)
        taken = json.loads(session.stdout)
        calls += taken
        first += taken[:_FIRST]
        bench.reject(session)
    shutil.rmtree(target)
    for what, figures in (
        (f"a barrier: a command for review, {commands} in a session", Figures(tuple(calls))),
        (f"the first {_FIRST} of them", Figures(tuple(first))),
    ):
        yield Row(
            what=what,
            median=milliseconds(figures.median),
            p95=milliseconds(figures.p95),
            runs=len(figures),
            aim=f"under {milliseconds(_BARRIER_SECONDS)}",
            met=figures.median < _BARRIER_SECONDS,
        )


def _shell(text: str, *arguments: str) -> Submission:
    return Submission(ScriptKind.SHELL, text.encode(), arguments=arguments)
