"""Which programs a script started: read from the filter's notifications, kept bounded.

What is read from the caller's memory may be another thing by the time the kernel reads it: a
line of the report may be false then, and a denied program may start all the same. Neither lets
anything out, since what starts runs in the sandbox (seccomp_unotify(2)).
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Dict, List, Optional, Sequence, Tuple

from shannotd.runner import filesystem

# A program is kept with so many words, and so many bytes of each; of a list of programs so many.
MAX_WORDS = 64
MAX_WORD_BYTES = 512
MAX_PATH_BYTES = 4096
MAX_RECORDS = 2000

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_POINTER = struct.Struct("=Q")
_RESOLVE_IN_ROOT = 0x10  # linux/openat2.h


@dataclass(frozen=True)
class Execution:
    """One start of a program as the caller asks for it: `path` is absolute within the sandbox,
    `argv` what it will be given; `cut` says that words are missing."""

    path: str
    argv: Tuple[str, ...]
    cwd: str
    cut: bool = False


class Executions:
    """Counts the programs that were started, alike ones together, in the order of the first."""

    def __init__(self) -> None:
        self._counts: Dict[Tuple[Tuple[str, ...], bool], int] = {}
        self._further = 0

    def add(self, execution: Execution) -> None:
        """One more start."""
        words = execution.argv or (execution.path,)
        key = (words, execution.cut)
        if key not in self._counts and len(self._counts) >= MAX_RECORDS:
            self._further += 1
            return
        self._counts[key] = self._counts.get(key, 0) + 1

    def listed(self) -> List[Dict[str, object]]:
        """What was started: argv, how often, and whether words are missing.

        An entry without words counts what came after the list was full.
        """
        found: List[Dict[str, object]] = [
            {"argv": list(argv), "count": count, "cut": cut}
            for (argv, cut), count in self._counts.items()
        ]
        if self._further:
            found.append({"argv": [], "count": self._further, "cut": True})
        return found


def read_execution(pid: int, name: str, arguments: Sequence[int]) -> Optional[Execution]:
    """What a process that waits in `execve` or `execveat` (by `name`) asks for; None if its memory
    cannot be read."""
    directory = _AT_FDCWD
    flags = 0
    if name == "execveat":
        directory, path_at, argv_at, flags = (
            _signed(arguments[0]),
            arguments[1],
            arguments[2],
            arguments[4],
        )
    else:
        path_at, argv_at = arguments[0], arguments[1]
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            descriptor = memory.fileno()
            path = os.fsdecode(_string(descriptor, path_at, MAX_PATH_BYTES)[0])
            argv, cut = _words(descriptor, argv_at)
        cwd = os.readlink(f"/proc/{pid}/cwd")
        return Execution(_absolute(pid, cwd, directory, path, flags), argv, cwd, cut)
    except (OSError, ValueError, OverflowError):
        return None


def _absolute(pid: int, cwd: str, directory: int, path: str, flags: int) -> str:
    if path.startswith("/"):
        return path
    if directory == _AT_FDCWD:
        return os.path.normpath(os.path.join(cwd, path))
    base = os.readlink(f"/proc/{pid}/fd/{directory}")
    if not path and flags & _AT_EMPTY_PATH:
        return base
    return os.path.normpath(os.path.join(base, path))


def _words(memory: int, address: int) -> Tuple[Tuple[str, ...], bool]:
    if address == 0:
        return (), False
    raw = _some(memory, address, (MAX_WORDS + 1) * _POINTER.size)
    words: List[str] = []
    cut = False
    for (pointer,) in _POINTER.iter_unpack(raw[: len(raw) - len(raw) % _POINTER.size]):
        if pointer == 0:
            return tuple(words), cut
        if len(words) == MAX_WORDS:
            break
        word, short = _string(memory, pointer, MAX_WORD_BYTES)
        cut = cut or short
        words.append(os.fsdecode(word))
    return tuple(words), True


def _string(memory: int, address: int, limit: int) -> Tuple[bytes, bool]:
    """The bytes up to the first NUL, and whether there are more than `limit`."""
    data = _some(memory, address, limit)
    end = data.find(b"\0")
    return (data, True) if end < 0 else (data[:end], False)


def _some(memory: int, address: int, size: int) -> bytes:
    """At most `size` bytes from `address`: fewer where the next page is not mapped."""
    try:
        return os.pread(memory, size, address)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return os.pread(memory, min(size, 4096 - address % 4096), address)


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


class DenyNames:
    """Names of programs (some with `*` or `?`) of which policy must be asked at each start."""

    def __init__(self, names: Sequence[str]) -> None:
        self._exact = frozenset(name for name in names if "*" not in name and "?" not in name)
        self._patterns = tuple(name for name in names if name not in self._exact)

    def match(self, pid: int, path: str) -> bool:
        """Whether `path` is called by one of them, or leads to one in the sandbox of `pid`."""
        if not self._exact and not self._patterns:
            return False
        if self._named(os.path.basename(path)):
            return True
        target = _on_host(path) or _in_sandbox(pid, path)
        return target is not None and self._named(os.path.basename(target))

    def _named(self, name: str) -> bool:
        return name in self._exact or any(fnmatchcase(name, pattern) for pattern in self._patterns)


@lru_cache(maxsize=4096)
def _on_host(path: str) -> Optional[str]:
    """Where `path` leads on the host, which the sandbox showed at its start."""
    return os.path.realpath(path) if os.path.lexists(path) else None


def _in_sandbox(pid: int, path: str) -> Optional[str]:
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = filesystem.openat2(root, path, os.O_PATH | os.O_CLOEXEC, resolve=_RESOLVE_IN_ROOT)
    except OSError:
        return None
    finally:
        os.close(root)
    try:
        return os.readlink(f"/proc/self/fd/{found}")
    finally:
        os.close(found)
