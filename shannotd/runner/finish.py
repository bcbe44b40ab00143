"""What is left to do when every step of a batch is done: new directories get their final mode
and time. Doing it twice does no harm."""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

from shannotd.runner import staging
from shannotd.runner.directories import Directories
from shannotd.runner.plan import FileState, FileStep
from shannotd.runner.removal import told


class FinalPaths:
    """Where paths are when all of a batch's steps are done."""

    def __init__(self, steps: Sequence[FileStep]) -> None:
        self._renames = [
            (position, step.old_path, step.path)
            for position, step in enumerate(steps)
            if step.change == "rename" and step.old_path is not None
        ]

    def of(self, path: str, position: int) -> str:
        """Where what is at `path` after the step at `position` is in the end."""
        for later, old, new in self._renames:
            if later > position and (path == old or path.startswith(old + "/")):
                path = new + path[len(old) :]
        return path


def needing_closing(steps: Sequence[FileStep]) -> List[Tuple[str, FileState]]:
    """The directories that get their final mode or time last, in the order of their steps: where
    each is in the end, and that state."""
    final = FinalPaths(steps)
    # What several steps change is in the end as the last of them says.
    last: Dict[str, FileState] = {}
    for position, step in enumerate(steps):
        if step.change != "rename":
            path = final.of(step.path, position)
            last.pop(path, None)
            last[path] = step.after
    return [(path, state) for path, state in last.items() if staging.needs_closing(state)]


def close_directories(
    closing: Sequence[Tuple[str, FileState]], directories: Directories
) -> List[str]:
    """Give directories their final mode and time, the last one first.

    Returns those that could not be given it, each with the reason.
    """
    failed: List[str] = []
    for path, state in reversed(closing):
        try:
            directory, _ = directories.get(path)
            staging.close_directory(directory, state)
        except OSError as error:
            failed.append(told(path, error))
    return failed
