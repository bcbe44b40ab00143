"""One batch of file steps, applied as a whole or not at all.

Every starting state is checked and all that is new is written beside its place first; then
the steps are done one by one, by rename(2) wherever content changes, each looking at what it
displaced. Until the last one is done everything can be put back, and is if one fails.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

from shannotd.runner import filesystem, staging, tree
from shannotd.runner.contents import Contents
from shannotd.runner.filesystem import RENAME_EXCHANGE, RENAME_NOREPLACE, Status
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import ABSENT, FileState, FileStep, Identity
from shannotd.runner.quarantine import Quarantine
from shannotd.runner.removal import remove_all, told
from shannotd.runner.stage import Stage
from shannotd.runner.starting import Starting
from shannotd.runner.stop import Stop
from shannotd.runner.tree import Entry
from shannotd.runner.workspace import (
    Action,
    Workspace,
    apply_failed,
    as_runner_error,
    require,
    stale,
)


class Points:
    """The moments of a batch at which something else can act: a journal overrides `reached`.

    In order: `checked`, `staged` (all new content is on disk), then for each step `changing`
    and `changed`, then `done` (all steps), `cleaned` (from `done` on nothing can be put back),
    `synced`; where it failed `undone`.
    """

    def reached(self, point: str, index: Optional[int] = None) -> None:
        """Called at `point`, with the step's index where it belongs to one."""


class Batch:
    """Applies `steps` (with their indexes in the plan) under this process's identity."""

    def __init__(
        self,
        steps: Sequence[Tuple[int, FileStep]],
        *,
        identity: Identity,
        contents: Contents,
        points: Points,
        stop: Stop,
        protected: Mapping[str, str],
    ) -> None:
        """`protected` as in Obstacles."""
        self._steps = steps
        self._points = points
        self._stop = stop
        self._workspace = Workspace(identity)
        self._starting = Starting(self._workspace, protected)
        self._stage = Stage(self._workspace, contents)
        self._quarantine = Quarantine(self._workspace)
        self._actions: List[Action] = []
        self._current: Optional[Action] = None
        self._undo: List[Tuple[str, Callable[[], None]]] = []
        # What was displaced in its own directory, and directories to be finished last.
        self._displaced: List[Tuple[str, str]] = []
        self._closing: List[Tuple[str, FileState]] = []

    def run(self) -> None:
        """Do all of it.

        :raises RunnerError: `stale`, `not_permitted` or `apply_failed`: nothing is changed then,
            or the error's `before` says what is; `clean_up_failed`: all of it is done.
        """
        try:
            try:
                self._prepare()
                self._change_all()
            except BaseException as error:
                failure = self._put_back(as_runner_error(error, self._current))
                if not isinstance(error, Exception):
                    raise
                raise failure from error
            self._finish()
        finally:
            self._stage.close()
            self._quarantine.close()
            self._workspace.directories.forget()

    def _prepare(self) -> None:
        for index, step in self._steps:
            self._actions.append(self._starting.check(index, step))
            self._stop.check(self._actions[-1])
        self._points.reached("checked")
        for position, action in enumerate(self._actions):
            self._current = action
            self._stop.check(action)
            self._stage.write(self._actions, position, self._starting.changed_directories)
        self._stage.sync()
        self._points.reached("staged")
        # From here on paths are looked up anew: staging may have taken long.
        self._workspace.directories.forget()

    def _change_all(self) -> None:
        for action in self._actions:
            self._current = action
            self._points.reached("changing", action.index)
            self._stop.check(action)
            self._change(action)
            self._points.reached("changed", action.index)

    def _finish(self) -> None:
        """Nothing can be put back from here on; all is cleaned up that can be."""
        self._points.reached("done")
        self._workspace.directories.forget()
        failed = [*self._quarantine.discard(), *remove_all(self._displaced)]
        self._points.reached("cleaned")
        for path, state in reversed(self._closing):
            try:
                directory, _ = self._workspace.directories.get(path)
                staging.close_directory(directory, state)
            except OSError as error:
                failed.append(told(path, error))
        try:
            self._stage.sync()
        except OSError as error:
            failed.append(told("the filesystem", error))
        if failed:
            last = self._actions[-1].index
            raise RunnerError("clean_up_failed", step=last, left=", ".join(failed))
        self._points.reached("synced")

    # One step.

    def _change(self, action: Action) -> None:
        step = action.step
        directory, status = self._here(action)
        self._stage.remember_directory(directory, status)
        if step.change != "rename" and staging.needs_closing(step.after):
            self._closing.append((step.path, step.after))
        if step.link_to is not None:
            self._link(action, directory, step.link_to)
        if step.change == "metadata":
            self._set_metadata(action, directory, status)
        elif step.change == "rename":
            self._rename(action, directory)
        elif step.change == "delete":
            self._delete(action, directory, status)
        elif action.temporary is not None and step.change == "create":
            self._place(action, directory, action.temporary)
        elif action.temporary is not None:
            self._exchange(action, directory, action.temporary)

    def _here(self, action: Action) -> Tuple[int, Status]:
        """The directory of the action's path, which must be the one that was checked."""
        if not action.name:
            return self._workspace.directory("", action.index)
        identity = action.parent_identity
        if identity is None:
            identity = self._stage.built[action.parent][1]
        return self._workspace.same_directory(action.parent, identity, action.index)

    def _place(self, action: Action, directory: int, temporary: str) -> None:
        """What is new comes to a name that must be free."""
        parent, name, path = action.parent, action.name, action.step.path
        try:
            filesystem.rename(directory, temporary, directory, name, RENAME_NOREPLACE)
        except FileExistsError as error:
            found = self._workspace.entry(directory, name, path, with_tree=False)
            require(action.index, path, ABSENT, found)
            raise stale(action.index, path, "nothing", "something that came and went") from error

        def undo() -> None:
            above, _ = self._workspace.directories.get(parent)
            self._must_be(above, name, action)
            filesystem.rename(above, name, above, temporary, RENAME_NOREPLACE)

        self._undo.append((path, undo))

    def _exchange(self, action: Action, directory: int, temporary: str) -> None:
        """What is new and what is old change places; the old one must be what was expected."""
        parent, name, path = action.parent, action.name, action.step.path
        expected = action.expected
        assert expected is not None
        try:
            filesystem.rename(directory, temporary, directory, name, RENAME_EXCHANGE)
        except FileNotFoundError as error:
            raise stale(action.index, path, expected.type, "nothing") from error

        def undo() -> None:
            above, _ = self._workspace.directories.get(parent)
            self._must_be(above, name, action)
            filesystem.rename(above, temporary, above, name, RENAME_EXCHANGE)

        self._undo.append((path, undo))
        if expected.type == "directory":
            self._workspace.directories.forget()
            directory, _ = self._workspace.directories.get(parent)
        self._require(action, directory, temporary, path, expected)
        self._displaced.append((parent, temporary))

    def _must_be(self, directory: int, name: str, action: Action) -> None:
        """Putting back must not take away what somebody else has put there since."""
        if filesystem.status_at(directory, name).incarnation != action.inode:
            raise OSError(errno.ESTALE, "somebody replaced it meanwhile", action.step.path)

    def _require(
        self, action: Action, directory: int, name: str, path: str, expected: FileState
    ) -> Entry:
        with_tree = expected.tree is not None
        found = self._workspace.entry(directory, name, path, with_tree=with_tree)
        require(action.index, path, expected, found, renamed=True)
        return found

    def _link(self, action: Action, directory: int, target: str) -> None:
        """One more name of a file that the plan made, or found as it is to be."""
        parent, _, name = target.rpartition("/")
        above, _ = self._workspace.directory(parent, action.index)
        descriptor = os.open(name, filesystem.O_PATH, dir_fd=above)
        try:
            status = filesystem.status(descriptor)
            found = tree.describe(descriptor, status, identity=self._workspace.identity)
            if found.state.type == "file" and found.state.sha256 is None:
                found = replace(found, state=replace(found.state, sha256=_hash(descriptor)))
            wanted = replace(action.step.after, mtime_ns=None)
            require(action.index, target, wanted, found, renamed=True)
            temporary = self._workspace.name()
            # linkat(2): the way without CAP_DAC_READ_SEARCH to link just this inode.
            os.link(filesystem.by_descriptor(descriptor), temporary, dst_dir_fd=directory)
            action.inode = status.incarnation
        finally:
            os.close(descriptor)
        action.temporary = temporary
        where = action.parent

        def undo() -> None:
            again, _ = self._workspace.directories.get(where)
            os.unlink(temporary, dir_fd=again)

        self._undo.append((action.step.path, undo))

    def _rename(self, action: Action, directory: int) -> None:
        step = action.step
        assert step.old_path is not None
        old_parent, _, old_name = step.old_path.rpartition("/")
        identity = action.old_identity
        if identity is None:
            identity = self._stage.built[old_parent][1]
        old, _ = self._workspace.same_directory(old_parent, identity, action.index)
        try:
            filesystem.rename(old, old_name, directory, action.name, RENAME_NOREPLACE)
        except FileNotFoundError as error:
            raise stale(action.index, step.old_path, step.before.type, "nothing") from error
        except FileExistsError as error:
            raise stale(action.index, step.path, "nothing", "something") from error
        self._workspace.directories.forget()
        parent, name, path = action.parent, action.name, step.path

        def undo() -> None:
            above, _ = self._workspace.directories.get(parent)
            old_above, _ = self._workspace.directories.get(old_parent)
            filesystem.rename(above, name, old_above, old_name, RENAME_NOREPLACE)

        self._undo.append((path, undo))
        directory, _ = self._here(action)
        self._require(action, directory, name, path, step.before)

    def _delete(self, action: Action, directory: int, status: Status) -> None:
        parent, name, path = action.parent, action.name, action.step.path
        expected = action.expected
        assert expected is not None
        place = self._take(action, directory, status)
        if place is None:
            place_directory, temporary = directory, self._workspace.name()
            filesystem.rename(directory, name, directory, temporary, RENAME_NOREPLACE)
        else:
            place_directory, temporary = place
        aside = place is None

        def undo() -> None:
            above, _ = self._workspace.directories.get(parent)
            waiting = above if aside else place_directory
            filesystem.rename(waiting, temporary, above, name, RENAME_NOREPLACE)

        self._undo.append((path, undo))
        self._require(action, place_directory, temporary, path, expected)
        if expected.type == "directory":
            self._workspace.directories.forget()
        if aside:
            self._displaced.append((parent, temporary))

    def _take(self, action: Action, directory: int, status: Status) -> Optional[Tuple[int, str]]:
        try:
            return self._quarantine.take(directory, status, action.parent, action.name)
        except FileNotFoundError as error:
            path = action.step.path
            raise stale(action.index, path, action.step.before.type, "nothing") from error

    def _set_metadata(self, action: Action, directory: int, parent: Status) -> None:
        step = action.step
        if not action.name:
            descriptor = os.dup(directory)
        else:
            try:
                descriptor = os.open(action.name, filesystem.O_PATH, dir_fd=directory)
            except FileNotFoundError as error:
                raise stale(action.index, step.path, step.before.type, "nothing") from error
        try:
            status = filesystem.status(descriptor)
            found = tree.describe(descriptor, status, identity=self._workspace.identity)
            widened = self._workspace.widened.get(status.identity)
            if widened is not None:
                found = replace(found, state=replace(found.state, mode=widened[1]))
            require(action.index, step.path, step.before, found)
            restored = step.before
            if step.after.mtime_ns is not None:
                restored = replace(restored, mtime_ns=status.mtime_ns)

            def undo() -> None:
                above, _ = self._workspace.directories.get(action.parent)
                self._must_be(above, action.name or ".", action)
                again = os.open(action.name or ".", filesystem.O_PATH, dir_fd=above)
                try:
                    now = filesystem.status(again)
                    staging.set_state(again, restored, now, keep_open=False)
                finally:
                    os.close(again)

            self._undo.append((step.path, undo))
            try:
                staging.set_state(descriptor, step.after, status, keep_open=True)
            finally:
                # Only now: an overlay's file is born again with its first change.
                action.inode = filesystem.status(descriptor).incarnation
        finally:
            os.close(descriptor)

    # Putting back.

    def _put_back(self, failure: RunnerError) -> RunnerError:
        """Undo every step that was done, in reverse, and remove what was staged."""
        changed = bool(self._undo)
        kept: List[str] = []
        while self._undo:
            path, undo = self._undo.pop()
            self._workspace.directories.forget()
            try:
                undo()
            except OSError as error:
                kept.append(told(path, error))
        left = self._restore_modes()
        # What could not be put back may be in a new directory.
        left += self._stage.discard(directories=not kept)
        left += self._quarantine.discard_empty()
        if failure.code == "apply_failed" and changed:
            failure.details["before"] = "undone"
        if kept:
            failure = apply_failed(
                int(str(failure.details.get("step", 0))),
                str(failure.details.get("path", "")),
                str(failure.details.get("reason", failure.code)),
                "undone, except for " + ", ".join(kept),
            )
        if left:
            failure.details["left"] = ", ".join(left)
        self._points.reached("undone")
        return failure

    def _restore_modes(self) -> List[str]:
        self._workspace.directories.forget()
        left: List[str] = []
        for identity, (path, mode) in self._workspace.widened.items():
            try:
                directory, status = self._workspace.directories.get(path)
                if status.identity == identity:
                    os.chmod(filesystem.by_descriptor(directory), mode)
            except OSError as error:
                left.append(told(path, error))
        return left


def _hash(descriptor: int) -> str:
    """SHA-256 of a file that is too large to be hashed as a matter of course."""
    content = filesystem.open_content(descriptor)
    try:
        return tree.hash_content(content)
    finally:
        os.close(content)
