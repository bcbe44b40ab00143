"""Small scripts over an open connection, and through the command line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import PYTHON, Bench, bubblewrap, python, timed_command
from benchmarks.figures import Row, Timed, interleave, milliseconds, ratio_row
from shannotctl.client import ScriptKind, Submission

ADD = "print(1+1)\n"
WRITE_ONE = "import sys\nwith open(sys.argv[1], 'w') as file:\n    file.write('one line\\n')\n"
_LS_SECONDS = 0.010


def measure(bench: Bench, count: int) -> Iterator[Row]:
    """An effect-free script, one that writes a file, `ls /`, and `shannotctl submit`."""
    yield effect_free(bench, count)
    yield one_file(bench, count)
    yield one_command(bench, count)
    yield command_line(bench, count)


def effect_free(bench: Bench, count: int) -> Row:
    """`print(1+1)` beside a bare interpreter."""
    script = _script(bench, "add.py", ADD)
    submission = python(ADD)
    baselines = _bare_and_wrapped([script], None)
    ours, *others = interleave(
        count, lambda: bench.dry_run(submission)[0], *(timed for _, timed in baselines)
    )
    named = list(zip((name for name, _ in baselines), others, strict=True))
    return ratio_row("`print(1+1)`, warm, request to result", ours, named, most=0.5)


def one_file(bench: Bench, count: int) -> Row:
    """A script that writes one file: its plan is stored and audited."""
    script = _script(bench, "write.py", WRITE_ONE)
    target = bench.directory / "target"
    target.mkdir()
    submission = python(WRITE_ONE, str(target / "file"))

    def ours() -> float:
        seconds, session = bench.dry_run(submission)
        bench.reject(session)
        return seconds

    baselines = _bare_and_wrapped([script, str(target / "bare")], target)
    taken, *others = interleave(count, ours, *(timed for _, timed in baselines))
    shutil.rmtree(target)
    named = list(zip((name for name, _ in baselines), others, strict=True))
    return ratio_row("one file written, plan stored and audited", taken, named, most=1.0)


def one_command(bench: Bench, count: int) -> Row:
    """A contained `ls /` as a session of its own."""
    submission = Submission(ScriptKind.COMMAND, arguments=("ls", "/"))
    # Of few runs a p95 is just the second or third worst, which tells of the machine.
    ours, bare = interleave(
        4 * count,
        lambda: bench.dry_run(submission)[0],
        lambda: timed_command("ls", "/"),
    )
    row = ratio_row("`ls /`, contained, as a session of its own", ours, [("bare", bare)])
    aim, met = f"p95 under {milliseconds(_LS_SECONDS)}", ours.p95 < _LS_SECONDS
    return Row(row.what, row.median, row.p95, row.runs, row.beside, aim, met)


def command_line(bench: Bench, count: int) -> Row:
    """`shannotctl submit` as a whole process."""
    script = _script(bench, "add.py", ADD)
    program = str(Path(sys.executable).with_name("shannotctl"))

    def ours() -> float:
        bench.await_warm()
        return timed_command(program, "submit", script, environment=bench.environment)

    taken, bare = interleave(count, ours, lambda: timed_command(PYTHON, script))
    return ratio_row("`shannotctl submit`, the whole process", taken, [("bare", bare)], most=8)


def _script(bench: Bench, name: str, text: str) -> str:
    path = bench.directory / name
    path.write_text(text)
    return str(path)


def _bare_and_wrapped(words: list[str], writable: Path | None) -> list[tuple[str, Timed]]:
    """The same script run by the bare interpreter, and under bubblewrap if it is there."""
    timed: list[tuple[str, Timed]] = [("bare", lambda: timed_command(PYTHON, *words))]
    wrapped = bubblewrap(writable)
    if wrapped is not None:
        timed.append(("bwrap", lambda: timed_command(*wrapped, PYTHON, *words)))
    return timed
