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
from typing import Dict, List, Optional, Sequence, Tuple

# A program is kept with so many words, and so many bytes of each; of a list of programs so many.
MAX_WORDS = 64
MAX_WORD_BYTES = 512
MAX_PATH_BYTES = 4096
MAX_RECORDS = 2000
# Of a call that policy is asked about, all words together.
MAX_CALL_BYTES = 256 * 1024

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_POINTER = struct.Struct("=Q")


@dataclass(frozen=True)
class Execution:
    """One start of a program as the caller asks for it: `path` is absolute within the sandbox,
    `argv` what it will be given; `cut` says that words are missing. `named` is what the kernel
    would call it to the interpreter of a script, `empty` the address of an empty string. Where
    nothing depends on `cwd` so far, it is empty (see `cwd_of`)."""

    path: str
    argv: Tuple[str, ...]
    cwd: str
    cut: bool = False
    named: str = ""
    empty: int = 0


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


@dataclass(frozen=True)
class Addresses:
    """Where the words of a call of execve or execveat are in its process's memory.

    The path is relative to the descriptor `directory`.
    """

    path: int
    argv: int
    environment: int
    directory: int = _AT_FDCWD
    flags: int = 0


def addresses(name: str, arguments: Sequence[int]) -> Addresses:
    """Those of the call `name` with these arguments."""
    if name == "execveat":
        directory, path, argv, environment, flags = arguments[:5]
        return Addresses(path, argv, environment, _signed(directory), flags)
    return Addresses(*arguments[:3])


def read_execution(pid: int, where: Addresses) -> Optional[Execution]:
    """What a process that waits in such a call asks for; None where it is gone, or its words are
    nowhere.

    :raises PermissionError: its memory may not be read.
    """
    try:
        memory = _Memory(pid)
        try:
            given = memory.string(where.path, MAX_PATH_BYTES)[0]
            argv, cut = _words(memory, where.argv)
        finally:
            memory.close()
        cwd = "" if given.startswith(b"/") else cwd_of(pid)
        path, named = _paths(pid, cwd, where, os.fsdecode(given))
        return Execution(path, argv, cwd, cut, named, where.path + len(given))
    except PermissionError:
        raise
    except (OSError, ValueError, OverflowError):
        return None


def cwd_of(pid: int) -> str:
    """Where a process that waits is.

    :raises OSError: it is gone.
    """
    return os.readlink(f"/proc/{pid}/cwd")


def read_words(pid: int, where: Addresses) -> Optional[Tuple[str, ...]]:
    """All the words that the program will be given; None where they are too many, or gone."""
    words: List[str] = []
    left = MAX_CALL_BYTES
    address = where.argv
    try:
        memory = _Memory(pid)
        try:
            while address:
                raw = memory.some(address, MAX_WORDS * _POINTER.size)
                raw = raw[: len(raw) - len(raw) % _POINTER.size]
                for (pointer,) in _POINTER.iter_unpack(raw):
                    if pointer == 0:
                        return tuple(words)
                    word = _whole(memory, pointer, left)
                    if word is None:
                        return None
                    left -= len(word) + 1
                    words.append(os.fsdecode(word))
                if not raw:
                    return None
                address += len(raw)
        finally:
            memory.close()
    except (OSError, ValueError, OverflowError):
        return None
    return ()


class _Memory:
    """The memory of a process that waits; close it."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        # What was read last: words most often stand side by side.
        self._begin, self._last = 0, b""

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def string(self, address: int, limit: int) -> Tuple[bytes, bool]:
        """The bytes up to the first NUL, and whether there are more than `limit`."""
        at = address - self._begin
        if 0 <= at < len(self._last):
            end = self._last.find(b"\0", at, at + limit)
            if end >= 0:
                return self._last[at:end], False
        self._begin, self._last = address, self.some(address, limit)
        end = self._last.find(b"\0")
        return (self._last, True) if end < 0 else (self._last[:end], False)

    def some(self, address: int, size: int) -> bytes:
        """At most `size` bytes from `address`: fewer where the next page is not mapped.

        :raises OSError: there is none, or its process is gone.
        """
        try:
            found = os.pread(self._descriptor, size, address)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            found = os.pread(self._descriptor, min(size, 4096 - address % 4096), address)
        if not found:
            raise ProcessLookupError(errno.ESRCH, "its memory is gone")
        return found


def _paths(pid: int, cwd: str, where: Addresses, given: str) -> Tuple[str, str]:
    """The absolute path of what is `given`, and what the kernel calls that (execveat(2))."""
    if given.startswith("/"):
        return given, given
    if where.directory == _AT_FDCWD:
        return f"{cwd.rstrip('/')}/{given}", given
    named = f"/dev/fd/{where.directory}"
    base = os.readlink(f"/proc/{pid}/fd/{where.directory}")
    if not given and where.flags & _AT_EMPTY_PATH:
        return base, named
    return f"{base.rstrip('/')}/{given}", f"{named}/{given}"


def _words(memory: _Memory, address: int) -> Tuple[Tuple[str, ...], bool]:
    if address == 0:
        return (), False
    raw = memory.some(address, (MAX_WORDS + 1) * _POINTER.size)
    words: List[str] = []
    cut = False
    for (pointer,) in _POINTER.iter_unpack(raw[: len(raw) - len(raw) % _POINTER.size]):
        if pointer == 0:
            return tuple(words), cut
        if len(words) == MAX_WORDS:
            break
        word, short = memory.string(pointer, MAX_WORD_BYTES)
        cut = cut or short
        words.append(os.fsdecode(word))
    return tuple(words), True


def _whole(memory: _Memory, address: int, limit: int) -> Optional[bytes]:
    """The bytes up to the first NUL, None where they are more than `limit`."""
    word = b""
    while len(word) <= limit:
        part, more = memory.string(address + len(word), MAX_WORD_BYTES)
        word += part
        if not more:
            return word if len(word) <= limit else None
    return None


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
