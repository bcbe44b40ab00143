"""Where the cursor goes: by lines, screens, sections and matches."""

from __future__ import annotations

from dataclasses import replace

from shannotctl.review.document import Document
from shannotctl.review.screen import body_height, document
from shannotctl.review.session_view import folded_items
from shannotctl.review.state import Kind, Review
from shannotctl.review.step_sections import step_of

_MARGIN = 2  # lines that stay in view above and below the cursor


def moved(review: Review, lines: int) -> Review:
    """So many lines down, or up."""
    shown = document(review)
    return to_row(review, shown.position(review.place) + lines, shown)


def to_row(review: Review, index: int, shown: Document | None = None) -> Review:
    """The cursor on the row `index`; the view moves no more than it must."""
    shown = shown or document(review)
    if not shown.rows:
        return review
    height = body_height(review)
    place = review.place
    top = shown.top(place, height)
    index = max(0, min(index, len(shown.rows) - 1))
    margin = min(_MARGIN, (height - 1) // 2)
    if index < top + margin:
        top = index - margin
    elif index > top + height - 1 - margin:
        top = index - height + 1 + margin
    top = max(0, min(top, len(shown.rows) - height))
    item, offset = shown.anchored(index)
    return review.at(replace(place, item=item, offset=offset, row=index - top))


def scrolled(review: Review, lines: int) -> Review:
    """The view so many lines down, or up; the cursor stays in it."""
    shown = document(review)
    if not shown.rows:
        return review
    height = body_height(review)
    top = shown.top(review.place, height)
    moved_top = max(0, min(top + lines, len(shown.rows) - height))
    cursor = shown.position(review.place)
    if moved_top == top:
        # There is no more to scroll to: the cursor goes on to the end.
        return to_row(review, cursor + lines, shown)
    index = max(moved_top, min(cursor, moved_top + height - 1))
    item, offset = shown.anchored(index)
    place = replace(review.place, item=item, offset=offset, row=index - moved_top)
    return review.at(place)


def paged(review: Review, screens: float) -> Review:
    """So many screens down, or up: a line of the one before stays in view."""
    height = body_height(review)
    lines = int(max(1, (height - 1) * abs(screens)))
    lines = lines if screens > 0 else -lines
    shown = document(review)
    before = shown.position(review.place)
    after = scrolled(review, lines)
    if document(after).position(after.place) != before:
        return after
    return to_row(review, before + lines, shown)


def to_heading(review: Review, steps: int) -> Review:
    """The section so many further down, or up."""
    shown = document(review)
    rows = [shown.first[item] for item in shown.headings if item in shown.first]
    cursor = shown.position(review.place)
    if steps > 0:
        found = [row for row in rows if row > cursor]
        index = found[0] if found else len(shown.rows) - 1
    else:
        found = [row for row in rows if row < cursor]
        index = found[-1] if found else 0
    return near_top(review, index, shown)


def near_top(review: Review, index: int, shown: Document | None = None) -> Review:
    """The cursor on the row `index`, with as much as there is room for of what follows."""
    shown = shown or document(review)
    if not shown.rows:
        return review
    height = body_height(review)
    item, offset = shown.anchored(index)
    top = shown.top(review.place, height)
    row = index - top
    if row < 0 or row > height // 2:
        row = min(_MARGIN, index)
    return review.at(replace(review.place, item=item, offset=offset, row=row))


def to_match(review: Review, steps: int, *, here: bool = False) -> Review:
    """The next row (or the one before) that has the searched text; round the end."""
    shown = document(review)
    wanted = review.search.casefold()
    total = len(shown.rows)
    if not wanted or not total:
        return review
    cursor = shown.position(review.place)
    begin = 0 if here else steps
    for distance in range(total):
        index = (cursor + begin + distance * steps) % total
        if wanted in shown.text(index).casefold():
            found = near_top(review, index, shown)
            wrapped = (index < cursor) if steps > 0 else (index > cursor)
            return replace(found, notice="the search went on from the other end" if wrapped else "")
    hidden = " (what is folded is not searched: `z` unfolds all)" if _has_folded(review) else ""
    return replace(review, notice=f"not found: {review.search}{hidden}")


def _has_folded(review: Review) -> bool:
    if review.place.kind is not Kind.SESSION or review.opened is None:
        return False
    return bool(folded_items(review.opened, max(review.columns - 2, 8)))


def step_here(review: Review) -> int | None:
    """The index of the step at the cursor."""
    if review.place.kind is Kind.DIFF:
        return review.place.step
    if review.place.kind is Kind.CONTENT and review.content is not None:
        return review.content.step
    if review.place.kind is not Kind.SESSION:
        return None
    shown = document(review)
    item, _ = shown.anchored(shown.position(review.place))
    return step_of(item)


def settled(review: Review) -> Review:
    """The same with the cursor on a row that is there: the list may have become another."""
    if review.place.kind is not Kind.LIST:
        return review
    shown = document(review)
    if not shown.rows:
        return review
    if review.place.item in shown.first:
        return review
    # The session went out of the list: the one that has come to its place.
    return to_row(review, min(review.place.row, len(shown.rows) - 1), shown)
