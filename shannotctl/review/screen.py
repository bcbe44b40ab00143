"""The whole screen as lines: a function of the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shannotctl.render.amounts import number
from shannotctl.render.layout import fold
from shannotctl.review import keys, list_view
from shannotctl.review.document import Document, Row
from shannotctl.review.panels import panel_lines
from shannotctl.review.session_view import session_document
from shannotctl.review.spans import (
    EMPTY,
    RISK_ROLES,
    Line,
    Span,
    clipped,
    overlaid,
    padded,
    plain,
    width_of,
)
from shannotctl.review.state import Kind, Link, Review, Shown
from shannotctl.review.step_view import content_document, diff_document, is_side_by_side
from shannotd.wire.session import State
from shannotd.wire.text import visible

SMALLEST = (40, 10)
_MOST_NOTICE_LINES = 4
_RISK_COLUMNS = 13  # of the title, whatever else is in it


class Hit(NamedTuple):
    """Where in a row a click stands for a key."""

    begin: int
    end: int
    key: str


class Screen(NamedTuple):
    """What is shown: exactly as many lines as the terminal has.

    `body` is where the view begins, and how many lines it has; `first` the document's row that is
    on the first of these. `cursor` is the line and column of the terminal's cursor.
    """

    lines: tuple[Line, ...]
    body: tuple[int, int]
    first: int
    cursor: tuple[int, int]
    hits: tuple[Hit, ...]


def document(review: Review) -> Document:
    """What the present view shows."""
    place, width = review.place, body_width(review)
    if place.kind is Kind.LIST:
        return list_view.list_document(review, width)
    if place.kind is Kind.HELP:
        return keys.help_document(width)
    if place.kind is Kind.CONTENT and review.content is not None:
        return content_document(review.content, width)
    if review.opened is None:
        return Document((Row("loading", (Span("faint", "Loading ..."),)),))
    if place.kind is Kind.DIFF:
        side = is_side_by_side(review, width)
        left = None if review.wrap else place.left
        return diff_document(review.opened, place.step, width, side, left)
    return session_document(review.opened, width)


def body_width(review: Review) -> int:
    """How many columns the view's lines have; one is the cursor's."""
    return max(review.columns - 2, 8)


def body_height(review: Review) -> int:
    """How many lines the view has."""
    above, below = _above(review), _below(review)
    return max(1, review.rows - len(above) - len(below))


def is_too_small(review: Review) -> bool:
    """Whether the terminal has no room for any view: it says only that."""
    return review.columns < SMALLEST[0] or review.rows < SMALLEST[1]


def screen(review: Review) -> Screen:
    """What the terminal shows."""
    if is_too_small(review):
        return _too_small(review)
    above, below = _above(review), _below(review)
    height = max(1, review.rows - len(above) - len(below))
    shown = document(review)
    first = shown.top(review.place, height)
    cursor = shown.position(review.place)
    body: list[Line] = [
        _body_line(review, shown, index, index == cursor)
        for index in range(first, min(first + height, len(shown.rows)))
    ]
    if not shown.rows:
        body = _empty(review)[:height]
    body += [EMPTY] * (height - len(body))
    below_lines = [line for line, _ in below]
    lines = [*above, *body, *below_lines][: review.rows]
    lines += [EMPTY] * (review.rows - len(lines))
    # All of them fit; if one did not, that would not go unmarked.
    lines = [clipped(line, review.columns) for line in lines]
    where = (len(above) + min(max(cursor - first, 0), height - 1), 0)
    for index, (_, column) in enumerate(below):
        if column is not None:
            where = (len(above) + height + index, min(column, review.columns - 1))
    hits = _footer(review)[1]
    return Screen(tuple(lines), (len(above), height), first, where, hits)


def _too_small(review: Review) -> Screen:
    text = f"The terminal is too small: {SMALLEST[0]} columns and {SMALLEST[1]} lines are needed."
    pieces = fold(text, review.columns, at_blanks=True)[: review.rows]
    lines: list[Line] = [clipped((Span("", piece),), review.columns) for piece in pieces]
    lines = lines + [EMPTY] * (review.rows - len(lines))
    return Screen(tuple(lines), (0, 0), 0, (0, 0), ())


def _body_line(review: Review, shown: Document, index: int, is_cursor: bool) -> Line:
    line = shown.rows[index].line
    if review.search and review.place.kind is not Kind.LIST:
        line = overlaid(line, _matches(plain(line), review.search), "match")
    if not is_cursor:
        return (Span("", " "), *line)
    if review.place.kind is Kind.LIST:
        # One colour, over which every other would be a patch.
        whole = padded((Span("", "›"), *line), review.columns)
        return tuple(Span("cursor", span.text) for span in whole)
    return (Span("here", "›"), *line)


def _matches(text: str, search: str) -> list[tuple[int, int]]:
    # Where lower case has as many characters as the text, which is nearly always.
    low, wanted = text.casefold(), search.casefold()
    if len(low) != len(text):
        low, wanted = text, search
    found: list[tuple[int, int]] = []
    position = low.find(wanted)
    while position >= 0 and wanted:
        found.append((position, position + len(wanted)))
        position = low.find(wanted, position + len(wanted))
    return found


def _empty(review: Review) -> list[Line]:
    if review.link is Link.CONNECTING:
        texts = ["Connecting to the daemon ..."]
    elif review.link is Link.LOST and not review.sessions:
        texts = ["What waits for a decision is not known."]
    elif review.place.kind is Kind.LIST:
        texts = list_view.empty_lines(review)
    else:
        texts = ["Nothing to show."]
    width = body_width(review)
    pieces = [piece for text in texts for piece in fold(text, width - 2, at_blanks=True)]
    return [EMPTY, *((Span("faint", f"   {piece}"),) for piece in pieces)]


def _above(review: Review) -> list[Line]:
    lines: list[Line] = [_title(review)]
    if review.link is Link.LOST:
        text = f"No daemon: {review.trouble} Trying again; what is shown may be old."
        if review.refused:
            text = f"{review.trouble} Trying again."
        pieces = fold(visible(text), review.columns - 2, at_blanks=True)
        lines += [padded((Span("lost", f" {piece}"),), review.columns, "lost") for piece in pieces]
    if review.place.kind is Kind.LIST:
        lines.append(list_view.heading_line(review, review.columns))
    return lines


def _title(review: Review) -> Line:
    left = _title_text(review)
    right = clipped(_title_right(review), review.columns - _RISK_COLUMNS)
    room = review.columns - width_of(right) - 1
    line = padded(clipped(left, room), review.columns - width_of(right), "")
    return tuple(Span(f"bar {span.role}".strip(), span.text) for span in (*line, *right))


def _title_text(review: Review) -> Line:
    place, opened = review.place, review.opened
    if place.kind is Kind.LIST:
        pending = sum(one.state is State.PENDING for one in review.sessions.values())
        text = f"{pending:,} pending" if pending else "nothing pending"
        text = text if review.sessions or review.link is Link.UP else "not connected"
        chosen = len(review.listing.selected)
        text += f" · {chosen:,} chosen" if chosen else ""
        text += f" · only: {visible(review.listing.text)}" if review.listing.text else ""
        shown = review.listing.shown
        text += "" if shown is Shown.PENDING else f" · shown: {shown.value}"
        return (Span("", f" shannot · {text}"),)
    if place.kind is Kind.HELP:
        return (Span("", " shannot · help"),)
    if opened is None:
        return (Span("", " shannot"),)
    session = opened.session
    start = (
        Span("", " "),
        Span(f"risk {RISK_ROLES[opened.risk]}", f" {opened.risk.value} "),
    )
    state = session.state.value.replace("_", " ")
    if place.kind is Kind.DIFF:
        path = visible(opened.plan.steps[place.step].path or "") if opened.plan else ""
        return (*start, Span("", f" step {place.step + 1} · {path}"))
    if place.kind is Kind.CONTENT and review.content is not None:
        content = review.content
        path = visible(content.path)
        return (Span("", f" step {content.step + 1} · {content.which} · {path}"),)
    return (*start, Span("", f" {state} · {visible(session.name or '(none)')}"))


def _title_right(review: Review) -> Line:
    found: list[str] = []
    opened = review.opened
    if review.place.kind in (Kind.SESSION, Kind.DIFF) and opened is not None:
        others = [one for one in review.sessions.values() if one.state is State.PENDING]
        more = len(others) - (opened.session.state is State.PENDING)
        if len(review.queue) > 1:
            found.append(f"{len(review.queue)} to review")
        elif more > 0:
            found.append(f"{more:,} more pending")
        if opened.session.state is State.PENDING and opened.session.expires_at is not None:
            age = list_view.short(review.now - opened.session.created_at)
            found.append(f"{age} old, {list_view.left_text(opened.session, review.now)[1]} left")
    shown = document(review)
    height = body_height_of(review)
    if len(shown.rows) > height and review.place.kind is not Kind.LIST:
        last = min(shown.top(review.place, height) + height, len(shown.rows))
        found.append(f"{100 * last // len(shown.rows)}%")
    elif review.place.kind is Kind.LIST and shown.rows:
        found.append(f"{shown.position(review.place) + 1}/{len(shown.rows)}")
    found.append({Link.UP: review.where, Link.LOST: "LOST", Link.CONNECTING: "..."}[review.link])
    return (Span("", " · ".join(visible(text) for text in found if text) + " "),)


def body_height_of(review: Review) -> int:
    """`body_height`, without the need to know the title."""
    lines = 1 + (review.place.kind is Kind.LIST)
    if review.link is Link.LOST:
        lines += 1
    return max(1, review.rows - lines - len(_below(review)))


Below = list[tuple[Line, int | None]]


def _below(review: Review) -> Below:
    """The lines below the view, each with the column of the cursor where it is on that line."""
    width = review.columns
    lines: Below = []
    if review.panel is not None:
        most = max(3, review.rows - 6)
        lines += panel_lines(review, width, most)
    elif review.busy or review.notice:
        role = "busy" if review.busy else "notice"
        pieces = fold(visible(review.busy or review.notice), width - 2, at_blanks=True)
        lines += [((Span(role, f" {piece}"),), None) for piece in pieces[:_MOST_NOTICE_LINES]]
        if len(pieces) > _MOST_NOTICE_LINES:
            text = f" ({number(len(pieces) - _MOST_NOTICE_LINES, 'more line')})"
            lines.append(((Span("mark", text),), None))
    elif review.place.kind is Kind.LIST:
        lines += _strip(review, width)
    lines.append((_footer(review)[0], None))
    return lines


def _strip(review: Review, width: int) -> Below:
    chosen = list_view.chosen(review.sessions, review.listing)
    found = [one for one in chosen if one.id == review.place.item]
    if not found:
        return []
    lines = list_view.strip_lines(found[0], width - 2)
    most = max(2, review.rows // 3)  # the list is not to be pushed away
    if len(lines) > most:
        left = number(len(lines) - most + 1, "more line")
        lines = [*lines[: most - 1], (Span("mark", f"({left}: Enter has all)"),)]
    return [((Span("faint", " "), *line), None) for line in lines]


def _footer(review: Review) -> tuple[Line, tuple[Hit, ...]]:
    line: list[Span] = []
    hits: list[Hit] = []
    column = 0
    for name, shown, text in _fitting(keys.hints(review), review.columns):
        pieces = (Span("bar", " "), Span("bar key", shown), Span("bar", f" {text} "))
        width = width_of(pieces)
        hits.append(Hit(column, column + width, name))
        line += pieces
        column += width
    return padded(tuple(line), review.columns, "bar"), tuple(hits)


def _fitting(hints: Sequence[keys.Hint], width: int) -> list[keys.Hint]:
    """As many as there is room for; the last two, help and the way out, always."""
    found = list(hints)
    while len(found) > 2 and sum(len(key) + len(text) + 3 for _, key, text in found) > width:
        del found[-3]
    return found
