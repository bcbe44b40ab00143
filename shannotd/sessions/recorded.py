"""A plan as it comes from the runner."""

from __future__ import annotations

from dataclasses import dataclass

from shannotd.sessions.channel import Frame


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
