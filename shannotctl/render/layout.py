"""Lines that fit a width without losing a character."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from shannotctl.render.style import Style
from shannotd.wire.text import escape_character, visible

_NARROWEST = 8
_TAB_COLUMNS = 8

# Wide since Unicode 16, or wide as halves of a flag: Python and terminals do not agree on them
# all. Where they are narrow a line ends early, which harms nobody.
_LATER_WIDE = re.compile(
    "[\u2630-\u2637\u268a-\u268f\u4dc0-\u4dff\U0001d300-\U0001d376\U0001f1e6-\U0001f1ff]"
)

# A tab in a changed line must not look like blanks: the change may be just that.
TAB_ARROW = "\u2192"


def display_width(text: str) -> int:
    """How many columns `text` (already visible) takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def fold(text: str, width: int | None, *, at_blanks: bool = False) -> list[str]:
    """`text` in pieces of at most `width` columns; all of it, at least one piece.

    With `at_blanks` a piece ends after a blank rather than within a word, where it can.
    """
    if width is None or display_width(text) <= width:
        return [text]
    limit = max(width, _NARROWEST)
    pieces: list[str] = []
    begin = used = 0
    for index, character in enumerate(text):
        used += _columns(character)
        if used > limit:
            blank = text.rfind(" ", begin + 1, index) if at_blanks else -1
            end = index if blank < 0 else blank + 1
            pieces.append(text[begin:end])
            begin, used = end, display_width(text[end : index + 1])
    pieces.append(text[begin:])
    return pieces


def expand_tabs(text: str, tab: str = " ") -> str:
    """`text` with each tab as `tab` and blanks up to the next tab stop."""
    if "\t" not in text:
        return text
    first, *others = text.split("\t")
    parts, column = [first], display_width(first)
    for part in others:
        blanks = _TAB_COLUMNS - column % _TAB_COLUMNS - 1
        parts.append(tab + " " * blanks + part)
        column += 1 + blanks + display_width(part)
    return "".join(parts)


def in_gutter(
    text: str, style: Style, *, indent: str = "    ", role: str = "", tab: str = " "
) -> Iterator[str]:
    """One untrusted line, escaped, right of `| `; where it is folded it goes on after `: `."""
    safe = expand_tabs(visible(text, keep="\t"), tab)
    room = None if style.width is None else style.width - len(indent) - 2
    for number, piece in enumerate(fold(safe, room)):
        gutter = style.paint(f"{indent}{'|' if number == 0 else ':'} ", "faint")
        yield gutter + style.paint(piece, role)


def hanging(text: str, style: Style) -> Iterator[str]:
    """One line of ours, already safe; where it is folded it goes on further right, so that
    no part of it can pass for a line of its own."""
    room = None if style.width is None else style.width - 2
    for number, piece in enumerate(fold(text, room, at_blanks=True)):
        yield piece if number == 0 else f"  {piece}"


def block(data: bytes, style: Style, *, indent: str = "    ") -> Iterator[str]:
    """Untrusted bytes as lines right of a gutter; a missing last newline is told."""
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    complete = lines[-1] == ""
    for line in lines[:-1] if complete else lines:
        yield from in_gutter(line, style, indent=indent)
    if lines != [""] and not complete:
        yield style.paint(f"{indent}  (no newline at the end)", "faint")


def labelled(
    label: str, text: str, style: Style, *, indent: str = "  ", role: str = "faint"
) -> Iterator[str]:
    """`label  text`, the text escaped and folded under itself."""
    start = f"{indent}{label:<10} "
    room = None if style.width is None else style.width - len(start)
    for number, piece in enumerate(fold(visible(text), room, at_blanks=True)):
        yield (style.paint(start, role) if number == 0 else " " * len(start)) + piece


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], style: Style) -> Iterator[str]:
    """A table of untrusted cells: what does not fit goes on in the next line, nothing is cut.

    The last column takes the room that the others leave.
    """
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [
        max(display_width(row[column]) for row in [list(headings), *cells])
        for column in range(len(headings))
    ]
    if style.width is not None:
        _narrow(widths, style.width - 2 * (len(widths) - 1))
    yield style.paint(_row(headings, widths), "title")
    for row in cells:
        pieces = [fold(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in range(max(map(len, pieces))):
            yield _row([part[line] if line < len(part) else "" for part in pieces], widths)


def _narrow(widths: list[int], room: int) -> None:
    """Take columns from the widest until all fit, down to a readable minimum."""
    while sum(widths) > room:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= _NARROWEST:
            return
        widths[widest] = max(_NARROWEST, widths[widest] - (sum(widths) - room))


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell + " " * (width - display_width(cell))
        for cell, width in zip(cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


@contextmanager
def ascii_only(glyphs: str) -> Iterator[None]:
    """Meanwhile every character counts with the width of its escape, but for these `glyphs`: for
    terminals that show nothing but ASCII."""
    global _glyphs
    before, _glyphs = _glyphs, glyphs
    _columns.cache_clear()
    try:
        yield
    finally:
        _glyphs = before
        _columns.cache_clear()


_glyphs: str | None = None


@lru_cache(maxsize=4096)
def _columns(character: str) -> int:
    if character.isascii():
        return 1
    if _glyphs is not None:
        return 1 if character in _glyphs else len(escape_character(character))
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 2 if _LATER_WIDE.match(character) else 1
