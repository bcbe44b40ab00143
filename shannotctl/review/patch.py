"""A diff as lines for the screen: one below the other, or side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from shannotctl.render.layout import TAB_ARROW
from shannotctl.review.diffs import DiffLine, blocks, pairs, parse
from shannotctl.review.spans import Line, Span, folded, padded, part, window
from shannotctl.review.syntax import coloured, lexer_for

_ROLES = {"+": "added", "-": "removed", "@": "hunk", "h": "faint", "\\": "faint"}
_NARROWEST_SIDE = 20
WIDE = 150  # columns from which on a diff is shown side by side unless one wants otherwise

# The index of the diff's line, and a line of the screen that shows it, or a part of it.
Shown = tuple[int, Line]


@lru_cache(maxsize=32)
def styled(diff: str, path: str) -> tuple[Line, ...]:
    """Each line of the diff without its sign, with the roles of syntax and of what changed."""
    lines = parse(diff)
    texts: list[Line] = [(Span("", line.text),) if line.text else () for line in lines]
    if path and len(diff) <= 128 * 1024:
        first = next((line.text for line in lines if line.kind in "+- "), "")
        lexer = lexer_for(path, first)
        if lexer is not None:
            for hunk in _hunks(lines):
                for side in ("-", "+"):
                    indexes = [index for index in hunk if lines[index].kind in (side, " ")]
                    # To a lexer the arrow of a tab is no blank.
                    blank = [lines[index].text.replace(TAB_ARROW, " ") for index in indexes]
                    for index, line in zip(indexes, coloured(blank, lexer), strict=True):
                        texts[index] = _roles_on(lines[index].text, line)
    return tuple(
        _of_kind(line.kind, _with_words(text, line))
        for line, text in zip(lines, texts, strict=True)
    )


def _with_words(text: Line, line: DiffLine) -> Line:
    """The line with what changed in it marked, in the colour of the change alone."""
    found: list[Span] = []
    position = 0
    for begin, end in line.changed:
        found += [*part(text, position, begin), Span("word", line.text[begin:end])]
        position = end
    return (*found, *part(text, position, len(line.text)))


def _roles_on(text: str, line: Line) -> Line:
    """`text` with the roles that `line`, of the same length, has at each place."""
    found: list[Span] = []
    position = 0
    for span in line:
        end = position + len(span.text)
        found.append(Span(span.role, text[position:end]))
        position = end
    return tuple(found)


def _of_kind(kind: str, line: Line) -> Line:
    role = _ROLES.get(kind, "")
    return tuple(Span(f"{role} {span.role}".strip(), span.text) for span in line)


def _hunks(lines: Sequence[DiffLine]) -> Iterator[list[int]]:
    hunk: list[int] = []
    for index, line in enumerate(lines):
        if line.kind == "@":
            if hunk:
                yield hunk
            hunk = []
        elif line.kind in "+- ":
            hunk.append(index)
    if hunk:
        yield hunk


def unified(
    diff: str, path: str, width: int, *, numbers: bool, left: int | None = None
) -> list[Shown]:
    """The diff's lines one below the other, with `numbers` beside their numbers in the files.

    What is longer than `width` goes on in the next line, or is shown from column `left` on.
    """
    lines = parse(diff)
    texts = styled(diff, path)
    digits = _digits(lines) if numbers else 0
    shown: list[Shown] = []
    for index, (line, text) in enumerate(zip(lines, texts, strict=True)):
        sign = line.kind if line.kind in "+-\\" else " "
        role = _ROLES.get(line.kind, "")
        if line.kind in "h@":
            start: Line = (Span("faint", "│ "),)
            again: Line = (Span("faint", ": "),)
        else:
            number = f"{_number(line.old, digits)} {_number(line.new, digits)} " if numbers else ""
            start = (
                Span("faint", f"{number}│"),
                Span(f"sign {role}", f"{sign} " if numbers else sign),
            )
            again = (Span("faint", " " * len(number) + ":" + " " * (2 if numbers else 1)),)
        body = text[:0] + text if line.kind != "\\" else (Span("faint", line.text[1:]),)
        shown += [(index, piece) for piece in _fitted(start, again, body, width, left)]
    return shown


def side_by_side(diff: str, path: str, width: int, *, left: int | None = None) -> list[Shown]:
    """The diff's lines as two columns: what was, and what will be."""
    lines = parse(diff)
    texts = styled(diff, path)
    digits = _digits(lines)
    half = (width - 3) // 2
    shown: list[Shown] = []

    def cell(index: int | None, number: int | None, sign: str) -> list[Line]:
        if index is None:
            return [()]
        start: Line = (
            Span("faint", f"{_number(number, digits)} "),
            Span(f"sign {_ROLES.get(sign, '')}", f"{sign} "),
        )
        again: Line = (Span("faint", " " * digits + ": "),)
        return _fitted(start, again, texts[index], half, left)

    def put(index: int, one: list[Line], other: list[Line]) -> None:
        for row in range(max(len(one), len(other))):
            first = one[row] if row < len(one) else ()
            second = other[row] if row < len(other) else ()
            shown.append((index, (*padded(first, half), Span("faint", " │ "), *second)))

    for changes, run in blocks(lines):
        if changes:
            for one, other in pairs(lines, run):
                old = lines[one].old if one is not None else None
                new = lines[other].new if other is not None else None
                index = one if one is not None else other
                put(index or 0, cell(one, old, "-"), cell(other, new, "+"))
            for index in run:
                if lines[index].kind == "\\":
                    before = "old" if index and lines[index - 1].kind == "-" else "new"
                    text: Line = (Span("faint", f"({before} side: {lines[index].text[2:]})"),)
                    shown += [(index, piece) for piece in folded(text, width)]
            continue
        for index in run:
            line = lines[index]
            if line.kind in "h@":
                shown += [(index, piece) for piece in folded(texts[index], width)]
            else:
                put(index, cell(index, line.old, " "), cell(index, line.new, " "))
    return shown


def fits_side_by_side(width: int) -> bool:
    """Whether two columns have room enough to be read."""
    return (width - 3) // 2 >= _NARROWEST_SIDE + 10


def _fitted(start: Line, again: Line, text: Line, width: int, left: int | None) -> list[Line]:
    room = max(width - sum(len(span.text) for span in start), 8)
    if left is not None:
        return [(*start, *window(text, left, room))]
    first, *rest = folded(text, room)
    return [(*start, *first), *((*again, *piece) for piece in rest)]


def _digits(lines: Sequence[DiffLine]) -> int:
    return max(3, *(len(str(line.old or line.new or 0)) for line in lines))


def _number(number: int | None, digits: int) -> str:
    return f"{'' if number is None else number:>{digits}}"
