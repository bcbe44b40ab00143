"""A plan as a reviewer wants it: without some of its steps, with other contents in others. Pure.

What stays is as the dry run recorded it, except where another content makes other states: the
edited step's own, and those that begin from it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import AbstractSet, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from shannotd.runner.dependents import Missed, Need, dependents
from shannotd.runner.frames import RunnerError
from shannotd.runner.needed import runs
from shannotd.runner.plan import (
    CommandStep,
    FileState,
    FileStep,
    Interpreter,
    Plan,
    TreeSummary,
)
from shannotd.runner.wording import numbers
from shannotd.runner.world import Pieces, World, Written

# The content of a file in a state, which consists of these pieces, with one more at its end.
Measure = Callable[[FileState, Pieces, Written], Written]


@dataclass(frozen=True)
class Changes:
    """What a reviewer wants of a plan: indexes of steps to drop, other contents by index.

    `with_dependents` has those dropped too that cannot stay then.
    """

    drop: AbstractSet[int]
    edits: Mapping[int, Written]
    with_dependents: bool = False


@dataclass(frozen=True)
class Renewed:
    """The content of a step's file before and after it, where the dry run knew another."""

    before: Pieces
    after: Pieces


@dataclass(frozen=True)
class Amended:
    """The new steps: `origins` has for each its index in the plan before.

    Other indexes are those of new steps, except for `dropped` and the steps that `missed` says
    are missed, which are of the plan before. `edited` have another content, `replaced` those
    among them that a later step writes anew, with that step; `renewed` is what is to be shown
    anew.
    """

    steps: Tuple[object, ...]
    origins: Tuple[int, ...]
    dropped: Tuple[int, ...]
    missed: Tuple[Missed, ...]
    edited: Tuple[int, ...]
    replaced: Mapping[int, int]
    renewed: Mapping[int, Renewed]


def amend(plan: Plan, changes: Changes, measure: Measure) -> Amended:
    """The steps of `plan` with `changes`.

    :raises RunnerError: `not_amendable`: it cannot be changed like that; `step_needed`: others
        cannot stay without what is dropped, and are not to be dropped too.
    """
    for index in sorted({*changes.drop, *changes.edits}):
        _check_index(plan, index)
    for index in sorted(changes.drop):
        _check_droppable(plan, index)
    for index in sorted(changes.edits):
        if index in changes.drop:
            raise not_amendable(plan, f"{_number(index)} is to be dropped and edited", index)
        _check_edit(plan, index, changes.edits[index])
    edits = {
        index: content
        for index, content in changes.edits.items()
        if content != _written(plan.steps[index])
    }
    if not changes.drop and not edits:
        raise not_amendable(plan, "nothing would be another than before")
    found = dependents(plan.steps, changes.drop)
    gone = frozenset({*changes.drop, *(need.index for need in found.needs)})
    if found.needs and not changes.with_dependents:
        raise _step_needed(plan, found.needs)
    for index in sorted(gone & edits.keys()):
        raise not_amendable(plan, f"{_number(index)} is edited, but cannot stay", index)
    if not any(_is_applied(step) for index, step in enumerate(plan.steps) if index not in gone):
        raise not_amendable(plan, "nothing would be left to apply; reject it instead")
    return _Rewriting(plan, gone, edits, measure).rewrite(found.missed)


class _Rewriting:
    """Goes through the steps that stay, and has each begin where the one before it ends."""

    def __init__(
        self, plan: Plan, gone: AbstractSet[int], edits: Mapping[int, Written], measure: Measure
    ) -> None:
        self._plan = plan
        self._gone = gone
        self._edits = edits
        self._measure = measure
        self._world = World()
        self._renewed: Dict[int, Renewed] = {}
        self._replaced: Dict[int, int] = {}  # the old index of an edited step, a new one

    def rewrite(self, missed: Sequence[Missed]) -> Amended:
        steps: List[object] = []
        places: Dict[int, int] = {}
        commands: List[int] = []  # the indexes before of those that stay
        for origin, step in enumerate(self._plan.steps):
            if origin in self._gone:
                continue
            places[origin] = len(steps)
            if isinstance(step, FileStep) and not step.scratch:
                step = self._file(origin, len(steps), step)
            elif isinstance(step, CommandStep) and runs(step):
                commands.append(origin)
                step = self._command(step)
            elif isinstance(step, CommandStep) and step.called_after is not None:
                earlier = commands[: bisect_right(commands, step.called_after)]
                step = replace(step, called_after=places[earlier[-1]] if earlier else None)
            steps.append(step)
        return Amended(
            tuple(steps),
            tuple(places),
            tuple(sorted(self._gone)),
            tuple(Missed(places[one.index], one.dropped) for one in missed),
            tuple(places[index] for index in sorted(self._edits)),
            {places[edited]: index for edited, index in self._replaced.items()},
            self._renewed,
        )

    def _command(self, step: CommandStep) -> CommandStep:
        """The command, run by what edited steps leave where they wrote its interpreters."""
        return replace(step, interpreters=tuple(map(self._interpreter, step.interpreters)))

    def _interpreter(self, one: Interpreter) -> Interpreter:
        place = self._world.find(one.path)
        state = None if place.edit is None else self._world.state(place)
        if state is None or state.sha256 is None:
            return one
        return replace(one, sha256=state.sha256)

    def _file(self, origin: int, index: int, step: FileStep) -> FileStep:
        """The step as it is to be at `index` of the new plan; it is at `origin` of the old."""
        edit = self._edits.get(origin)
        place = self._world.find(step.path if step.old_path is None else step.old_path)
        source, old = place.edit, place.content if step.before.type == "file" else ()
        if step.before.tree is not None and self._edits and place.edits:
            reason = f"{_number(min(place.edits))} cannot be edited: the directory goes as it was"
            raise not_amendable(self._plan, reason)
        before = step.before
        if source is not None and before.type == "file":
            before = self._content_at(step.old_path or step.path, before)
        if step.change == "modify" and source is not None:
            self._replaced[source] = index
        appended, after = step.appended, step.after
        if appended is not None and edit is not None:
            appended = TreeSummary(1, edit.size, edit.sha256)
        if appended is not None and (edit is not None or source is not None):
            whole = self._measure(before, old, Written(appended.sha256, appended.size))
            after = _with_content(after, whole)
        elif edit is not None:
            after = _with_content(after, edit)
        elif step.change in ("metadata", "rename") and before != step.before:
            after = replace(after, sha256=before.sha256, size=before.size)
        elif step.link_to is not None and self._world.find(step.link_to).edit is not None:
            after = self._content_at(step.link_to, after)
        new = replace(step, before=before, after=after, appended=appended)
        self._world.add(new, edit=None if edit is None else origin)
        if new != step:
            made = self._world.find(step.path).content if after.type == "file" else ()
            self._renewed[index] = Renewed(old, made)
        return new

    def _content_at(self, path: str, state: FileState) -> FileState:
        """`state` with the content that the steps so far leave at `path`."""
        found = self._world.state(self._world.find(path))
        assert found is not None
        return replace(state, sha256=found.sha256, size=found.size)


def _with_content(state: FileState, content: Written) -> FileState:
    return replace(state, sha256=content.sha256, size=content.size)


# What may be changed.


def _check_index(plan: Plan, index: int) -> None:
    if not 0 <= index < len(plan.steps):
        raise not_amendable(plan, f"there is no {_number(index)}", index)


def _check_droppable(plan: Plan, index: int) -> None:
    if not _is_applied(plan.steps[index]):
        reason = f"{_number(index)} tells of the dry run: there is nothing of it to apply"
        raise not_amendable(plan, reason, index)


def _check_edit(plan: Plan, index: int, content: Written) -> None:
    step = plan.steps[index]
    reason: Optional[str] = None
    if not isinstance(step, FileStep) or step.change not in ("create", "modify", "append"):
        reason = "writes no file"
    elif step.scratch:
        reason = "is in scratch, which is not applied"
    elif step.link_to is not None:
        reason = "makes one more name of a file: edit the step that writes it"
    elif step.after.type != "file":
        reason = f"makes no file but a {step.after.type}"
    elif step.appended is not None and not content.size:
        reason = "would append nothing: drop it instead"
    if reason is not None:
        raise not_amendable(plan, f"{_number(index)} {reason}", index)


def _is_applied(step: object) -> bool:
    return runs(step) or (isinstance(step, FileStep) and not step.scratch)


def _written(step: object) -> Written:
    """The content that a step brings with it."""
    assert isinstance(step, FileStep)
    if step.appended is not None:
        return Written(step.appended.sha256, step.appended.size)
    return Written(step.after.sha256 or "", step.after.size or 0)


def not_amendable(plan: Plan, reason: str, index: Optional[int] = None) -> RunnerError:
    """The plan cannot be changed as is wanted, because of the step `index` if of one."""
    return RunnerError("not_amendable", id=plan.session, reason=reason, step=index)


def _step_needed(plan: Plan, needs: Sequence[Need]) -> RunnerError:
    first = needs[0]
    reason = (
        f"without {_number(first.needed)}, {_number(first.index)} does not find"
        f" {first.path or '/'} as it must"
    )
    steps = numbers([need.index for need in needs])
    return RunnerError("step_needed", id=plan.session, steps=steps, reason=reason)


def _number(index: int) -> str:
    return f"step {index + 1}"
