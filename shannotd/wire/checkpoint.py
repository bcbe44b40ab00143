"""What is saved of a session, so that it can be rolled back."""

from __future__ import annotations

from dataclasses import dataclass

from shannotd.wire.session import State


@dataclass(frozen=True)
class Checkpoint:
    """What is saved of a session, so that it can be rolled back: `size` in bytes on disk.

    `finished` says that nothing of its apply is in doubt. Name and state are null where there is
    no such session any more.
    """

    session: str
    created_at: float
    size: int
    finished: bool
    name: str | None = None
    state: State | None = None


@dataclass(frozen=True)
class SavedStep:
    """What a checkpoint has of one step (an index in the session's plan): of how many entries of
    the file system, in how many bytes of content."""

    step: int
    change: str
    path: str
    entries: int
    size: int


@dataclass(frozen=True)
class CheckpointContents:
    """What `checkpoints.get` answers."""

    checkpoint: Checkpoint
    steps: tuple[SavedStep, ...]
