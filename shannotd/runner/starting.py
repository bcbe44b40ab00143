"""Checking, before anything is written, that a batch starts from what its plan says (P2)."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import AbstractSet, Optional, Sequence, Set

from shannotd.runner import expectation, filesystem, tree
from shannotd.runner.course import Course
from shannotd.runner.directories import MountPoints, ReadOnly
from shannotd.runner.filesystem import Status
from shannotd.runner.frames import RunnerError
from shannotd.runner.permission import obstacle
from shannotd.runner.plan import ABSENT, FileState, FileStep
from shannotd.runner.tree import Entry
from shannotd.runner.workspace import Action, Workspace, apply_failed, require, stale


class Starting:
    """Looks at every path of a batch's steps, in order."""

    def __init__(self, workspace: Workspace, protected: Sequence[str]) -> None:
        self._workspace = workspace
        self._protected = [path.rstrip("/") + "/" for path in protected]
        self._course = Course()
        self._read_only = ReadOnly()
        self._mounts = MountPoints()
        self._made: Set[str] = set()
        # The host's directories that get other metadata: they may become writable by it.
        self.changed_directories: Set[str] = set()

    @property
    def moved(self) -> AbstractSet[str]:
        """Where on the host that was found everything is that the steps so far move or delete."""
        return self._course.moved

    def check(self, index: int, step: FileStep) -> Action:
        """The action for the next step, whose paths were found as it expects.

        :raises RunnerError: `stale` or `not_permitted`; `apply_failed` for no sound plan.
        """
        parent, _, name = step.path.rpartition("/")
        action = Action(index, step, parent, name, self._course.before(parent))
        self._refuse_protected(step)
        if name:
            action.parent_identity = self._check_parent(action, parent)
        here = self._course.before(step.path)
        if step.old_path is not None:
            action.old_identity = self._check_parent(action, step.old_path.rpartition("/")[0])
            self._check(action, self._course.before(step.old_path), step.before)
            self._check(action, here, ABSENT)
            action.expected = step.before
        else:
            action.expected = self._check(action, here, step.before)
        if step.change == "metadata" and here is not None and step.before.type == "directory":
            self.changed_directories.add(here)
        if step.after.type == "directory" and step.change in ("create", "modify"):
            self._made.add(step.path)
        self._course.add(step)
        return action

    def _refuse_protected(self, step: FileStep) -> None:
        whole = step.before.type == "directory" and step.change != "metadata"
        for path in (step.path, step.old_path, step.link_to):
            for protected in self._protected:
                if path is None:
                    continue
                # What is moved or deleted as a whole takes along what is below it.
                if (path + "/").startswith(protected) or (
                    whole and protected.startswith(path + "/")
                ):
                    raise self._refusal(step.change, path, "the runner's runner.conf protects it")

    def _check_parent(self, action: Action, parent: str) -> Optional[filesystem.Identity]:
        """Which directory `parent` is; None if a step of the batch makes it."""
        host = self._course.before(parent)
        if host is None:
            if parent not in self._made:
                raise apply_failed(action.index, parent, "no step makes this directory")
            return None
        directory, status = self._workspace.directory(host, action.index)
        if action.step.change != "metadata":
            self._refuse("change what is in", parent or "/", directory, status)
        return status.identity

    def _refuse(self, action: str, path: str, directory: int, status: Status) -> None:
        reason = obstacle(status)
        if reason is None and self._read_only.is_set(directory, status):
            reason = "the filesystem is mounted read-only"
        if reason is not None:
            raise self._refusal(action, path, reason)

    def _check(self, action: Action, path: Optional[str], expected: FileState) -> FileState:
        """Check what is at the host's `path`; the state that is to be displaced.

        Where `path` is None an earlier step decides what is there.
        """
        if path is None:
            return expected
        step = action.step
        self._refuse_mounts(step, path)
        parent, _, name = path.rpartition("/")
        directory, status = self._workspace.directory(parent, action.index)
        if not name:
            found = tree.describe(directory, status, identity=self._workspace.identity)
        else:
            found = self._workspace.entry(
                directory,
                name,
                path,
                with_tree=expected.tree is not None,
                excluded=self._course.moved,
                keep=step.change in ("modify", "append", "delete"),
            )
        if found.status is not None:
            self._refuse_target(step, directory, found.status)
            action.found, action.here = found, path
        if step.change == "append":
            return self._appendable(action, directory, name, found)
        require(action.index, path, expected, found)
        return expected

    def _refuse_mounts(self, step: FileStep, path: str) -> None:
        """What is moved or deleted as a whole must have nothing mounted in it."""
        below = self._mounts.below(path) if step.before.type == "directory" else None
        if below is not None and step.change != "metadata":
            raise self._refusal(step.change, step.path, f"something is mounted at {below}")

    def _refuse_target(self, step: FileStep, directory: int, status: Status) -> None:
        if not status.mount_root:
            self._refuse(step.change, step.path, directory, status)
        elif step.change != "metadata":
            raise self._refusal(step.change, step.path, "it is a mount point")

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

    def _refusal(self, action: str, path: str, reason: str) -> RunnerError:
        name = self._workspace.identity.name
        return RunnerError("not_permitted", identity=name, action=action, path=path, reason=reason)


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
