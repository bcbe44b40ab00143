"""One step on the whole screen: its diff, or a file's content as text or in hexadecimal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shannotctl.render.amounts import size
from shannotctl.render.command import View
from shannotctl.render.plan import detail_lines, heading_lines
from shannotctl.review.document import Document, Row, remembered
from shannotctl.review.patch import WIDE, fits_side_by_side, side_by_side, unified
from shannotctl.review.session_sections import source_lines
from shannotctl.review.spans import EMPTY, Line, Span, marked, rendered
from shannotctl.review.state import Content, Opened, Review
from shannotctl.review.syntax import lexer_for
from shannotd.wire.plan import Plan

MOST_SHOWN_BYTES = 1024 * 1024
_HEX_COLUMNS = 16


def is_side_by_side(review: Review, width: int) -> bool:
    """Whether the diff has two columns: as one wants, else where there is room."""
    wanted = width >= WIDE if review.side is None else review.side
    return wanted and fits_side_by_side(width)


def diff_document(opened: Opened, index: int, width: int, side: bool, left: int | None) -> Document:
    """A step with its diff; the item of a row is the diff's line.

    :param left: the first column, where long lines are not folded.
    """
    if opened.plan is None or index >= len(opened.plan.steps):
        return Document(())
    return _diff_document(opened.plan, opened.contents, index, width, side, left)


@remembered
def _diff_document(
    plan: Plan, contents: Mapping[str, bytes], index: int, width: int, side: bool, left: int | None
) -> Document:
    step = plan.steps[index]
    rows = [Row("head", line) for line in _head(plan, index, contents, width)]
    headings = ["head"]
    path = step.path or ""
    if step.diff is not None:
        if side:
            shown = side_by_side(step.diff, path, width, left=left)
        else:
            shown = unified(step.diff, path, width, numbers=True, left=left)
        for number, line in shown:
            item = f"line:{number}"
            if any(span.role.startswith("hunk") for span in line) and headings[-1] != item:
                headings.append(item)
            rows.append(Row(item, line))
    # Side by side a line's number may come twice; a document's items stand together.
    return Document(_together(rows), headings=headings)


def _together(rows: list[Row]) -> Iterator[Row]:
    seen: set[str] = set()
    last = ""
    for row in rows:
        if row.item != last and row.item in seen:
            yield Row(f"{row.item}'", row.line)
            continue
        seen.add(row.item)
        last = row.item
        yield row


def _head(plan: Plan, index: int, contents: Mapping[str, bytes], width: int) -> Iterator[Line]:
    step, style = plan.steps[index], marked(width)
    yield from rendered(heading_lines(index + 1, step, style))
    view = View(diffs=True, whole=True, contents=contents)
    identity = plan.identity.name
    yield from rendered(detail_lines((index,), step, identity, style, view))
    if step.kind == "file" and step.diff is None:
        text = "     no diff: `v` shows what is written, `b` what was there before"
        yield (Span("faint", text),)
    yield EMPTY


@remembered
def content_document(content: Content, width: int) -> Document:
    """A content as text with syntax colours, or in hexadecimal."""
    rows = [Row(f"at:{number}", line) for number, line in enumerate(_content(content, width))]
    return Document(rows)


def _content(content: Content, width: int) -> Iterator[Line]:
    if content.data is None:
        yield (Span("warning", "This content is not kept by the daemon."),)
        return
    data = content.data[:MOST_SHOWN_BYTES]
    if not content.data:
        yield (Span("faint", "(empty)"),)
    elif content.hex:
        yield from hex_lines(data)
    else:
        text = data.decode("utf-8", "surrogateescape")
        lexer = lexer_for(content.path, text.partition("\n")[0][:200])
        yield from source_lines(text, lexer, width)
    left = len(content.data) - len(data)
    if left:
        yield EMPTY
        text = f"({size(left)} more are not shown here: `p` has all of it in your pager)"
        yield (Span("warning", text),)


def hex_lines(data: bytes) -> Iterator[Line]:
    for begin in range(0, len(data), _HEX_COLUMNS):
        piece = data[begin : begin + _HEX_COLUMNS]
        digits = " ".join(f"{byte:02x}" for byte in piece)
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
        yield (
            Span("faint", f"{begin:08x}  "),
            Span("", f"{digits:<{3 * _HEX_COLUMNS - 1}}"),
            Span("faint", "  │"),
            Span("string", text),
            Span("faint", "│"),
        )
