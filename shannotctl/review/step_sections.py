"""The steps of a plan as sections: a heading with risk and subject, and all that it changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from shannotctl.render.amounts import number, size
from shannotctl.render.command import View
from shannotctl.render.command import folded as alike
from shannotctl.render.layout import in_gutter, labelled
from shannotctl.render.plan import (
    SECTIONS,
    applied_text,
    detail_lines,
    heading_lines,
    scratch_lines,
    section_of,
    summary,
)
from shannotctl.render.style import Style
from shannotctl.review.outcome import MARKS, applied
from shannotctl.review.patch import unified
from shannotctl.review.section import Section, fixed, title
from shannotctl.review.spans import EMPTY, Line, Span, marked, rendered, with_role
from shannotctl.review.state import Opened
from shannotd.wire.decision import Decision
from shannotd.wire.plan import Plan
from shannotd.wire.session import State
from shannotd.wire.step import Step

# What is longer is folded at first: a step, what one printed that only looks, and of a plan all
# steps after so many lines. Lines of diffs and outputs are counted.
_LONG_STEP = 300
_LONG_LOOK = 12
_LONG_PLAN = 3000
# In larger plans only the diff of one step has syntax colours.
_MOST_COLOURED = 256 * 1024


def step_item(index: int) -> str:
    """The item of a step."""
    return f"step:{index}"


def step_of(item: str) -> int | None:
    """The index of the step whose item this is; None where it is another's."""
    kind, _, rest = item.partition(":")
    return int(rest) if kind == "step" and rest.isdecimal() else None


def plan_sections(opened: Opened, plan: Plan, width: int) -> Iterator[Section]:
    """What is applied, in order; then what the script looked at, what it was refused, scratch."""
    yield Section("plan", (), *fixed([EMPTY, (*title("Plan"), Span("", f" {summary(plan)}"))]))
    became = applied(opened)
    coloured = sum(len(step.diff or "") for step in plan.steps) <= _MOST_COLOURED
    lines = 0
    together = list(alike(plan.steps))
    for name, words in SECTIONS.items():
        found = [(step, indexes) for step, indexes in together if section_of(step) == name]
        if found and words:
            yield Section(f"{name}~", (), *fixed([EMPTY, title(words)]))
        for step, indexes in found:
            long = _length(step) > (_LONG_LOOK if step.decision == Decision.OBSERVE else _LONG_STEP)
            lines += 0 if long else 4 + _length(step)
            yield Section(
                step_item(indexes[0]),
                tuple(_heading(opened, step, indexes[0], became, width)),
                partial(_body, opened, plan, step, tuple(indexes), became, width - 2, coloured),
                _note(step),
                long or lines > _LONG_PLAN,
                length=_length(step),
            )
    if any(step.scratch for step in plan.steps):
        head, *places = rendered(scratch_lines(plan, marked(width - 2)))
        yield Section("scratch", (head,), *fixed(places), True, before=(EMPTY,))


def _length(step: Step) -> int:
    """About how many lines there are below a step's heading, a few apart."""
    lines = max(step.diff.count("\n"), len(step.diff) // 80) if step.diff else 0
    for part in (step.stdin, step.stdout, step.stderr):
        lines += 0 if part is None else part.size // 40
    if step.result is not None:
        lines += step.result.stdout.count("\n") + step.result.stderr.count("\n")
    return lines


def _note(step: Step) -> str:
    if step.diff:
        return f"{number(step.diff.count(chr(10)), 'line')} of diff folded"
    return "folded"


def _heading(
    opened: Opened, step: Step, index: int, became: Mapping[int, str], width: int
) -> Iterator[Line]:
    sign: Line = ()
    if index in became and step.has_effect:
        mark, role = MARKS.get(became[index], ("?", "danger"))
        sign = (Span(role, f"{mark} "),)
    elif opened.session.state is State.EXECUTING and step.has_effect:
        sign = (Span("faint", "· "),)
    blank: Line = (Span("", "  "),) if sign else ()
    role = "dropped" if index in opened.dropped else ""
    for row, line in enumerate(_named(step, index, width - 2 - 2 * len(sign))):
        yield (*(blank if row else sign), *(with_role(line, role) if role else line))
    if index in opened.dropped:
        yield (Span("caution", "     dropped: not in the plan that you make of this one"),)
    elif index in opened.edits:
        text = f"     edited: {size(len(opened.edits[index]))}, not in the plan yet"
        yield (Span("caution", text),)


# A plan may have thousands of steps, and is shown again after every event: what was made of a step
# is kept, with the step, so that its id is nobody else's.
_names: dict[tuple[int, int, int], tuple[Step, list[Line]]] = {}
_details: dict[tuple[int, int, int, bool], tuple[Step, Mapping[str, bytes], list[Line]]] = {}
_MOST_KEPT = 20_000


def _named(step: Step, index: int, width: int) -> list[Line]:
    key = (id(step), index, width)
    if key not in _names:
        if len(_names) >= _MOST_KEPT:
            _names.clear()
        _names[key] = step, list(rendered(heading_lines(index + 1, step, marked(width))))
    return _names[key][1]


def _body(
    opened: Opened,
    plan: Plan,
    step: Step,
    indexes: tuple[int, ...],
    became: Mapping[int, str],
    width: int,
    coloured: bool,
) -> Sequence[Line]:
    index = indexes[0]
    style = marked(width)
    lines: list[Line] = []
    state = became.get(index, "done")
    if state != "done" and step.has_effect:
        lines += rendered(labelled("applied", applied_text(state), style, indent="     "))
    key = (id(step), id(opened.contents), width, coloured)
    if key not in _details:
        if len(_details) >= _MOST_KEPT:
            _details.clear()
        made = _detail(opened, step, indexes, plan.identity.name, width, coloured)
        _details[key] = step, opened.contents, list(made)
    lines += _details[key][2]
    if opened.live.printed.get(index) and step.result is None:
        lines += printed_lines(opened, index, style)
    lines.append(EMPTY)
    return lines


def _detail(
    opened: Opened,
    step: Step,
    indexes: tuple[int, ...],
    identity: str,
    width: int,
    coloured: bool,
) -> Iterator[Line]:
    view = View(diffs=True, whole=True, contents=opened.contents)
    yield from rendered(detail_lines(indexes, step, identity, marked(width), view))
    if step.kind == "file" and step.diff is None and (step.binary or step.too_large):
        yield (Span("faint", "     no diff: `v` shows what is written, `b` what was there before"),)
    if step.diff is not None:
        path = (step.path or "") if coloured else ""
        headers = _header_lines(step)
        for index, line in unified(step.diff, path, width - 4, numbers=False):
            if index >= headers:
                yield (Span("", "    "), *line)


def _header_lines(step: Step) -> int:
    """How many lines of the diff say nothing but what the step's heading says."""
    old = "/dev/null" if step.change == "create" else f"a{step.path}"
    new = "/dev/null" if step.change == "delete" else f"b{step.path}"
    return 2 if (step.diff or "").startswith(f"--- {old}\n+++ {new}\n@@ ") else 0


def printed_lines(opened: Opened, step: int, style: Style) -> list[Line]:
    """What a step (-1: the script) prints while it runs; what is not kept here is told."""
    lines: list[Line] = []
    lost = opened.live.lost.get(step, 0)
    if lost:
        text = f"     ({size(lost)} before this are not shown here)"
        lines.append((Span("warning", text),))
    for piece in opened.live.printed.get(step, ()):
        role = "warning" if piece.stream == "stderr" else ""
        text = piece.data.decode("utf-8", "surrogateescape").removesuffix("\n")
        for line in text.split("\n"):
            lines += rendered(in_gutter(line, style, indent="       ", role=role))
    return lines
