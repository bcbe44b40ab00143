"""Names of one file that a plan's steps have made: what is given to one is given to all. Pure."""

from __future__ import annotations

from bisect import bisect
from typing import AbstractSet, Dict, List, Optional, Sequence, Set

from shannotd.runner.needed import runs
from shannotd.runner.plan import CommandStep, FileStep


class Twins:
    """Which paths name the same file after the steps so far, and which steps that give metadata
    are left out."""

    def __init__(self, steps: Sequence[object], dropped: AbstractSet[int]) -> None:
        """Of `steps` those at the indexes `dropped` are left out, others may be later on."""
        self._files: Dict[str, int] = {}  # paths of one file have one number
        self._count = 0
        self._batches: List[int] = []  # where each one ends
        self._dropped: Dict[str, List[int]] = {}  # the steps, by path
        self._paths: Dict[int, Set[str]] = {}  # of each file, as far as they are among those
        self._last: Dict[int, int] = {}  # the last one so far that was left out of each file
        for index, step in enumerate(steps):
            if isinstance(step, CommandStep) and runs(step):
                self._batches.append(index)
            elif index in dropped and isinstance(step, FileStep) and _counts(step):
                self._dropped.setdefault(step.path, []).append(index)

    def add(self, step: FileStep) -> None:
        """Take in the next step."""
        if step.change == "metadata":
            return
        if step.old_path is not None:
            self._move(step.old_path, step.path)
            return
        self._forget(step.path)
        if step.link_to is not None:
            if step.link_to not in self._files:
                self._count += 1
                self._name(step.link_to, self._count)
            self._name(step.path, self._files[step.link_to])

    def _name(self, path: str, file: int) -> None:
        self._files[path] = file
        if path in self._dropped:
            self._paths.setdefault(file, set()).add(path)

    def _forget(self, path: str) -> Optional[int]:
        file = self._files.pop(path, None)
        if file in self._paths:
            self._paths[file].discard(path)
        return file

    def _move(self, old: str, new: str) -> None:
        for path in [path for path in self._files if path == old or path.startswith(old + "/")]:
            file = self._forget(path)
            assert file is not None
            self._name(new + path[len(old) :], file)

    def leave_out(self, index: int, step: FileStep) -> None:
        """The step at `index` is left out."""
        file = self._files.get(step.path)
        if file is not None and _counts(step):
            self._last[file] = index

    def left_out(self, index: int, step: FileStep) -> Optional[int]:
        """Of the batch of the `step` at `index`, which gives metadata, one that is left out and
        would give them to the same file: the last one before it, or else the first one there is;
        None where there is none."""
        file = self._files.get(step.path)
        if file is None or step.change != "metadata":
            return None
        batch = bisect(self._batches, index)
        last = self._last.get(file)
        if last is not None and bisect(self._batches, last) == batch:
            return last
        return min(
            (
                other
                for path in self._paths.get(file, ())
                for other in self._dropped[path]
                if bisect(self._batches, other) == batch
            ),
            default=None,
        )


def _counts(step: FileStep) -> bool:
    return step.change == "metadata" and not step.scratch
