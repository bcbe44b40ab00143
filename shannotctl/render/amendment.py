"""How a reviewer made a plan of another one, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shannotctl.render.layout import labelled
from shannotctl.render.style import Style
from shannotd.wire.plan import Plan
from shannotd.wire.session import Session


def origin_lines(session: Session, style: Style) -> Iterator[str]:
    """Which session's plan was changed to this one's, and which has taken this one's place."""
    if session.amends is not None:
        *others, last = [f"uid {uid}" for uid in session.editors] or ["?"]
        text = f"session {session.amends}, as changed by {session.editor_name} ({last})"
        text += f", and before by {', '.join(others)}" if others else ""
        yield from labelled("amends", text, style)
    if session.replaced_by is not None:
        yield from labelled("replaced", f"by session {session.replaced_by}", style)


def amendment_lines(session: Session, plan: Plan, style: Style) -> Iterator[str]:
    """What was dropped and edited of the plan before, and what may miss it."""
    amendment = session.amendment
    if amendment is None:
        return
    yield style.paint("Changed by a reviewer", "title")
    for dropped in amendment.dropped:
        yield from labelled("dropped", f"{dropped.index + 1}. {dropped.what}", style)
    for edited in amendment.edited:
        # A plan of another daemon may have fewer steps than it tells of.
        step = plan.steps[edited.index] if edited.index < len(plan.steps) else None
        what = "?" if step is None else f"{step.change} {step.path}"
        before = "" if edited.index == edited.origin else f" (step {edited.origin + 1} before)"
        yield from labelled("edited", f"{edited.index + 1}. {what}{before}", style)
    yield from missed_lines(session, style)


def missed_lines(session: Session, style: Style) -> Iterator[str]:
    """The warnings that a change of a plan calls for."""
    amendment = session.amendment
    if amendment is None:
        return
    for dropped in amendment.dropped:
        if dropped.missed_by:
            text = (
                f"{steps_text(dropped.missed_by)} may miss what was dropped: {dropped.what}"
                f" (step {dropped.index + 1} before)"
            )
            yield from labelled("warning", text, style, role="warning")
    for edited in amendment.edited:
        if edited.replaced_by is not None:
            later = edited.replaced_by + 1
            text = f"the content of step {edited.index + 1} lasts only until step {later}"
            yield from labelled("warning", text, style, role="warning")


def steps_text(indexes: Sequence[int]) -> str:
    """`steps 1-4, 6`, as people count them."""
    ranges: list[list[int]] = []
    for number in (index + 1 for index in indexes):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return ("step " if len(indexes) == 1 else "steps ") + ", ".join(words)
