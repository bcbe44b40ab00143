"""What of the host a sandbox copies or holds on to, as it was when the layout looked at it.

An overlay shows the host as it is; a copy shows what was, and so does a directory in which
something is mounted. So the layout looks first and acts on what it saw: any later change makes a
difference to the next look.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple, Tuple


class Entry(NamedTuple):
    """One name of the host. Of directories, which are never copied, only which one it is and what
    gives rights."""

    name: str
    mode: int
    ours: bool
    inode: int = 0
    size: int = 0
    modified_ns: int = 0
    changed_ns: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory itself (no link to one)."""
        return stat.S_ISDIR(self.mode)


def entries(path: str) -> Tuple[Entry, ...]:
    """What is in the directory `path`, by name; nothing if we may not list it."""
    found = []
    try:
        with os.scandir(path) as listing:
            for entry in listing:
                try:
                    found.append(_entry(entry.name, entry.stat(follow_symlinks=False)))
                except OSError:  # gone again, or a mount that tells its owner only (FUSE)
                    if entry.is_dir(follow_symlinks=False):
                        found.append(Entry(entry.name, stat.S_IFDIR, ours=False))
    except OSError:
        return ()
    return tuple(sorted(found))


def look(path: str) -> Tuple[Entry, ...]:
    """What a copy of `path` depends on: of a directory what is in it, of a file itself."""
    try:
        status = os.lstat(path)
    except OSError:
        return ()
    return entries(path) if stat.S_ISDIR(status.st_mode) else (_entry(path, status),)


def place(path: str, *, user: bool) -> Tuple[int, ...]:
    """Which directory is at `path` and what gives rights to it; nothing if we may not see it.

    In the `user` namespace of a one-uid sandbox all other owners look alike.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return ()
    ours = int(status.st_uid == os.geteuid())
    owner = (ours,) if user else (status.st_uid, status.st_gid)
    return (status.st_dev, status.st_ino, status.st_mode, *owner)


def _entry(name: str, status: os.stat_result) -> Entry:
    # Other owners look alike in the user namespace of a one-uid sandbox.
    ours = status.st_uid == os.geteuid()
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, status.st_mode, ours, status.st_ino)
    return Entry(
        name,
        status.st_mode,
        ours,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
