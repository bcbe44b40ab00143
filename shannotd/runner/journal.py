"""What an apply is about to do and has done, on disk before and after it (P4).

A line is a CRC-32 in hex, a space and one JSON record. The last line may be torn by a crash;
anything else that does not read is damage. The points of an apply, in order:

    begun     which plan; nothing is changed yet
    batch     a batch begins, whose temporary names begin with `prefix`
    intents   everything new is on disk beside its place, and what is replaced is in the checkpoint
    done      every step of the batch is done, and on disk
    cleaned   nothing temporary of it is left
    undone    the batch was taken back, in place of `done`
    command   a command is about to start
    ended     a command has ended
    rollback  what was applied is about to be taken back
    finished  what became of every step
    closed    nothing of the apply is in doubt any more
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Dict, List, Optional, Sequence

from shannotd.runner import filesystem
from shannotd.runner import intent as intents_of
from shannotd.runner.intent import Intent

Json = Dict[str, Any]


class Damaged(Exception):
    """A journal that was not written like this."""


class Journal:
    """Appends to the journal that `descriptor` (not closed here) is open for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def reserve(self, size: int) -> None:
        """Set room for `size` bytes aside.

        :raises OSError: the disk is full.
        """
        filesystem.reserve(self._descriptor, size)

    def write(self, point: str, *, sync: bool = True, **record: object) -> None:
        """Append one record; with `sync` it is on disk when this returns.

        :raises OSError: it could not be written.
        """
        text = json.dumps({"point": point, **record}, separators=(",", ":")).encode("ascii")
        line = memoryview(b"%08x %s\n" % (zlib.crc32(text), text))
        end = os.fstat(self._descriptor).st_size
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:
            os.ftruncate(self._descriptor, end)  # Half a line would spoil the next one.
            raise
        if sync:
            os.fdatasync(self._descriptor)

    def intend(self, intents: Sequence[Intent], places: Sequence[str]) -> None:
        """Write what a batch will do, and where it puts what it deletes; not synced."""
        encoded = [intents_of.encode(intent) for intent in intents]
        self.write("intents", sync=False, intents=encoded, places=list(places))


@dataclass
class BatchState:
    """How far a batch came: `phase` is the last of its points. `reverse` is one of a rollback,
    `encoded` its intents as they are written."""

    prefix: str
    reverse: bool
    phase: str = "batch"
    steps: List[int] = field(default_factory=list)
    encoded: List[Json] = field(default_factory=list)
    places: List[str] = field(default_factory=list)

    @cached_property
    def intents(self) -> List[Intent]:
        """What it was about to do; of a batch that is closed, nobody asks.

        :raises Damaged: it cannot be read.
        """
        try:
            return [intents_of.decode(value) for value in self.encoded]
        except (TypeError, ValueError) as error:
            raise Damaged(f"an intent: {type(error).__name__} {error}") from error


@dataclass
class Applied:
    """What a journal tells of an apply. `commands` holds how each command ended by its step, None
    for one of which that is not known."""

    digest: str = ""
    batches: List[BatchState] = field(default_factory=list)
    commands: Dict[int, Optional[Json]] = field(default_factory=dict)
    rolling_back: bool = False
    failure: Optional[Json] = None
    finished: Optional[Json] = None

    @property
    def open_batch(self) -> Optional[BatchState]:
        """The batch that is neither clean nor undone."""
        if self.batches and self.batches[-1].phase not in ("cleaned", "undone"):
            return self.batches[-1]
        return None

    def was_done(self) -> List[int]:
        """The indexes of the file steps that were applied, in order, even if taken back since."""
        return [
            index
            for batch in self.batches
            if not batch.reverse and batch.phase in ("done", "cleaned")
            for index in batch.steps
        ]

    @property
    def taken_back(self) -> bool:
        """Whether all that was applied has been taken back."""
        return any(batch.reverse and batch.phase in ("done", "cleaned") for batch in self.batches)


def read(data: bytes) -> Applied:
    """What the journal with the bytes `data` tells.

    :raises Damaged: it is none.
    """
    applied = Applied()
    lines = data.split(b"\n")
    for number, line in enumerate(lines):
        record = _record(line)
        if record is None:
            # Torn by a crash, and so nothing was done in its name.
            if number >= len(lines) - 2 and not any(lines[number + 1 :]):
                break
            raise Damaged(f"line {number + 1} cannot be read")
        try:
            _take(applied, record)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Damaged(f"line {number + 1}: {type(error).__name__} {error}") from error
    return applied


def _record(line: bytes) -> Optional[Json]:
    checksum, _, text = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _take(applied: Applied, record: Json) -> None:
    point = record["point"]
    if point == "begun":
        applied.digest = record["digest"]
    elif point == "batch":
        batch = BatchState(record["prefix"], record["reverse"], steps=list(record["steps"]))
        applied.batches.append(batch)
    elif point == "intents":
        batch = applied.batches[-1]
        batch.phase = point
        batch.encoded = list(record["intents"])
        batch.places = list(record["places"])
    elif point in ("done", "cleaned", "undone"):
        applied.batches[-1].phase = point
    elif point == "command":
        applied.commands[record["index"]] = None
    elif point == "ended":
        applied.commands[record["index"]] = record["ending"]
    elif point == "rollback":
        applied.rolling_back = True
        applied.failure = record["failure"]
    elif point == "finished":
        applied.finished = record
    elif point == "closed":
        pass
    else:
        raise ValueError(f"point {point!r}")
