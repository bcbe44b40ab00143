"""Where on the untouched host the paths of a plan's steps are.

The steps of a plan follow each other: one says `d/f` of what an earlier one renamed to `d`.
"""

from __future__ import annotations

from typing import Dict, Optional, Set

from shannotd.runner.plan import FileStep


class Course:
    """The names that the steps so far have moved, made or freed."""

    def __init__(self) -> None:
        # A path after the steps so far, and where it was before all of them (None: nowhere).
        self._known: Dict[str, Optional[str]] = {}
        # Where on the untouched host everything was that a step has moved or deleted.
        self.moved: Set[str] = set()
        # Where on the untouched host the names are of what steps have written anew, by their paths.
        self._written: Dict[str, str] = {}

    def before(self, path: str) -> Optional[str]:
        """Where what is at `path` after the steps so far was before them.

        None where a step made it, or there is nothing any more.
        """
        if not self._known:
            return path
        above = path
        while above:
            if above in self._known:
                was = self._known[above]
                return None if was is None else was + path[len(above) :]
            above = above.rpartition("/")[0]
        return path

    def add(self, step: FileStep) -> None:
        """Take in the next step."""
        if step.change == "metadata":
            return
        if step.change == "rename":
            assert step.old_path is not None
            self._rename(step.old_path, step.path, directory=step.before.type == "directory")
        else:
            was = self._name(step.path)
            if was is not None and step.change == "delete":
                self.moved.add(was)
            elif was is not None:
                self._written[step.path] = was
            self._known[step.path] = None

    def _name(self, path: str) -> Optional[str]:
        """Where the name was of what is at `path` now, whatever was written to it since; it is not
        known by that path any more."""
        written = self._written.pop(path, None)
        return self.before(path) or written

    def _rename(self, old: str, new: str, *, directory: bool) -> None:
        was = self.before(old)
        name = self._name(old)
        if name is not None:
            self.moved.add(name)
        if directory:
            inside = [path for path in self._known if path.startswith(old + "/")]
            for path in inside:
                self._known[new + path[len(old) :]] = self._known.pop(path)
        self._known[old] = None
        self._known[new] = was
