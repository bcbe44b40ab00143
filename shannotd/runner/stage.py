"""Writing all that a batch makes beside its place, before anything is changed.

A new directory is built under a temporary name with all that is new in it, so that it
appears whole.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import Dict, List, Sequence, Set, Tuple

from shannotd.runner import filesystem, staging, tree
from shannotd.runner.contents import Contents
from shannotd.runner.directories import remove, writable
from shannotd.runner.filesystem import Status
from shannotd.runner.plan import FileState, FileStep
from shannotd.runner.tree import MountInside
from shannotd.runner.workspace import Action, Workspace, apply_failed, stale

_NODES = {
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}
# So many directories with temporary names are held open; others are found by their path.
_HELD_PARENTS = 256


class Stage:
    """The temporary names of one batch."""

    def __init__(self, workspace: Workspace, contents: Contents) -> None:
        self._workspace = workspace
        self._contents = contents
        # Directories that steps make, by the path that they will have.
        self.built: Dict[str, Tuple[str, filesystem.Identity]] = {}
        self._temporaries: List[Tuple[str, str, filesystem.Incarnation]] = []
        # Their directories, held open: they are found again wherever somebody moves them.
        self._parents: Dict[str, int] = {}
        # One descriptor for each filesystem that was written to.
        self._filesystems: Dict[int, int] = {}
        # Whether there is one of which nothing could be opened: then all are synced.
        self._unreadable = False

    def write(self, actions: Sequence[Action], position: int, changed: Set[str]) -> None:
        """Write what the action at `position` makes; `changed` directories may be widened.

        :raises RunnerError, OSError, staging.WrongContent: it could not be.
        """
        action = actions[position]
        step = action.step
        if step.change not in ("create", "modify", "append") or step.link_to is not None:
            return
        # What is new in a new directory is at its place at once, and comes with it.
        rides = action.staged_in is None and step.change == "create"
        where, identity = action.staged_in, action.parent_identity
        if where is None:
            where, identity = self.built[action.parent]
        directory, status = self._workspace.same_directory(where, identity, action.index)
        if where in changed:
            self._widen(where, directory, status)
        if _has_content(step) and not self._contents.has(_content(step)[0]):
            following = [later.step for later in actions[position:]]
            self._contents.ask([_content(later) for later in following if _has_content(later)])
        name = action.name if rides else self._workspace.name()
        if step.after.type == "file":
            action.inode = self._file(action, directory, where, name)
        elif step.after.type == "directory":
            action.inode = self._directory(step.after, directory, where, name)
            self.built[step.path] = f"{where}/{name}", action.inode[:2]
        elif step.after.type in ("symlink", "fifo", "socket", *tree.DEVICES):
            action.inode = self._node(step.after, directory, where, name)
        else:
            raise apply_failed(action.index, step.path, f"no plan makes a {step.after.type}")
        if not rides:
            action.temporary, action.written_in = name, where
            self.add(where, name, action.inode, directory)

    def add(self, path: str, name: str, inode: filesystem.Incarnation, directory: int) -> None:
        """One more temporary name in `directory`, which is at `path`."""
        self._temporaries.append((path, name, inode))
        if path not in self._parents and len(self._parents) < _HELD_PARENTS:
            self._parents[path] = os.dup(directory)

    def _widen(self, path: str, directory: int, status: Status) -> None:
        """A directory that the batch makes writable is so already for what is staged in it."""
        if status.uid == os.geteuid() and not writable(directory):
            mode = stat.S_IMODE(status.mode)
            os.chmod(filesystem.by_descriptor(directory), mode | 0o700)
            self._workspace.widened[status.identity] = path, mode

    def _file(self, action: Action, directory: int, path: str, name: str) -> filesystem.Incarnation:
        step = action.step
        sha256, size = _content(step)
        descriptor = os.open(name, staging.O_NEW, 0o600, dir_fd=directory)
        try:
            begin = 0
            if step.change == "append":
                begin = self._copy_old(action, directory, descriptor)
            content = self._contents.get(sha256)
            if isinstance(content, bytes):
                staging.write(descriptor, content, begin)
            else:
                staging.write_from(descriptor, content, size, sha256, begin)
            if step.change == "append" and begin != step.before.size:
                os.lseek(descriptor, 0, os.SEEK_SET)
                whole = tree.hash_content(descriptor)
                action.left = replace(step.after, size=begin + size, sha256=whole)
            status = filesystem.status(descriptor)
            staging.set_state(descriptor, step.after, status, keep_open=False)
            self.remember(descriptor, status.device)
            action.written_ns = filesystem.status(descriptor).mtime_ns
            return status.incarnation
        except BaseException:
            self._withdraw(path, name, directory)
            raise
        finally:
            os.close(descriptor)

    def _withdraw(self, path: str, name: str, directory: int) -> None:
        """Remove what could not be made whole: now, or if that fails with all else."""
        try:
            remove(directory, name, path)
        except (OSError, MountInside):
            try:
                inode = filesystem.status_at(directory, name).incarnation
            except OSError:
                return  # What it was about is of more interest than this.
            self.add(path, name, inode, directory)

    def _copy_old(self, action: Action, directory: int, descriptor: int) -> int:
        """Begin an appended file with all that the file holds now; returns how much."""
        expected = action.expected
        assert expected is not None and expected.size is not None
        looked = os.open(action.name, filesystem.O_PATH, dir_fd=directory)
        try:
            content = filesystem.open_content(looked)
        finally:
            os.close(looked)
        try:
            staging.copy(content, descriptor, expected.size)
        finally:
            os.close(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        if expected.sha256 is not None and tree.hash_content(descriptor) != expected.sha256:
            path = action.step.path
            raise stale(action.index, path, "the same content", "content that changes")
        return expected.size

    def _directory(
        self, after: FileState, parent: int, path: str, name: str
    ) -> filesystem.Incarnation:
        os.mkdir(name, 0o700, dir_fd=parent)
        try:
            descriptor = os.open(name, filesystem.O_DIRECTORY_READ, dir_fd=parent)
            try:
                status = filesystem.status(descriptor)
                self.remember(descriptor, status.device)
                # Its time changes with all that is put in it, and is set when that is done.
                staging.set_state(descriptor, after, status, keep_open=True)
                self._workspace.kept_open[status.identity] = after.mode
                return status.incarnation
            finally:
                os.close(descriptor)
        except BaseException:
            self._withdraw(path, name, parent)
            raise

    def _node(
        self, after: FileState, directory: int, path: str, name: str
    ) -> filesystem.Incarnation:
        """A symlink, or a special file that a checkpoint has."""
        if after.type == "symlink":
            assert after.target is not None
            os.symlink(after.target, name, dir_fd=directory)
        else:
            major, _, minor = (after.target or "0:0").partition(":")
            device = os.makedev(int(major), int(minor))
            os.mknod(name, 0o600 | _NODES[after.type], device, dir_fd=directory)
        try:
            descriptor = os.open(name, filesystem.O_PATH, dir_fd=directory)
            try:
                status = filesystem.status(descriptor)
                staging.set_state(descriptor, after, status, keep_open=False)
                return status.incarnation
            finally:
                os.close(descriptor)
        except BaseException:
            self._withdraw(path, name, directory)
            raise

    def remember(self, descriptor: int, device: int) -> None:
        """Have the filesystem `device` synced with the rest."""
        if device not in self._filesystems:
            self._filesystems[device] = os.dup(descriptor)

    def remember_directory(self, directory: int, status: Status) -> None:
        """The same for that of `directory`, which may be an O_PATH descriptor."""
        if status.device in self._filesystems:
            return
        try:
            listed = os.open(".", filesystem.O_DIRECTORY_READ, dir_fd=directory)
        except PermissionError:
            self._unreadable = True
            return
        self._filesystems[status.device] = listed

    def sync(self) -> None:
        """Bring every filesystem that was written to to disk."""
        if self._unreadable:
            os.sync()
            return
        for descriptor in self._filesystems.values():
            filesystem.sync_filesystem(descriptor)

    def discard(self) -> List[str]:
        """Remove every temporary name that still holds what was staged under it.

        Returns the names that are left.
        """
        self._workspace.directories.forget()
        left: List[str] = []
        while self._temporaries:
            path, name, inode = self._temporaries.pop()
            try:
                directory = self._parents.get(path)
                if directory is None:
                    directory, _ = self._workspace.directories.get(path)
                status = filesystem.status_at(directory, name)
                if status.incarnation == inode:
                    remove(directory, name, path)
            except FileNotFoundError:
                pass
            except (OSError, MountInside):
                left.append(f"{path}/{name}")
        return left

    def close(self) -> None:
        """Let go of the filesystems and directories."""
        while self._parents:
            os.close(self._parents.popitem()[1])
        while self._filesystems:
            os.close(self._filesystems.popitem()[1])


def _has_content(step: FileStep) -> bool:
    makes = step.change in ("create", "modify", "append") and step.link_to is None
    return makes and step.after.type == "file"


def _content(step: FileStep) -> Tuple[str, int]:
    """Hash and size of the bytes that `step` needs."""
    if step.change == "append":
        assert step.appended is not None
        return step.appended.sha256, step.appended.size
    assert step.after.sha256 is not None and step.after.size is not None
    return step.after.sha256, step.after.size
