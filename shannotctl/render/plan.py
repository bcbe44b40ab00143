"""A plan as text: every step, with what it changes and why that is risky."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shannotctl.render.amounts import exact_moment, mode, number, size
from shannotctl.render.command import (
    View,
    command_details,
    command_kind,
    command_line,
    folded,
    quoted,
    times_line,
    warning_lines,
)
from shannotctl.render.layout import TAB_ARROW, fold, in_gutter, labelled
from shannotctl.render.style import Style
from shannotd.wire.decision import Decision, Risk
from shannotd.wire.plan import Plan
from shannotd.wire.step import FileState, Step
from shannotd.wire.text import visible

WITH_DIFFS = View()

# What a person types to have a dangerous plan applied.
DANGER_WORDS = "yes, danger"

SECTIONS = {
    "applied": "",
    "observed": "Looked at in the dry run: nothing to apply",
    "refused": "Refused in the dry run: nothing to apply",
}
# What became of a step, where its word does not say all.
_APPLIED = {
    "undone": "undone: it was done, and taken back since a later step failed",
    "in_doubt": "in doubt: it was running when the apply was cut short",
}
_DIFF_ROLES = {"+": "added", "-": "removed", "@": "hunk"}


def plan_lines(plan: Plan, style: Style, view: View = WITH_DIFFS) -> Iterator[str]:
    """The whole plan: its digest, its warnings, the steps that are applied, in order; then what
    the script looked at and what it was refused; scratch folded with a count."""
    shown = [step for step in plan.steps if not step.scratch]
    yield style.paint("Plan", "title") + f": {summary(plan)}"
    yield from labelled("digest", plan.digest, style)
    identity = plan.identity
    groups = ",".join(map(str, identity.groups)) or "none"
    yield from labelled(
        "runs as",
        f"{identity.name} (uid {identity.uid}, gid {identity.gid}, groups {groups},"
        f" umask {identity.umask:04o}) on {plan.target.kind} {plan.target.host}",
        style,
    )
    if plan.on_failure != "keep":
        yield from labelled("on failure", plan.on_failure, style)
    yield from warning_lines(plan, style)
    together = list(folded(plan.steps))
    for section, heading in SECTIONS.items():
        found = [(step, indexes) for step, indexes in together if section_of(step) == section]
        if found and heading:
            yield ""
            yield style.paint(heading, "title")
        for step, indexes in found:
            yield ""
            yield from step_lines(indexes, step, identity.name, style, view)
    if len(shown) < len(plan.steps):
        yield ""
        yield from scratch_lines(plan, style)


def summary(plan: Plan) -> str:
    """`4 steps (1 create, 2 modify, 1 delete); 3 in scratch are not applied`."""
    shown = [step for step in plan.steps if not step.scratch]
    kinds: dict[str, int] = {}
    for step in shown:
        kind = _kind(step)
        kinds[kind] = kinds.get(kind, 0) + 1
    text = number(len(shown), "step")
    if kinds:
        text += f" ({', '.join(f'{count:,} {visible(kind)}' for kind, count in kinds.items())})"
    scratch = len(plan.steps) - len(shown)
    if scratch:
        text += f"; {scratch:,} in scratch {'is' if scratch == 1 else 'are'} not applied"
    return text


def highest_risk(plan: Plan) -> Risk:
    """The highest risk of the plan's steps."""
    return max(
        (step.risk for step in plan.steps if not step.scratch),
        key=lambda risk: risk.rank,
        default=Risk.SAFE,
    )


def applied_text(applied: str) -> str:
    """What became of a step, in words."""
    return _APPLIED.get(applied, applied)


def section_of(step: Step) -> str:
    """Which of SECTIONS a step stands in."""
    if step.has_effect:
        return "applied"
    return "observed" if step.decision == Decision.OBSERVE else "refused"


def _kind(step: Step) -> str:
    if step.kind == "file":
        return step.change or "change"
    return command_kind(step) if step.kind == "command" else step.kind


def step_lines(
    indexes: Sequence[int], step: Step, identity: str, style: Style, view: View
) -> Iterator[str]:
    """One step: a line with what and where, then everything that it changes."""
    yield from heading_lines(indexes[0] + 1, step, style)
    yield from detail_lines(indexes, step, identity, style, view)
    if step.kind == "file":
        yield from _diff_lines(step, style, view.diffs)
    if step.applied is not None and step.has_effect:
        yield from _detail("applied", applied_text(step.applied), style)


def detail_lines(
    indexes: Sequence[int], step: Step, identity: str, style: Style, view: View
) -> Iterator[str]:
    """What is below a step's heading, but for its diff and what became of it."""
    yield from times_line(indexes, style)
    if step.reason:
        yield from _detail("why", step.reason, style)
    if step.kind == "file":
        yield from _file_details(step, style)
    elif step.kind == "command":
        yield from command_details(step, identity, view, style)


def scratch_lines(plan: Plan, style: Style) -> Iterator[str]:
    """How many scratch files there are, and under which directories."""
    steps = [step for step in plan.steps if step.scratch]
    places: dict[str, int] = {}
    for step in steps:
        place = (step.path or "?").rpartition("/")[0] or "/"
        places[place] = places.get(place, 0) + 1
    yield style.paint(f"Scratch: {number(len(steps), 'change')}, not applied", "faint")
    for place, count in places.items():
        yield from in_gutter(f"{count:,} in {visible(place)}", style, role="faint")


def heading_lines(number: int, step: Step, style: Style) -> Iterator[str]:
    """`  3. danger  delete /etc/x`: a step's number, risk, and what it does to what."""
    start = f"{number:>3}. {style.risk(step.risk)}  "
    plain = f"{number:>3}. {step.risk.value}  "
    if step.kind == "command":
        what = command_line(step)
    elif step.kind == "blocked":
        times = "" if step.count == 1 else f", {step.count:,} times"
        what = f"blocked: {visible(step.what or '?')} {visible(step.target or '')}{times}"
    else:
        what = f"{visible(step.change or step.kind)} {subject(step)}"
    room = None if style.width is None else style.width - len(plain)
    for line_number, piece in enumerate(fold(what, room)):
        yield (start if line_number == 0 else " " * len(plain)) + style.paint(piece, "title")


def subject(step: Step) -> str:
    """What a file step is about: its path, and what is there where that is no file."""
    path = _name(step.path)
    if step.change == "rename":
        return f"{_name(step.old_path)} to {path}"
    state = step.after if step.change == "create" else step.before
    if state is None or state.type in ("file", "absent"):
        return path
    if state.tree is not None:
        tree = state.tree
        return f"the tree {path} ({number(tree.entries, 'entry', 'entries')}, {size(tree.size)})"
    return f"the {visible(state.type)} {path}"


def _name(path: str | None) -> str:
    """A path, in quotes where a blank in it would hide where it ends."""
    return "?" if path is None else quoted(path) if " " in path else visible(path)


def _file_details(step: Step, style: Style) -> Iterator[str]:
    before, after = step.before, step.after
    if before is not None and after is not None:
        for label, text in changes(before, after):
            yield from _detail(label, text, style)
    if step.appended is not None:
        yield from _detail("appended", size(step.appended.size), style)
    if step.link_to is not None:
        yield from _detail("hard link", f"one more name of {step.link_to}", style)
    if before is not None and before.links is not None and before.links > 1:
        yield from _detail("links", f"the file has {before.links} names (hard links)", style)
    if step.binary or step.too_large:
        why = "binary" if step.binary else "too large to show"
        for label, state in (("before", step.before), ("after", step.after)):
            if state is not None and state.type == "file":
                content = f"{size(state.size or 0)}, sha256 {state.sha256 or 'not computed'}"
                yield from _detail(label, f"{content} ({why})", style)


def _diff_lines(step: Step, style: Style, diffs: bool) -> Iterator[str]:
    if step.diff is None:
        return
    # Only newlines separate a diff's lines: other line boundaries are content.
    lines = step.diff.removesuffix("\n").split("\n")
    if not diffs:
        yield from _detail("diff", f"{number(len(lines), 'line')} not shown (--diff)", style)
        return
    for position, line in enumerate(lines):
        # Only the first two lines are headers: a removed line may begin with `--` itself.
        is_header = position < 2 and line.startswith(("--- ", "+++ "))
        role = "faint" if is_header else _DIFF_ROLES.get(line[:1], "")
        yield from in_gutter(line, style, role=role, tab=TAB_ARROW if line[:1] in "+-" else " ")


def changes(before: FileState, after: FileState) -> Iterator[tuple[str, str]]:
    """Everything by which `after` differs from `before`, content apart, in words."""
    if after.type == "absent":
        if before.target is not None:
            yield _target_label(before), _name(before.target)
        if before.type == "file" and before.size is not None:
            yield "size", size(before.size)
        return
    created = before.type == "absent"
    if not created and before.type != after.type:
        yield "type", f"{before.type} to {after.type}"
        if before.tree is not None:
            tree = before.tree
            yield "replaces", f"{number(tree.entries, 'entry', 'entries')}, {size(tree.size)}"
    yield from _difference("mode", _mode(before), _mode(after), created)
    yield from _difference("owner", _owner(before), _owner(after), created)
    yield from _difference("size", _size(before), _size(after), created)
    yield from _difference(_target_label(after), _target(before), _target(after), created)
    # Without a time before, the file's own is not known to matter: it is set all the same.
    timeless = before.mtime_ns is None
    yield from _difference("modified", _modified(before), _modified(after), timeless)
    for name in sorted({*before.xattrs, *after.xattrs}):
        old, new = before.xattrs.get(name), after.xattrs.get(name)
        yield from _difference("xattr", _xattr(name, old), _xattr(name, new), created)


def _difference(
    label: str, old: str | None, new: str | None, created: bool
) -> Iterator[tuple[str, str]]:
    if old == new or (created and new is None):
        return
    yield label, new or "" if created else f"{old or 'none'} to {new or 'none'}"


def _target_label(state: FileState) -> str:
    return "device" if state.type in ("character", "block") else "target"


def _target(state: FileState) -> str | None:
    return None if state.target is None else _name(state.target)


def _mode(state: FileState) -> str | None:
    return None if state.mode is None or state.type == "symlink" else mode(state.mode)


def _owner(state: FileState) -> str | None:
    return None if state.uid is None else f"{state.uid}:{state.gid}"


def _size(state: FileState) -> str | None:
    return None if state.size is None or state.type != "file" else size(state.size)


def _modified(state: FileState) -> str | None:
    return None if state.mtime_ns is None else exact_moment(state.mtime_ns)


def _xattr(name: str, value: str | None) -> str | None:
    return None if value is None else f"{name}={value}"


def _detail(label: str, text: str, style: Style) -> Iterator[str]:
    yield from labelled(label, text, style, indent="     ")
