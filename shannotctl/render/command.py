"""The commands of a plan as text: how they run, what they are given, what they printed."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from shannotctl.render.amounts import duration, number, size
from shannotctl.render.layout import block, in_gutter, labelled
from shannotctl.render.style import Style
from shannotd.wire.decision import Decision
from shannotd.wire.plan import Plan, StartedProgram
from shannotd.wire.step import CommandInput, CommandOutput, CommandResult, Step
from shannotd.wire.text import visible

_INDENT = "     "
_GUTTER = "       "
_SHORT_LINES = 40
_SHORT_BYTES = 8 * 1024
_SHORT_PROGRAMS = 12
_DONE = {Decision.OBSERVE: "observed", Decision.DENY: "denied"}


class View(NamedTuple):
    """How much of a plan is shown.

    `diffs`: contents too; `whole`: also long outputs, and every program. `contents` are those of
    commands, by SHA-256.
    """

    diffs: bool = True
    whole: bool = False
    contents: Mapping[str, bytes] = {}


def command_kind(step: Step) -> str:
    """`command` for one that runs when the plan is applied, else `observed` or `denied`."""
    return "command" if step.runs else _DONE[Decision(step.decision or "")]


def command_line(step: Step) -> str:
    """`run systemctl reload nginx`, each argument so that its ends are seen.

    The first word is the caller's choice: with the program where that has another name.
    """
    text = f"{'run' if step.runs else command_kind(step)} {argv_text(step.argv)}"
    program = step.program or ""
    if not step.argv or posixpath.basename(step.argv[0]) != posixpath.basename(program):
        text += f" ({quoted(program)})"
    return text


def argv_text(argv: Sequence[str]) -> str:
    """The words of a command line, quoted where they are not plain."""
    return " ".join(quoted(word) for word in argv) or "?"


def quoted(word: str) -> str:
    """One argument so that its ends are seen: in quotes where it is not plain."""
    safe = visible(word)
    if word and word == safe and all(c.isalnum() or c in "@%+=:,./-_" for c in word):
        return word
    return "'" + safe.replace("'", "'\\''") + "'"


def command_details(step: Step, identity: str, view: View, style: Style) -> Iterator[str]:
    """Everything that a reviewer needs to know of a command."""
    label = "review" if step.runs else command_kind(step)
    yield from _detail(label, _circumstances(step, identity), style)
    if step.decision == Decision.OBSERVE and step.called_after is not None:
        text = f"called after step {step.called_after + 1}, which had not run: the host without it"
        yield from _detail("when", text, style, role="warning")
    if step.program is not None and step.decision != Decision.DENY:
        digest = f" (sha256 {step.program_sha256})" if step.program_sha256 else ""
        link = f"{step.link}, a link to " if step.link is not None else ""
        yield from _detail("program", link + step.program + digest, style)
    if step.runs:
        for one in step.interpreters:
            yield from _detail("run by", f"{one.path} (sha256 {one.sha256})", style)
    if step.assumed:
        text = "the script may have read its output, of which it was told only what the rule says"
        yield from _detail("assumed", text, style, role="warning")
    if step.runs:
        for name in step.changed:
            value = step.environment.get(name)
            text = f"{name} is not set" if value is None else f"{name}={quoted(value)}"
            yield from _detail("variable", text, style)
        if step.undo is not None:
            yield from _detail("undo", argv_text(step.undo), style)
        if step.stdin is not None:
            yield from _content("input", step.stdin, view._replace(whole=True), style)
        elif step.unread:
            text = "none, though the script gave it a pipe, whose content is not kept"
            yield from _detail("input", text, style, role="warning")
    for label, output in (("stdout", step.stdout), ("stderr", step.stderr)):
        if output is not None and output.size:
            yield from _content(label, output, view, style)
    if step.result is not None:
        yield from _result(step.result, view, style)


def _circumstances(step: Step, identity: str) -> str:
    parts = [f"rule {step.rule}"] if step.rule else []
    exit_status = "?" if step.exit_status is None else step.exit_status
    if step.runs:
        if step.decision != Decision.REVIEW:
            parts.append(f"decision {step.decision}")
        if identity:
            parts.append(f"as {identity}")
        parts.append(f"in {step.cwd or '?'}")
        if step.stdin is not None:
            parts.append(f"with input of {size(step.stdin.size)}")
        parts.append(f"exit status {exit_status} assumed")
        if step.seconds is not None:
            parts.append(f"for {duration(step.seconds)} at most")
        if step.memory_bytes is not None:
            parts.append(f"with {size(step.memory_bytes)} of memory at most")
        if step.processes is not None:
            parts.append(f"with {number(step.processes, 'process', 'processes')} at most")
    elif step.decision == Decision.OBSERVE:
        parts.append(f"ran in the dry run, exit status {exit_status}")
    else:
        parts.append(f"in {step.cwd or '?'}")
        parts.append("not run")
    return ", ".join(parts)


def _content(
    label: str, part: CommandInput | CommandOutput, view: View, style: Style
) -> Iterator[str]:
    data = view.contents.get(part.sha256)
    cut = isinstance(part, CommandOutput) and part.truncated
    text = size(part.size) + (", and more that was not kept" if cut else "")
    if part.size == 0:
        yield from _detail(label, "empty", style)
    elif not view.diffs:
        yield from _detail(label, f"{text}, not shown (--diff)", style)
    elif data is None or b"\0" in data:
        why = "not shown" if data is None else "binary"
        yield from _detail(label, f"{text}, sha256 {part.sha256} ({why})", style)
    else:
        yield from _detail(label, text, style)
        yield from _bounded(data, view.whole, style)


def _bounded(data: bytes, whole: bool, style: Style) -> Iterator[str]:
    """Untrusted bytes in a gutter; what is left out is told."""
    if whole:
        yield from block(data, style, indent=_GUTTER)
        return
    lines = data[:_SHORT_BYTES].splitlines(keepends=True)[:_SHORT_LINES]
    shown = b"".join(lines)
    if len(shown) == len(data):
        yield from block(data, style, indent=_GUTTER)
        return
    yield from block(shown if shown.endswith(b"\n") else shown + b"\n", style, indent=_GUTTER)
    left = f"{size(len(data) - len(shown))} more not shown (`shannotctl show --diff` has all)"
    yield style.paint(f"{_GUTTER}  ({left})", "warning")


def _result(result: CommandResult, view: View, style: Style) -> Iterator[str]:
    if result.signal is not None:
        text = f"killed by signal {result.signal}"
    else:
        text = f"exit status {'?' if result.exit_status is None else result.exit_status}"
    text += f" after {duration(result.duration)}"
    if result.stopped is not None:
        text += f", stopped by its limit ({result.stopped})"
    yield from _detail("result", text, style)
    for name, output in (("stdout", result.stdout), ("stderr", result.stderr)):
        if output:
            data = _bytes_of(output)
            cut = ", and more that was not kept" if name in result.truncated else ""
            yield from _detail(name, size(len(data)) + cut, style)
            yield from _bounded(data, view.whole, style)


def _bytes_of(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte: no daemon of ours sends it
        return text.encode("utf-8", "surrogatepass")


def warning_lines(plan: Plan, style: Style) -> Iterator[str]:
    """What must be known of a plan's commands before anything else."""
    running = [step for step in plan.steps if step.runs]
    if running:
        them = "it does" if len(running) == 1 else "they do"
        undone = sum(step.undo is not None for step in running)
        if undone == 0:
            back = "and no rollback takes it back"
        elif undone == len(running):
            back = "and a rollback runs what makes up for it (undo)"
        else:
            back = f"and a rollback runs what makes up for {undone} of them (undo)"
        text = f"{number(len(running), 'command')} on the host: what {them} there is in no"
        yield from labelled("warning", f"{text} checkpoint, {back}", style, role="warning")
    assumed = [index for index, step in enumerate(plan.steps, 1) if step.runs and step.assumed]
    if assumed:
        steps = "step" if len(assumed) == 1 else "steps"
        yield from labelled(
            "warning",
            f"{steps} {', '.join(map(str, assumed))} assumed: with the real output the script may"
            f" do otherwise; so all after step {assumed[0]} is a guess",
            style,
            role="warning",
        )


def folded(steps: Sequence[Step]) -> Iterator[tuple[Step, list[int]]]:
    """Each step but scratch with its indexes: alike calls that change nothing come once.

    Only among those between which no step stands that is applied.
    """
    groups: list[tuple[Step, list[int]]] = []
    known: dict[object, list[int]] = {}
    for index, step in enumerate(steps):
        if step.scratch:
            continue
        if step.kind != "command" or step.runs:
            known.clear()
            groups.append((step, [index]))
            continue
        key = _likeness(step)
        if key in known:
            known[key].append(index)
        else:
            known[key] = [index]
            groups.append((step, known[key]))
    yield from groups


def _likeness(step: Step) -> tuple[object, ...]:
    """By which two calls that change nothing look alike in everything that is shown of them."""
    where = step.cwd if step.decision == Decision.DENY else step.program
    shown = (step.exit_status, step.stdout, step.stderr, step.reason, step.risk, step.applied)
    called = (step.argv, where, step.link, step.called_after)
    return (step.decision, *called, step.rule, step.program_sha256, *shown)


def times_line(indexes: Sequence[int], style: Style) -> Iterator[str]:
    """How often a folded step comes, and where."""
    if len(indexes) > 1:
        places = ", ".join(str(index + 1) for index in indexes)
        yield from _detail("times", f"{len(indexes):,} (steps {places})", style)


def program_lines(
    programs: Sequence[StartedProgram], style: Style, *, whole: bool
) -> Iterator[str]:
    """What was started in the sandbox: by name with counts, or `whole` with all arguments."""
    total = sum(program.count for program in programs)
    title = style.paint("Programs", "title")
    yield f"{title}: {number(total, 'start')} in the sandbox (no part of the plan's digest)"
    if whole:
        for program in programs:
            words = argv_text(program.argv) if program.argv else "others"
            cut = " and more words" if program.cut and program.argv else ""
            yield from in_gutter(f"{program.count:,} x {words}{cut}", style)
        return
    names: dict[str, int] = {}
    for program in programs:
        name = quoted(program.argv[0]) if program.argv else "others"
        names[name] = names.get(name, 0) + program.count
    most = sorted(names.items(), key=lambda pair: -pair[1])
    for name, count in most[:_SHORT_PROGRAMS]:
        yield from in_gutter(f"{count:,} x {name}", style)
    names_left = len(most) - _SHORT_PROGRAMS
    left = f"{number(names_left, 'more name')} and all arguments" if names_left > 0 else "arguments"
    yield style.paint(f"      ({left} not shown: `shannotctl show --diff` has them)", "faint")


def _detail(label: str, text: str, style: Style, role: str = "faint") -> Iterator[str]:
    yield from labelled(label, text, style, indent=_INDENT, role=role)
