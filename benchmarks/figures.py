"""Times of repeated runs, and the rows of the table that they end in."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Runs something and returns how long it took, in seconds.
Timed = Callable[[], float]


@dataclass(frozen=True)
class Figures:
    """The times of repeated runs, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the runs took no longer."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """95 of 100 runs took no longer (nearest rank)."""
        ordered = sorted(self.seconds)
        return ordered[math.ceil(0.95 * len(ordered)) - 1]

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True)
class Row:
    """One line of the table. `aim` is what was promised, `met` whether it was kept; both are
    empty for what is only shown."""

    what: str
    median: str
    p95: str = ""
    runs: int = 1
    beside: str = ""
    aim: str = ""
    met: bool | None = None


def interleave(count: int, *actions: Timed, warm_up: int = 2) -> tuple[Figures, ...]:
    """Run each of `actions` `count` times in turn, so that a slow moment of the machine hits
    them alike; the first `warm_up` rounds do not count."""
    taken: list[list[float]] = [[] for _ in actions]
    gc.collect()
    gc.disable()
    try:
        for round_number in range(count + warm_up):
            for times, action in zip(taken, actions, strict=True):
                seconds = action()
                if round_number >= warm_up:
                    times.append(seconds)
    finally:
        gc.enable()
    return tuple(Figures(tuple(times)) for times in taken)


def ratio_row(
    what: str,
    figures: Figures,
    baselines: Sequence[tuple[str, Figures]],
    most: float | None = None,
) -> Row:
    """A row that compares medians; the aim is at most `most` times the first of `baselines`."""
    compared = "; ".join(
        f"{name} {milliseconds(each.median)}: {figures.median / each.median:.2f} x"
        for name, each in baselines
    )
    met = None if most is None else figures.median <= most * baselines[0][1].median
    return Row(
        what=what,
        median=milliseconds(figures.median),
        p95=milliseconds(figures.p95),
        runs=len(figures),
        beside=compared,
        aim="" if most is None else f"at most {most:g} x {baselines[0][0]}",
        met=met,
    )


def milliseconds(seconds: float) -> str:
    """A time as it stands in the table."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def mebibytes(size: int) -> str:
    """A size as it stands in the table."""
    return f"{size / 1024 / 1024:.1f} MiB"
