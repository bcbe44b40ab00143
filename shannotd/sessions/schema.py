"""The store's tables, as the migrations that make them; one entry per version, never edited."""

from __future__ import annotations

import sqlite3
import time

from shannotd.wire.errors import ConfigError

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE sessions (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        submitter INTEGER NOT NULL,
        name BLOB NOT NULL,
        created_at REAL NOT NULL,
        record BLOB NOT NULL
    );
    CREATE INDEX sessions_by_state ON sessions (state);
    CREATE INDEX sessions_by_submitter ON sessions (submitter, sequence);
    CREATE TABLE contents (
        session TEXT NOT NULL,
        part TEXT NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (session, part)
    ) WITHOUT ROWID;
    CREATE TABLE blobs (
        sha256 TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        data BLOB
    );
    CREATE TABLE session_blobs (
        session TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        PRIMARY KEY (session, sha256)
    ) WITHOUT ROWID;
    CREATE INDEX session_blobs_by_content ON session_blobs (sha256);
    """,
)


def migrate(database: sqlite3.Connection, path: str) -> None:
    """Bring `database` (in autocommit mode) to the newest version, each step a transaction.

    :raises ConfigError: it is of a version that this program does not know.
    """
    database.execute(
        "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_at REAL)"
    )
    (version,) = database.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
    if version > len(MIGRATIONS):
        raise ConfigError(
            path=path,
            reason=f"the store has version {version}, this program knows {len(MIGRATIONS)}:"
            " it was written by a newer shannot",
        )
    for number in range(version + 1, len(MIGRATIONS) + 1):
        database.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[number - 1].split(";"):
                if statement.strip():
                    database.execute(statement)
            database.execute("INSERT INTO migrations VALUES (?, ?)", (number, time.time()))
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
