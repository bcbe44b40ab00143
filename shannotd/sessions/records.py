"""What the store keeps of a session, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shannotd.wire.session import Session

SCRIPT, STDOUT, STDERR, PLAN, NOTES = "script", "stdout", "stderr", "plan", "notes"


@dataclass(frozen=True)
class Record:
    """A session as it is stored, without its contents, and what only the daemon knows of it.

    `identity_uid` is under whom the plan is applied, `seal` the runner's proof that it
    recorded the plan.
    """

    session: Session
    seal: str = ""
    identity_uid: int | None = None


@dataclass(frozen=True)
class Entry:
    """What is to be written of one session: its record and the contents that are new."""

    record: Record
    contents: Mapping[str, bytes] = field(default_factory=dict)


class Stored(NamedTuple):
    """A session as it was read: `contents` has the parts that there are."""

    record: Record
    contents: Mapping[str, bytes]


class Page(NamedTuple):
    """Sessions as plain maps (they travel as they are), how many fit, the next cursor."""

    sessions: list[dict[str, object]]
    total: int
    next: str | None


class Content(NamedTuple):
    """A blob: its size, and its bytes or (for a large one) a descriptor, the caller's."""

    size: int
    data: bytes | None
    descriptor: int | None
