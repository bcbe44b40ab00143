"""The checkpoint of one apply: its plan, its journal, and all that it replaces, deletes or changes
in place, saved before anything is changed.

It is a directory of the runner's own, below `checkpoints` in its state. The process that applies
opens the files before it takes on the plan's identity, which cannot reach them by any path.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
import struct
from dataclasses import replace
from typing import AbstractSet, Dict, List, Optional, Tuple

from shannotd.runner import filesystem, journal, saved, staging, tree
from shannotd.runner.filesystem import Descent, Status
from shannotd.runner.frames import RunnerError
from shannotd.runner.given import Given
from shannotd.runner.journal import Journal
from shannotd.runner.plan import FileState, TreeSummary
from shannotd.runner.saved import Saved, SavedEntry, Stored
from shannotd.runner.tree import Entry, MountInside
from shannotd.runner.workspace import Action, stale

_FICLONERANGE = 0x4020940D  # linux/fs.h: struct file_clone_range
_CLONE_RANGE = struct.Struct("=qQQQ")
_BLOCK = 4096
_CLONED_BYTES = 1024 * 1024  # smaller contents are not worth a system call of their own
_WAITING_BYTES = 4 * 1024 * 1024
# What a checkpoint leaves free on its disk.
_SPARE_BYTES = 16 * 1024 * 1024
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Checkpoint:
    """The open files of one checkpoint; close it when the apply is over."""

    def __init__(self, directory: int, *, created: bool) -> None:
        """`directory` is a descriptor, from now on this object's."""
        self._directory = directory
        exclusive = os.O_EXCL if created else 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | exclusive
        self._files: List[int] = []
        try:
            self._journal = self._open("journal", _APPEND | exclusive)
            self._contents = self._open("contents", flags)
            self._index = self._open("index", _APPEND | exclusive)
        except BaseException:
            self.close()
            raise
        self.journal = Journal(self._journal)
        self._end = os.fstat(self._contents).st_size
        self._unwritten: Dict[int, Saved] = {}
        self._waiting = bytearray()  # the last contents before `_end`, not written yet
        self._device = os.fstat(self._contents).st_dev
        self._clones = created and self._try_clone()

    def _open(self, name: str, flags: int) -> int:
        descriptor = os.open(name, flags, 0o600, dir_fd=self._directory)
        self._files.append(descriptor)
        return descriptor

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    # What it tells.

    def plan(self) -> bytes:
        """The canonical plan that is or was applied."""
        descriptor = os.open("plan", filesystem.O_READ, dir_fd=self._directory)
        with open(descriptor, "rb") as file:
            return file.read()

    def applied(self) -> journal.Applied:
        """What the journal tells; a line that a crash tore is removed from it.

        :raises journal.Damaged: it cannot be read.
        """
        data = _read(self._journal)
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.ftruncate(self._journal, len(whole))
        return journal.read(whole)

    def saved(self) -> Dict[int, Saved]:
        """What was saved, by the index of the step that it was saved for."""
        found: Dict[int, Saved] = {}
        for line in _read(self._index).split(b"\n"):
            try:
                one = saved.decode(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # Torn by a crash: no intent speaks of what it would have told.
            found[one.index] = one
        return found

    def content(self, stored: Stored) -> Tuple[int, int]:
        """Where a content is: a descriptor (this object's) and the offset in it."""
        return self._contents, stored.offset

    def open_content(self, stored: Stored) -> int:
        """A read-only descriptor, the caller's, at the beginning of a content."""
        descriptor = os.open("contents", filesystem.O_READ, dir_fd=self._directory)
        os.lseek(descriptor, stored.offset, os.SEEK_SET)
        return descriptor

    # Saving.

    def require_space(self, actions: List[Action]) -> None:
        """See that all that `actions` displace can be saved.

        :raises RunnerError: `checkpoint_failed`: it is too much for the disk.
        """
        needed = 0
        for action in actions:
            if not _displaces(action) or action.found is None or action.found.status is None:
                continue
            if not self._clones or action.found.status.device != self._device:
                before = action.step.before
                needed += before.size or (before.tree.size if before.tree is not None else 0)
        free = self._free()
        if needed > free:
            raise self._too_much(actions[0], needed, free)

    def _free(self) -> int:
        found = os.fstatvfs(self._contents)
        return max(0, found.f_bavail * found.f_frsize - _SPARE_BYTES)

    @staticmethod
    def _too_much(action: Action, needed: int, free: int) -> RunnerError:
        reason = f"it needs {needed} bytes, and {free} are free for it"
        return _failed(action, reason)

    def _try_clone(self) -> bool:
        """Whether the checkpoint's filesystem can share blocks between files."""
        try:
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            one = os.open(".", flags, 0o600, dir_fd=self._directory)
        except OSError:
            return False
        try:
            os.write(one, bytes(_BLOCK))
            return self._clone(one, _BLOCK, 0)
        finally:
            os.ftruncate(self._contents, 0)
            os.close(one)

    def save(self, action: Action, excluded: AbstractSet[str], given: Given) -> None:
        """Save what `action` displaces or changes; paths in `excluded` went elsewhere before. What
        earlier steps have `given` to files in a directory is not how they were there.

        :raises RunnerError: `checkpoint_failed`: not all of it can be; `stale`.
        """
        found, here = action.found, action.here
        if found is None or found.status is None or here is None:
            return
        state = _exact(found.state, found.status)
        if action.step.change in ("metadata", "rename"):
            self._keep(Saved(action.index, (SavedEntry("", replace(state, sha256=None)),)))
            return
        try:
            if found.data is not None and state.sha256 is not None:
                stored = self._store(found.data, state.sha256)
                entries = [SavedEntry("", state, stored)]
            else:
                entries = self._look(action, here, found, excluded, given)
        except MountInside as error:
            raise _failed(action, f"something is mounted at {error}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                size = found.state.size or (action.step.before.tree or _NO_TREE).size
                raise self._too_much(action, size, self._free()) from error
            where = error.filename if isinstance(error.filename, str) else here
            reason = f"{where} cannot be read ({os.strerror(error.errno or 0)})"
            raise _failed(action, reason) from error
        self._keep(Saved(action.index, tuple(entries)))

    def _keep(self, one: Saved) -> None:
        self._unwritten[one.index] = one

    def note_left(self, index: int, state: FileState) -> None:
        """The step `index`, of which something was saved, leaves `state` at its path, and not just
        what its plan says."""
        self._unwritten[index] = replace(self._unwritten[index], left=state)

    def _look(
        self,
        action: Action,
        here: str,
        found: Entry,
        excluded: AbstractSet[str],
        given: Given,
    ) -> List[SavedEntry]:
        """Entries for all that is at `here` now, which is what was `found` there."""
        parent, _, name = here.rpartition("/")
        directory = filesystem.open_directory(parent or "/")
        try:
            return self._entries(action, directory, name, found, excluded, given)
        finally:
            os.close(directory)

    def _entries(
        self,
        action: Action,
        directory: int,
        name: str,
        found: Entry,
        excluded: AbstractSet[str],
        given: Given,
    ) -> List[SavedEntry]:
        descriptor = os.open(name, filesystem.O_PATH, dir_fd=directory)
        try:
            status = filesystem.status(descriptor)
            assert action.here is not None
            first = self._named(descriptor, status, "", action.here)
            expected = found.state.sha256
            if first.content is not None and expected not in (None, first.content.sha256):
                path = action.step.path
                raise stale(action.index, path, "the same content", "content that changes")
            # An earlier step of the batch may give it other metadata, before this one.
            first = replace(first, state=_with_metadata(first.state, found))
            if not stat.S_ISDIR(status.mode):
                return [first]
            assert action.here is not None
            return [first, *self._below(descriptor, action.here, excluded, given)]
        finally:
            os.close(descriptor)

    def _below(
        self, directory: int, path: str, excluded: AbstractSet[str], given: Given
    ) -> List[SavedEntry]:
        """Everything in the tree at `path`, a directory before what is in it."""
        entries: List[SavedEntry] = []
        top = _open_listed(directory, path)
        with Descent(top) as descent:
            # None stands for the way back up to the directory above.
            pending: List[Optional[str]] = _names(top, "")
            while pending:
                relative = pending.pop()
                if relative is None:
                    descent.leave()
                    continue
                full = f"{path}/{relative}"
                if full in excluded:
                    continue
                name = relative.rpartition("/")[2]
                descriptor = os.open(name, filesystem.O_PATH, dir_fd=descent.current)
                try:
                    status = filesystem.status(descriptor)
                    if status.mount_root:
                        raise MountInside(full)
                    one = self._named(descriptor, status, relative, full)
                    was = given.original(status)
                    if was is not None:
                        one = replace(one, state=_with_metadata(one.state, was))
                    entries.append(one)
                    if stat.S_ISDIR(status.mode):
                        descent.enter(_open_listed(descriptor, full))
                        pending.append(None)
                        pending += _names(descent.current, relative + "/")
                finally:
                    os.close(descriptor)
        return entries

    def _named(self, descriptor: int, status: Status, relative: str, path: str) -> SavedEntry:
        try:
            return self._one(descriptor, status, relative)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                error.filename = path
            raise

    def _one(self, descriptor: int, status: Status, relative: str) -> SavedEntry:
        """The entry for one inode, its content saved."""
        kind = tree.file_type(status.mode)
        state = FileState(kind, stat.S_IMODE(status.mode), status.uid, status.gid)
        if kind == "symlink":
            state = replace(state, target=os.readlink("", dir_fd=descriptor))
        else:
            xattrs = tree.read_xattrs(filesystem.by_descriptor(descriptor))
            state = replace(state, xattrs=xattrs)
        if kind in tree.DEVICES:
            state = replace(state, target="{}:{}".format(*status.special))
        content = None
        if kind == "file":
            content = self._content(descriptor)
            state = replace(state, size=content.size, sha256=content.sha256)
        return SavedEntry(relative, replace(state, mtime_ns=status.mtime_ns), content)

    def _store(self, data: bytes, sha256: str) -> Stored:
        """Save a small content; it is written with others."""
        stored = Stored(self._end, len(data), sha256)
        self._waiting += data
        self._end += len(data)
        if len(self._waiting) >= _WAITING_BYTES:
            self._write_waiting()
        return stored

    def _write_waiting(self) -> None:
        view = memoryview(bytes(self._waiting))
        position = self._end - len(view)
        while view:
            written = os.pwrite(self._contents, view, position)
            view = view[written:]
            position += written
        self._waiting.clear()

    def _content(self, descriptor: int) -> Stored:
        content = filesystem.open_content(descriptor)
        try:
            return self._copy(content, os.fstat(content).st_size)
        finally:
            os.close(content)

    def _copy(self, source: int, size: int) -> Stored:
        self._write_waiting()
        begin = self._end
        aligned = -(-self._end // _BLOCK) * _BLOCK
        cloned = self._clones and size >= _CLONED_BYTES and self._clone(source, size, aligned)
        if cloned:
            begin, source = aligned, self._contents
        offset = begin if cloned else 0
        digest = hashlib.sha256()
        position = 0
        while position < size:
            part = os.pread(source, min(tree.CHUNK_BYTES, size - position), offset + position)
            if not part:
                break
            digest.update(part)
            if not cloned:
                staging.write(self._contents, part, begin + position)
            position += len(part)
        self._end = begin + position
        return Stored(begin, position, digest.hexdigest())

    def _clone(self, source: int, size: int, offset: int) -> bool:
        """Share the first `size` bytes of `source`, to its end (ioctl_ficlonerange(2))."""
        request = _CLONE_RANGE.pack(source, 0, size, offset)
        try:
            fcntl.ioctl(self._contents, _FICLONERANGE, request)
        except OSError:
            return False
        return True

    def flush(self) -> None:
        """Have all that was saved on disk."""
        if self._unwritten:
            self._write_waiting()
            lines = [_line(one) for one in self._unwritten.values()]
            view = memoryview(b"".join(lines))
            while view:
                view = view[os.write(self._index, view) :]
            self._unwritten.clear()
            os.fsync(self._contents)
            os.fsync(self._index)


_NO_TREE = TreeSummary(0, 0, "")


def _line(one: Saved) -> bytes:
    return json.dumps(saved.encode(one), separators=(",", ":")).encode("ascii") + b"\n"


def _displaces(action: Action) -> bool:
    return action.step.change in ("modify", "append", "delete")


def _exact(state: FileState, status: Status) -> FileState:
    return replace(state, mtime_ns=status.mtime_ns, links=None, fingerprint=None, tree=None)


def _with_metadata(state: FileState, found: Entry) -> FileState:
    assert found.status is not None
    seen = found.state
    return replace(
        state,
        mode=seen.mode,
        uid=seen.uid,
        gid=seen.gid,
        xattrs=seen.xattrs,
        mtime_ns=found.status.mtime_ns,
    )


def _open_listed(directory: int, path: str) -> int:
    try:
        return os.open(".", filesystem.O_DIRECTORY_READ, dir_fd=directory)
    except OSError as error:
        error.filename = path
        raise


def _names(directory: int, prefix: str) -> List[Optional[str]]:
    return [prefix + name for name in sorted(os.listdir(directory), reverse=True)]


def _read(descriptor: int) -> bytes:
    parts: List[bytes] = []
    position = 0
    while True:
        part = os.pread(descriptor, tree.CHUNK_BYTES, position)
        if not part:
            return b"".join(parts)
        parts.append(part)
        position += len(part)


def _failed(action: Action, reason: str) -> RunnerError:
    return RunnerError("checkpoint_failed", step=action.index, path=action.step.path, reason=reason)
