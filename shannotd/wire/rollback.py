"""What a request to take a session back comes to."""

from __future__ import annotations

from dataclasses import dataclass

from shannotd.wire.session import Session


@dataclass(frozen=True)
class Conflict:
    """A path that is no longer as a session left it, and so is not rolled back; both in words.

    `forcible` says whether it can be rolled back all the same.
    """

    path: str
    expected: str
    found: str
    forcible: bool = True


@dataclass(frozen=True)
class RollbackAnswer:
    """What `sessions.rollback` answers: the session of the rollback, or what is in its way."""

    session: Session | None
    conflicts: tuple[Conflict, ...] = ()
