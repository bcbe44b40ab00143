"""One batch of file steps, applied as a whole or not at all.

Every starting state is checked and saved, and all that is new is written beside its place first;
then the steps are done one by one, by rename(2) wherever content changes, each looking at what
it displaced. Until the last one is done everything can be taken back (undo.py), by this process
if one fails and by another if this one is killed (recovery.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import List, Mapping, Optional, Sequence, Tuple

from shannotd.runner import expectation, filesystem, tree
from shannotd.runner.checkpoint import Checkpoint
from shannotd.runner.contents import Contents
from shannotd.runner.filesystem import RENAME_EXCHANGE, RENAME_NOREPLACE, Status
from shannotd.runner.finish import FinalPaths, close_directories, needing_closing
from shannotd.runner.frames import RunnerError
from shannotd.runner.given import Given, given_to
from shannotd.runner.intent import Intent, Made, Metadata
from shannotd.runner.journal import Journal
from shannotd.runner.plan import ABSENT, FileState, FileStep, Identity
from shannotd.runner.quarantine import Quarantine
from shannotd.runner.removal import remove_all, told
from shannotd.runner.stage import Stage
from shannotd.runner.staging import set_state
from shannotd.runner.starting import Starting
from shannotd.runner.stop import Stop
from shannotd.runner.tree import Entry
from shannotd.runner.undo import undo
from shannotd.runner.workspace import (
    Action,
    Workspace,
    apply_failed,
    as_runner_error,
    require,
    stale,
)


class Points:
    """The moments of a batch at which something else can act.

    In order: `checked` (and saved), `staged` (all new content is on disk, and what is about to
    be done in the journal), then for each step `changing` and `changed`, then `done` (all steps),
    `cleaned` (from `done` on nothing can be put back), `synced`; where it failed `undone`.
    """

    def reached(self, point: str, index: Optional[int] = None) -> None:
        """Called at `point`, with the step's index where it belongs to one."""


@dataclass(frozen=True)
class Setting:
    """What all batches of an apply have in common; `protected` as in Obstacles. What those that
    are done gave to files is `given`."""

    identity: Identity
    checkpoint: Checkpoint
    points: Points
    stop: Stop
    protected: Mapping[str, str] = field(default_factory=dict)
    given: Given = field(default_factory=Given)


class Batch:
    """Applies `steps` (with their indexes in the plan) under this process's identity."""

    def __init__(
        self,
        steps: Sequence[Tuple[int, FileStep]],
        setting: Setting,
        contents: Contents,
        *,
        reverse: bool = False,
        left: Optional[Mapping[int, FileState]] = None,
    ) -> None:
        """`reverse` steps take back others of the same plan: nothing of them is saved. Those have
        `left` this, by their indexes, where that is not what their plan says."""
        self._steps = steps
        self._points = setting.points
        self._stop = setting.stop
        self._checkpoint = setting.checkpoint
        self._journal: Journal = setting.checkpoint.journal
        self._reverse = reverse
        self._left = left or {}
        self._given = setting.given
        self._workspace = Workspace(setting.identity, setting.given.copy())
        self._starting = Starting(self._workspace, setting.protected, reverse=reverse)
        self._stage = Stage(self._workspace, contents)
        self._quarantine = Quarantine(self._workspace)
        self._actions: List[Action] = []
        self._current: Optional[Action] = None
        self._intents: List[Tuple[Intent, FileStep]] = []
        # Which action is at hand, and how many may have changed something.
        self._position = 0
        self._begun = 0
        self._in_journal = False
        # What was displaced in its own directory, with the position of the step that did it.
        self._displaced: List[Tuple[int, str, str]] = []

    def run(self) -> None:
        """Do all of it.

        :raises RunnerError: `stale`, `not_permitted`, `checkpoint_failed` or `apply_failed`:
            nothing is changed then, or the error's `before` says what is; `clean_up_failed`:
            all of it is done.
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
        if self._reverse:
            self._starting.foresee(self._steps, self._left)
        for index, step in self._steps:
            self._actions.append(self._starting.check(index, step))
            self._stop.check(self._actions[-1])
        if not self._reverse:
            self._save()
        self._points.reached("checked")
        self._journal.write(
            "batch",
            prefix=self._workspace.prefix,
            reverse=self._reverse,
            steps=[index for index, _ in self._steps],
        )
        self._in_journal = True
        for position, action in enumerate(self._actions):
            self._current = action
            self._stop.check(action)
            self._stage.write(self._actions, position, self._starting.changed_directories)
            if action.left is not None and not self._reverse:
                self._checkpoint.note_left(action.index, action.left)
        made = Made()
        intents = [made.follow(self._intent(action), action.step) for action in self._actions]
        self._intents = [(one, action.step) for one, action in zip(intents, self._actions)]
        self._checkpoint.flush()
        self._journal.intend(intents, self._quarantine.paths)
        self._stage.sync()
        self._points.reached("staged")
        # From here on paths are looked up anew: staging may have taken long.
        self._workspace.directories.forget()

    def _save(self) -> None:
        """Save what the steps replace, delete or change in place."""
        self._checkpoint.require_space(self._actions)
        for action in self._actions:
            self._current = action
            self._stop.check(action)
            self._checkpoint.save(action, self._starting.moved, self._workspace.given)
            if action.found is not None:
                action.found = replace(action.found, data=None)

    def _intent(self, action: Action) -> Intent:
        """What `action` will do; it has a temporary name then, if it needs one."""
        step, found = action.step, action.found
        place: Optional[str] = None
        inode = None if action.inode is None else action.inode[1:]
        if step.change == "delete":
            action.temporary = self._workspace.name()
            if action.staged_in is not None:
                place = self._quarantine.prepare(action.staged_in)
        elif step.link_to is not None:
            action.temporary = self._workspace.name()
        was: Optional[Metadata] = None
        if step.change in ("rename", "metadata") and found is not None and found.status is not None:
            inode = found.status.lasting
        if action.really is not None:
            found = action.really
            really = Metadata.of(found.state)
            was = None if really == Metadata.of(step.before) else really
        return Intent(
            index=action.index,
            parent=action.parent,
            name=action.name,
            staged_in=action.written_in,
            temporary=action.temporary,
            place=place,
            inode=inode,
            mtime_ns=None if found is None or found.status is None else found.status.mtime_ns,
            written_ns=action.written_ns,
            was=was,
        )

    def _change_all(self) -> None:
        for position, action in enumerate(self._actions):
            self._position, self._current = position, action
            self._points.reached("changing", action.index)
            self._stop.check(action)
            self._change(action)
            self._points.reached("changed", action.index)
        self._stage.sync()
        self._journal.write("done")
        self._given.take(self._workspace.given)

    def _finish(self) -> None:
        """Nothing can be put back from here on; all is cleaned up that can be."""
        self._points.reached("done")
        self._workspace.directories.forget()
        steps = [action.step for action in self._actions]
        final = FinalPaths(steps)
        displaced = [
            (final.of(parent, position), name) for position, parent, name in self._displaced
        ]
        failed = [*self._quarantine.discard(), *remove_all(displaced)]
        self._points.reached("cleaned")
        failed += close_directories(needing_closing(steps), self._workspace.directories)
        try:
            self._stage.sync()
            if not failed:
                self._journal.write("cleaned", sync=False)
        except OSError as error:
            failed.append(told("the filesystem or the journal", error))
        if failed:
            last = self._actions[-1].index
            raise RunnerError("clean_up_failed", step=last, left=", ".join(failed))
        self._points.reached("synced")

    # One step.

    def _change(self, action: Action) -> None:
        step = action.step
        directory, status = self._here(action)
        self._stage.remember_directory(directory, status)
        if step.link_to is not None:
            self._link(action, directory, step.link_to)
        if step.change == "metadata":
            self._set_metadata(action, directory)
        elif step.change == "rename":
            self._rename(action, directory)
        elif step.change == "delete":
            self._delete(action, directory, status)
        elif action.temporary is not None and step.change == "create":
            self._place(action, directory, action.temporary)
        elif action.temporary is not None:
            self._exchange(action, directory, action.temporary)
        else:
            self._begin()

    def _begin(self) -> None:
        """The action at hand has changed something, or is about to."""
        self._begun = self._position + 1

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
        name, path = action.name, action.step.path
        try:
            filesystem.rename(directory, temporary, directory, name, RENAME_NOREPLACE)
            self._begin()
        except FileExistsError as error:
            found = self._workspace.entry(directory, name, path, ABSENT, with_tree=False)
            require(action.index, path, ABSENT, found)
            raise stale(action.index, path, "nothing", "something that came and went") from error

    def _exchange(self, action: Action, directory: int, temporary: str) -> None:
        """What is new and what is old change places; the old one must be what was expected."""
        parent, name, path = action.parent, action.name, action.step.path
        expected = action.expected
        assert expected is not None
        try:
            filesystem.rename(directory, temporary, directory, name, RENAME_EXCHANGE)
            self._begin()
        except FileNotFoundError as error:
            raise stale(action.index, path, expected.type, "nothing") from error
        if expected.type == "directory":
            self._workspace.directories.forget()
            directory, _ = self._workspace.directories.get(parent)
        self._require(action, directory, temporary, path, expected)
        self._displaced.append((self._position, parent, temporary))

    def _require(
        self, action: Action, directory: int, name: str, path: str, expected: FileState
    ) -> Entry:
        found = self._workspace.entry(
            directory,
            name,
            path,
            expected,
            with_tree=expected.tree is not None,
        )
        require(action.index, path, expected, found, renamed=True)
        return found

    def _link(self, action: Action, directory: int, target: str) -> None:
        """One more name of a file that the plan made, or found as it is to be."""
        assert action.temporary is not None
        parent, _, name = target.rpartition("/")
        above, _ = self._workspace.directory(parent, action.index)
        descriptor = os.open(name, filesystem.O_PATH, dir_fd=above)
        try:
            status = filesystem.status(descriptor)
            found = tree.describe(
                descriptor,
                status,
                identity=self._workspace.identity,
                hashed_size=expectation.hashed_size(action.step.after),
            )
            wanted = replace(action.step.after, mtime_ns=None)
            found = self._workspace.seen(target, wanted, found)
            require(action.index, target, wanted, found, renamed=True)
            # linkat(2): the way without CAP_DAC_READ_SEARCH to link just this inode.
            source = filesystem.by_descriptor(descriptor)
            os.link(source, action.temporary, dst_dir_fd=directory)
            self._stage.add(action.parent, action.temporary, status.incarnation, directory)
        finally:
            os.close(descriptor)

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
            self._begin()
        except FileNotFoundError as error:
            raise stale(action.index, step.old_path, step.before.type, "nothing") from error
        except FileExistsError as error:
            raise stale(action.index, step.path, "nothing", "something") from error
        self._workspace.directories.forget()
        directory, _ = self._here(action)
        try:
            self._require(action, directory, action.name, step.path, step.before)
        except RunnerError:
            # Whatever it is that was moved, it goes back to where somebody has put it.
            old, _ = self._workspace.same_directory(old_parent, identity, action.index)
            filesystem.rename(directory, action.name, old, old_name, RENAME_NOREPLACE)
            self._begun = self._position
            raise

    def _delete(self, action: Action, directory: int, status: Status) -> None:
        name, path, temporary = action.name, action.step.path, action.temporary
        expected = action.expected
        assert expected is not None and temporary is not None
        try:
            place = self._quarantine.take(directory, status, name, temporary)
            aside = place is None
            if aside:
                filesystem.rename(directory, name, directory, temporary, RENAME_NOREPLACE)
            self._begin()
        except FileNotFoundError as error:
            raise stale(action.index, path, action.step.before.type, "nothing") from error
        waiting = directory if place is None else place
        self._require(action, waiting, temporary, path, expected)
        if expected.type == "directory":
            self._workspace.directories.forget()
        if aside:
            self._displaced.append((self._position, action.parent, temporary))

    def _set_metadata(self, action: Action, directory: int) -> None:
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
            real = tree.describe(descriptor, status, identity=self._workspace.identity)
            real = self._workspace.as_meant(real)
            found = self._workspace.seen(step.path, step.before, real)
            require(action.index, step.path, step.before, found, renamed=self._reverse)
            self._begin()
            state = given_to(real.state, step.before, step.after)
            set_state(descriptor, state, status, keep_open=True)
            left = Entry(state, filesystem.status(descriptor))
            self._workspace.given.changed(step.path, found, step.after, left)
            if step.after.type == "directory":
                self._workspace.kept_open[status.identity] = state.mode
        finally:
            os.close(descriptor)

    # Putting back.

    def _put_back(self, failure: RunnerError) -> RunnerError:
        """Take back every step that was done, and remove what was staged."""
        self._workspace.directories.forget()
        identity, directories = self._workspace.identity, self._workspace.directories
        undone = undo(self._intents, identity, directories, self._begun)
        left = self._restore_modes()
        left += self._stage.discard()
        left += sorted("/".join(held) for held in undone.held)
        left += self._quarantine.discard_empty()
        if failure.code == "apply_failed" and self._begun:
            failure.details["before"] = "undone"
        if undone.kept:
            failure = apply_failed(
                int(str(failure.details.get("step", 0))),
                str(failure.details.get("path", "")),
                str(failure.details.get("reason", failure.code)),
                "undone, except for " + ", ".join(undone.kept),
            )
        if left:
            failure.details["left"] = ", ".join(left)
        if self._in_journal:
            try:
                self._journal.write("undone", kept=undone.kept)
            except OSError:
                pass  # recovery finds out by looking
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
