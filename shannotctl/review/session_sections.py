"""All of a session in sections, from the warnings to the circumstances."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from shannotctl.render.amendment import amendment_lines
from shannotctl.render.amounts import moment, number, size
from shannotctl.render.command import argv_text, program_lines
from shannotctl.render.layout import block, expand_tabs, in_gutter, labelled
from shannotctl.render.session import header_lines
from shannotctl.render.style import Style
from shannotctl.review.deletions import deleted, total_text, tree_lines
from shannotctl.review.outcome import outcome_lines
from shannotctl.review.section import Section, fixed, indented, title
from shannotctl.review.spans import (
    EMPTY,
    RISK_ROLES,
    Line,
    Span,
    folded,
    marked,
    rendered,
    width_of,
)
from shannotctl.review.state import Opened
from shannotctl.review.step_sections import plan_sections, printed_lines
from shannotctl.review.syntax import coloured, script_lexer
from shannotctl.review.warnings import warnings
from shannotd.wire.session import Session
from shannotd.wire.submission import ScriptKind
from shannotd.wire.text import visible

# What is longer is folded at first.
_LONG_TREE = 12
_LONG_ANALYSIS = 12
_LONG_OUTPUT = 20


def all_sections(opened: Opened, width: int) -> Iterator[Section]:
    """The sections, in `width` columns."""
    session, plan = opened.session, opened.plan
    inner = marked(width - 2)
    yield Section("top", (), *fixed(_top(opened, marked(width))))
    if session.analysis:
        said = list(_analysis(session, inner))
        head = title("What the submitter says of it")
        long = len(said) > _LONG_ANALYSIS
        yield Section("analysis", (head,), *fixed(said), long, before=(EMPTY,))
    if plan is not None:
        if session.amendment is not None:
            head, *changes = rendered(amendment_lines(session, plan, inner))
            yield Section("amendment", (head,), *fixed(indented(changes)), before=(EMPTY,))
        if len(deleted(plan.steps)) > 1:
            tree = indented(tree_lines(plan.steps, width - 4), 4)
            head = (*title("Deletes"), Span("", f" {total_text(plan.steps)}"))
            long = len(tree) > _LONG_TREE
            yield Section("deletes", (head,), *fixed(tree), long, before=(EMPTY,))
        yield from plan_sections(opened, plan, width)
    if -1 in opened.live.printed:
        head = title("Printed since it was opened here")
        yield Section("live", (head,), *fixed(printed_lines(opened, -1, inner)))
    yield from _output_sections(session, inner)
    if session.script or session.arguments:
        count = session.script.count(b"\n") + (not session.script.endswith(b"\n"))
        head = (*title("The script"), Span("", f" {number(count, 'line')}"))
        yield Section("script", (head,), lambda: list(_script(session, width - 2)), "folded", True)
    if session.programs:
        head, *programs = rendered(program_lines(session.programs, inner, whole=True))
        yield Section("programs", (head,), *fixed(programs), True)
    details = [*rendered(header_lines(session, plan, inner))][1:]
    if plan is not None:
        details += rendered(labelled("plan", f"sha256 {plan.digest}", inner))
        details += rendered(labelled("policy", plan.policy_version, inner))
        details += rendered(labelled("on failure", plan.on_failure, inner))
    yield Section("details", (title("Who, where, when"),), *fixed(details), True)


def _top(opened: Opened, style: Style) -> Iterator[Line]:
    session, plan = opened.session, opened.plan
    risk = Span(f"risk {RISK_ROLES[opened.risk]}", f" {opened.risk.value.upper()} ")
    name = Span("title", f" {visible(session.name or '(none)')}")
    if width_of((risk, name)) <= (style.width or 0):
        yield (risk, name)
    else:
        # Folded, right of a gutter, it can pass for no line of ours.
        yield (risk,)
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


def _output_sections(session: Session, style: Style) -> Iterator[Section]:
    for item, name, data, lost in (
        ("stdout", "Standard output", session.stdout, session.stdout_truncated),
        ("stderr", "Standard error", session.stderr, session.stderr_truncated),
    ):
        if not data and not lost:
            continue
        count = data.count(b"\n") + (not data.endswith(b"\n"))
        head = (*title(name), Span("", f" {number(count, 'line')}"))
        lines = partial(_output, data, lost, style)
        yield Section(item, (head,), lines, "folded", count > _LONG_OUTPUT)


def _output(data: bytes, lost: int, style: Style) -> list[Line]:
    lines = list(rendered(block(data, style)))
    if lost:
        lines.append((Span("warning", f"    ({size(lost)} more were not kept)"),))
    return lines


def _script(session: Session, width: int) -> Iterator[Line]:
    style = marked(width)
    if session.arguments:
        yield from rendered(labelled("arguments", argv_text(session.arguments), style))
    if not session.script:
        return
    text = session.script.decode("utf-8", "surrogateescape")
    first = text.partition("\n")[0]
    yield from source_lines(text, script_lexer(session.kind, session.name, first), width)


def source_lines(text: str, lexer: Any, width: int) -> Iterator[Line]:
    """A text with numbers beside its lines, which are folded at `width`."""
    raw = text.removesuffix("\n").split("\n")
    safe = [expand_tabs(visible(line, keep="\t")) for line in raw]
    digits = len(str(len(safe)))
    for position, line in enumerate(coloured(safe, lexer), 1):
        for row, piece in enumerate(folded(line, width - digits - 3)):
            start = f"{position:>{digits}} │ " if row == 0 else f"{'':>{digits}} : "
            yield (Span("faint", start), *piece)
    if text and not text.endswith("\n"):
        yield (Span("faint", f"{'':>{digits}}   (no newline at the end)"),)
