"""How a reviewer changed a plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DroppedStep:
    """A step that a reviewer left out: its index in the plan before, what it would have done.

    `missed_by` are the indexes of steps of the new plan that may miss it: commands that name its
    path or come after it, files in a directory of which it would have changed mode or owner.
    """

    index: int
    what: str
    missed_by: tuple[int, ...] = ()


@dataclass(frozen=True)
class EditedStep:
    """A step with a reviewer's content: its index, and `origin`, that in the plan before.

    `replaced_by` is the index of a later step that writes the whole file anew.
    """

    index: int
    origin: int
    replaced_by: int | None = None


@dataclass(frozen=True)
class Amendment:
    """How a reviewer made a plan of another session's."""

    dropped: tuple[DroppedStep, ...] = ()
    edited: tuple[EditedStep, ...] = ()
