"""Checking, before anything is written, that a batch starts from what its plan says (P2)."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import AbstractSet, Mapping, Optional, Sequence, Set, Tuple

from shannotd.runner import expectation, filesystem, tree
from shannotd.runner.course import Course
from shannotd.runner.filesystem import Status
from shannotd.runner.frames import RunnerError
from shannotd.runner.intent import Metadata
from shannotd.runner.obstacles import Obstacles, flagged
from shannotd.runner.permission import not_permitted, verb
from shannotd.runner.plan import ABSENT, FileState, FileStep
from shannotd.runner.tree import Entry
from shannotd.runner.workspace import Action, Workspace, apply_failed, require, stale


class Starting:
    """Looks at every path of a batch's steps, in order."""

    def __init__(
        self, workspace: Workspace, protected: Mapping[str, str], *, reverse: bool = False
    ) -> None:
        """`protected` as in Obstacles; `reverse` steps find what was touched by those that they
        take back."""
        self._workspace = workspace
        self._reverse = reverse
        self._obstacles = Obstacles(protected)
        self._course = Course()
        self._made: Set[str] = set()
        # The host's directories that get other metadata: they may become writable by it.
        self.changed_directories: Set[str] = set()

    @property
    def moved(self) -> AbstractSet[str]:
        """Where on the host that was found everything is that the steps so far move or delete."""
        return self._course.moved

    def foresee(self, steps: Sequence[Tuple[int, FileStep]], left: Mapping[int, FileState]) -> None:
        """Look at what those of `steps` will change that take back others, before any is checked:
        what one expects may be found otherwise, since the same file has more names. Some have
        really `left` something else."""
        course = Course()
        for index, step in steps:
            here = course.before(step.path)
            course.add(step)
            if step.change != "metadata" or not here:
                continue
            parent, _, name = here.rpartition("/")
            directory, _ = self._workspace.directory(parent, index)
            try:
                status = filesystem.status_at(directory, name)
            except FileNotFoundError:
                continue  # as the check will say
            expected = left.get(index, step.before)
            self._workspace.given.foresee(step.path, status, step.before, expected)

    def check(self, index: int, step: FileStep) -> Action:
        """The action for the next step, whose paths were found as it expects.

        :raises RunnerError: `stale` or `not_permitted`; `apply_failed` for no sound plan.
        """
        parent, _, name = step.path.rpartition("/")
        action = Action(index, step, parent, name, self._course.before(parent))
        named = self._obstacles.of_names(step)
        if named is not None:
            raise self._refusal(step, *named)
        if name:
            action.parent_identity = self._check_parent(action, parent)
        here = self._course.before(step.path)
        if step.old_path is not None:
            action.old_identity = self._check_parent(action, step.old_path.rpartition("/")[0])
            self._check(action, self._course.before(step.old_path), step.before, step.old_path)
            self._check(action, here, ABSENT, step.path)
            action.expected = step.before
        else:
            action.expected = self._check(action, here, step.before, step.path)
        if step.change == "metadata" and here is not None and step.before.type == "directory":
            self.changed_directories.add(here)
        if step.after.type == "directory" and step.change in ("create", "modify"):
            self._made.add(step.path)
        self._course.add(step)
        return action

    def _check_parent(self, action: Action, parent: str) -> Optional[filesystem.Identity]:
        """Which directory `parent` is; None if a step of the batch makes it."""
        host = self._course.before(parent)
        if host is None:
            if parent not in self._made:
                raise apply_failed(action.index, parent, "no step makes this directory")
            return None
        directory, status = self._workspace.directory(host, action.index)
        step = action.step
        if step.change != "metadata":
            reason = self._obstacles.of_directory(directory, status)
            if reason is not None:
                raise self._refusal(step, step.path, f"the directory {host or '/'} {reason}")
            reason = self._obstacles.of_rename(step, directory, status)
            if reason is not None:
                raise self._refusal(step, step.path, f"it {reason}")
        return status.identity

    def _check(
        self, action: Action, path: Optional[str], expected: FileState, named: str
    ) -> FileState:
        """Check what is at the host's `path`, which the step has `named`; the state that is to be
        displaced.

        Where `path` is None an earlier step decides what is there.
        """
        if path is None:
            return expected
        step = action.step
        parent, _, name = path.rpartition("/")
        directory, status = self._workspace.directory(parent, action.index)
        if not name:
            found = tree.describe(directory, status, identity=self._workspace.identity)
            found = self._workspace.seen(named, expected, found)
        else:
            found = self._workspace.entry(
                directory,
                name,
                path,
                expected,
                with_tree=expected.tree is not None,
                excluded=self._course.moved,
                each=partial(self._removable, step) if _removes(step) else None,
                keep=step.change in ("modify", "append", "delete"),
                named=named,
            )
        if found.status is not None:
            reason = self._obstacles.of_target(step, path, directory, found.status)
            if reason is not None:
                raise self._refusal(step, step.path, f"it {reason}")
            action.found, action.here = found, path
        if step.change == "append":
            return self._appendable(action, directory, name, found)
        require(action.index, path, expected, found, renamed=self._reverse)
        if step.change == "metadata":
            action.really, left = self._workspace.given.intend(step, found)
            if Metadata.of(left) != Metadata.of(step.after):
                action.left = left
        return expected

    def _removable(self, step: FileStep, path: str, status: Status) -> None:
        """What goes with its directory must be such that somebody can remove it."""
        reason = flagged(status)
        if reason is not None:
            raise self._refusal(step, step.path, f"{path} in it {reason}")

    def _appendable(self, action: Action, directory: int, name: str, found: Entry) -> FileState:
        """The file as it is now: its beginning must be what the dry run saw."""
        before, state = action.step.before, found.state
        unlike = replace(
            before, size=state.size, sha256=state.sha256, fingerprint=state.fingerprint
        )
        good = expectation.met(unlike, found) and (state.size or 0) >= (before.size or 0)
        if good and before.sha256 is None:
            good = state.fingerprint == before.fingerprint
        elif good and (state.size, state.sha256) != (before.size, before.sha256):
            good = _prefix_hash(directory, name, before.size or 0) == before.sha256
        if not good:
            words = expectation.in_words
            raise stale(action.index, action.step.path, words(before) + " or more", words(state))
        return state

    def _refusal(self, step: FileStep, path: str, reason: str) -> RunnerError:
        return not_permitted(self._workspace.identity, (verb(step), path, reason))


def _removes(step: FileStep) -> bool:
    """Whether all that is in a directory goes with it."""
    return step.before.tree is not None and step.old_path is None


def _prefix_hash(directory: int, name: str, size: int) -> str:
    looked = os.open(name, filesystem.O_PATH, dir_fd=directory)
    try:
        content = filesystem.open_content(looked)
    finally:
        os.close(looked)
    try:
        return tree.hash_content(content, size)
    finally:
        os.close(content)
