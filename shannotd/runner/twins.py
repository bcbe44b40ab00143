"""Names of one file that a plan's steps have made: what is given to one is given to all. Pure."""

from __future__ import annotations

from typing import AbstractSet, Dict, Optional, Sequence

from shannotd.runner.needed import runs
from shannotd.runner.plan import CommandStep, FileStep


class Twins:
    """Which paths name the same file after the steps so far."""

    def __init__(self) -> None:
        self._files: Dict[str, int] = {}  # paths of one file have one number
        self._count = 0

    def add(self, step: FileStep) -> None:
        """Take in the next step."""
        if step.change == "metadata":
            return
        if step.old_path is not None:
            self._move(step.old_path, step.path)
            return
        self._files.pop(step.path, None)
        if step.link_to is not None:
            if step.link_to not in self._files:
                self._count += 1
                self._files[step.link_to] = self._count
            self._files[step.path] = self._files[step.link_to]

    def _move(self, old: str, new: str) -> None:
        for path in [path for path in self._files if path == old or path.startswith(old + "/")]:
            self._files[new + path[len(old) :]] = self._files.pop(path)

    def __contains__(self, path: str) -> bool:
        """Whether steps made more names of the file at `path`."""
        return path in self._files

    def left_out(
        self, steps: Sequence[object], index: int, dropped: AbstractSet[int]
    ) -> Optional[int]:
        """Of the `steps` in the batch of the one at `index`, which gives metadata to a file of more
        names, one that is `dropped` and would give them as well; None where there is none."""
        step = steps[index]
        assert isinstance(step, FileStep)
        file = self._files[step.path]
        for other in sorted(dropped, key=lambda one: (abs(one - index), one)):
            twin = steps[other]
            if (
                isinstance(twin, FileStep)
                and (twin.change, twin.scratch) == ("metadata", False)
                and self._files.get(twin.path) == file
                and not any(_parts(one) for one in steps[min(index, other) : max(index, other)])
            ):
                return other
        return None


def _parts(step: object) -> bool:
    return isinstance(step, CommandStep) and runs(step)
