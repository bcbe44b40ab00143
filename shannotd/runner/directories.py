"""Directories of the host, held open while their paths are worked in; and removing whole trees."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from typing import List, Optional, Tuple

from shannotd.runner import filesystem
from shannotd.runner.filesystem import Descent, Status
from shannotd.runner.tree import MountInside

_HELD = 64  # directories open at a time


class Directories:
    """Descriptors (O_PATH) of directories by path; at most a few are open at a time."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Tuple[int, Status]] = OrderedDict()

    def __enter__(self) -> Directories:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def get(self, path: str) -> Tuple[int, Status]:
        """The directory at `path` and its status when it was opened.

        The descriptor stays this object's; it is good for the next dozens of calls.

        :raises OSError: there is none, or a component is a symlink (ELOOP).
        """
        held = self._held.get(path)
        if held is not None:
            self._held.move_to_end(path)
            return held
        descriptor = filesystem.open_directory(path or "/")
        try:
            held = descriptor, filesystem.status(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._held[path] = held
        if len(self._held) > _HELD:
            _, (oldest, _) = self._held.popitem(last=False)
            os.close(oldest)
        return held

    def forget(self) -> None:
        """Close all: a directory was moved, so paths may lead elsewhere."""
        while self._held:
            _, (descriptor, _) = self._held.popitem()
            os.close(descriptor)


def writable(directory: int) -> bool:
    """Whether this process may make and remove names in `directory`."""
    return os.access(".", os.W_OK | os.X_OK, dir_fd=directory, effective_ids=True)


def remove(directory: int, name: str, path: str) -> None:
    """Remove `name` in `directory`, whatever it is, with all below it; never over a mount.

    :raises MountInside: something is mounted in it; what was before that is gone.
    """
    try:
        os.unlink(name, dir_fd=directory)
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        if not stat.S_ISDIR(filesystem.status_at(directory, name).mode):
            raise
    with Descent(os.open(".", filesystem.O_DIRECTORY_PATH, dir_fd=directory)) as descent:
        # A name with None below it is on the way back up: the directory is empty by then.
        way: List[str] = []
        pending: List[Optional[str]] = [name]
        while pending:
            below = pending.pop()
            if below is None:
                descent.leave()
                os.rmdir(way.pop(), dir_fd=descent.current)
                continue
            descent.enter(_open_owned(descent.current, below, "/".join([path, *way])))
            way.append(below)
            pending.append(None)
            pending.extend(_unlink_all(descent.current))


def _open_owned(parent: int, name: str, path: str) -> int:
    """A directory that is about to be emptied; its own mode does not hinder its owner."""
    looked = os.open(name, filesystem.O_DIRECTORY_PATH, dir_fd=parent)
    try:
        status = filesystem.status(looked)
        if status.mount_root:
            raise MountInside(path)
        if status.mode & 0o700 != 0o700 and status.uid == os.geteuid():
            os.chmod(filesystem.by_descriptor(looked), 0o700)
        return os.open(".", filesystem.O_DIRECTORY_READ, dir_fd=looked)
    finally:
        os.close(looked)


def _unlink_all(directory: int) -> List[str]:
    """Unlink all but the directories in `directory`, whose names are returned."""
    directories: List[str] = []
    with os.scandir(directory) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if is_directory:
            directories.append(name)
        else:
            os.unlink(name, dir_fd=directory)
    return directories
