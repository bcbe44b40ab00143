"""Each measurement runs, with tiny counts, against a real daemon."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from benchmarks import applying, commands, crowd, many_files, memory, small_scripts, taking_back
from benchmarks.bench import Bench, open_bench
from benchmarks.figures import Figures, Row, interleave, ratio_row
from benchmarks.processes import presence
from benchmarks.report import page, table


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with open_bench() as opened:
        yield opened
    assert not opened.directory.parent.exists()


@pytest.mark.parametrize(
    ("measure", "rows"),
    [
        (memory.measure, 5),
        (small_scripts.measure, 4),
        (partial(crowd.measure, sessions=20), 3),
        (partial(many_files.measure, few=20, many=40), 3),
        (partial(commands.measure, observed=1, contained=1, reviewed=4), 4),
        (partial(applying.measure, files=5), 1),
        (partial(taking_back.measure, files=5, many=3000), 3),
    ],
    ids=["memory", "small", "crowd", "files", "commands", "apply", "back"],
)
def test_each_measurement_gives_its_rows(
    bench: Bench, measure: Callable[[Bench, int], Iterator[Row]], rows: int
) -> None:
    found = list(measure(bench, 1))
    assert len(found) == rows
    assert all(row.what and row.median and row.runs >= 1 for row in found)
    text = page(found, bench.client.status(), datetime.date(2025, 1, 2), 0.5)
    assert "2025-01-02" in text
    assert all(row.what in text for row in found)


def test_presence_sees_the_daemons_processes(bench: Bench) -> None:
    bench.await_warm()
    found = presence(bench.client.status().pid, bench.state)
    assert found.processes >= 4  # a runner, a zygote and two sandboxes


def test_figures() -> None:
    figures = Figures(tuple(number / 1000 for number in range(1, 101)))
    assert figures.median == pytest.approx(0.0505)
    assert figures.p95 == 0.095
    assert Figures((2.0,)).p95 == 2.0


def test_interleave_leaves_out_the_warm_up() -> None:
    order: list[str] = []

    def note(name: str) -> float:
        order.append(name)
        return float(len(order))

    one, other = interleave(2, lambda: note("a"), lambda: note("b"), warm_up=1)
    assert order == ["a", "b"] * 3
    assert (one.seconds, other.seconds) == ((3.0, 5.0), (4.0, 6.0))


def test_a_row_compares_with_its_first_baseline() -> None:
    row = ratio_row("x", Figures((0.02,)), [("bare", Figures((0.01,)))], most=1.5)
    assert (row.beside, row.aim, row.met) == ("bare 10.0 ms: 2.00 x", "at most 1.5 x bare", False)
    lines = table([row]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].endswith("| no  |")
