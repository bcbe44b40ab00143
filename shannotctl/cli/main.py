"""The entry point: sets up what must be so before anything else is imported."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """`shannotctl`."""
    # Nothing that is loaded at the start ever becomes garbage: looking for it, now and once
    # more at the end, would take a tenth of the time of a short command.
    gc.disable()
    from shannotctl.cli.program import run

    gc.freeze()
    gc.enable()
    status = run(sys.argv[1:])
    gc.freeze()
    sys.exit(status)
