"""The state of paths on the host, read through descriptors.

Nothing is opened but regular files and directories, and only after the inode's type was
looked at; no symlink is followed. Only the state is taken that the applying identity can
check again: a file that it cannot read has a fingerprint instead of a hash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from typing import AbstractSet, Callable, Dict, List, Optional, Tuple

from shannotd.runner import filesystem
from shannotd.runner.filesystem import Descent, Status
from shannotd.runner.plan import ABSENT, FileState, Identity, TreeSummary

HASHED_BYTES = 256 * 1024 * 1024  # larger files have a fingerprint
CHUNK_BYTES = 1024 * 1024

ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
CAPABILITY = "security.capability"
LABEL = "security.selinux"
RECORDED = frozenset((ACCESS_ACL, DEFAULT_ACL, CAPABILITY, LABEL))

DEVICES = ("character", "block")
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
}
# Errors that say that this filesystem or this file has no such attributes, or none for us.
_NO_XATTRS = (errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.ENODATA)


class MountInside(Exception):
    """A tree that is read as one holds a mount point; the argument is its path."""


@dataclass(frozen=True)
class Entry:
    """One path as it was found: its state, its inode, and its content where that is small."""

    state: FileState
    status: Optional[Status] = None
    data: Optional[bytes] = None


NOTHING = Entry(ABSENT)

Visit = Callable[[str, Status], None]
# How a file with several names was before something that does not count; None where it is so.
Original = Callable[[Status], Optional[Entry]]


def file_type(mode: int) -> str:
    """The type in FileState's words of an `st_mode`."""
    return _TYPES[stat.S_IFMT(mode)]


def state(path: str, identity: Optional[Identity] = None) -> FileState:
    """What is at the absolute `path` now; without its tree if it is a directory.

    :raises OSError: it cannot be told (ELOOP: a parent is a symlink).
    """
    parent, _, name = path.rpartition("/")
    if not name:
        directory = filesystem.open_directory("/")
        try:
            return describe(directory, filesystem.status(directory), identity=identity).state
        finally:
            os.close(directory)
    try:
        directory = filesystem.open_directory(parent or "/")
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    try:
        return entry(directory, name, identity=identity).state
    finally:
        os.close(directory)


def entry(
    directory: int,
    name: str,
    *,
    identity: Optional[Identity] = None,
    keep: int = 0,
    hashed_size: Optional[int] = None,
) -> Entry:
    """What is at `name` in `directory`; content of up to `keep` bytes comes with it.

    A file of `hashed_size` bytes is hashed however large it is.
    """
    try:
        descriptor = os.open(name, filesystem.O_PATH, dir_fd=directory)
    except FileNotFoundError:
        return NOTHING
    try:
        status = filesystem.status(descriptor)
        return describe(descriptor, status, identity=identity, keep=keep, hashed_size=hashed_size)
    finally:
        os.close(descriptor)


def describe(
    descriptor: int,
    status: Status,
    *,
    identity: Optional[Identity] = None,
    keep: int = 0,
    hashed_size: Optional[int] = None,
) -> Entry:
    """The state of the inode that `descriptor` (O_PATH) holds, as `entry`."""
    kind = file_type(status.mode)
    mode = stat.S_IMODE(status.mode)
    if kind == "symlink":
        # An empty path reads the link that the descriptor itself holds (readlinkat(2)).
        target = os.readlink("", dir_fd=descriptor)
        return Entry(FileState(kind, mode, status.uid, status.gid, target=target), status)
    xattrs = read_xattrs(filesystem.by_descriptor(descriptor))
    links = status.links if status.links > 1 and kind != "directory" else None
    readable = may_read(status, identity, acl=ACCESS_ACL in xattrs)
    if not readable:
        # These need read permission (xattr(7)), which the identity lacks when it applies.
        xattrs = {name: value for name, value in xattrs.items() if name in RECORDED}
    if kind != "file":
        # Which device it is, is all there is to a device.
        device = "{}:{}".format(*status.special) if kind in DEVICES else None
        found = FileState(
            kind, mode, status.uid, status.gid, target=device, xattrs=xattrs, links=links
        )
        return Entry(found, status)
    sha256: Optional[str] = None
    data: Optional[bytes] = None
    if readable and (status.size <= HASHED_BYTES or status.size == hashed_size):
        try:
            sha256, data = _digest(descriptor, status.size, keep)
        except PermissionError:
            # Only where nobody else will check it: a foreign identity was judged above.
            if identity is not None and identity.uid != os.geteuid():
                raise
    found = FileState(
        kind,
        mode,
        status.uid,
        status.gid,
        status.size,
        sha256,
        xattrs=xattrs,
        links=links,
        fingerprint=None if sha256 else fingerprint(status),
    )
    return Entry(found, status, data)


def _digest(descriptor: int, size: int, keep: int) -> Tuple[str, Optional[bytes]]:
    content = filesystem.open_content(descriptor)
    try:
        if size <= keep:
            data = read_all(content)
            return hashlib.sha256(data).hexdigest(), data
        return hash_content(content), None
    finally:
        os.close(content)


def read_all(descriptor: int) -> bytes:
    """Everything from the descriptor's position to the end of the file."""
    parts: List[bytes] = []
    while True:
        part = os.read(descriptor, CHUNK_BYTES)
        if not part:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        parts.append(part)


def hash_content(descriptor: int, size: Optional[int] = None) -> str:
    """SHA-256 in hex of the next `size` bytes (to the end without it), streamed."""
    digest = hashlib.sha256()
    left = size
    while left is None or left > 0:
        part = os.read(descriptor, CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))
        if not part:
            break
        digest.update(part)
        if left is not None:
            left -= len(part)
    return digest.hexdigest()


def fingerprint(status: Status) -> str:
    """Inode, size, mtime and ctime of a file whose content is not hashed."""
    return f"{status.inode}:{status.size}:{status.mtime_ns}:{status.ctime_ns}"


def may_read(status: Status, identity: Optional[Identity], *, acl: bool = False) -> bool:
    """Whether `identity` can read this file, or list and search this directory.

    By owner and mode, so that dry run and apply judge alike; with an ACL, whose entries
    the mode does not tell, only the owner is sure to.
    """
    if identity is None or identity.uid == 0:
        return True
    if status.uid == identity.uid:
        granted = status.mode >> 6
    elif acl:
        return False
    elif status.gid == identity.gid or status.gid in identity.groups:
        granted = status.mode >> 3
    else:
        granted = status.mode
    needed = 5 if stat.S_ISDIR(status.mode) else 4
    return granted & needed == needed


def read_xattrs(path: str) -> Dict[str, str]:
    """The extended attributes of `path` that plans record, as hex; {} where there are none."""
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return {}
        raise
    found: Dict[str, str] = {}
    for name in names:
        if name.startswith("user.") or name in RECORDED:
            try:
                found[name] = os.getxattr(path, name).hex()
            except OSError as error:
                if error.errno not in _NO_XATTRS:
                    raise
    return found


def summarise(
    directory: int,
    path: str,
    *,
    identity: Optional[Identity] = None,
    excluded: AbstractSet[str] = frozenset(),
    ignored_prefix: Optional[str] = None,
    each: Optional[Visit] = None,
    original: Optional[Original] = None,
) -> TreeSummary:
    """The whole tree below `directory` (O_PATH suffices), which is at `path`.

    The hash covers each entry's relative path, type, mode and owner, of all but
    directories also size and modification time, and a link's target. Paths in `excluded`
    are left out with what is below them, as are names that begin with `ignored_prefix`.
    A directory that `identity` cannot read counts as an entry only. `each` is called with the
    path and status of every entry that counts. Where `original` tells how one was, that counts.

    :raises MountInside: something is mounted in the tree.
    """
    reader = _TreeReader(identity, excluded, ignored_prefix, each, original)
    return reader.read(directory, path)


class _TreeReader:
    def __init__(
        self,
        identity: Optional[Identity],
        excluded: AbstractSet[str],
        ignored_prefix: Optional[str],
        each: Optional[Visit],
        original: Optional[Original],
    ) -> None:
        self._each = each
        self._original = original
        self._identity = identity
        self._excluded = excluded
        self._ignored_prefix = ignored_prefix
        self._entries = 0
        self._size = 0
        self._hash = hashlib.sha256()

    def read(self, directory: int, path: str) -> TreeSummary:
        if not may_read(filesystem.status(directory), self._identity):
            return TreeSummary(0, 0, self._hash.hexdigest())
        top = os.open(".", filesystem.O_DIRECTORY_READ, dir_fd=directory)
        with Descent(top) as descent:
            # None stands for the way back up to the directory above.
            pending: List[Optional[str]] = list(reversed(self._list(top, path, "")))
            while pending:
                relative = pending.pop()
                if relative is None:
                    descent.leave()
                    continue
                below = self._open(descent.current, f"{path}/{relative}")
                if below is None:
                    continue
                descent.enter(below)
                pending.append(None)
                pending.extend(reversed(self._list(below, path, relative + "/")))
        return TreeSummary(self._entries, self._size, self._hash.hexdigest())

    def _open(self, parent: int, path: str) -> Optional[int]:
        name = path.rpartition("/")[2]
        looked = os.open(name, filesystem.O_DIRECTORY_PATH, dir_fd=parent)
        try:
            status = filesystem.status(looked)
            if status.mount_root:
                raise MountInside(path)
            if not may_read(status, self._identity):
                return None
            return os.open(".", filesystem.O_DIRECTORY_READ, dir_fd=looked)
        finally:
            os.close(looked)

    def _list(self, directory: int, top: str, prefix: str) -> List[str]:
        device = os.fstat(directory).st_dev
        with os.scandir(directory) as entries:
            ordered = sorted(entries, key=lambda found: found.name)
        directories: List[str] = []
        for found in ordered:
            relative = prefix + found.name
            if self._ignored_prefix and found.name.startswith(self._ignored_prefix):
                continue
            if self._excluded and f"{top}/{relative}" in self._excluded:
                continue
            if self._each is not None:
                self._each(f"{top}/{relative}", filesystem.status_at(directory, found.name))
            status = found.stat(follow_symlinks=False)
            size, time, target = status.st_size, status.st_mtime_ns, ""
            if stat.S_ISDIR(status.st_mode):
                # They change with what else the plan does in it.
                size, time = 0, 0
                directories.append(relative)
            elif status.st_dev != device and _is_mount(directory, found.name):
                raise MountInside(f"{top}/{relative}")
            elif stat.S_ISLNK(status.st_mode):
                size, target = 0, os.readlink(found.name, dir_fd=directory)
            mode, uid, gid = status.st_mode, status.st_uid, status.st_gid
            was = self._before(directory, found.name, status)
            if was is not None:
                mode, uid, gid, time = was.mode, was.uid, was.gid, was.mtime_ns
            self._entries += 1
            self._size += size
            record = f"{relative}\0{mode:o}\0{uid}\0{gid}\0{size}\0{time}\0{target}\0"
            self._hash.update(record.encode("utf-8", "surrogateescape"))
        return directories

    def _before(self, directory: int, name: str, found: os.stat_result) -> Optional[Status]:
        if self._original is None or found.st_nlink < 2 or stat.S_ISDIR(found.st_mode):
            return None
        was = self._original(filesystem.status_at(directory, name))
        return None if was is None else was.status


def _is_mount(directory: int, name: str) -> bool:
    """Whether a file on another device is a mount, and not just an overlay's of another layer."""
    return filesystem.status_at(directory, name).mount_root
