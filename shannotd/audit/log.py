"""The audit log's writer: append-only, hash-chained, one writer at a time.

Its files and what a line holds: see `shannotd.audit.verify`. A line is in the kernel when
`append` returns and on disk when a later `sync` returns. The log never holds half a line
that a later one would follow.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from shannotd.audit.recovery import find_end
from shannotd.audit.verify import (
    HEAD_NAME,
    LOCK_NAME,
    MAX_LINE_BYTES,
    START,
    TORN_EVENT,
    Detail,
    Head,
    Line,
    encode_head,
    encode_line,
    file_name,
    file_number,
    line_hash,
    log_files,
    parse_line,
    read_head,
    read_lines,
    read_whole,
    record_of,
    torn_name,
    verify_directory,
)
from shannotd.wire.audit import AuditRecord, AuditVerdict
from shannotd.wire.errors import AuditBroken, ConfigError, StoreFull

MAX_FILE_BYTES = 8 * 1024 * 1024
_SECONDS_PER_DAY = 86400
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class AuditLog:
    """The log in `directory`, open for writing. Its methods may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the log, or begin one; `directory` is made with mode 0700. A new file is begun
        each day (UTC) and before one would grow beyond `max_file_bytes`.

        A line that a crash left unfinished is set aside, and a record says so.

        :raises AuditBroken: the end of the log does not fit its head.
        :raises ConfigError: another process writes this log.
        :raises StoreFull: nothing can be written there.
        :raises OSError: the directory cannot be read.
        """
        self._directory = directory
        self._max_file_bytes = max_file_bytes
        self._clock = clock
        self._state_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._failure: str | None = None
        self._boot = _BOOT_ID.read_text("ascii").strip()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = -1
        self._file = -1
        self._name = ""  # of the file that takes the next record
        self._size = 0
        self._day: int | None = None  # of its first record
        self._position = START  # of the last record
        self._synced = START
        try:
            self._take_lock()
            self._recover()
        except BaseException:
            self._close_descriptors()
            raise

    def append(
        self,
        event: str,
        *,
        uid: int | None,
        session: str | None,
        details: Mapping[str, Detail],
    ) -> AuditRecord:
        """Add one record and return it. It survives the daemon's death, and power loss after
        the next `sync`.

        :raises StoreFull: it could not be written as a whole; the log is as it was before.
        :raises ValueError: the record has more than 1 MiB, or a number that is none (NaN).
        """
        with self._state_lock:
            self._check_failure()
            line = Line(
                boot=self._boot,
                details=details,
                event=event,
                previous=self._position.hash,
                sequence=self._position.sequence + 1,
                session=session,
                time=round(self._clock(), 6),
                uid=uid,
            )
            encoded = encode_line(line)
            if len(encoded) >= MAX_LINE_BYTES:
                raise ValueError(f"an audit record of {len(encoded)} bytes")
            self._make_room(len(encoded) + 1, line.time)
            self._write(encoded + b"\n")
            record = record_of(line, encoded)
            self._position = Head(self._name, record.hash, self._size, record.sequence)
            return record

    def sync(self) -> None:
        """Have every record that was appended so far on disk, and the head that names the last.

        :raises StoreFull: the disk failed or is full. After a failed write-back the log takes
            no more records, since nobody knows what the disk holds; restart the daemon.
        """
        with self._sync_lock:
            with self._state_lock:
                self._check_failure()
                position = self._position
                if position == self._synced:
                    return
                # A duplicate, since a rotation may close the file meanwhile.
                file = os.dup(self._file)
            try:
                self._write_back(file)
            finally:
                os.close(file)
            self._write_head(position)

    def tail(self, limit: int, session: str | None = None) -> tuple[AuditRecord, ...]:
        """The last `limit` records (of `session`, if given), oldest first.

        :raises AuditBroken: a line on the way is no record.
        """
        with self._state_lock:
            last = self._position
        needle = b"" if session is None else f'"session":{json.dumps(session)}'.encode("ascii")
        found: list[AuditRecord] = []
        for name in reversed(log_files(self._directory)):
            if last.file and file_number(name) > file_number(last.file):
                continue
            until = last.offset if name == last.file else None
            lines = [line for line, _ in read_lines(self._directory / name, until)]
            for number in range(len(lines), 0, -1):
                if len(found) >= limit:
                    return tuple(reversed(found))
                encoded = lines[number - 1].removesuffix(b"\n")
                if needle not in encoded:
                    continue
                try:
                    line = parse_line(encoded)
                except ValueError as error:
                    raise AuditBroken(file=name, line=number, reason=str(error)) from None
                if session is None or line.session == session:
                    found.append(record_of(line, encoded))
        return tuple(reversed(found))

    def verify(self) -> AuditVerdict:
        """Check the whole log up to the last record that was appended.

        :raises AuditBroken: naming the file and line of the first thing that is wrong.
        """
        # The head first: a sync in another thread may write a later one any moment.
        head = read_head(self._directory)
        with self._state_lock:
            end = self._position
        return verify_directory(self._directory, head=head, end=end)

    def close(self) -> None:
        """Sync and let go of the log. A second call does nothing."""
        if self._folder < 0:
            return
        try:
            self.sync()
        finally:
            self._close_descriptors()

    def _take_lock(self) -> None:
        self._lock = self._open_in_folder(LOCK_NAME, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                path=str(self._directory), reason="another process writes this audit log"
            ) from None

    def _recover(self) -> None:
        end = find_end(self._directory, self._boot)
        if end.head is None:
            # The head comes before the first file: from then on its absence is a sign.
            self._write_head(START)
        else:
            self._synced = end.head
        self._position = end.position
        self._begin_file(end.file or file_name(1), new=end.file is None)
        self._size = end.size
        self._day = None if end.first_time is None else _day(end.first_time)
        self._set_aside(end.torn)
        self.sync()

    def _set_aside(self, torn: bytes) -> None:
        """Move an unfinished line out of the log and record it.

        Each step can be done again after a crash: the bytes leave the log only when their
        copy is on disk, and a copy without its record gets the record now.
        """
        name = torn_name(self._position.sequence + 1)
        if torn:
            self._replace(name, torn)
            os.ftruncate(self._file, self._size)
            os.fdatasync(self._file)
        else:
            try:
                torn = read_whole(self._directory / name)
            except FileNotFoundError:
                return
        details: dict[str, Detail] = {
            "bytes": len(torn),
            "kept_as": name,
            "sha256": line_hash(torn),
        }
        self.append(TORN_EVENT, uid=os.getuid(), session=None, details=details)

    def _make_room(self, size: int, now: float) -> None:
        """Begin a new file if the current one is of another day or would grow too large."""
        if self._size and (
            self._size + size > self._max_file_bytes or (self._day not in (None, _day(now)))
        ):
            # The new file says that the old one is complete: so it must be, on disk.
            self._write_back(self._file)
            self._begin_file(file_name(file_number(self._name) + 1), new=True)
        if not self._size:
            self._day = _day(now)

    def _begin_file(self, name: str, *, new: bool) -> None:
        flags = os.O_WRONLY | os.O_APPEND | (os.O_CREAT | os.O_EXCL if new else 0)
        try:
            file = self._open_in_folder(name, flags)
            os.fsync(self._folder)
        except OSError as error:
            raise self._full(error.strerror) from error
        if self._file >= 0:
            os.close(self._file)
        self._file, self._name, self._size = file, name, 0

    def _write(self, data: bytes) -> None:
        """Write `data` as a whole or leave the file as it was."""
        reason: str | None = None
        try:
            if os.write(self._file, data) < len(data):
                reason = "no space left on device"
        except OSError as error:
            reason = error.strerror
        if reason is None:
            self._size += len(data)
            return
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            self._failure = f"half a record could not be removed: {error.strerror}"
        raise self._full(reason)

    def _write_back(self, file: int) -> None:
        try:
            os.fdatasync(file)
        except OSError as error:
            self._failure = f"the disk failed to write the audit log: {error.strerror}"
            raise self._full(self._failure) from error

    def _write_head(self, head: Head) -> None:
        self._replace(HEAD_NAME, encode_head(head))
        self._synced = head

    def _replace(self, name: str, content: bytes) -> None:
        """Put a file in place in one step, on disk."""
        temporary = f"{name}.new"
        try:
            file = self._open_in_folder(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(file, "wb") as writer:
                writer.write(content)
                writer.flush()
                os.fsync(file)
            os.replace(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)
        except OSError as error:
            raise self._full(error.strerror) from error

    def _open_in_folder(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode=0o600, dir_fd=self._folder)

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise self._full(self._failure)

    def _full(self, reason: str | None) -> StoreFull:
        return StoreFull(reason=f"audit log: {reason}", path=str(self._directory))

    def _close_descriptors(self) -> None:
        for descriptor in (self._file, self._lock, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = self._folder = -1


def _day(moment: float) -> int:
    return int(moment // _SECONDS_PER_DAY)
