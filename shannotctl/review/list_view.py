"""The list of sessions: which are in it, in what order, and one line for each."""

from __future__ import annotations

from collections.abc import Mapping

from shannotctl.render.amounts import moment
from shannotctl.render.layout import display_width, fold
from shannotctl.render.session import counts_text
from shannotctl.review.document import Document, Row, remembered
from shannotctl.review.spans import RISK_ROLES, STATE_ROLES, Line, Span, clipped, padded
from shannotctl.review.state import ACTIVE, Listing, Order, Review, Shown
from shannotd.wire.plan import StepCounts
from shannotd.wire.session import Session, State
from shannotd.wire.text import visible

_STATES = {
    Shown.PENDING: (State.PENDING,),
    Shown.ACTIVE: ACTIVE,
    Shown.OVER: tuple(state for state in State if state not in ACTIVE),
    Shown.ALL: tuple(State),
}
_WITH_PLACE = 120  # columns from which on target and profile have their own


def chosen(sessions: Mapping[str, Session], listing: Listing) -> list[Session]:
    """The sessions that the list has, in its order."""
    words = listing.text.casefold().split()
    found = [
        session
        for session in sessions.values()
        if session.state in _STATES[listing.shown]
        and all(word in _haystack(session) for word in words)
    ]
    if listing.order is Order.AGE:
        return sorted(found, key=lambda one: -one.created_at)
    return sorted(found, key=lambda one: (-_rank(one), -one.created_at))


def _rank(session: Session) -> int:
    # What has no risk yet is below all that has one, and what is over below what is not.
    rank = -1 if session.risk is None else session.risk.rank
    return rank + (10 if session.state in ACTIVE else 0)


def _haystack(session: Session) -> str:
    parts = (
        session.id,
        session.name,
        session.state.value,
        session.risk.value if session.risk else "",
        session.submitter_name,
        session.target,
        session.profile,
        session.identity,
    )
    return visible(" ".join(parts)).casefold()


def list_document(review: Review, width: int) -> Document:
    """The list in `width` columns."""
    # Ages are shown in whole seconds.
    return _document(review.sessions, review.listing, int(review.now), review.older, width)


@remembered
def _document(
    sessions: Mapping[str, Session], listing: Listing, now: int, older: bool, width: int
) -> Document:
    columns = _columns(width)
    rows = [
        Row(session.id, _line(session, listing, now, columns, width))
        for session in chosen(sessions, listing)
    ]
    headings = [row.item for row in rows]
    if older and listing.shown in (Shown.OVER, Shown.ALL):
        text = "    older ones are not in this list: `shannotctl list` has all"
        rows.append(Row("older~", (Span("mark", text),)))
    return Document(rows, headings=headings)


def heading_line(review: Review, width: int) -> Line:
    """The headings of the columns."""
    cells: list[Span] = [Span("heading", "    ")]
    for name, wide, right in _columns(width):
        cells.append(Span("heading", f"{name:>{wide}} " if right else f"{name:<{wide}} "))
    return padded(clipped(tuple(cells), width), width, "heading")


def empty_lines(review: Review) -> list[str]:
    """What is said where the list is empty."""
    total = len(review.sessions)
    if review.listing.text:
        return [f"No session that is {review.listing.shown.value} has this in it. Esc shows all."]
    if review.listing.shown is Shown.PENDING:
        text = "Nothing waits for a decision. What is submitted appears here by itself."
        return [text, f"`f` shows the others, {total:,} in all."] if total else [text]
    if not total:
        return ["No sessions."]
    return [f"No session is {review.listing.shown.value}; `f` shows others, {total:,} in all."]


_Column = tuple[str, int, bool]


def _columns(width: int) -> list[_Column]:
    """Name, width and whether it is set to the right, of each column; NAME takes what is left."""
    columns: list[_Column] = [("RISK", 7, False), ("STATE", 9, False), ("NAME", 0, False)]
    columns.append(("BY", 10, False))
    if width >= _WITH_PLACE:
        columns += [("TARGET", 12, False), ("PROFILE", 12, False)]
    columns += [("cmd", 4, True), ("wr", 4, True), ("del", 4, True), ("blk", 4, True)]
    columns += [("AGE", 5, True), ("LEFT", 5, True)]
    used = 4 + sum(wide + 1 for _, wide, _ in columns)
    return [
        (name, max(8, width - used) if name == "NAME" else wide, right)
        for name, wide, right in columns
    ]


def _line(
    session: Session, listing: Listing, now: float, columns: list[_Column], width: int
) -> Line:
    is_chosen = session.id in listing.selected
    cells: list[Span] = [Span("chosen" if is_chosen else "", "  ● " if is_chosen else "    ")]
    for name, wide, right in columns:
        role, text = _cell(name, session, now)
        piece = clipped((Span(role, visible(text)),), wide)
        blank = " " * (wide - sum(display_width(span.text) for span in piece))
        cells += [Span("", blank), *piece] if right else [*piece, Span("", blank)]
        cells.append(Span("", " "))
    return clipped(tuple(cells), width)


def _cell(name: str, session: Session, now: float) -> tuple[str, str]:
    counts = session.counts
    if name == "RISK":
        risk = session.risk
        return ("", "-") if risk is None else (f"risk {RISK_ROLES[risk]}", risk.value)
    if name == "STATE":
        return STATE_ROLES.get(session.state, ""), session.state.value.replace("_", " ")
    if name == "NAME":
        return "title", session.name or "(none)"
    if name == "BY":
        return "", session.submitter_name or str(session.submitter)
    if name == "TARGET":
        return "", session.target
    if name == "PROFILE":
        return "", session.profile
    if name == "AGE":
        return "faint", short(now - session.created_at)
    if name == "LEFT":
        return left_text(session, now)
    amounts = {
        "cmd": counts.command,
        "wr": written(counts),
        "del": counts.delete,
        "blk": counts.blocked + counts.denied,
    }
    amount = amounts[name]
    return ("faint", "·") if not amount else ("", _short_number(amount))


def _short_number(amount: int) -> str:
    return str(amount) if amount < 10_000 else f"{min(amount // 1000, 999)}k"


def written(counts: StepCounts) -> int:
    """How many steps write something, deletions apart."""
    return counts.create + counts.modify + counts.append + counts.metadata + counts.rename


def left_text(session: Session, now: float) -> tuple[str, str]:
    """A role and how long a pending session may still be decided over."""
    if session.state is not State.PENDING or session.expires_at is None:
        return "", ""
    left = session.expires_at - now
    return ("danger" if left < 120 else "caution" if left < 600 else "", short(left))


def short(seconds: float) -> str:
    """`12s`, `3m`, `2h`, `5d`: whole ones only, `0s` for what is over."""
    seconds = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length or (unit == "m" and seconds >= length):
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def strip_lines(session: Session, width: int) -> list[Line]:
    """All that the line of a session has no room for."""
    risk = session.risk.value if session.risk is not None else "not known yet"
    text = (
        f"{session.name or '(none)'} · risk {risk} · {counts_text(session.counts)} · by"
        f" {session.submitter_name} (uid {session.submitter}), {moment(session.created_at)[:19]}"
        f" · on {session.target} as {session.identity}, profile {session.profile} · {session.id}"
    )
    return [(Span("faint", piece),) for piece in fold(visible(text), width, at_blanks=True)]
