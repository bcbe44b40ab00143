"""The audit log's records, and what checking them found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AuditRecord:
    """One line of the audit log; `line` is the exact text that the hash chain covers."""

    sequence: int
    time: float
    event: str
    uid: int | None
    session: str | None
    details: Mapping[str, str | int | float | bool | None]
    hash: str
    line: str


@dataclass(frozen=True)
class AuditVerdict:
    """What `audit.verify` found: all records in order, from the first kept to the head."""

    records: int
    files: int
    head: str
    first_time: float | None
    last_time: float | None
