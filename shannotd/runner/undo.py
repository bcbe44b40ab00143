"""Taking a half-done batch back, by what is found where: in the process that failed, and after
a crash in another (P4, P9).

What somebody else has put in the place of ours since is not touched, and named.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field, replace
from typing import Dict, List, Optional, Sequence, Set, Tuple

from shannotd.runner import filesystem, staging, tree
from shannotd.runner.access_list import without_mode
from shannotd.runner.directories import Directories
from shannotd.runner.filesystem import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Descent,
    Lasting,
    Status,
)
from shannotd.runner.intent import Intent, rides
from shannotd.runner.plan import FileState, FileStep, Identity
from shannotd.runner.removal import told

_REPLACED = "somebody replaced it meanwhile"
_CHANGED = "somebody changed it meanwhile"
_MOVED = "somebody moved its directory meanwhile"
_FOREIGN = "somebody put something in it meanwhile"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass
class Undone:
    """What became of an undo: the paths that are not as before, each with the reason, and the
    temporary names (directory and name) that hold what was there before."""

    kept: List[str] = field(default_factory=list)
    held: Set[Tuple[str, str]] = field(default_factory=set)


def undo(
    intents: Sequence[Tuple[Intent, FileStep]],
    identity: Identity,
    directories: Directories,
    begun: Optional[int] = None,
) -> Undone:
    """Take back each step that was done, the last one first. What was new is under its temporary
    name then. Only the first `begun` steps can be, if that is known."""
    return _Undo(identity, directories, known=begun is not None).run(
        intents, len(intents) if begun is None else begun
    )


@dataclass(frozen=True)
class _New:
    """What the batch made."""

    inode: Lasting
    intent: Intent
    step: FileStep


class _Undo:
    def __init__(self, identity: Identity, directories: Directories, *, known: bool) -> None:
        """`known` says that every step that is to be taken back was done."""
        self._identity = identity
        self._directories = directories
        self._known = known
        self._undone = Undone()
        # What may be in new directories, by the path that it has while they are in place.
        self._riding: Dict[str, _New] = {}
        # All that is new, and all steps that change the metadata of one file (or of its names).
        self._made: Set[Optional[Lasting]] = set()
        self._changes: Dict[Optional[Lasting], List[FileState]] = {}

    def run(self, intents: Sequence[Tuple[Intent, FileStep]], begun: int) -> Undone:
        """See `undo`."""
        self._made = {
            intent.inode
            for intent, step in intents
            if step.change not in ("rename", "metadata", "delete")
        }
        for intent, step in intents:
            if step.change == "metadata":
                self._changes.setdefault(intent.inode, []).extend(_looks(intent, step))
        for intent, step in intents[begun:]:
            self._note_new(intent, step)
        for intent, step in reversed(intents[:begun]):
            self._note_new(intent, step)
            try:
                self._step(intent, step)
            except OSError as error:
                self._undone.kept.append(told(intent.path, error))
                self._hold(intent)
        return self._undone

    def _hold(self, intent: Intent) -> None:
        """Note where what was there before waits: it stays there, and in its directory it is also
        where somebody has moved that."""
        if intent.temporary is None:
            return
        where = intent.parent
        try:
            if intent.place is not None and self._status(intent.place, intent.temporary):
                where = intent.place
        except OSError:
            pass  # whether it is there is not known
        self._undone.held.add((where, intent.temporary))

    def _note_new(self, intent: Intent, step: FileStep) -> None:
        """Remember what the batch may have made in a new directory."""
        if step.change in ("rename", "metadata", "delete"):
            return
        inode = self._new(intent, step)
        name = intent.name if rides(intent, step) else intent.temporary
        if inode is not None:
            self._riding[f"{intent.parent}/{name}"] = _New(inode, intent, step)

    def _step(self, intent: Intent, step: FileStep) -> None:
        if rides(intent, step):
            pass  # It goes with its directory.
        elif step.change == "metadata":
            self._metadata(intent, step)
        elif step.change == "rename":
            self._rename(intent, step)
        elif step.change == "delete":
            self._delete(intent)
        else:
            self._placed(intent, step)

    def _status(self, parent: str, name: str) -> Optional[Status]:
        """What is at `name` in the directory at `parent`; None where nothing is."""
        try:
            directory, _ = self._directories.get(parent)
            return filesystem.status_at(directory, name)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def _here(self, intent: Intent) -> Optional[Status]:
        """What is at the step's path; None where nothing is."""
        if self._known:
            try:
                self._directories.get(intent.parent)
            except OSError as error:
                if error.errno in _GONE:
                    raise OSError(errno.ESTALE, _MOVED, intent.path) from error
                raise
        return self._status(intent.parent, intent.name)

    def _move(self, old: Tuple[str, str], new: Tuple[str, str], flags: int) -> None:
        source, _ = self._directories.get(old[0])
        target, _ = self._directories.get(new[0])
        filesystem.rename(source, old[1], target, new[1], flags)
        # Paths may lead elsewhere now.
        self._directories.forget()

    def _placed(self, intent: Intent, step: FileStep) -> None:
        """Something new that came from its temporary name to its place."""
        temporary = intent.temporary
        assert temporary is not None
        new = self._new(intent, step)
        here = self._here(intent)
        waiting = self._status(intent.parent, temporary)
        if new is None or here is None or here.lasting != new:
            not_begun = waiting is not None and waiting.lasting == new
            if not_begun or (step.change == "create" and here is None):
                return
            if step.link_to is not None and waiting is None:
                return  # the link was not made yet
            if waiting is None and self._status_staged(intent) == new:
                return
            raise OSError(errno.ESTALE, _REPLACED, intent.path)
        if stat.S_ISDIR(here.mode) and not self._is_ours(intent.path, intent.path):
            raise OSError(errno.ENOTEMPTY, _FOREIGN, intent.path)
        if step.change == "create":
            flags = RENAME_NOREPLACE
        else:
            flags = RENAME_EXCHANGE
            if waiting is None:
                raise OSError(errno.ENOENT, "what was there before is gone", intent.path)
        place, away = (intent.parent, intent.name), (intent.parent, temporary)
        self._move(place, away, flags)
        # Only now nobody can change what is at its path any more.
        if not self._is_as_made(f"{intent.parent}/{temporary}", _New(new, intent, step)):
            self._move(away, place, flags)
            raise OSError(errno.ESTALE, _CHANGED, intent.path)

    def _is_as_made(self, path: str, new: _New) -> bool:
        """Whether at `path` is what the batch made, and nobody has changed it since."""
        parent, _, name = path.rpartition("/")
        directory, _ = self._directories.get(parent)
        descriptor = os.open(name, filesystem.O_PATH, dir_fd=directory)
        try:
            status = filesystem.status(descriptor)
            if status.lasting != new.inode:
                return False
            if stat.S_ISREG(status.mode):
                return self._is_unchanged(descriptor, status, new)
        finally:
            os.close(descriptor)
        return not stat.S_ISDIR(status.mode) or self._is_ours(path, new.intent.path)

    def _is_unchanged(self, descriptor: int, status: Status, new: _New) -> bool:
        after = new.step.after
        found = tree.describe(descriptor, status, identity=self._identity).state
        if (found.mode, found.uid, found.gid) != (after.mode, after.uid, after.gid):
            return False
        names = {*found.xattrs, *after.xattrs} - {tree.LABEL}
        if any(found.xattrs.get(name) != after.xattrs.get(name) for name in names):
            return False
        if new.intent.written_ns not in (None, status.mtime_ns):
            return False
        if new.step.change == "append" or None in (found.sha256, after.sha256):
            return True  # What others appended before is in it: only its time tells.
        return found.sha256 == after.sha256

    def _new(self, intent: Intent, step: FileStep) -> Optional[Lasting]:
        if step.link_to is None:
            return intent.inode
        parent, _, name = step.link_to.rpartition("/")
        target = self._status(parent, name)
        return None if target is None else target.lasting

    def _status_staged(self, intent: Intent) -> Optional[Lasting]:
        if intent.staged_in is None or intent.temporary is None:
            return None
        found = self._status(intent.staged_in, intent.temporary)
        return None if found is None else found.lasting

    def _is_ours(self, path: str, place: str) -> bool:
        """Whether all in the new directory at `path` was made there by the batch.

        `place` is the path that it is made for. If it is there and something was not, what was is
        removed.
        """
        strange = False
        mine: List[Tuple[int, str]] = []
        top = filesystem.open_directory(path, filesystem.O_DIRECTORY_READ)
        with Descent(top) as descent:
            way: List[str] = []
            pending: List[Optional[str]] = list(self._names(descent.current))
            while pending:
                name = pending.pop()
                if name is None:
                    descent.leave()
                    way.pop()
                    continue
                status = filesystem.status_at(descent.current, name)
                below = "/".join([place, *way, name])
                if not self._rides(below, descent.current, name, status):
                    strange = True
                    continue
                mine.append((len(way), below))
                if stat.S_ISDIR(status.mode) and not status.mount_root:
                    looked = os.open(name, filesystem.O_DIRECTORY_READ, dir_fd=descent.current)
                    descent.enter(looked)
                    way.append(name)
                    pending.append(None)
                    pending.extend(self._names(looked))
        if strange and path == place:
            self._remove_ours([below for _, below in sorted(mine, reverse=True)])
        return not strange

    def _rides(self, path: str, directory: int, name: str, status: Status) -> bool:
        """Whether `name` was made in a new directory by the batch, and is as it was made."""
        new = self._riding.get(path)
        if new is None or new.inode != status.lasting:
            return False
        if not stat.S_ISREG(status.mode):
            return True
        descriptor = os.open(name, filesystem.O_PATH, dir_fd=directory)
        try:
            return self._is_unchanged(descriptor, filesystem.status(descriptor), new)
        finally:
            os.close(descriptor)

    @staticmethod
    def _names(directory: int) -> List[str]:
        return sorted(os.listdir(directory))

    def _remove_ours(self, paths: Sequence[str]) -> None:
        """Remove what the batch made in a directory that others use by now, the deepest first."""
        for path in paths:
            parent, _, name = path.rpartition("/")
            try:
                directory, _ = self._directories.get(parent)
                status = filesystem.status_at(directory, name)
                if status.lasting != self._riding[path].inode:
                    continue
                if stat.S_ISDIR(status.mode):
                    self._directories.forget()
                    directory, _ = self._directories.get(parent)
                    os.rmdir(name, dir_fd=directory)
                else:
                    os.unlink(name, dir_fd=directory)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    self._undone.kept.append(told(path, error))

    def _rename(self, intent: Intent, step: FileStep) -> None:
        assert step.old_path is not None and intent.inode is not None
        parent, _, name = step.old_path.rpartition("/")
        here = self._here(intent)
        old = self._status(parent, name)
        # The inode alone: in an overlay a file is born again when it is moved first.
        if here is None:
            return
        if here.inode != intent.inode[0]:
            if intent.inode in self._made:
                return  # what takes that place was not made yet
            if old is None or old.inode != intent.inode[0]:
                raise OSError(errno.ESTALE, _REPLACED, intent.path)
            return
        self._move((intent.parent, intent.name), (parent, name), RENAME_NOREPLACE)
        moved = self._status(parent, name)
        if moved is None or moved.inode != intent.inode[0]:
            self._move((parent, name), (intent.parent, intent.name), RENAME_NOREPLACE)
            raise OSError(errno.ESTALE, _REPLACED, intent.path)

    def _delete(self, intent: Intent) -> None:
        assert intent.temporary is not None
        self._here(intent)
        for waiting in (intent.place, intent.parent):
            if waiting is not None and self._status(waiting, intent.temporary) is not None:
                old = waiting, intent.temporary
                self._move(old, (intent.parent, intent.name), RENAME_NOREPLACE)
                return

    def _metadata(self, intent: Intent, step: FileStep) -> None:
        assert intent.inode is not None
        made = intent.inode in self._made
        try:
            directory, _ = self._directories.get(intent.parent)
            descriptor = os.open(intent.name or ".", filesystem.O_PATH, dir_fd=directory)
        except OSError as error:
            if made and error.errno in _GONE:
                return  # it was not made yet
            if not isinstance(error, FileNotFoundError):
                raise
            raise OSError(errno.ESTALE, _REPLACED, intent.path) from None
        try:
            status = filesystem.status(descriptor)
            if made and status.lasting != intent.inode:
                return
            found = tree.describe(descriptor, status, identity=self._identity)
            looks = self._changes[intent.inode]
            changed = status.inode == intent.inode[0] and between(found.state, looks)
            if not changed:
                raise OSError(errno.ESTALE, _REPLACED, intent.path)
            wanted = step.before if intent.was is None else intent.was.on(step.before)
            if step.after.mtime_ns is not None:
                wanted = replace(wanted, mtime_ns=intent.mtime_ns)
            staging.set_state(descriptor, wanted, status, keep_open=False)
        finally:
            os.close(descriptor)


def _looks(intent: Intent, step: FileStep) -> List[FileState]:
    was = [] if intent.was is None else [intent.was.on(step.before)]
    return [step.before, step.after, *was]


def between(found: FileState, states: Sequence[FileState]) -> bool:
    """Whether `found` is what changes of metadata leave at any moment of them: each attribute as
    in one of `states`, which are those of one file before and after each."""
    before = states[0]
    if (found.type, found.size, found.target) != (before.type, before.size, before.target):
        return False
    if None not in (found.sha256, before.sha256) and found.sha256 != before.sha256:
        return False
    if found.uid not in {one.uid for one in states} or found.gid not in {one.gid for one in states}:
        return False
    if found.type != "symlink" and found.mode not in _modes(states):
        return False
    names = {*found.xattrs}.union(*(one.xattrs for one in states))
    return all(
        # One that the kernel clears with the owner, or that is not there yet, is None.
        found.xattrs.get(name) is None
        or _lasting(name, found) in [_lasting(name, one) for one in states]
        for name in names
    )


def _lasting(name: str, state: FileState) -> Optional[str]:
    """The attribute without what changes with the mode."""
    value = state.xattrs.get(name)
    return without_mode(value) if value is not None and name == tree.ACCESS_ACL else value


def _modes(states: Sequence[FileState]) -> Set[int]:
    """Every mode on the way: chown(2) clears bits, attributes and directories need access."""
    modes = {one.mode for one in states if one.mode is not None}
    modes |= {mode & ~0o6000 for mode in modes}
    return modes | {mode | 0o200 for mode in modes} | {mode | 0o700 for mode in modes}
