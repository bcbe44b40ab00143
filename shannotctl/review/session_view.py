"""A session as a document: warnings first, then sections that can be folded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from shannotctl.review.document import Document, Row, remembered
from shannotctl.review.section import Section
from shannotctl.review.session_sections import all_sections
from shannotctl.review.spans import Line, Span, hung, width_of
from shannotctl.review.state import Live, Opened
from shannotctl.review.step_sections import step_of
from shannotd.wire.plan import Plan
from shannotd.wire.session import Session

# Lines of steps that are unfolded together: more would take seconds to lay out.
_MOST_UNFOLDED = 30_000


class _Looks(NamedTuple):
    """What of the session that is looked at makes a difference to its sections: not what is
    folded, nor how much of it was seen."""

    session: Session
    plan: Plan | None
    contents: Mapping[str, bytes]
    dropped: frozenset[int]
    edits: Mapping[int, bytes]
    live: Live


def session_document(opened: Opened, width: int) -> Document:
    """The whole session in `width` columns."""
    return _document(_sections(opened, width), opened.toggled, width)


def folded_items(opened: Opened, width: int) -> frozenset[str]:
    """The items of which only the heading is shown."""
    sections = _sections(opened, width)
    return frozenset(one.item for one in sections if one.is_folded(opened.toggled))


def unfolding(opened: Opened, width: int) -> tuple[frozenset[str], int]:
    """The folded items to be unfolded together, and how many are left since that would be long."""
    sections = _sections(opened, width)
    room = _MOST_UNFOLDED
    room -= sum(one.length for one in sections if not one.is_folded(opened.toggled))
    found: set[str] = set()
    left = 0
    for section in sections:
        if section.is_folded(opened.toggled):
            if section.length <= room:
                room -= section.length
                found.add(section.item)
            else:
                left += 1
    return frozenset(found), left


def foldable_items(opened: Opened, width: int) -> frozenset[str]:
    """The items that have something below their heading."""
    return frozenset(one.item for one in _sections(opened, width) if one.foldable)


def steps_read(opened: Opened, document: Document, first: int, last: int) -> Opened:
    """`opened` after the rows from `first` to `last` were on the screen.

    A step counts as seen when all of its lines were, in order and unfolded.
    """
    folded = folded_items(opened, document.width)
    read, seen = dict(opened.read), set(opened.seen)
    for item in dict.fromkeys(row.item for row in document.rows[first : last + 1]):
        index = step_of(item)
        if index is None or index in seen:
            continue
        begin, end = document.first[item], document.last[item]
        if first <= begin + read.get(index, 0):
            read[index] = max(read.get(index, 0), min(last, end) + 1 - begin)
        if read.get(index, 0) > end - begin and item not in folded:
            seen.add(index)
    if seen == opened.seen and read == opened.read:
        return opened
    return replace(opened, read=read, seen=frozenset(seen))


def _sections(opened: Opened, width: int) -> tuple[Section, ...]:
    looks = _Looks(
        opened.session, opened.plan, opened.contents, opened.dropped, opened.edits, opened.live
    )
    return _made_sections(*looks, width)


@remembered
def _made_sections(
    session: Session,
    plan: Plan | None,
    contents: Mapping[str, bytes],
    dropped: frozenset[int],
    edits: Mapping[int, bytes],
    live: Live,
    width: int,
) -> tuple[Section, ...]:
    opened = Opened(session, plan, contents, dropped=dropped, edits=edits, live=live)
    return tuple(all_sections(opened, width))


@remembered
def _document(sections: tuple[Section, ...], toggled: frozenset[str], width: int) -> Document:
    rows: list[Row] = []
    headings: list[str] = []
    for section in sections:
        rows += [Row(f"{section.item}~", line) for line in section.before]
        folded = section.is_folded(toggled)
        lines: list[Line] = []
        if section.heading:
            headings.append(section.item)
            lines += _heading(section, folded, width)
        if not folded:
            lines += section.lines()
        rows += [Row(section.item, piece) for line in lines for piece in hung(line, width)]
    return Document(rows, headings=headings, width=width)


def _heading(section: Section, folded: bool, width: int) -> Iterator[Line]:
    mark = "  " if not section.foldable else "▸ " if folded else "▾ "
    lines = list(section.heading)
    if folded:
        note = Span("faint", f"  ({section.note})")
        if width_of((*lines[-1], note)) + 2 <= width:
            lines[-1] = (*lines[-1], note)
        else:
            lines.append((Span("", "     "), note))
    for position, line in enumerate(lines):
        yield (Span("faint", mark if position == 0 else "  "), *line)
