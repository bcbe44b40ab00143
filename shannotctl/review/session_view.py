"""A session as sections that can be folded: warnings, the plan's steps, what was printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from shannotctl.render.amendment import amendment_lines
from shannotctl.render.amounts import moment, number, size
from shannotctl.render.command import View, argv_text, program_lines
from shannotctl.render.command import folded as alike
from shannotctl.render.layout import block, in_gutter, labelled
from shannotctl.render.plan import (
    SECTIONS,
    applied_text,
    detail_lines,
    heading_lines,
    scratch_lines,
    section_of,
    summary,
)
from shannotctl.render.session import header_lines
from shannotctl.render.style import Style
from shannotctl.review.deletions import deleted, total_text, tree_lines
from shannotctl.review.document import Document, Row, remembered
from shannotctl.review.outcome import MARKS, applied, outcome_lines
from shannotctl.review.patch import unified
from shannotctl.review.spans import (
    EMPTY,
    RISK_ROLES,
    Line,
    Span,
    marked,
    rendered,
    with_role,
)
from shannotctl.review.state import Opened
from shannotctl.review.syntax import coloured, script_lexer
from shannotctl.review.warnings import warnings
from shannotd.wire.model import Decision, Plan, ScriptKind, Session, State, Step
from shannotd.wire.text import visible

_LONG_STEP = 300  # lines from which on something is folded at first
_LONG_LOOK = 12
_LONG_TREE = 12
_LONG_ANALYSIS = 12
_LONG_OUTPUT = 20


@dataclass(frozen=True)
class Section:
    """A heading and what is below it. Without a `heading` nothing can be folded."""

    item: str
    heading: tuple[Line, ...]
    body: Sequence[Line] = ()
    longest: int = _LONG_STEP
    before: tuple[Line, ...] = field(default=())


@remembered
def session_document(opened: Opened, width: int) -> Document:
    """The whole session in `width` columns."""
    rows: list[Row] = []
    headings: list[str] = []
    for section in _sections(opened, width):
        rows += [Row(f"{section.item}~", line) for line in section.before]
        if not section.heading:
            rows += [Row(section.item, line) for line in section.body]
            continue
        headings.append(section.item)
        folded = is_folded(section, opened)
        rows += [Row(section.item, line) for line in _heading(section, folded, width)]
        if not folded:
            rows += [Row(section.item, line) for line in section.body]
    return Document(rows, headings=headings, width=width)


def is_folded(section: Section, opened: Opened) -> bool:
    """Whether only the heading is shown: what is long is folded at first."""
    by_default = len(section.body) > section.longest
    return bool(section.body) and by_default != (section.item in opened.toggled)


def folded_items(opened: Opened, width: int) -> frozenset[str]:
    """The items of which only the heading is shown."""
    return frozenset(
        section.item
        for section in _sections(opened, width)
        if section.heading and is_folded(section, opened)
    )


def _heading(section: Section, folded: bool, width: int) -> Iterator[Line]:
    mark = "  " if not section.body else "▸ " if folded else "▾ "
    lines = list(section.heading)
    if folded:
        note = Span("faint", f"  ({number(len(section.body), 'line')} folded)")
        *_, last = lines
        if sum(len(span.text) for span in last) + len(note.text) + 2 <= width:
            lines[-1] = (*last, note)
        else:
            lines.append((Span("", "     "), note))
    for position, line in enumerate(lines):
        yield (Span("faint", mark if position == 0 else "  "), *line)


def step_item(index: int) -> str:
    """The item of a step."""
    return f"step:{index}"


def step_of(item: str) -> int | None:
    """The index of the step whose item this is; None where it is another's."""
    kind, _, rest = item.partition(":")
    return int(rest) if kind == "step" and rest.isdecimal() else None


@remembered
def _sections(opened: Opened, width: int) -> list[Section]:
    return list(_all_sections(opened, width))


def _all_sections(opened: Opened, width: int) -> Iterator[Section]:
    session, plan = opened.session, opened.plan
    style = marked(width)
    inner = marked(width - 2)
    yield Section("top", (), list(_top(opened, style)))
    if session.analysis:
        said = list(_analysis(session, inner))
        title = _title("What the submitter says of it")
        yield Section("analysis", (title,), said, _LONG_ANALYSIS, before=(EMPTY,))
    if plan is not None:
        if session.amendment is not None:
            title, *changes = rendered(amendment_lines(session, plan, inner))
            yield Section("amendment", (title,), _indented(changes), before=(EMPTY,))
        if len(deleted(plan.steps)) > 1:
            tree = list(tree_lines(plan.steps, width - 4))
            title = (*_title("Deletes"), Span("", f" {total_text(plan.steps)}"))
            yield Section("deletes", (title,), _indented(tree, 4), _LONG_TREE, before=(EMPTY,))
        yield from _plan_sections(opened, plan, width)
    if -1 in opened.live.printed:
        yield Section(
            "live", (_title("Printed since it was opened here"),), _printed(opened, -1, inner)
        )
    yield from _output_sections(session, inner)
    if session.script or session.arguments:
        script = list(_script(session, width - 2))
        title = (*_title("The script"), Span("", f" {number(len(script), 'line')}"))
        yield Section("script", (title,), script, 0)
    if session.programs:
        title, *programs = rendered(program_lines(session.programs, inner, whole=True))
        yield Section("programs", (title,), programs, 0)
    details = [*rendered(header_lines(session, inner))][1:]
    if plan is not None:
        details += rendered(labelled("plan", f"sha256 {plan.digest}", inner))
        details += rendered(labelled("policy", plan.policy_version, inner))
        details += rendered(labelled("on failure", plan.on_failure, inner))
    yield Section("details", (_title("Who, where, when"),), details, 0)


def _title(text: str) -> Line:
    return (Span("title", text),)


def _indented(lines: Iterable[Line], columns: int = 2) -> list[Line]:
    return [(Span("", " " * columns), *line) for line in lines]


def _top(opened: Opened, style: Style) -> Iterator[Line]:
    session, plan = opened.session, opened.plan
    risk = f" {opened.risk.value.upper()} "
    yield (
        (
            Span(f"risk {RISK_ROLES[opened.risk]}", risk),
            Span("title", f" {visible(session.name or '(none)')}"),
        )
        if len(session.name) + 16 <= (style.width or 80)
        else (Span(f"risk {RISK_ROLES[opened.risk]}", risk),)
    )
    if len(session.name) + 16 > (style.width or 80):
        yield from rendered(in_gutter(session.name, style, indent="", role="title"))
    text = f"{session.submitter_name} (uid {session.submitter}), {moment(session.created_at)}"
    yield from rendered(labelled("from", text, style, indent=""))
    where = f"{session.target}, as {session.identity}, profile {session.profile}"
    if session.kind is not ScriptKind.ROLLBACK:
        where += f", in {session.cwd}"
    yield from rendered(labelled("on", where, style, indent=""))
    yield from rendered(outcome_lines(opened, style))
    if plan is not None:
        found = warnings(session, plan, style)
        if found:
            yield EMPTY
            yield from found
    if opened.changed:
        yield EMPTY
        yield from rendered(_changes(opened, style))


def _changes(opened: Opened, style: Style) -> Iterator[str]:
    parts = []
    if opened.dropped:
        parts.append(f"{number(len(opened.dropped), 'step')} dropped")
    if opened.edits:
        parts.append(f"{number(len(opened.edits), 'file')} edited")
    text = f"{' and '.join(parts)}, not in the plan yet: A makes the changed plan, D gives this up"
    yield from labelled("changes", text, style, indent="", role="caution")


def _analysis(session: Session, style: Style) -> Iterator[Line]:
    for line in session.analysis.split("\n"):
        yield from rendered(in_gutter(line, style))


def _plan_sections(opened: Opened, plan: Plan, width: int) -> Iterator[Section]:
    title: Line = (*_title("Plan"), Span("", f" {summary(plan)}"))
    yield Section("plan", (), [EMPTY, title])
    together = list(alike(plan.steps))
    for name, words in SECTIONS.items():
        found = [(step, indexes) for step, indexes in together if section_of(step) == name]
        if found and words:
            yield Section(f"{name}~", (), [EMPTY, _title(words)])
        for step, indexes in found:
            yield _step_section(opened, plan, step, indexes, width)
    if any(step.scratch for step in plan.steps):
        head, *places = rendered(scratch_lines(plan, marked(width - 2)))
        yield Section("scratch", (head,), places, 0, before=(EMPTY,))


def _step_section(
    opened: Opened, plan: Plan, step: Step, indexes: Sequence[int], width: int
) -> Section:
    index = indexes[0]
    became = applied(opened).get(index)
    sign: Line = ()
    if became is not None and step.has_effect:
        mark, role = MARKS.get(became, ("?", "danger"))
        sign = (Span(role, f"{mark} "),)
    elif opened.session.state is State.EXECUTING and step.has_effect:
        sign = (Span("faint", "· "),)
    heading = [
        (*(sign if position == 0 else _blank(sign)), *line)
        for position, line in enumerate(
            rendered(heading_lines(index + 1, step, marked(width - 2 - 2 * len(sign))))
        )
    ]
    if index in opened.dropped:
        heading = [with_role(line, "dropped") for line in heading]
        heading.append(
            (Span("caution", "     dropped: not in the plan that you make of this one"),)
        )
    elif index in opened.edits:
        text = f"     edited: {size(len(opened.edits[index]))}, not in the plan yet"
        heading.append((Span("caution", text),))
    body = _step_body(step, tuple(indexes), plan.identity.name, opened, width - 2)
    if became is not None and became != "done" and step.has_effect:
        body = [
            *rendered(labelled("applied", applied_text(became), marked(width - 2), indent="     ")),
            *body,
        ]
    if opened.live.printed.get(index) and step.result is None:
        body = [*body, *_printed(opened, index, marked(width - 2))]
    longest = _LONG_LOOK if step.decision == Decision.OBSERVE else _LONG_STEP
    return Section(step_item(index), tuple(heading), body, longest)


def _blank(sign: Line) -> Line:
    return (Span("", "  "),) if sign else ()


_bodies: dict[tuple[int, int, int], tuple[Step, list[Line]]] = {}
_MOST_BODIES = 20_000


def _step_body(
    step: Step, indexes: tuple[int, ...], identity: str, opened: Opened, width: int
) -> list[Line]:
    """What is below a step's heading. Kept: a plan may have thousands of steps, and be shown
    again after every event."""
    key = (id(step), id(opened.contents), width)
    known = _bodies.get(key)
    if known is not None and known[0] is step:
        return known[1]
    view = View(diffs=True, whole=True, contents=opened.contents)
    lines = list(rendered(detail_lines(indexes, step, identity, marked(width), view)))
    if step.kind == "file" and (step.binary or step.too_large):
        lines.append((Span("faint", "     Enter shows its content"),))
    if step.diff is not None:
        found = unified(step.diff, step.path or "", width - 4, numbers=False)
        headers = _header_lines(step)
        lines += [(Span("", "    "), *line) for number, line in found if number >= headers]
    lines.append(EMPTY)
    if len(_bodies) >= _MOST_BODIES:
        _bodies.clear()
    _bodies[key] = (step, lines)
    return lines


def _header_lines(step: Step) -> int:
    """How many lines of the diff say nothing but what the step's heading says."""
    old = "/dev/null" if step.change == "create" else f"a{step.path}"
    new = "/dev/null" if step.change == "delete" else f"b{step.path}"
    return 2 if (step.diff or "").startswith(f"--- {old}\n+++ {new}\n@@ ") else 0


def _printed(opened: Opened, step: int, style: Style) -> list[Line]:
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


def _output_sections(session: Session, style: Style) -> Iterator[Section]:
    for item, title, data, lost in (
        ("stdout", "Standard output", session.stdout, session.stdout_truncated),
        ("stderr", "Standard error", session.stderr, session.stderr_truncated),
    ):
        lines = list(rendered(block(data, style)))
        if lost:
            lines.append((Span("warning", f"    ({size(lost)} more were not kept)"),))
        if lines:
            yield Section(item, (_title(title),), lines, _LONG_OUTPUT)


def _script(session: Session, width: int) -> Iterator[Line]:
    style = marked(width)
    if session.arguments:
        yield from rendered(labelled("arguments", argv_text(session.arguments), style))
    if not session.script:
        return
    text = session.script.decode("utf-8", "surrogateescape")
    first = text.partition("\n")[0]
    yield from source_lines(text, script_lexer(session.kind, session.name, first), width)


def source_lines(text: str, lexer: Callable[..., object] | None, width: int) -> Iterator[Line]:
    """A text with numbers beside its lines, which are folded at `width`."""
    from shannotctl.render.layout import expand_tabs
    from shannotctl.review.spans import folded

    raw = text.removesuffix("\n").split("\n")
    safe = [expand_tabs(visible(line, keep="\t")) for line in raw]
    digits = len(str(len(safe)))
    for position, line in enumerate(coloured(safe, lexer), 1):
        for row, piece in enumerate(folded(line, width - digits - 3)):
            start = f"{position:>{digits}} │ " if row == 0 else f"{'':>{digits}} : "
            yield (Span("faint", start), *piece)
    if text and not text.endswith("\n"):
        yield (Span("faint", f"{'':>{digits}}   (no newline at the end)"),)


def foldable_items(opened: Opened, width: int) -> frozenset[str]:
    """The items that have something below their heading."""
    sections = _sections(opened, width)
    return frozenset(one.item for one in sections if one.heading and one.body)


def steps_read(opened: Opened, document: Document, first: int, last: int) -> Opened:
    """`opened` after the rows from `first` to `last` were on the screen.

    A step counts as seen when all of its lines were, in order and unfolded.
    """
    folded = folded_items(opened, document.width)
    read, seen = dict(opened.read), set(opened.seen)
    for item in dict.fromkeys(row.item for row in document.rows[first : last + 1]):
        index = step_of(item)
        if index is None or index in seen:
            continue
        begin, end = document.first[item], document.last[item]
        if first <= begin + read.get(index, 0):
            read[index] = max(read.get(index, 0), min(last, end) + 1 - begin)
        if read.get(index, 0) > end - begin and item not in folded:
            seen.add(index)
    if seen == opened.seen and read == opened.read:
        return opened
    return replace(opened, read=read, seen=frozenset(seen))
