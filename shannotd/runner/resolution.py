"""What the call of a shim means on the host: the program, its hash, its environment, its input.

Nothing here is looked up through the sandbox, where a script may have put anything.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Sequence, Tuple

from shannotd.runner.paths import resolved
from shannotd.runner.plan import Identity

# What a recorded command may be given on its standard input.
MAX_INPUT_BYTES = 16 * 1024 * 1024
_CHUNK = 1 << 20
# Set by shells for themselves, at each command another value.
_NOISE = ("_", "SHLVL", "OLDPWD")


class Programs:
    """Finds programs on the host for one session."""

    def __init__(self, directories: Sequence[str], identity: Identity) -> None:
        """`directories` are those on PATH, `identity` is who executes."""
        places = [place for place in map(resolved, directories) if place is not None]
        self._directories = frozenset((*directories, *places))
        self._identity = identity
        self._hashes: Dict[Tuple[int, ...], str] = {}

    def resolve(self, path: str) -> Optional[str]:
        """The file that `path`, of a directory on PATH, leads to; None if it is no program."""
        directory, name = os.path.split(path)
        if directory not in self._directories or name in ("", ".", ".."):
            return None
        program = os.path.realpath(path)
        try:
            status = os.stat(program)
        except OSError:
            return None
        return program if self._executable(status) else None

    def real(self, program: str, mirror: str) -> str:
        """Where a sandbox finds `program` itself: below `mirror` if a shim may be in its place."""
        directory, name = os.path.split(program)
        if directory not in self._directories:
            return program
        return f"{mirror}{os.path.realpath(directory)}/{name}"

    def sha256(self, program: str) -> str:
        """The hash of its content, known as long as nothing of the file changes.

        :raises OSError: it cannot be read.
        """
        descriptor = os.open(program, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file", program)
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
    be recorded.
    """

    content: Optional[bytes] = None
    pipe: Optional[int] = None
    refused: Optional[str] = None


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
            return Given()
        if status.st_dev == proc_device:
            return Given(refused="a file of /proc as its standard input cannot be recorded")
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        if status.st_size - offset > MAX_INPUT_BYTES:
            return Given(refused=TOO_LARGE)
        return Given(content=_content(descriptor, offset, status.st_size) or None)
    except OSError:
        return Given()  # It is closed, or not for reading: nothing is what a command gets.


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
