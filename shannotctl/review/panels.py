"""Questions and messages below a view, as lines."""

from __future__ import annotations

from collections.abc import Iterator

from shannotctl.render.amendment import missed_lines
from shannotctl.render.amendment import steps_text as steps_named
from shannotctl.render.amounts import number
from shannotctl.render.command import warning_lines
from shannotctl.render.layout import fold, hanging, labelled
from shannotctl.render.plan import DANGER_WORDS, summary
from shannotctl.render.rollback import staying_lines
from shannotctl.render.style import Style
from shannotctl.review.spans import (
    RISK_ROLES,
    Line,
    Span,
    folded,
    marked,
    rendered,
    width_of,
)
from shannotctl.review.state import Ask, Opened, Panel, Review
from shannotd.wire.decision import Risk
from shannotd.wire.text import visible

FORCE_WORDS = "force"

_PROMPTS = {
    Ask.DANGER: f"Type `{DANGER_WORDS}` and Enter to apply it:",
    Ask.FORCE: f"Type `{FORCE_WORDS}` and Enter to take it back all the same:",
    Ask.REJECT: "Why (the submitter sees it; may be empty):",
    Ask.SEARCH: "Search:",
    Ask.FILTER: "Only with these words:",
}


def panel_lines(review: Review, width: int, most: int) -> list[tuple[Line, int | None]]:
    """At most `most` lines, each with the cursor's column where it is on that line.

    What does not fit is told; where it can be scrolled, the arrows do that.
    """
    panel = review.panel
    assert panel is not None
    room = width - 2
    text = list(_text(review, panel, room))
    prompt = _prompt(panel, room)
    fits = max(1, most - len(prompt) - 1)
    shown, left = text[panel.top : panel.top + fits], len(text) - fits
    if left > 0:
        shown = text[panel.top : panel.top + fits - 1]
        rest = len(text) - panel.top - len(shown)
        above = f", {panel.top} above" if panel.top else ""
        shown.append((Span("mark", f"({number(rest, 'more line')}{above}: PgDn PgUp)"),))
    role = "danger" if panel.ask in (Ask.DANGER, Ask.FORCE) else ""
    rule = (Span(f"rule {role}".strip(), "─" * width),)
    lines: list[tuple[Line, int | None]] = [(rule, None)]
    lines += [((Span("", " "), *line), None) for line in shown]
    lines += [((Span("", " "), *line), None if at is None else at + 1) for line, at in prompt]
    return lines


def scrollable(review: Review, width: int) -> int:
    """How many lines of text the panel has in all."""
    return 0 if review.panel is None else len(list(_text(review, review.panel, width - 2)))


def _prompt(panel: Panel, width: int) -> list[tuple[Line, int | None]]:
    """The line that is being typed in."""
    words = _PROMPTS.get(panel.ask)
    if words is None:
        return []
    before = visible(panel.field.text[: panel.field.cursor])
    after = visible(panel.field.text[panel.field.cursor :])
    whole = f"{words} {before}{after}"
    at = width_of((Span("", f"{words} {before}"),))
    lines: list[tuple[Line, int | None]] = []
    used = 0
    for piece in fold(whole, width - 1):
        wide = width_of((Span("", piece),))
        here = used <= at and (
            at < used + wide or (at == used + wide and at == width_of((Span("", whole),)))
        )
        lines.append(((Span("prompt", piece),), at - used if here else None))
        used += wide
    return lines


def _text(review: Review, panel: Panel, width: int) -> Iterator[Line]:
    if panel.ask in (Ask.APPROVE, Ask.DANGER):
        if review.opened is not None and review.opened.plan is not None:
            yield from _approval(review.opened, panel, width)
        return
    role = "notice" if panel.ask is Ask.MESSAGE else ""
    for text in panel.text:
        for piece in hanging(visible(text), Style(width=width)):
            yield (Span(role, piece),)


def _approval(opened: Opened, panel: Panel, width: int) -> Iterator[Line]:
    session, plan = opened.session, opened.plan
    assert plan is not None
    style = marked(width)
    target = visible(f"{session.target} as {plan.identity.name}")
    title: Line = (
        Span("title", "Apply this plan"),
        Span("", f" on {target}?  "),
        Span(f"risk {RISK_ROLES[opened.risk]}", f" {opened.risk.value} "),
    )
    yield from folded(title, width)
    yield from rendered(labelled("plan", summary(plan), style, indent=""))
    yield from rendered(labelled("digest", panel.digest, style, indent=""))
    unseen = [
        index
        for index, step in enumerate(plan.steps)
        if step.has_effect and index not in opened.seen
    ]
    if unseen:
        text = f"{steps_named(unseen)}: not all of it has been on your screen"
        yield from rendered(labelled("not seen", text, style, indent="", role="danger"))
    dangers = [i for i, step in enumerate(plan.steps) if step.risk is Risk.DANGER]
    if dangers:
        yield from rendered(
            labelled("danger", steps_named(dangers), style, indent="", role="danger")
        )
    yield from rendered(staying_lines(session, style))
    yield from rendered(missed_lines(session, style))
    yield from rendered(warning_lines(plan, style))
