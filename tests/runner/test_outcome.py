"""What became of steps is told in as few words as it takes (P4)."""

from __future__ import annotations

import pytest

from shannotd.runner.outcome import told

pytestmark = pytest.mark.P4


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({}, []),
        ({3: "done"}, [(3, 3, "done")]),
        (dict.fromkeys(range(10_000), "undone"), [(0, 9_999, "undone")]),
        ({2: "done", 0: "done", 1: "done"}, [(0, 2, "done")]),
        ({0: "done", 1: "failed", 2: "done"}, [(0, 0, "done"), (1, 1, "failed"), (2, 2, "done")]),
        ({0: "done", 2: "done", 3: "done"}, [(0, 0, "done"), (2, 3, "done")]),
    ],
)
def test_neighbours_that_fared_alike_are_told_together(
    results: dict[int, str], expected: list[tuple[int, int, str]]
) -> None:
    events = list(told(results))
    assert {event["event"] for event in events} <= {"steps"}
    assert [(one["first"], one["last"], one["applied"]) for one in events] == expected
