"""Contents that an apply needs, asked of the other end of its channel a few megabytes at a time."""

from __future__ import annotations

import hashlib
import os
from typing import Dict, NamedTuple, Protocol, Sequence, Tuple, Union

from shannotd.runner.frames import Channel, RunnerError

# The most that one request asks for.
NEED_BYTES = 8 * 1024 * 1024
NEED_COUNT = 4096
EMPTY = hashlib.sha256().hexdigest()


class Source(NamedTuple):
    """Where a large content is: in an open file, from `offset` on."""

    descriptor: int
    offset: int = 0


class Contents(Protocol):
    """Where a batch has its contents from."""

    def has(self, sha256: str) -> bool:
        """Whether `get` can give it now."""

    def get(self, sha256: str) -> Union[bytes, Source]:
        """Bytes whose hash was checked, or a place to read from where it was not."""

    def ask(self, wanted: Sequence[Tuple[str, int]]) -> None:
        """Have as many of `wanted` (hash and size, in order) as make up one request."""


class AskedContents:
    """What was asked of the channel's other end last; large ones are descriptors."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._held: Dict[str, Union[bytes, int]] = {EMPTY: b""}

    def __enter__(self) -> AskedContents:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def has(self, sha256: str) -> bool:
        """Whether `get` can give it now."""
        return sha256 in self._held

    def get(self, sha256: str) -> Union[bytes, Source]:
        """Bytes whose hash was checked, or a place to read from where it was not."""
        content = self._held[sha256]
        return Source(content) if isinstance(content, int) else content

    def drop(self) -> None:
        """Forget everything."""
        for content in self._held.values():
            if isinstance(content, int):
                os.close(content)
        self._held = {EMPTY: b""}

    def ask(self, wanted: Sequence[Tuple[str, int]]) -> None:
        """Have as many of `wanted` (hash and size, in order) as make up one request.

        What was held before is dropped.

        :raises RunnerError: `apply_failed`: something else was sent.
        """
        self.drop()
        needed: Dict[str, int] = {}
        size = 0
        for sha256, length in wanted:
            if sha256 in needed or sha256 == EMPTY:
                continue
            if needed and (size + length > NEED_BYTES or len(needed) == NEED_COUNT):
                break
            needed[sha256] = length
            size += length
        self._channel.send({"event": "need", "sha256": list(needed)})
        while not all(sha256 in self._held for sha256 in needed):
            self._receive()

    def _receive(self) -> None:
        header, payload, descriptors = self._channel.receive()
        operation = header.get("op")
        if operation == "blob" and len(descriptors) == 1:
            sha256 = str(header.get("sha256"))
            previous = self._held.get(sha256)
            if isinstance(previous, int):
                os.close(previous)
            self._held[sha256] = descriptors[0]
            return
        for descriptor in descriptors:
            os.close(descriptor)
        blobs = header.get("blobs")
        if operation != "blobs" or not isinstance(blobs, list) or not blobs:
            raise _wrong("no contents were sent")
        position = 0
        for sha256, length in blobs:
            data = payload[position : position + length]
            position += length
            if hashlib.sha256(data).hexdigest() != sha256:
                raise _wrong(f"the content sent for {sha256} is another one")
            self._held[sha256] = data


def _wrong(reason: str) -> RunnerError:
    return RunnerError("apply_failed", step=0, path="", reason=reason, before="not applied")
