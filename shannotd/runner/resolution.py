"""What a call of a program means on the host: the program, its hash, its environment, its input."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import stat
from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Tuple

from shannotd.runner import filesystem, shims
from shannotd.runner.paths import resolved
from shannotd.runner.plan import Identity

# What a recorded command may be given on its standard input.
MAX_INPUT_BYTES = 16 * 1024 * 1024
_CHUNK = 1 << 20
# Set by shells for themselves, at each command another value.
_NOISE = ("_", "SHLVL", "OLDPWD")


class Programs:
    """The programs of the host in the directories of a PATH, for one session."""

    def __init__(self, path: str, identity: Identity) -> None:
        """`path` is that of the script at its start, `identity` is who executes."""
        self._places = dict(shims.directories(path))
        self._directories = frozenset(self._places.values())
        self._identity = identity
        self._hashes: Dict[Tuple[int, ...], str] = {}

    def find(self, path: str, place: str, seen: int) -> Optional[str]:
        """The path on the host that is called, where a sandbox's `path` leads to its `place`.

        `seen` (O_PATH) is what is there. A link of the host's counts by its own name, wherever it
        leads. None where that is no program of these directories, or the script has put another in
        its place.
        """
        directory, name = os.path.split(os.path.normpath(path))
        known = self._places.get(directory)
        called = place if known is None else os.path.join(known, name)
        if resolved(called) != place:
            called = place
        if os.path.dirname(called) not in self._directories:
            return None
        try:
            if not self._executable(os.fstat(seen)) or not self._is_unchanged(seen, place):
                return None
        except OSError:
            return None
        return called

    def there(self, path: str) -> Optional[str]:
        """The file that `path` of the host leads to; None if it is no program."""
        program = os.path.realpath(path)
        try:
            return program if self._executable(os.stat(program)) else None
        except OSError:
            return None

    def _is_unchanged(self, seen: int, place: str) -> bool:
        """Whether the host's program is seen at its place: the same file, or the same content.

        What a script changes, or puts there, is copied up to another inode, whose time of
        change nobody can choose.

        :raises OSError: it cannot be told.
        """
        one, other = os.fstat(seen), os.lstat(place)
        if one.st_size != other.st_size or not stat.S_ISREG(other.st_mode):
            return False
        if (one.st_ctime_ns, one.st_mtime_ns) == (other.st_ctime_ns, other.st_mtime_ns):
            return True
        descriptor = filesystem.open_content(seen)
        try:
            return _hash(descriptor) == self.sha256(place)
        finally:
            os.close(descriptor)

    def sha256(self, program: str) -> str:
        """The hash of its content, known as long as nothing of the file changes.

        :raises OSError: it cannot be read.
        """
        return self.hashed(os.open(program, filesystem.O_PATH))

    def hashed(self, looked: int) -> str:
        """The same of what an O_PATH descriptor holds, which is closed.

        :raises OSError: it cannot be read.
        """
        try:
            descriptor = filesystem.open_content(looked)
        finally:
            os.close(looked)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            key = (
                status.st_dev,
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
            if key not in self._hashes:
                self._hashes[key] = _hash(descriptor)
            return self._hashes[key]
        finally:
            os.close(descriptor)

    def _executable(self, status: os.stat_result) -> bool:
        """Whether the mode says so; what ACLs add or take away, execve(2) says at apply."""
        if not stat.S_ISREG(status.st_mode):
            return False
        who = self._identity
        if who.uid == 0:
            return bool(status.st_mode & 0o111)
        if status.st_uid == who.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == who.gid or status.st_gid in who.groups:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def _hash(descriptor: int) -> str:
    total = hashlib.sha256()
    while True:
        data = os.read(descriptor, _CHUNK)
        if not data:
            return total.hexdigest()
        total.update(data)


def recorded_environment(
    claimed: Mapping[str, str], base: Mapping[str, str], cwd: str
) -> Tuple[Dict[str, str], Tuple[str, ...]]:
    """The environment that a command is recorded with, and what in it is not of `base`."""
    kept = {
        name: value
        for name, value in claimed.items()
        if not name.startswith("SHANNOT_") and name not in _NOISE
    }
    expected = {**base, "PWD": cwd}
    changed = sorted(name for name, value in kept.items() if expected.get(name) != value)
    return kept, tuple(changed)


@dataclass(frozen=True)
class Given:
    """What a command is given on its standard input. `content` is None for nothing.

    `pipe` is a descriptor to be read to its end first, the caller's; `refused` says why it cannot
    be recorded; `unread` that there may be something which stays where it is.
    """

    content: Optional[bytes] = None
    pipe: Optional[int] = None
    refused: Optional[str] = None
    unread: bool = False


def look_at_input(descriptor: int, from_pipe: bool, proc_device: int) -> Given:
    """What is on `descriptor`, of which nothing is used up but a pipe, and that only if asked.

    A file of `proc_device`, the sandbox's /proc, has no content that could be kept.
    """
    try:
        status = os.fstat(descriptor)
        if stat.S_ISFIFO(status.st_mode) and from_pipe:
            # A description of our own: the script's may block.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            return Given(pipe=os.open(f"/proc/self/fd/{descriptor}", flags))
        if not stat.S_ISREG(status.st_mode):
            return Given(unread=_may_give(descriptor, status))
        if status.st_dev == proc_device:
            return Given(refused="a file of /proc as its standard input cannot be recorded")
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        if status.st_size - offset > MAX_INPUT_BYTES:
            return Given(refused=TOO_LARGE)
        return Given(content=_content(descriptor, offset, status.st_size) or None)
    except OSError:
        return Given()  # It is closed, or not for reading: nothing is what a command gets.


def _may_give(descriptor: int, status: os.stat_result) -> bool:
    """Whether it is a pipe or socket that is not at its end."""
    if not (stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    events = dict(poll.poll(0)).get(descriptor, 0)
    return bool(events & select.POLLIN) or not events & select.POLLHUP


TOO_LARGE = f"its standard input is larger than {MAX_INPUT_BYTES} bytes"


def _content(descriptor: int, offset: int, end: int) -> bytes:
    parts = []
    while offset < end:
        data = os.pread(descriptor, min(_CHUNK, end - offset), offset)
        if not data:
            break
        parts.append(data)
        offset += len(data)
    return b"".join(parts)
