"""What goes to a person's pager: the whole of a view, escaped, nothing folded away."""

from __future__ import annotations

from shannotctl.render.command import View
from shannotctl.render.plan import step_lines
from shannotctl.render.session import session_lines
from shannotctl.render.style import Style
from shannotctl.review import moving
from shannotctl.review.spans import plain
from shannotctl.review.state import Kind, Review
from shannotctl.review.step_view import hex_lines
from shannotd.wire.text import visible


def page_lines(review: Review) -> tuple[str, ...]:
    """The lines, safe to show, of a content, of the step at the cursor, or of the session."""
    style = Style(width=None)
    content, opened = review.content, review.opened
    if review.place.kind is Kind.CONTENT and content is not None and content.data is not None:
        if content.hex:
            return tuple(plain(line) for line in hex_lines(content.data))
        text = content.data.decode("utf-8", "surrogateescape")
        return tuple(visible(line, keep="\t") for line in text.split("\n"))
    if opened is None:
        return ()
    view = View(diffs=True, whole=True, contents=opened.contents)
    index = moving.step_here(review)
    if index is not None and opened.plan is not None:
        step, identity = opened.plan.steps[index], opened.plan.identity.name
        return tuple(step_lines((index,), step, identity, style, view))
    return tuple(session_lines(opened.session, style, view))
