"""Measures everything and prints one table: `make bench`.

    python benchmarks/run.py [--count N] [--only NAME] [--write]

The exit status is 1 if a promise was not kept.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    # The repository, in place of this directory, whose modules belong to the package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import applying, commands, crowd, many_files, memory, small_scripts, taking_back
from benchmarks.bench import Bench, open_bench
from benchmarks.figures import Row
from benchmarks.report import PAGE, notes, page, table
from shannotd.wire.errors import ShannotError

Measurements = dict[str, Callable[[Bench, int], Iterator[Row]]]
MEASUREMENTS: Measurements = {
    # In this order: an idle daemon before one that worked, growth before large plans.
    "memory": memory.measure,
    "small": small_scripts.measure,
    "crowd": crowd.measure,
    "commands": commands.measure,
    "files": many_files.measure,
}
# What waits for the disk most of the time.
ON_DISK: Measurements = {
    "apply": applying.measure,
    "back": taking_back.measure,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements that `arguments` ask for; the exit status."""
    parser = argparse.ArgumentParser(description="Measure what shannot costs.")
    parser.add_argument("--count", type=int, default=30, help="runs of each measurement")
    parser.add_argument(
        "--only", choices=[*MEASUREMENTS, *ON_DISK], action="append", help="one of them"
    )
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    found: dict[str, list[Row]] = {}
    try:
        # What others delete makes a disk slower for minutes (`spread`).
        for measurements in (ON_DISK, MEASUREMENTS):
            names = [name for name in measurements if name in (options.only or measurements)]
            if not names:
                continue
            with open_bench(journalled=measurements is ON_DISK) as bench:
                for name in names:
                    found[name] = []
                    for row in measurements[name](bench, options.count):
                        print(f"{row.what}: {row.median} ({row.beside})", file=sys.stderr)
                        found[name].append(row)
                status = bench.client.status()
    except (RuntimeError, ShannotError) as error:
        print(f"the benchmark was stopped: {error}", file=sys.stderr)
        return 2
    rows = [row for name in (*MEASUREMENTS, *ON_DISK) for row in found.get(name, ())]
    print(table(rows), end="")
    if options.write:
        new = page(rows, status, datetime.datetime.now(datetime.UTC).date(), load)
        PAGE.write_text(new + notes(PAGE.read_text()))
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
