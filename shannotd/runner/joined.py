"""Which paths a plan may mean the same file by, since its dry run saw it so. Pure.

That a path has become a name of a file that the plan changes elsewhere may be somebody's doing:
then what the plan did there is not what it expects here (P2, P9).
"""

from __future__ import annotations

from typing import Dict, List, Sequence, Set

from shannotd.runner.plan import FileStep

# Directories that were renamed to and fro give a path so many others; beyond it they do not count.
_MOST_OTHERS = 64
_LINKED = ""  # stands for all files that had several names on the host


class Joined:
    """The paths of the file steps among `steps`, joined where they may be names of one file."""

    def __init__(self, steps: Sequence[object]) -> None:
        self._above: Dict[str, str] = {}
        self._renamed: Dict[str, Set[str]] = {}  # directories: new path, old ones
        for step in steps:
            if isinstance(step, FileStep):
                self._add(step)

    def group(self, path: str) -> str:
        """What is the same for paths that are joined."""
        top = path
        while top in self._above:
            top = self._above[top]
        while path != top:
            above, self._above[path] = self._above[path], top
            path = above
        return top

    def _add(self, step: FileStep) -> None:
        self._follow(step.path)
        if step.old_path is not None:
            self._follow(step.old_path)
            self._join(step.path, step.old_path)
            if step.before.type == "directory":
                self._renamed.setdefault(step.path, set()).add(step.old_path)
        if step.link_to is not None:
            self._join(step.path, step.link_to)
        if step.before.links is not None or step.after.links is not None:
            self._join(step.path, _LINKED)

    def _join(self, one: str, other: str) -> None:
        first, second = self.group(one), self.group(other)
        if first != second:
            self._above[first] = second

    def _follow(self, path: str) -> None:
        """Join `path` with those that it had before directories above it were renamed."""
        if not self._renamed:
            return
        known = {path}
        pending: List[str] = [path]
        while pending and len(known) < _MOST_OTHERS:
            one = pending.pop()
            above = one.rpartition("/")[0]
            while above:
                for old in self._renamed.get(above, ()):
                    other = old + one[len(above) :]
                    if other not in known:
                        known.add(other)
                        pending.append(other)
                        self._join(path, other)
                above = above.rpartition("/")[0]
