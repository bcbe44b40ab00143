"""Contents by their SHA-256: small ones in the database, large ones as files beside it.

Blocking; used on the store's own thread only. A file appears under its final name only
when all of it is on disk and its hash is the one that was promised.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path

SMALL_BYTES = 256 * 1024
COPY_BYTES = 8 * 1024 * 1024  # what `LargeCopy.step` moves, so that other work comes between
_READ_BYTES = 1024 * 1024


class LargeCopy:
    """A large content on its way into the store, some megabytes a step."""

    def __init__(self, directory: Path, sha256: str, size: int, source: int) -> None:
        """Begin to copy `size` bytes from the descriptor `source`, from its current offset.

        :raises OSError: nothing can be written there.
        """
        self._final = _path(directory, sha256)
        self._temporary = directory / f"incoming-{secrets.token_hex(8)}"
        self._sha256 = sha256
        self._size = size
        self._source = source
        self._start = os.lseek(source, 0, os.SEEK_CUR)
        self._offset = 0
        self._hash = hashlib.sha256()
        self._target = os.open(
            self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )

    def step(self) -> bool:
        """Copy a part; True when the content is complete, on disk and in place.

        :raises ValueError: it is not what was promised.
        :raises OSError: it cannot be read or written.
        """
        end = min(self._size, self._offset + COPY_BYTES)
        while self._offset < end:
            wanted = min(_READ_BYTES, end - self._offset)
            data = os.pread(self._source, wanted, self._start + self._offset)
            if not data:
                raise ValueError(f"a content of {self._offset} bytes instead of {self._size}")
            self._hash.update(data)
            self._offset += len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(self._target, view) :]
        if self._offset < self._size:
            return False
        if self._hash.hexdigest() != self._sha256:
            raise ValueError("a content that is not what its hash says")
        os.fsync(self._target)
        self._final.parent.mkdir(mode=0o700, exist_ok=True)
        self._temporary.rename(self._final)
        for directory in (self._final.parent, self._final.parent.parent):
            _sync_directory(directory)
        return True

    def close(self) -> None:
        """Let go; what is unfinished is removed."""
        os.close(self._target)
        self._temporary.unlink(missing_ok=True)


class Blobs:
    """The contents that sessions refer to. The database is the caller's, in its transaction."""

    def __init__(self, database: sqlite3.Connection, directory: Path) -> None:
        self._database = database
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)

    def add_small(
        self, session: str, blobs: Iterable[tuple[str, int]], contents: bytes | bytearray
    ) -> None:
        """Keep the `blobs` (SHA-256 and size), whose contents follow each other in `contents`.

        :raises ValueError: one is not what its hash says.
        """
        offset = 0
        with memoryview(contents) as view:
            for sha256, size in blobs:
                data = bytes(view[offset : offset + size])
                offset += size
                if hashlib.sha256(data).hexdigest() != sha256:
                    raise ValueError("a content that is not what its hash says")
                if size <= SMALL_BYTES:
                    self._database.execute(
                        "INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", (sha256, size, data)
                    )
                    self._refer(session, sha256)
                else:
                    self._add_as_file(session, sha256, data)

    def has_large(self, sha256: str) -> bool:
        """Whether a large content is in place."""
        return _path(self._directory, sha256).exists()

    def begin_large(self, sha256: str, size: int, source: int) -> LargeCopy:
        """Begin to keep a large content."""
        return LargeCopy(self._directory, sha256, size, source)

    def add_large(self, session: str, sha256: str, size: int) -> None:
        """Note that `session` refers to a content whose file is in place."""
        self._database.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?, NULL)", (sha256, size))
        self._refer(session, sha256)

    def share(self, session: str, other: str) -> None:
        """Note that `other` refers to whatever `session` refers to."""
        self._database.execute(
            "INSERT OR IGNORE INTO session_blobs SELECT ?, sha256 FROM session_blobs"
            " WHERE session = ?",
            (other, session),
        )

    def find(self, session: str, sha256: str) -> tuple[int, bytes | None] | None:
        """Size and (if small) bytes of a content that `session` refers to; None without it."""
        row: tuple[int, bytes | None] | None = self._database.execute(
            "SELECT size, data FROM blobs JOIN session_blobs USING (sha256)"
            " WHERE session = ? AND sha256 = ?",
            (session, sha256),
        ).fetchone()
        return row

    def open_large(self, sha256: str) -> int:
        """A read-only descriptor of a large content, the caller's.

        :raises OSError: it cannot be opened.
        """
        return os.open(_path(self._directory, sha256), os.O_RDONLY | os.O_CLOEXEC)

    def drop(self, session: str) -> None:
        """Forget what `session` refers to, and delete what nobody else does."""
        mine = "SELECT sha256 FROM session_blobs WHERE session = ?"
        wanted = self._database.execute(mine, (session,)).fetchall()
        self._database.execute("DELETE FROM session_blobs WHERE session = ?", (session,))
        for (sha256,) in wanted:
            (used,) = self._database.execute(
                "SELECT count(*) FROM session_blobs WHERE sha256 = ?", (sha256,)
            ).fetchone()
            if not used:
                _path(self._directory, sha256).unlink(missing_ok=True)
                self._database.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,))

    def sweep(self) -> None:
        """Delete what no session refers to, and unfinished copies."""
        # What was kept for a session that came to nothing before it was written.
        self._database.execute(
            "DELETE FROM session_blobs WHERE session NOT IN (SELECT id FROM sessions)"
        )
        unused = "SELECT sha256 FROM blobs WHERE sha256 NOT IN (SELECT sha256 FROM session_blobs)"
        for (sha256,) in self._database.execute(unused + " AND data IS NULL").fetchall():
            _path(self._directory, sha256).unlink(missing_ok=True)
        self._database.execute(f"DELETE FROM blobs WHERE sha256 IN ({unused})")
        for entry in self._directory.glob("incoming-*"):
            entry.unlink(missing_ok=True)

    def _refer(self, session: str, sha256: str) -> None:
        self._database.execute(
            "INSERT OR IGNORE INTO session_blobs VALUES (?, ?)", (session, sha256)
        )

    def _add_as_file(self, session: str, sha256: str, data: bytes) -> None:
        descriptor = os.memfd_create("content", os.MFD_CLOEXEC)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.lseek(descriptor, 0, os.SEEK_SET)
            if not self.has_large(sha256):
                copy = self.begin_large(sha256, len(data), descriptor)
                try:
                    while not copy.step():
                        pass
                finally:
                    copy.close()
        finally:
            os.close(descriptor)
        self.add_large(session, sha256, len(data))


def _path(directory: Path, sha256: str) -> Path:
    return directory / sha256[:2] / sha256


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
