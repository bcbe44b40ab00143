"""What a power cut leaves: an apply on a disk whose writes are kept, cut off at any of them.

The disk (disk.py) holds an ext4 with a journal, with the tree and the runner's state on it. Tried:

- `cut_after(n)`: just the first n writes reached the platter. Such a device has no cache of its
  own; the kernel's is lost.
- `cut_with_cache_lost(n, ...)`: all before the last flush reached it, and of the writes after that
  any set: a device with a cache that loses it.
- With `committing` somebody else has the filesystem commit its journal before each change of the
  apply, as it does every five seconds by itself: names are on the disk then, and data that nobody
  synced is not.

What it does not show: filesystems other than ext4 with ordered data, devices that lie about
flushes or tear a block, and damage to blocks that were not being written.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shannotd.runner import kernel
from tests.runner import overlays
from tests.support import syscalls
from tests.support.applying import Applying, applying
from tests.support.disk import Disk, Log, make_image, mounted
from tests.support.faults import Supervised
from tests.support.mixed import Bed
from tests.support.syscalls import Held

Result = TypeVar("Result")
_BLOCK = 65536
_ZEROS = bytes(_BLOCK)


@dataclass(frozen=True)
class Moment:
    """A moment of an apply: after so many writes to the disk, so many batches had to be on it."""

    position: int
    batches: int


@dataclass(frozen=True)
class Kept:
    """What an apply had the disk do.

    `base` is the image before it, `commits` where in the log somebody else's commit ended.
    """

    base: bytes
    log: Log
    moments: Sequence[Moment]
    commits: Sequence[int]

    def cut_after(self, count: int) -> bytes:
        """The image with the first `count` writes."""
        return self._with(self.log[:count])

    def cut_with_cache_lost(self, count: int, chance: random.Random) -> bytes:
        """The image with all up to the last flush before `count`, and some of the blocks since."""
        flushed = count
        while flushed > 0 and self.log[flushed - 1] is not None:
            flushed -= 1
        since = [write for write in self.log[flushed:count] if chance.random() < 0.5]
        return self._with([*self.log[:flushed], *since])

    def batches(self, count: int) -> int:
        """How many batches had to be on the disk after `count` writes."""
        return max((one.batches for one in self.moments if one.position <= count), default=0)

    def _with(self, writes: Log) -> bytes:
        image = bytearray(self.base)
        for write in writes:
            if write is not None:
                image[write.offset : write.offset + len(write.data)] = write.data
        return bytes(image)


def namespaced(work: Callable[[], Result]) -> Result:
    """What `work` returns in a process with a mount namespace of its own."""

    def inside() -> Result:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        return work()

    return overlays.in_child(inside)


def keep(bed: Bed, *, committing: bool, syncing: bool = True) -> Kept:
    """Apply the plan of `bed` on a disk that is kept.

    Without `syncing` the apply is only told that it synced.
    """
    directory = bed.top / "power"
    directory.mkdir()
    try:
        return namespaced(lambda: _keep(bed, directory, committing, syncing))
    finally:
        shutil.rmtree(directory)


def _keep(bed: Bed, directory: Path, committing: bool, syncing: bool) -> Kept:
    image = directory / "image"
    make_image(image)
    with mounted(image, bed.top):
        bed.lay_out()
    base = image.read_bytes()
    moments: list[Moment] = []
    commits: list[int] = []
    with ExitStack() as stack:
        disk = stack.enter_context(Disk(directory, image))
        stack.enter_context(mounted(disk.path, bed.top))
        other = stack.enter_context((bed.top / "other").open("wb", buffering=0))
        begun = disk.position

        def decide(_: int, held: Held) -> None:
            if committing and held.changes:
                other.write(b"x")
                os.fsync(other)
                commits.append(disk.position)
            if held.name in syscalls.SYNCING and not syncing:
                held.returned(0)
            else:
                held.go()

        def note(batches: int) -> None:
            moments.append(Moment(disk.position, batches))

        applied = _apply(bed, decide, note)
        assert applied.error is None, applied.error
        ended = disk.position
    log = disk.log()
    assert begun <= ended <= len(log)
    return Kept(base, log[:ended], moments, commits)


def _apply(bed: Bed, decide: Callable[[int, Held], None], note: Callable[[int], None]) -> Applying:
    program = syscalls.compile_filter(opening=False)

    def start(work: Callable[[], None]) -> Supervised:
        return Supervised(work, decide, program)

    def starting(applied: Applying) -> None:
        note(len(applied.started))
        applied.channel.send({"op": "go"})

    with applying(
        bed.steps,
        overlays.ourselves(),
        contents=list(bed.contents.values()),
        at_start=starting,
        start=start,
        state=bed.state,
    ) as applied:
        applied.finish()
    note(len(bed.states) - 1)
    return applied


@contextmanager
def restored(bed: Bed, image: bytes) -> Iterator[None]:
    """The power is back: the disk is mounted where it was. In a namespace of one's own."""
    file = bed.top / "image"
    with file.open("wb") as written:
        # Blocks of zeros stay holes.
        for offset in range(0, len(image), _BLOCK):
            block = image[offset : offset + _BLOCK]
            if block != _ZEROS:
                written.seek(offset)
                written.write(block)
        written.truncate(len(image))
    with mounted(file, bed.top):
        yield
    file.unlink()
