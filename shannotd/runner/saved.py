"""What a checkpoint holds of one step: what was at its path, as entries of a tree.

The first entry is the path itself (relative path ""); a directory that was replaced or
deleted has one more for everything in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from shannotd.runner.plan import FileState


@dataclass(frozen=True)
class Stored:
    """A content in the checkpoint's file of contents: where it begins, its size, its SHA-256."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class SavedEntry:
    """What was at `relative` below the step's path. Of a device `state.target` is its number."""

    relative: str
    state: FileState
    content: Optional[Stored] = None


@dataclass(frozen=True)
class Saved:
    """All that one step replaces, deletes or changes in place. `left` is what it left there where
    that is not what its plan says: an append, to a file that had grown, or a change of metadata, of
    a file that had got others by another name."""

    index: int
    entries: Tuple[SavedEntry, ...]
    left: Optional[FileState] = None


def encode(saved: Saved) -> Dict[str, object]:
    """`saved` as a line of a checkpoint's index."""
    encoded: Dict[str, object] = {
        "index": saved.index,
        "entries": [
            [
                entry.relative,
                _state(entry.state),
                None if entry.content is None else list(vars(entry.content).values()),
            ]
            for entry in saved.entries
        ],
    }
    if saved.left is not None:
        encoded["left"] = _state(saved.left)
    return encoded


def _state(state: FileState) -> Dict[str, object]:
    return {name: value for name, value in vars(state).items() if value is not None and value != {}}


def decode(value: Dict[str, Any]) -> Saved:
    """What `encode` made this of.

    :raises KeyError, TypeError, ValueError: it is none.
    """
    entries = []
    for relative, state, content in value["entries"]:
        stored = None if content is None else Stored(*content)
        entries.append(SavedEntry(relative, FileState(**state), stored))
    left = None if "left" not in value else FileState(**value["left"])
    return Saved(value["index"], tuple(entries), left)
