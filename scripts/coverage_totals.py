"""Totals of branch coverage by package, and whether each is enough."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

LEAST = 90.0
LEAST_OF = {
    "shannotd/runner": 95.0,
    "shannotd/policy": 95.0,
    "shannotd/audit": 95.0,
}
# What a sandbox's own processes run, after they left the host: nothing can be saved from there.
SANDBOX = "shannotd/runner, within sandboxes (not measured)"
IN_SANDBOX = {
    f"shannotd/runner/{name}.py"
    for name in (
        "init layout masks mounts observe_mounts observe_process observe_run observe_view python "
        "sandbox script shim_program"
    ).split()
}


def totals(report: Path) -> dict[str, tuple[int, int]]:
    """Package -> what was reached, and what there is: statements and branches."""
    reached: Counter[str] = Counter()
    present: Counter[str] = Counter()
    for path, file in json.loads(report.read_text(encoding="utf-8"))["files"].items():
        summary = file["summary"]
        covered = summary["covered_lines"] + summary["covered_branches"]
        count = summary["num_statements"] + summary["num_branches"]
        inside = path in IN_SANDBOX
        for name in (SANDBOX,) if inside else (str(Path(path).parent), "all"):
            reached[name] += covered
            present[name] += count
    return {name: (reached[name], count) for name, count in present.items() if count}


def main() -> int:
    """Print the table; the exit status."""
    low = False
    for name, (reached, count) in sorted(totals(Path(sys.argv[1])).items()):
        if name == SANDBOX:
            print(f"{name}: {count} statements and branches")
            continue
        percent, least = 100 * reached / count, LEAST_OF.get(name, LEAST)
        low |= percent < least
        mark = f"   less than {least:.0f}" if percent < least else ""
        print(f"{name:24} {reached:6} of {count:6}  {percent:5.1f} %{mark}")
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
