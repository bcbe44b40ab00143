"""A part of a view that can be folded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shannotctl.render.amounts import number
from shannotctl.review.spans import Line, Span

Lines = Callable[[], Sequence[Line]]


@dataclass(frozen=True)
class Section:
    """A heading and what is below it, which is made only when it is shown.

    Without a heading nothing can be folded, nor without a `note`, which says how much is. `folded`
    is whether it is so at first; `before` are lines that stand above, whatever is folded. `length`
    is about how many lines there are below the heading, where these are many.
    """

    item: str
    heading: tuple[Line, ...]
    lines: Lines
    note: str = ""
    folded: bool = False
    before: tuple[Line, ...] = ()
    length: int = 0

    @property
    def foldable(self) -> bool:
        """Whether it can be folded."""
        return bool(self.heading and self.note)

    def is_folded(self, toggled: frozenset[str]) -> bool:
        """Whether only the heading is shown."""
        return self.foldable and self.folded != (self.item in toggled)


def fixed(lines: Iterable[Line]) -> tuple[Lines, str]:
    """Lines that are made already, and the note on how many they are."""
    made = tuple(lines)
    return (lambda: made), f"{number(len(made), 'line')} folded" if made else ""


def title(text: str) -> Line:
    """A heading of ours."""
    return (Span("title", text),)


def indented(lines: Iterable[Line], columns: int = 2) -> list[Line]:
    """The lines, further right."""
    return [(Span("", " " * columns), *line) for line in lines]
