"""One file of an upper layer beside what the host has at its path: what changed, with its diff."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Callable, Dict, Optional, Tuple

from shannotd.runner import diff, filesystem, tree
from shannotd.runner.delta import History, Known
from shannotd.runner.diff import Difference
from shannotd.runner.frames import RunnerError
from shannotd.runner.layer import USER, Layer, failed
from shannotd.runner.passwords import Shown
from shannotd.runner.plan import ABSENT, FileState, FileStep, StepNote, TreeSummary
from shannotd.runner.tree import CHUNK_BYTES, Entry

SHOWN_BYTES = 1024 * 1024  # larger files are not read into memory for a diff
# Contents of so many bytes stay in memory until they are sent, of so many in all.
KEPT_BYTES = 64 * 1024
KEPT_TOTAL_BYTES = 32 * 1024 * 1024
TAIL_BYTES = 4096  # of the end of a file, to show what is appended in its place
# What is read in all may be so many times what may be written.
_LOOKED_TIMES = 4
_SAMPLE_BYTES = 65536


@dataclass(frozen=True)
class Content:
    """Bytes that a step needs: `size` bytes from `offset` of a file in the upper layer.

    `data` holds them where they are few, `copy` is a descriptor of a copy of just them, where
    the file may have changed meanwhile.
    """

    sha256: str
    size: int
    offset: int
    layer: Layer
    relative: str
    data: Optional[bytes] = None
    copy: Optional[int] = None

    def open(self) -> int:
        """A readable descriptor of the file, positioned at `offset`; the caller's."""
        if self.copy is not None:
            return os.open(filesystem.by_descriptor(self.copy), os.O_RDONLY | os.O_CLOEXEC)
        descriptor = filesystem.open_below(self.layer.upper, self.relative, filesystem.O_READ)
        os.lseek(descriptor, self.offset, os.SEEK_SET)
        return descriptor

    def read(self) -> bytes:
        """All the bytes, at once."""
        if self.data is not None:
            return self.data
        descriptor = self.open()
        try:
            return tree.read_all(descriptor)[: self.size]
        finally:
            os.close(descriptor)


_CHANGED = "it was changed on the host while the script ran"


@dataclass
class Change:
    """A step that is found but not yet in its place among the others.

    `mount` is that of the path on the host, `mtime_ns` the time of the file that appeared or
    went, `inode` that of a file with several names in the upper layer, `data` all that is in
    the file now, where it is little.
    """

    step: FileStep
    note: StepNote
    mount: int
    content: Optional[Content] = None
    mtime_ns: Optional[int] = None
    inode: Optional[Tuple[int, int]] = None
    data: Optional[bytes] = None


@dataclass(frozen=True)
class _Read:
    """What one pass over a file tells; the prefix is as long as the file was before."""

    sha256: str
    prefix: Optional[str]
    suffix: Optional[str]
    prefix_lines: int
    tail: bytes
    data: Optional[bytes]


class Comparer:
    """Compares files; keeps what the diffs may still cost."""

    def __init__(
        self,
        promised: Callable[[int], bool],
        started_ns: int,
        written_bytes: Optional[int],
        history: History,
        shown: Shown,
    ) -> None:
        """`promised` tells whether a modification time was set on purpose; `started_ns` is when
        the script began, `written_bytes` its limit, `shown` what it saw instead of the host's."""
        self._promised = promised
        self._written_bytes = written_bytes
        self._started_ns = started_ns
        self._budget = history.budget
        self._versions = history.versions
        self._shown = shown
        self._kept = history.kept_bytes
        self._looked = 0

    def file(
        self,
        layer: Layer,
        relative: str,
        descriptor: int,
        status: os.stat_result,
        path: str,
        xattrs: Dict[str, str],
        before: Entry,
        known: Optional[Known],
        host: Optional[int],
        mount: int,
        *,
        parted: bool = False,
    ) -> Optional[Change]:
        """The change at `path`, None where there is none.

        If it was `parted` from other names, it is another file, whatever is in it.

        `descriptor` reads the file in the upper layer; `host` is the host's directory. `before`
        is of an earlier delta where that is `known`.
        """
        self._looked += status.st_size
        limit = self._written_bytes
        if limit is not None and (status.st_size > limit or self._looked > _LOOKED_TIMES * limit):
            # Holes and more names of one file cost nothing to make, but each is read whole.
            raise RunnerError("limit_exceeded", name="written_bytes", limit=limit)
        was = before.state
        old_size = was.size if was.type == "file" and was.size is not None else 0
        restored = self._shown.restored(path, descriptor, status.st_size)
        if restored is None:
            size = status.st_size
            read = _read(descriptor, size, old_size)
            kept = self._keep(read.data)
        else:
            size, read, kept = len(restored), _split(restored, old_size), restored
            is_untouched = known is None and self._shown.is_untouched(
                path, descriptor, status.st_size
            )
            if is_untouched and (was.type != "file" or read.sha256 != was.sha256):
                # The host has another by now: that is not the script's doing.
                self._require_as_was(path, status, xattrs, was)
                return None
        after = FileState(
            "file",
            status.st_mode & 0o7777,
            status.st_uid,
            status.st_gid,
            size,
            read.sha256,
            xattrs=xattrs,
            mtime_ns=status.st_mtime_ns if self._promised(status.st_mtime_ns) else None,
        )
        content = Content(read.sha256, size, 0, layer, relative, kept)
        if was.type != "file":
            change = "create" if was is ABSENT or was.type == "absent" else "modify"
            note = self._note(None, path, b"", read.data, descriptor)
            step = FileStep(change, path, was, after)
            return Change(step, note, mount, content, status.st_mtime_ns, data=kept)
        if layer.prefix == USER:
            # Such attributes of the host's file are hidden by the mount, not removed.
            hidden = {name: value for name, value in was.xattrs.items() if name.startswith(USER)}
            after = replace(after, xattrs={**hidden, **after.xattrs})
        kept_prefix = self._prefix_kept(read, before, descriptor, host, path)
        if kept_prefix and size == old_size and not parted:
            times = self.times(path, before, known, status.st_mtime_ns)
            found = _metadata(path, was, after, times)
            return None if found is None else Change(found, StepNote(), mount, data=kept)
        if before.status is not None and before.status.ctime_ns > self._started_ns:
            # The script saw another content than the one that it would be compared with.
            raise failed(path, _CHANGED)
        if kept_prefix and old_size > 0 and read.suffix is not None:
            return self._append(path, was, after, read, content, mount)
        if before.data is None:
            note = self._note(path, path, None, None, descriptor)
        else:
            note = self._note(path, path, before.data, read.data, descriptor)
        step = FileStep("modify", path, was, after)
        return Change(step, note, mount, content, data=kept)

    def _require_as_was(
        self, path: str, status: os.stat_result, xattrs: Dict[str, str], was: FileState
    ) -> None:
        """See that the script gave the file no other mode, owner or attributes either.

        :raises RunnerError: `capture_failed`: it did, to a file that is not there any more.
        """
        now = (status.st_mode & 0o7777, status.st_uid, status.st_gid, xattrs)
        if was.type == "file" and now != (was.mode, was.uid, was.gid, was.xattrs):
            raise failed(path, _CHANGED)

    def _keep(self, data: Optional[bytes]) -> Optional[bytes]:
        if data is None or len(data) > KEPT_BYTES or self._kept + len(data) > KEPT_TOTAL_BYTES:
            return None
        self._kept += len(data)
        return data

    def deleted(self, path: str, before: Entry) -> StepNote:
        """What to show of a file that was deleted."""
        if before.state.type != "file" or before.data is None:
            return StepNote(too_large=before.state.type == "file" and before.state.size != 0)
        if not before.data:
            return StepNote()
        return self._difference(path, None, before.data, b"")

    def _prefix_kept(
        self, read: _Read, before: Entry, descriptor: int, host: Optional[int], path: str
    ) -> bool:
        """Whether the old content is the beginning of the new (or all of it)."""
        if read.prefix is None:
            return False
        if before.state.sha256 is not None:
            return read.prefix == before.state.sha256
        if host is None:
            return False
        size = before.state.size or 0
        return _same_content(host, path.rpartition("/")[2], descriptor, size)

    def times(
        self, path: str, before: Entry, known: Optional[Known], mtime_ns: int
    ) -> Tuple[Optional[int], Optional[int]]:
        """The times to record of a file that is the same but may have another time: old, new.

        When an earlier delta is applied, the files that it makes get the time of that moment,
        unless it promised another: nobody can tell it beforehand.
        """
        last = self._versions.get(path)
        if last is not None and last.mtime_ns == mtime_ns:
            return None, None
        if known is not None:
            # A file that only got another name has its old time until it is written.
            had_own = last is not None and self._promised(last.mtime_ns)
            told = known.mtime_ns is not None or had_own or self._promised(mtime_ns)
            return None, mtime_ns if told and mtime_ns != known.mtime_ns else None
        assert before.status is not None
        if mtime_ns == before.status.mtime_ns:
            return None, None
        return before.status.mtime_ns, mtime_ns

    def _append(
        self,
        path: str,
        was: FileState,
        after: FileState,
        read: _Read,
        content: Content,
        mount: int,
    ) -> Change:
        assert was.size is not None and after.size is not None and read.suffix is not None
        added = after.size - was.size
        whole = content.data
        data = None if whole is None else whole[was.size :]
        if data is None and added <= KEPT_BYTES:
            data = replace(content, offset=was.size, size=added).read()
        content = replace(content, sha256=read.suffix, size=added, offset=was.size, data=data)
        if added > diff.FILE_BYTES:
            note = StepNote(binary=diff.is_binary(read.tail), too_large=True)
        else:
            suffix = content.read()
            before, added_lines = (
                self._shown.concealed(path, part) for part in (read.tail, suffix)
            )
            found = diff.appended(path, before, read.prefix_lines, added_lines, self._budget)
            note = as_note(found)
        summary = TreeSummary(1, added, read.suffix)
        step = FileStep("append", path, was, after, appended=summary)
        return Change(step, note, mount, content, data=whole)

    def _note(
        self,
        old_path: Optional[str],
        path: str,
        before: Optional[bytes],
        after: Optional[bytes],
        descriptor: int,
    ) -> StepNote:
        if before is None or after is None:
            sample = os.pread(descriptor, _SAMPLE_BYTES, 0)
            return StepNote(binary=True) if diff.is_binary(sample) else StepNote(too_large=True)
        if before == after:
            return StepNote()
        return self._difference(old_path, path, before, after)

    def _difference(
        self, old_path: Optional[str], path: Optional[str], before: bytes, after: bytes
    ) -> StepNote:
        old = before if old_path is None else self._shown.concealed(old_path, before)
        new = after if path is None else self._shown.concealed(path, after)
        return as_note(diff.difference(old_path, path, old, new, self._budget))


def _metadata(
    path: str, was: FileState, after: FileState, times: Tuple[Optional[int], Optional[int]]
) -> Optional[FileStep]:
    was = replace(was, mtime_ns=times[0])
    after = replace(
        after,
        sha256=was.sha256,
        fingerprint=was.fingerprint,
        mtime_ns=times[1],
        links=was.links,
    )
    return None if was == after else FileStep("metadata", path, was, after)


def as_note(found: Difference) -> StepNote:
    """A diff as it is shown beside a step."""
    return StepNote(found.text, found.binary, found.too_large)


def _read(descriptor: int, size: int, old_size: int) -> _Read:
    """Read a file once: whole where it is small, else in chunks."""
    if size <= SHOWN_BYTES:
        data = os.read(descriptor, size + 1) if size else b""
        if len(data) < size:
            data += tree.read_all(descriptor)
        return _split(data, old_size)
    return _stream(descriptor, old_size)


def _split(data: bytes, old_size: int) -> _Read:
    sha256 = hashlib.sha256(data).hexdigest()
    if old_size > len(data):
        return _Read(sha256, None, None, 0, b"", data)
    if old_size == len(data):
        return _Read(sha256, sha256, None, 0, b"", data)
    prefix = data[:old_size]
    return _Read(
        sha256,
        hashlib.sha256(prefix).hexdigest(),
        hashlib.sha256(data[old_size:]).hexdigest(),
        prefix.count(b"\n"),
        last_lines(prefix),
        data,
    )


def _stream(descriptor: int, old_size: int) -> _Read:
    prefix, suffix = hashlib.sha256(), hashlib.sha256()
    lines, tail, position = 0, b"", 0
    while position < old_size:
        part = os.read(descriptor, min(CHUNK_BYTES, old_size - position))
        if not part:
            return _Read(prefix.hexdigest(), None, None, 0, b"", None)
        prefix.update(part)
        lines += part.count(b"\n")
        tail = (tail + part)[-TAIL_BYTES:]
        position += len(part)
    whole = prefix.copy()
    added = False
    while True:
        part = os.read(descriptor, CHUNK_BYTES)
        if not part:
            break
        whole.update(part)
        suffix.update(part)
        added = True
    return _Read(
        whole.hexdigest(),
        prefix.hexdigest(),
        suffix.hexdigest() if added else None,
        lines,
        last_lines(tail),
        None,
    )


def last_lines(data: bytes) -> bytes:
    """The last three lines of `data` at most, from a line's start (or what is at hand)."""
    tail = data[-TAIL_BYTES:]
    end = len(tail) - 1
    start = 0
    for _ in range(diff.CONTEXT_LINES + 1):
        end = tail.rfind(b"\n", 0, max(end, 0))
        if end < 0:
            break
        start = end + 1
    else:
        return tail[start:]
    if len(tail) == len(data):
        return tail
    # The first line at hand is cut: begin after it, if anything remains.
    return tail[tail.find(b"\n") + 1 :]


def _same_content(host: int, name: str, descriptor: int, size: int) -> bool:
    """Whether the first `size` bytes of the host's file are those of `descriptor`'s."""
    looked = os.open(name, filesystem.O_PATH, dir_fd=host)
    try:
        content = filesystem.open_content(looked)
    except PermissionError:
        return False
    finally:
        os.close(looked)
    try:
        position = 0
        while position < size:
            part = os.read(content, min(CHUNK_BYTES, size - position))
            if not part or part != os.pread(descriptor, len(part), position):
                return False
            position += len(part)
        return True
    finally:
        os.close(content)
