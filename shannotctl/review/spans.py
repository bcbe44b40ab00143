"""Text with roles: what the reviewer's views are made of.

A line is a tuple of spans, a role the names of what gives a span its look (`added word`).
What `shannotctl.render` writes becomes lines by the style `Marked`: it marks roles with control
characters, of which escaped text has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shannotctl.render.layout import display_width, fold
from shannotctl.render.style import Style
from shannotd.wire.decision import Risk
from shannotd.wire.session import State
from shannotd.wire.text import escape_character, without_hidden


class Span(NamedTuple):
    """A piece of a line; `text` is safe to show."""

    role: str
    text: str


Line = tuple[Span, ...]

EMPTY: Line = ()

_HANGING = 4

_MARK = re.compile("\x02([a-z -]*)\x03([^\x02-\x04]*)\x04")

RISK_ROLES = {
    Risk.SAFE: "safe",
    Risk.CAUTION: "caution",
    Risk.UNKNOWN: "unknown",
    Risk.DANGER: "danger",
}
STATE_ROLES = {
    State.PENDING: "waiting",
    State.RUNNING: "active",
    State.APPROVED: "active",
    State.EXECUTING: "active",
    State.EXECUTED: "good",
    State.FAILED: "bad",
    State.STALE: "bad",
}


class Marked(Style):
    """A style that keeps roles in the text; `spans` reads them."""

    def paint(self, text: str, role: str) -> str:
        """`text`, which must be safe already, marked with `role`."""
        return f"\x02{role}\x03{text}\x04" if text and role else text

    def risk(self, risk: Risk) -> str:
        """The risk's word."""
        return self.paint(risk.value, RISK_ROLES[risk])

    def state(self, state: State) -> str:
        """The state's word."""
        return self.paint(state.value, STATE_ROLES.get(state, ""))


def marked(width: int) -> Style:
    """The style for lines of at most `width` columns."""
    return Marked(colour=True, width=width)


def spans(text: str) -> Line:
    """A line of `shannotctl.render`, written in a `Marked` style."""
    found: list[Span] = []
    position = 0
    for match in _MARK.finditer(text):
        if match.start() > position:
            found.append(Span("", text[position : match.start()]))
        found.append(Span(match[1], match[2]))
        position = match.end()
    if position < len(text):
        found.append(Span("", text[position:]))
    return tuple(found)


def rendered(lines: Iterable[str]) -> Iterator[Line]:
    """Lines of `shannotctl.render`."""
    return map(spans, lines)


def plain(line: Line) -> str:
    """What a line says."""
    return "".join(span.text for span in line)


def width_of(line: Line) -> int:
    """How many columns a line takes."""
    return sum(display_width(span.text) for span in line)


def with_role(line: Line, role: str) -> Line:
    """The line with `role` added to all of it."""
    return tuple(Span(f"{span.role} {role}".strip(), span.text) for span in line)


def padded(line: Line, width: int, role: str = "") -> Line:
    """The line filled up to `width` columns."""
    missing = width - width_of(line)
    return (*line, Span(role, " " * missing)) if missing > 0 else line


def folded(line: Line, width: int) -> list[Line]:
    """The line in pieces of at most `width` columns; all of it, at least one piece."""
    if width_of(line) <= width:
        return [line]
    pieces: list[Line] = []
    position = 0
    for piece in fold(plain(line), width):
        pieces.append(part(line, position, position + len(piece)))
        position += len(piece)
    return pieces


def hung(line: Line, width: int) -> list[Line]:
    """A line of ours in pieces that fit; the later ones stand further right."""
    if width_of(line) <= width:
        return [line]
    pieces: list[Line] = []
    position = 0
    for piece in fold(plain(line), width - _HANGING, at_blanks=True):
        rest = part(line, position, position + len(piece))
        pieces.append((Span("", " " * _HANGING), *rest) if pieces else rest)
        position += len(piece)
    return pieces


def part(line: Line, begin: int, end: int) -> Line:
    """The characters from `begin` to `end`."""
    found: list[Span] = []
    position = 0
    for role, text in line:
        piece = text[max(0, begin - position) : max(0, end - position)]
        if piece:
            found.append(Span(role, piece))
        position += len(text)
    return tuple(found)


def clipped(line: Line, width: int, mark: str = "…") -> Line:
    """At most `width` columns of the line; where something is left out, `mark` says so."""
    if width_of(line) <= width:
        return line
    if width <= display_width(mark):
        return (Span("mark", mark),) if width > 0 else ()
    kept = fold_first(plain(line), width - display_width(mark))
    return (*part(line, 0, kept), Span("mark", mark))


def fold_first(text: str, width: int) -> int:
    """How many characters of `text` fit `width` columns."""
    used = 0
    for index, character in enumerate(text):
        used += display_width(character)
        if used > width:
            return index
    return len(text)


def window(line: Line, left: int, width: int) -> Line:
    """The columns of the line from `left` on; what is left out at either side is marked."""
    if left == 0:
        return clipped(line, width, "›")
    text = plain(line)
    begin = fold_first(text, left)
    if begin >= len(text):
        return (Span("mark", "‹"),) if text else ()
    return (Span("mark", "‹"), *clipped(part(line, begin, len(text)), width - 1, "›"))


def overlaid(line: Line, ranges: Iterable[tuple[int, int]], role: str) -> Line:
    """The line with `role` added to some ranges of characters, which are in order."""
    found: list[Span] = []
    position = 0
    for begin, end in ranges:
        found += part(line, position, begin)
        found += with_role(part(line, begin, end), role)
        position = end
    found += part(line, position, len(plain(line)))
    return tuple(found)


def guarded(line: Line, *, ascii_only: bool) -> Line:
    """The line as it goes to the terminal: whatever came before, nothing raw is in it (P7).

    With `ascii_only`, for terminals that show nothing else, other characters are escaped.
    """
    text = plain(line)
    if text.isascii() and text.isprintable():
        return line
    if ascii_only:
        return tuple(Span(span.role, _in_ascii(span.text)) for span in line)
    if without_hidden(text) == text:
        return line
    return tuple(Span(span.role, without_hidden(span.text)) for span in line)


def _in_ascii(text: str) -> str:
    shown = without_hidden(text).translate(GLYPHS)
    return "".join(one if one.isascii() else escape_character(one) for one in shown)


# What the reviewer itself draws, one column for one.
GLYPHS = str.maketrans(
    {
        "…": "~",
        "›": ">",
        "‹": "<",
        "▾": "v",
        "▸": ">",
        "│": "|",
        "─": "-",
        "✓": "+",
        "✗": "x",
        "●": "*",
        "→": ">",
        "·": "-",
        "├": "|",
        "└": "`",
        "↺": "<",
    }
)
