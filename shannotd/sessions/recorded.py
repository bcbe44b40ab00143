"""A plan and its contents as they come from the runner."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from shannotd.sessions.channel import Frame

BlobList = list[tuple[str, int]]


class Keeper(Protocol):
    """Where the contents that a plan needs are kept."""

    async def keep_small(self, blobs: BlobList, contents: bytes | bytearray) -> None:
        """Keep several contents, given by SHA-256 and size, that stand one after the other.

        :raises ValueError: one is not what its hash says.
        """

    async def keep_large(self, sha256: str, size: int, descriptor: int) -> None:
        """Keep one that is read from `descriptor`.

        :raises ValueError: it is not what its hash says.
        """


@dataclass(frozen=True)
class Recorded:
    """A plan as the runner recorded it: canonical bytes, notes as JSON, and its seal."""

    digest: str
    seal: str
    canonical: bytes
    notes: bytes


def recorded(frame: Frame) -> Recorded:
    """The plan in a frame of the event `plan`.

    :raises KeyError, TypeError, ValueError: there is none.
    """
    header, payload = frame.header, frame.payload
    size = size_of(header["canonical_size"])
    if size + size_of(header["notes_size"]) != len(payload):
        raise ValueError("sizes that do not add up")
    return Recorded(
        digest=sha256_of(header["digest"]),
        seal=str(header["seal"]),
        canonical=bytes(payload[:size]),
        notes=bytes(payload[size:]),
    )


async def keep_contents(frame: Frame, keeper: Keeper) -> None:
    """Have what is in a frame of the event `blobs` or `blob` kept, and its descriptors closed.

    :raises KeyError, TypeError, ValueError: they are not what the frame says.
    """
    header = frame.header
    try:
        if header["event"] == "blobs":
            blobs = [(sha256_of(name), size_of(size)) for name, size in header["blobs"]]
            if sum(size for _, size in blobs) != len(frame.payload):
                raise ValueError("not as long as it said")
            await keeper.keep_small(blobs, frame.payload)
        else:
            if len(frame.descriptors) != 1:
                raise ValueError("without its descriptor")
            await keeper.keep_large(
                sha256_of(header["sha256"]), size_of(header["size"]), frame.descriptors[0]
            )
    finally:
        while frame.descriptors:
            os.close(frame.descriptors.pop())


def sha256_of(value: object) -> str:
    """`value`, which must be a SHA-256 in hex.

    :raises ValueError: it is none.
    """
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError("a digest that is none")
    return value


def size_of(value: object) -> int:
    """`value`, which must be a number of bytes.

    :raises ValueError: it is none.
    """
    if type(value) is not int or value < 0:
        raise ValueError("a size that is none")
    return value
