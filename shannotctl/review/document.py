"""Lines below one another that one can move in: what every view is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, wraps
from typing import NamedTuple, ParamSpec, TypeVar

from shannotctl.review.spans import Line, plain
from shannotctl.review.state import Place

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Row(NamedTuple):
    """One line of the screen, and what it belongs to."""

    item: str
    line: Line


class Document:
    """Rows in which those of one item stand together."""

    def __init__(
        self, rows: Iterable[Row], *, headings: Sequence[str] = (), width: int = 0
    ) -> None:
        self.rows = tuple(rows)
        self.width = width
        self.headings = tuple(headings)

    @cached_property
    def first(self) -> dict[str, int]:
        """Where each item begins."""
        found: dict[str, int] = {}
        for index, row in enumerate(self.rows):
            found.setdefault(row.item, index)
        return found

    @cached_property
    def last(self) -> dict[str, int]:
        """Where each item ends."""
        return {row.item: index for index, row in enumerate(self.rows)}

    def position(self, place: Place) -> int:
        """The index of the row on which the cursor is."""
        if not self.rows:
            return 0
        begin = self.first.get(place.item)
        if begin is None:
            return max(0, min(place.offset, len(self.rows) - 1))
        return min(begin + place.offset, self.last[place.item])

    def anchored(self, index: int) -> tuple[str, int]:
        """The item of the row `index`, and how far below the item's first row it is."""
        if not self.rows:
            return "", 0
        index = max(0, min(index, len(self.rows) - 1))
        item = self.rows[index].item
        return item, index - self.first[item]

    def text(self, index: int) -> str:
        """What the row says."""
        return plain(self.rows[index].line)

    def top(self, place: Place, height: int) -> int:
        """The first row of those that are shown in `height` lines."""
        cursor = self.position(place)
        row = max(0, min(place.row, height - 1))
        return max(0, min(cursor - row, len(self.rows) - height))


def remembered(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The function, which gives what it gave last where it gets the very same values again."""
    known: list[tuple[tuple[object, ...], Result]] = []

    @wraps(function)
    def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        given = (*arguments, *named.values())
        if known and len(known[0][0]) == len(given) and all(map(_same, known[0][0], given)):
            return known[0][1]
        result = function(*arguments, **named)
        known[:] = [(given, result)]
        return result

    return call


def _same(one: object, other: object) -> bool:
    # Large values are compared by identity alone: they are never changed in place.
    if one is other:
        return True
    return isinstance(one, int | str | float | None) and type(one) is type(other) and one == other
