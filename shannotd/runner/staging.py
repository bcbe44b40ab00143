"""Writing new files under temporary names: content, holes, owner, mode, attributes, time."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import Dict

from shannotd.runner import filesystem
from shannotd.runner.contents import Source
from shannotd.runner.filesystem import Status
from shannotd.runner.plan import FileState
from shannotd.runner.tree import CAPABILITY, CHUNK_BYTES, LABEL, read_xattrs

O_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_BLOCK = 4096
_ZEROS = bytes(_BLOCK)
# Smaller files are written as they are: a hole would save next to nothing.
_SPARSE_BYTES = 65536
_NO_RANGE_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)


class WrongContent(Exception):
    """Bytes that were given as a content have another hash than it."""


def write(descriptor: int, data: bytes, position: int = 0) -> None:
    """Write `data` at `position`; long runs of zeros become holes."""
    if len(data) < _SPARSE_BYTES or _ZEROS not in data:
        _write_all(descriptor, data, position)
        return
    begin = 0
    for offset in range(0, len(data), _BLOCK):
        if data[offset : offset + _BLOCK] == _ZEROS:
            _write_all(descriptor, data[begin:offset], position + begin)
            begin = offset + _BLOCK
    _write_all(descriptor, data[begin:], position + begin)
    os.truncate(descriptor, max(os.fstat(descriptor).st_size, position + len(data)))


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view = view[written:]
        position += written


def write_from(descriptor: int, source: Source, size: int, sha256: str, position: int = 0) -> None:
    """Write the `size` bytes of `source` at `position`, in chunks.

    :raises WrongContent: they are not those that `sha256` names.
    """
    digest = hashlib.sha256()
    done = 0
    while done < size:
        wanted = min(CHUNK_BYTES, size - done)
        part = os.pread(source.descriptor, wanted, source.offset + done)
        if not part:
            break
        digest.update(part)
        write(descriptor, part, position + done)
        done += len(part)
    if digest.hexdigest() != sha256:
        raise WrongContent(sha256)


def copy(source: int, descriptor: int, size: int) -> None:
    """Copy the first `size` bytes of `source`, its holes as holes, shared where possible."""
    position = 0
    while position < size:
        try:
            begin = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole is left
                raise
            break
        end = min(os.lseek(source, begin, os.SEEK_HOLE), size)
        _copy_range(source, descriptor, begin, end)
        position = end
    os.truncate(descriptor, size)


def _copy_range(source: int, descriptor: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            copied = os.copy_file_range(source, descriptor, end - begin, begin, begin)
        except OSError as error:
            if error.errno not in _NO_RANGE_COPY:
                raise
            copied = 0
        if copied == 0:
            part = os.pread(source, min(CHUNK_BYTES, end - begin), begin)
            if not part:
                return
            _write_all(descriptor, part, begin)
            copied = len(part)
        begin += copied


def set_state(descriptor: int, wanted: FileState, status: Status, *, keep_open: bool) -> None:
    """Give the inode that `descriptor` holds (O_PATH suffices) what `wanted` says.

    Owner, attributes, mode, capability and time in this order: chown(2) clears setuid bits
    and capabilities, an ACL changes the mode. With `keep_open` its owner keeps full access
    to a directory, until `close_directory`.
    """
    owner = wanted.uid, wanted.gid
    changed = owner != (status.uid, status.gid)
    if changed and wanted.uid is not None and wanted.gid is not None:
        filesystem.change_owner(descriptor, wanted.uid, wanted.gid)
    if wanted.type != "symlink":
        path = filesystem.by_descriptor(descriptor)
        mode = wanted.mode if wanted.mode is not None else stat.S_IMODE(status.mode)
        if keep_open and wanted.type == "directory":
            mode |= 0o700
        present = read_xattrs(path)
        if present != wanted.xattrs:
            changed = True
            _set_xattrs(path, present, wanted.xattrs, status.mode)
        if changed or mode != stat.S_IMODE(status.mode):
            os.chmod(path, mode)
        capability = wanted.xattrs.get(CAPABILITY)
        if capability is not None and (changed or present.get(CAPABILITY) != capability):
            os.setxattr(path, CAPABILITY, bytes.fromhex(capability))
    if wanted.mtime_ns is not None:
        filesystem.change_time(descriptor, wanted.mtime_ns)


def _set_xattrs(path: str, present: Dict[str, str], wanted: Dict[str, str], mode: int) -> None:
    users = [name for name in {**present, **wanted} if name.startswith("user.")]
    if any(present.get(name) != wanted.get(name) for name in users) and not mode & 0o200:
        # Unlike other attributes these need write permission (xattr(7)).
        os.chmod(path, stat.S_IMODE(mode) | 0o200)
    for name in present:
        # What policy labels a new file is not ours to take away.
        if name not in wanted and name != LABEL:
            os.removexattr(path, name)
    for name, value in wanted.items():
        if present.get(name) != value and name != CAPABILITY:
            os.setxattr(path, name, bytes.fromhex(value))


def needs_closing(state: FileState) -> bool:
    """Whether a directory in `state` must be given its mode or time when all else is done."""
    if state.type != "directory":
        return False
    return state.mtime_ns is not None or (state.mode is not None and state.mode & 0o700 != 0o700)


def close_directory(descriptor: int, wanted: FileState) -> None:
    """Give a directory its final mode and time, after everything in it is done."""
    path = filesystem.by_descriptor(descriptor)
    if wanted.mode is not None and wanted.mode & 0o700 != 0o700:
        os.chmod(path, wanted.mode)
    if wanted.mtime_ns is not None:
        filesystem.change_time(descriptor, wanted.mtime_ns)
