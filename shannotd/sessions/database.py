"""The store's tables, read and written. Blocking; used on the store's own thread only."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgpack

from shannotd.sessions.blobs import Blobs
from shannotd.sessions.records import Content, Entry, Page, Record, Stored
from shannotd.sessions.schema import migrate
from shannotd.wire.decode import decode, encode
from shannotd.wire.session import FINAL_STATES, State

Result = TypeVar("Result")

PAGE_BYTES = 4 * 1024 * 1024  # of records, however many may be asked for


class Database:
    """The sessions and blobs in one directory."""

    def __init__(self, directory: Path) -> None:
        """Open what is in `directory` (made with mode 0700), or begin it.

        :raises sqlite3.Error, OSError: it cannot be read or written.
        :raises ConfigError: a newer program made it.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "store.sqlite"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA journal_size_limit = 16777216")
            migrate(database, str(path))
            self._database = database
            self.blobs = Blobs(database, directory / "blobs")
            self.transaction(self.blobs.sweep)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def transaction(self, work: Callable[[], Result]) -> Result:
        """Do `work` as a whole or not at all."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        return result

    def write(self, entries: Sequence[Entry], *, synced: bool) -> None:
        """Write `entries` in one transaction; with `synced` it is on disk at the return."""
        # In WAL mode a commit with FULL syncs the log, and so all that was written before.
        self._database.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")

        def write_all() -> None:
            for entry in entries:
                self._write_entry(entry)

        self.transaction(write_all)

    def _write_entry(self, entry: Entry) -> None:
        session = entry.record.session
        self._database.execute(
            "INSERT INTO sessions (id, state, submitter, name, created_at, record)"
            " VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET state = excluded.state, record = excluded.record",
            (
                session.id,
                session.state.value,
                session.submitter,
                _name_bytes(session.name),
                session.created_at,
                msgpack.packb(encode(entry.record), unicode_errors="surrogateescape"),
            ),
        )
        self._database.executemany(
            "INSERT OR REPLACE INTO contents VALUES (?, ?, ?)",
            [(session.id, part, data) for part, data in entry.contents.items()],
        )

    def find(self, prefix: str, submitter: int | None) -> list[str]:
        """The ids that begin with `prefix`, of `submitter` (None: of everybody), at most 1000."""
        rows = self._database.execute(
            "SELECT id FROM sessions WHERE id >= ? AND id < ? AND (? IS NULL OR submitter = ?)"
            " LIMIT 1000",
            (prefix, prefix + "g", submitter, submitter),  # g follows the last hexadecimal digit
        )
        return [identifier for (identifier,) in rows]

    def load(self, identifier: str) -> Stored | None:
        """The session with all its contents."""
        row = self._database.execute(
            "SELECT record FROM sessions WHERE id = ?", (identifier,)
        ).fetchone()
        if row is None:
            return None
        parts = self._database.execute(
            "SELECT part, data FROM contents WHERE session = ?", (identifier,)
        )
        return Stored(decode(Record, _unpack(row[0]), "record"), dict(parts.fetchall()))

    def page(
        self,
        states: tuple[State, ...],
        name: str | None,
        submitter: int | None,
        limit: int,
        before: int | None,
    ) -> Page:
        """Sessions, newest first; see `Store.page`."""
        conditions, values = ["1"], list[object]()
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            values += [state.value for state in states]
        if name is not None:
            conditions.append("name = ?")
            values.append(_name_bytes(name))
        if submitter is not None:
            conditions.append("submitter = ?")
            values.append(submitter)
        where = " AND ".join(conditions)
        (total,) = self._database.execute(
            f"SELECT count(*) FROM sessions WHERE {where}", values
        ).fetchone()
        rows = self._database.execute(
            f"SELECT sequence, record FROM sessions WHERE {where} AND (? IS NULL OR sequence < ?)"
            " ORDER BY sequence DESC",
            [*values, before, before],
        )
        sessions = list[dict[str, object]]()
        size, last = 0, None
        for sequence, record in rows:
            size += len(record)
            if sessions and (len(sessions) == limit or size > PAGE_BYTES):
                return Page(sessions, total, str(last))
            sessions.append(cast(dict[str, object], _unpack(record)["session"]))
            last = sequence
        return Page(sessions, total, None)

    def unfinished(self) -> list[Record]:
        """The records of all sessions that are in no final state, oldest first."""
        open_states = [state.value for state in State if state not in FINAL_STATES]
        rows = self._database.execute(
            f"SELECT record FROM sessions WHERE state IN ({', '.join('?' * len(open_states))})"
            " ORDER BY sequence",
            open_states,
        )
        return [decode(Record, _unpack(record), "record") for (record,) in rows]

    def content(self, session: str, sha256: str) -> Content | None:
        """A content that `session` refers to; None when it does not."""
        found = self.blobs.find(session, sha256)
        if found is None:
            return None
        size, data = found
        return Content(size, data, None if data is not None else self.blobs.open_large(sha256))


def _name_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _unpack(data: bytes) -> dict[str, Any]:
    return cast(dict[str, Any], msgpack.unpackb(data, unicode_errors="surrogateescape"))
