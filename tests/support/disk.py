"""A disk whose every write and flush is kept, in order: what a power cut may leave of it.

It is one file of a filesystem in user space (FUSE, spoken by hand: linux/fuse.h), below a loop
device: what the kernel submits to that device comes here as a WRITE, a flush of the device's
cache as an FSYNC. A process of its own serves it.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import stat
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shannotd.runner import kernel

# A checkpoint leaves 16 of them free.
MEGABYTES = 32
# No journal commit but those that somebody waits for, and data is put to disk as late as can be.
OPTIONS = "loop,noatime,commit=300,noauto_da_alloc"

_HEADER = struct.Struct("=IIQQIIIHH")  # struct fuse_in_header
_ANSWER = struct.Struct("=IiQ")
_ATTRIBUTES = struct.Struct("=6Q10I")
_INIT_OUT = struct.Struct("=IIIIHHIIHHII24x")
_READ_IN = struct.Struct("=QQI")  # the beginning of struct fuse_read_in and fuse_write_in
_WRITE_IN_SIZE = 40
_GETATTR, _OPEN, _READ, _WRITE, _STATFS = 3, 14, 15, 16, 17
_RELEASE, _FSYNC, _FLUSH, _INIT, _DESTROY = 18, 20, 25, 26, 38
_UNANSWERED = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_KEEP_CACHE = 2
_MAX_WRITE = 1 << 20

_ENTRY = struct.Struct("=qI")  # offset (negative: a flush) and size of a kept write
_COUNT = struct.Struct("=Q")


@dataclass(frozen=True)
class Write:
    """Bytes that were submitted to the disk."""

    offset: int
    data: bytes


# What was submitted, in order; None is a flush: all before it is on the platter.
Log = Sequence[Write | None]


class Disk:
    """A disk that is being kept."""

    def __init__(self, directory: Path, image: Path) -> None:
        """Begin with the content of `image`; `directory` is where it keeps its files.

        The caller's mount namespace must be private, and it have root's privilege.
        """
        self.path = directory / "disk"
        self._kept = directory / "kept"
        self.path.touch()
        self._counter = mmap.mmap(-1, _COUNT.size)
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={device},rootmode=100600,user_id=0,group_id=0,max_read={_MAX_WRITE}"
        kernel.mount("shannot-test", str(self.path), "fuse", 0, options)
        self._server = os.fork()
        if self._server == 0:
            try:
                self._serve(device, image)
            finally:
                os._exit(0)
        os.close(device)

    def _serve(self, device: int, image: Path) -> None:
        """In a process of its own; in the namespace of what is mounted from it, it could not end:
        it would wait for itself."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        kept = os.open(self._kept, os.O_WRONLY | os.O_CREAT, 0o600)
        descriptors = [device, os.open(image, os.O_RDWR), kept]
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.unmount(str(self.path))
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, 100 + number)
        os.closerange(3, 100)
        os.closerange(100 + len(descriptors), 1000)
        _Server(100, 101, 102, self._counter).run()

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away; nothing may be mounted from it any more."""
        kernel.unmount(str(self.path))
        os.waitpid(self._server, 0)

    @property
    def position(self) -> int:
        """How many writes and flushes were kept so far."""
        count: int = _COUNT.unpack(self._counter[:])[0]
        return count

    def log(self) -> Log:
        """All that was kept, once it is taken away."""
        log: list[Write | None] = []
        data = self._kept.read_bytes()
        place = 0
        while place < len(data):
            offset, size = _ENTRY.unpack_from(data, place)
            place += _ENTRY.size
            log.append(None if offset < 0 else Write(offset, data[place : place + size]))
            place += size
        return log


class _Server:
    """Answers the kernel."""

    def __init__(self, device: int, image: int, kept: int, counter: mmap.mmap) -> None:
        self._device = device
        self._image = image
        self._kept = kept
        self._counter = counter
        self._count = 0

    def run(self) -> None:
        """Until it is unmounted."""
        while True:
            try:
                request = os.read(self._device, _MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                raise
            _, operation, unique, *_ = _HEADER.unpack_from(request)
            if operation in _UNANSWERED:
                continue
            code, answer = 0, b""
            try:
                answer = self._do(operation, request[_HEADER.size :])
            except OSError as error:
                code = error.errno or errno.EIO
            header = _ANSWER.pack(_ANSWER.size + len(answer), -code, unique)
            os.write(self._device, header + answer)
            if operation == _DESTROY:
                return

    def _do(self, operation: int, body: bytes) -> bytes:
        if operation == _INIT:
            flags = _BIG_WRITES | _MAX_PAGES
            return _INIT_OUT.pack(7, 31, _MAX_WRITE, flags, 12, 9, _MAX_WRITE, 1, 256, 0, 0, 0)
        if operation == _GETATTR:
            return struct.pack("=QII", 3600, 0, 0) + self._attributes()
        if operation == _OPEN:
            return struct.pack("=QII", 0, _KEEP_CACHE, 0)
        if operation == _READ:
            _, offset, size = _READ_IN.unpack_from(body)
            return os.pread(self._image, size, offset)
        if operation == _WRITE:
            _, offset, size = _READ_IN.unpack_from(body)
            data = body[_WRITE_IN_SIZE : _WRITE_IN_SIZE + size]
            os.pwrite(self._image, data, offset)
            self._keep(offset, data)
            return struct.pack("=II", size, 0)
        if operation == _FSYNC:
            self._keep(-1, b"")
            return b""
        if operation in (_RELEASE, _FLUSH, _DESTROY):
            return b""
        if operation == _STATFS:
            return struct.pack("=5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        raise OSError(errno.ENOSYS, "no such operation")

    def _keep(self, offset: int, data: bytes) -> None:
        os.write(self._kept, _ENTRY.pack(offset, len(data)) + data)
        self._count += 1
        self._counter[:] = _COUNT.pack(self._count)

    def _attributes(self) -> bytes:
        size = os.fstat(self._image).st_size
        mode = stat.S_IFREG | 0o600
        return _ATTRIBUTES.pack(1, size, size // 512, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)


def make_image(path: Path) -> None:
    """An empty ext4 with a journal at `path`."""
    with path.open("wb") as file:
        file.truncate(MEGABYTES << 20)
    command = ["mkfs.ext4", "-q", "-F", "-b", "1024", "-J", "size=1", "-E", "nodiscard", path]
    subprocess.run([*command, "-E", "lazy_itable_init=0,lazy_journal_init=0"], check=True)


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    """The filesystem of `image` at `place`, in this process's private namespace."""
    subprocess.run(["mount", "-o", OPTIONS, image, place], check=True)
    try:
        yield
    except BaseException:
        kernel.unmount(str(place))  # Lazily: what went wrong is of more interest.
        raise
    subprocess.run(["umount", place], check=True)
