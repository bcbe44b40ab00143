"""Steps of one batch that change the same path one after the other, made one. Pure.

What takes back several batches comes to a path once for each of them. What is in between is never
there when all is done at once: nobody needs to review it, and no checkpoint has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional, Sequence

from shannotd.runner.delta import lineage
from shannotd.runner.plan import ABSENT, FileState, FileStep
from shannotd.runner.reversal import Item
from shannotd.runner.reverse import Indexed


@dataclass
class _Made:
    """Something that the step at `position` makes; `renames` are those of it since, and `used` says
    that something else was moved into it or out of it."""

    position: int
    renames: List[int] = field(default_factory=list)
    used: bool = False


class _Chains:
    def __init__(self) -> None:
        self.steps: List[Optional[Indexed]] = []
        # By the path that it has now.
        self._made: Dict[str, _Made] = {}

    def add(self, index: int, step: FileStep) -> None:
        """Take in the next step."""
        made = self._made.get(step.path)
        if step.change == "rename":
            self._rename(step)
        elif made is not None and not made.used:
            self._join(made, step)
            return
        elif step.change in ("create", "modify"):
            self._made[step.path] = _Made(len(self.steps))
        elif step.change == "delete":
            self._made.pop(step.path, None)
        self.steps.append((index, step))

    def whole(self) -> List[Indexed]:
        """All steps that are left."""
        return [found for found in self.steps if found is not None]

    def _rename(self, step: FileStep) -> None:
        assert step.old_path is not None
        for path in (step.old_path, step.path):
            for above in lineage(path)[1:]:
                if above in self._made:
                    self._made[above].used = True
        moved = [step.old_path] if step.old_path in self._made else []
        if step.before.type == "directory":
            inside = step.old_path + "/"
            moved += [path for path in self._made if path.startswith(inside)]
        for path in moved:
            made = self._made.pop(path)
            self._made[step.path + path[len(step.old_path) :]] = made
            if path == step.old_path:
                made.renames.append(len(self.steps))

    def _join(self, made: _Made, step: FileStep) -> None:
        """Have what `made` it make at once what `step` makes of it."""
        found = self.steps[made.position]
        assert found is not None
        index, first = found
        if step.change == "delete":
            del self._made[step.path]
            for position in made.renames:
                self.steps[position] = None
            gone = replace(first, change="delete", after=ABSENT)
            self.steps[made.position] = None if first.change == "create" else (index, gone)
            return
        after = _given(first.after, step.after) if step.change == "metadata" else step.after
        self.steps[made.position] = index, replace(first, after=after)


def joined(items: Sequence[Item]) -> List[Item]:
    """`items`, in which no file step changes what another of the same batch has made; unless
    something else went through it meanwhile."""
    result: List[Item] = []
    chains = _Chains()
    for index, step in items:
        if isinstance(step, FileStep):
            chains.add(index, step)
        else:
            result += [*chains.whole(), (index, step)]
            chains = _Chains()
    return [*result, *chains.whole()]


def _given(made: FileState, given: FileState) -> FileState:
    """What was `made`, with the metadata that were `given` to it."""
    time = made.mtime_ns if given.mtime_ns is None else given.mtime_ns
    return replace(
        made, mode=given.mode, uid=given.uid, gid=given.gid, xattrs=given.xattrs, mtime_ns=time
    )
