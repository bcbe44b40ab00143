"""What a reviewer must know of a plan before anything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shannotctl.render.amendment import missed_lines, steps_text
from shannotctl.render.amounts import number, size
from shannotctl.render.command import argv_text, warning_lines
from shannotctl.render.layout import labelled
from shannotctl.render.plan import subject
from shannotctl.render.rollback import staying_lines
from shannotctl.render.session import ending_text
from shannotctl.render.style import Style
from shannotctl.review.spans import Line, rendered
from shannotd.wire.decision import Decision, Risk
from shannotd.wire.plan import Plan
from shannotd.wire.session import Session
from shannotd.wire.step import Step
from shannotd.wire.text import has_hidden, visible

_MOST_NAMED = 8  # steps of one warning that are named; the others are counted


def warnings(session: Session, plan: Plan, style: Style) -> list[Line]:
    """Danger first, then what may not be what it seems."""
    return list(rendered(_warnings(session, plan, style)))


def _warnings(session: Session, plan: Plan, style: Style) -> Iterator[str]:
    dangers = [
        index
        for index, step in enumerate(plan.steps)
        if step.risk is Risk.DANGER and not step.scratch
    ]
    for index in dangers[:_MOST_NAMED]:
        step = plan.steps[index]
        text = f"step {index + 1}, {what(step)}: {step.reason or 'no reason was given'}"
        yield from labelled("danger", text, style, role="danger")
    if len(dangers) > _MOST_NAMED:
        text = f"{number(len(dangers) - _MOST_NAMED, 'more step')}: "
        text += steps_text(dangers[_MOST_NAMED:])
        yield from labelled("danger", text, style, role="danger")
    if session.exit_code or session.signal is not None:
        text = f"the script failed in the dry run: {ending_text(session)}"
        yield from labelled("warning", text, style, role="warning")
    yield from staying_lines(session, style)
    yield from missed_lines(session, style)
    yield from warning_lines(plan, style)
    yield from _refused(plan, style)
    yield from _disguised(plan, style)
    lost = session.stdout_truncated + session.stderr_truncated
    if lost:
        text = f"{size(lost)} of what the script printed were not kept"
        yield from labelled("warning", text, style, role="warning")
    cut = [
        index
        for index, step in enumerate(plan.steps)
        if any(part is not None and part.truncated for part in (step.stdout, step.stderr))
    ]
    if cut:
        text = f"{steps_text(cut)}: not all of what was printed was kept"
        yield from labelled("warning", text, style, role="warning")


def _refused(plan: Plan, style: Style) -> Iterator[str]:
    blocked = [step for step in plan.steps if step.kind == "blocked"]
    for step in blocked[:_MOST_NAMED]:
        times = "" if step.count == 1 else f", {step.count:,} times"
        text = f"the script tried {step.what or '?'} {step.target or ''}".rstrip()
        yield from labelled("blocked", text + times, style, role="warning")
    if len(blocked) > _MOST_NAMED:
        text = f"{number(len(blocked) - _MOST_NAMED, 'more attempt')}, listed below"
        yield from labelled("blocked", text, style, role="warning")
    denied = [step for step in plan.steps if step.decision == Decision.DENY]
    if denied:
        names = dict.fromkeys(step.argv[0] if step.argv else "?" for step in denied)
        shown = ", ".join(list(names)[:_MOST_NAMED])
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        text = f"{number(len(denied), 'call')} refused by policy: {shown}{more}"
        yield from labelled("denied", text, style, role="warning")


def _disguised(plan: Plan, style: Style) -> Iterator[str]:
    """Steps with characters that a terminal would not have shown as they are."""
    found = [
        index
        for index, step in enumerate(plan.steps)
        if not step.scratch and any(has_hidden(text, keep="") for text in _texts(step))
    ]
    if found:
        text = f"{steps_text(found)}: control, invisible or look-alike characters in names, "
        text += "arguments or variables, shown as escapes such as \\e"
        yield from labelled("disguise", text, style, role="danger")
    contents = [
        index
        for index, step in enumerate(plan.steps)
        if not step.scratch and step.diff is not None and has_hidden(step.diff)
    ]
    if contents:
        text = f"{steps_text(contents)}: such characters in contents, shown as escapes"
        yield from labelled("disguise", text, style, role="warning")


def _texts(step: Step) -> Sequence[str]:
    texts = [step.path, step.old_path, step.link_to, step.program, step.cwd, step.target]
    changed = [f"{name}={step.environment.get(name, '')}" for name in step.changed]
    targets = [state.target for state in (step.before, step.after) if state is not None]
    return [text for text in (*texts, *targets, *step.argv, *changed) if text]


def what(step: Step) -> str:
    """A step in a few words: `delete /etc/x`; not escaped."""
    if step.kind == "command":
        return ("run " if step.runs else "") + argv_text(step.argv)
    if step.kind == "blocked":
        return f"blocked {step.what or '?'} {step.target or ''}".rstrip()
    return f"{visible(step.change or step.kind)} {subject(step)}"
