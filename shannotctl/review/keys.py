"""Which key does what, as the help and the footer tell."""

from __future__ import annotations

from collections.abc import Sequence

from shannotctl.render.layout import hanging
from shannotctl.render.style import Style
from shannotctl.review.document import Document, Row
from shannotctl.review.spans import EMPTY, Line, Span
from shannotctl.review.state import SETTLING, Ask, Kind, Review
from shannotd.wire.session import State

_MOVING = (
    ("j k ↓ ↑", "a line down, up"),
    ("PgDn PgUp Ctrl-F Ctrl-B", "a screen down, up; Ctrl-D Ctrl-U half of one"),
    ("g G Home End", "to the beginning, to the end"),
    ("mouse", "the wheel scrolls; a click moves there, a second one opens"),
)
_ALWAYS = (
    ("?", "this help"),
    ("q Esc", "back; in the list `q` ends the program"),
    ("M", "the mouse on and off: off, the terminal can select text"),
    ("Ctrl-L", "draw the screen anew"),
    ("Ctrl-Z", "to the shell; `fg` comes back"),
    ("Ctrl-C", "close a question; else end the program, leaving all as it is"),
)
_HELP: tuple[tuple[str, Sequence[tuple[str, str]]], ...] = (
    (
        "The list",
        (
            ("Enter x", "open a session; with several chosen, one after the other"),
            ("space", "choose a session"),
            ("a n", "choose all that are shown, none"),
            ("r", "reject the chosen ones, or the one at the cursor"),
            ("/", "only sessions that have these words; Esc shows all again"),
            ("f", "pending, not over, over, all"),
            ("s", "sort by risk or by age"),
        ),
    ),
    (
        "A session",
        (
            ("x", "approve: asks, and a dangerous plan wants the words `yes, danger`"),
            ("r", "reject, with a reason that the submitter sees"),
            ("Tab", "fold or unfold what is at the cursor; z folds or unfolds all"),
            ("[ ] J K", "to the section before, after"),
            ("w", "back to the warnings, at the top"),
            ("Enter", "a step's diff on the whole screen"),
            ("space", "drop a step from the plan; again: take it back in"),
            ("e", "edit what a step writes in $VISUAL or $EDITOR"),
            ("A D", "make the changed plan, which then waits for approval; give the changes up"),
            ("y", "copy a step's command line or path"),
            ("p", "the whole session, or a step's diff, in $PAGER"),
            ("v b", "what a step writes; what was there before"),
            ("u", "take an executed session back: makes a plan for that"),
            ("c", "cancel: stop a dry run, or an apply after the step at hand"),
            ("/ N n", "search; the match before, after"),
        ),
    ),
    (
        "A diff or a content",
        (
            ("x r", "approve or reject the session, which is then shown again"),
            ("s", "side by side, or one below the other"),
            ("w", "fold long lines, or scroll them with ← →"),
            ("[ ]", "the step before, after"),
            ("J K", "the next hunk, the one before"),
            ("h", "a content in hexadecimal, or as text"),
        ),
    ),
    ("Moving", _MOVING),
    ("Always", _ALWAYS),
    (
        "How to read it",
        (
            ("risk", "safe, caution, unknown, danger: the word, and a colour with it"),
            ("▸ ▾", "something is folded, unfolded; how many lines, is said"),
            ("| :", "what a script wrote stands right of these; after `:` a long line goes on"),
            (r"\e \u202e", "escapes stand for what a terminal would not show as it is"),
            ("→", "a tab, in a changed line"),
            ("…", "more than there is room for; the whole is in the lines below the list"),
            ("✓ ✗ -", "a step that was done, that failed, that was skipped; ↺ taken back"),
        ),
    ),
)


def help_document(width: int) -> Document:
    """All keys."""
    rows: list[Row] = []
    for number, (title, entries) in enumerate(_HELP):
        item = f"part:{number}"
        if rows:
            rows.append(Row(item, EMPTY))
        rows.append(Row(item, (Span("title", title),)))
        for keys, text in entries:
            rows += [Row(item, line) for line in _entry(keys, text, width)]
    return Document(rows, headings=[f"part:{number}" for number in range(len(_HELP))])


def _entry(keys: str, text: str, width: int) -> list[Line]:
    column = 26 if width >= 60 else 14
    pieces = list(hanging(text, Style(width=max(20, width - column - 2))))
    start = f"  {keys:<{column - 2}}"
    if len(start) > column:
        return [(Span("key", start),), *((Span("", " " * column + piece),) for piece in pieces)]
    return [
        (Span("key", start if row == 0 else " " * column), Span("", piece))
        for row, piece in enumerate(pieces)
    ]


Hint = tuple[str, str, str]  # the key's name, as it is shown, what it does


def hints(review: Review) -> list[Hint]:
    """What the footer offers, the most wanted first."""
    if review.panel is not None:
        return _panel_hints(review)
    kind = review.place.kind
    found: list[Hint] = []
    if kind is Kind.LIST:
        found = [("enter", "Enter", "open"), (" ", "Space", "choose"), ("r", "r", "reject")]
        found += [("/", "/", "filter"), ("f", "f", review.listing.shown.value)]
        found += [("s", "s", f"by {review.listing.order.value}")]
        return [*found, ("?", "?", "help"), ("q", "q", "quit")]
    if kind is Kind.SESSION:
        found = _session_hints(review)
    elif kind is Kind.DIFF:
        found = [("s", "s", "side by side"), ("w", "w", "wrap"), ("]", "[ ]", "step")]
        if review.opened is not None and review.opened.session.state is State.PENDING:
            found.insert(0, ("x", "x", "approve"))
        found += [("v", "v", "content"), ("p", "p", "pager")]
    elif kind is Kind.CONTENT:
        found = [("h", "h", "hex"), ("p", "p", "pager")]
    return [*found, ("/", "/", "search"), ("?", "?", "help"), ("q", "q", "back")]


def _session_hints(review: Review) -> list[Hint]:
    if review.opened is None:
        return []
    state = review.opened.session.state
    if state is State.PENDING and review.opened.changed:
        return [("A", "A", "make the changed plan"), ("D", "D", "give changes up")]
    if state is State.PENDING:
        found = [("x", "x", "approve"), ("r", "r", "reject"), ("enter", "Enter", "diff")]
        return [*found, ("tab", "Tab", "fold"), (" ", "Space", "drop"), ("e", "e", "edit")]
    if state in (State.RUNNING, State.EXECUTING, State.APPROVED):
        return [("c", "c", "cancel"), ("tab", "Tab", "fold")]
    found = [("enter", "Enter", "diff"), ("tab", "Tab", "fold")]
    if review.opened.session.checkpoint == "kept":
        found.insert(0, ("u", "u", "take back"))
    return found


def _panel_hints(review: Review) -> list[Hint]:
    assert review.panel is not None
    ask = review.panel.ask
    if ask in SETTLING and not review.panel.drawn:
        return [("escape", "Esc", "no")]
    if ask is Ask.APPROVE:
        return [("y", "y", "yes, apply it"), ("escape", "Esc", "no")]
    if ask in (Ask.AMEND, Ask.DEPENDENTS, Ask.DISCARD, Ask.ROLLBACK, Ask.CANCEL):
        return [("y", "y", "yes"), ("escape", "Esc", "no")]
    if ask is Ask.MESSAGE:
        return [("escape", "Esc", "close")]
    what = {
        Ask.DANGER: "apply it",
        Ask.FORCE: "take it back",
        Ask.REJECT: "reject",
        Ask.SEARCH: "search",
        Ask.FILTER: "filter",
    }[ask]
    return [("enter", "Enter", what), ("escape", "Esc", "no" if ask is not Ask.FILTER else "all")]
