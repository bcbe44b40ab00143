"""The table, and the page that keeps it."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import PYTHON, ROOT, output_of
from benchmarks.figures import Row
from shannotctl.client import DaemonStatus

PAGE = ROOT / "docs" / "performance.md"

_INTRODUCTION = """\
# Performance

What a supervised dry run costs beside an unsupervised one. The figures below are those of
one run on one machine; what counts are the ratios, which were measured side by side in that
run. Medians; p95 is the time that 95 of 100 runs kept.

- *bare* is `python3 script.py`, or the same programs, from its start to its end, in the
  environment that scripts get.
- *bwrap* is `bwrap --ro-bind / / --unshare-all python3 script.py`.
- A dry run is measured from the request over an open connection to the result, in a warm
  sandbox.
- Memory is the proportional set size: shared pages are divided among those who share them.

Reproduce with `make bench`; `.venv/bin/python benchmarks/run.py --write` also writes this page.
"""


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    header = ("measured", "median", "p95", "runs", "beside", "aim", "met")
    cells = [
        (row.what, row.median, row.p95, str(row.runs), row.beside, row.aim, _yes(row.met))
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (header, *cells)) for column in range(len(header))]
    lines = [header, tuple("-" * width for width in widths), *cells]
    return "".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |\n"
        for line in lines
    )


def notes(text: str) -> str:
    """What is written by hand at the end of the page, to be kept."""
    _, heading, rest = text.partition("\n## Notes\n")
    return heading + rest


def page(rows: Sequence[Row], status: DaemonStatus, date: datetime.date, load: float) -> str:
    """The text of docs/performance.md; `load` is the load average when the run began."""
    facts = "\n".join(f"- {fact}" for fact in machine(status, load))
    machine_part = f"## The machine, {date.isoformat()}\n\n{facts}\n"
    return f"{_INTRODUCTION}\n{machine_part}\n## Figures\n\n{table(rows)}"


def machine(status: DaemonStatus, load: float) -> list[str]:
    """What the figures depend on, without names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return [
        f"{os.cpu_count()} x {_processor()}, {memory:.0f} GiB of memory",
        f"Linux {platform.release().split('-')[0]}, {_distribution()}",
        f"{output_of(PYTHON, '--version')} for scripts, Python {platform.python_version()}"
        " for the daemon",
        f"the {status.builder} builder, as {'root' if status.uid == 0 else 'an ordinary user'}",
        f"load average when it began: {load:.1f}{' (busy with other work)' if load > 1 else ''}",
        f"file system of the files written: {output_of('stat', '-fc', '%T', str(ROOT))}",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _distribution() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "an unknown distribution")


def _yes(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "no"
