"""What a script made of shims, seen as what it would have made of the programs.

A shim that was copied, moved or given other rights shows in an upper layer with a shim's bytes;
in a plan stands the program's content. What holds only parts of a shim (an archive of
/usr/bin, an edited one) cannot be told and fails the session.
"""

from __future__ import annotations

import ast
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Dict, Iterator, Mapping, Optional, Sequence

from shannotd.runner import filesystem, scratch, tree
from shannotd.runner.layer import Layer, Opened, failed
from shannotd.runner.plan import FileState
from shannotd.runner.shims import Shims

_CHUNK_BYTES = 1024 * 1024
_MAX_SHIM_BYTES = 16 * 1024  # PATH_MAX is 4096, and a byte is written as four characters at most
_CALL = b"\nshim_program.main("


@dataclass(frozen=True)
class Found:
    """A regular file that the script left: `relative` in `layer`, read by `descriptor`."""

    layer: Layer
    relative: str
    descriptor: int
    status: os.stat_result
    xattrs: Dict[str, str]


class Copies:
    """Finds what came of `shims`; without any it finds nothing."""

    def __init__(
        self,
        shims: Optional[Shims],
        opened: Opened,
        ignored: Sequence[str],
        limits: Mapping[str, int],
    ) -> None:
        """`opened` keeps what contents are read from; parts of shims do not matter in what the
        patterns `ignored` match. No larger file is searched than the limit `written_bytes`: it
        fails by itself."""
        self._shims = shims
        self._opened = opened
        self._is_ignored = scratch.matcher(ignored)
        self._limit = limits.get("written_bytes")
        self._directories: Dict[str, int] = {}

    @contextmanager
    def original(self, found: Found, path: str, before: FileState) -> Iterator[Optional[Found]]:
        """`found`, which is at `path`, as it would be had the script not met shims.

        None where the script did nothing to what was there (`before`).

        :raises RunnerError: `capture_failed`: it cannot be told.
        """
        shims = self._shims
        program = None if shims is None else self._program(shims, found, path)
        if shims is None or program is None:
            yield found
        elif path != program:
            with self._copy(shims, found, program) as copy:
                yield copy
        elif before.type == "symlink":
            if not _untouched(found, os.lstat(shims.tree + program)):
                reason = "it is a link to a program and was changed as if it were the program"
                raise failed(path, reason)
            yield None
        else:
            with self._copy(shims, found, program) as copy:
                yield _in_place(found, copy, shims.tree + program)

    def _program(self, shims: Shims, found: Found, path: str) -> Optional[str]:
        """The program whose shim was copied to `path`; None if no part of any shim is there."""
        size = found.status.st_size
        if size <= _MAX_SHIM_BYTES:
            data = os.pread(found.descriptor, size, 0)
            program = _named(data) if shims.marker in data else None
            if program is not None and _content(shims.tree + program) == data:
                return program
        if self._limit is not None and size > self._limit:
            return None
        if not _contains(found.descriptor, size, shims.marker):
            return None
        if self._is_ignored(path):
            return None
        raise failed(
            path,
            "it holds what only stands for a program in the sandbox: reading a program whose calls "
            "are recorded does not give its content",
        )

    @contextmanager
    def _copy(self, shims: Shims, found: Found, program: str) -> Iterator[Found]:
        """The host's `program`, with owner, mode and time as the script's copy has them."""
        directory, _, name = os.path.realpath(program).rpartition("/")
        try:
            parent = self._directory(directory)
            descriptor = os.open(name, filesystem.O_READ, dir_fd=parent)
        except OSError as error:
            raise failed(program, f"a copy was made of it: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            # Without privileges a shim's owner is ourselves, who lack rights that he has.
            shown = os.lstat(shims.tree + program).st_mode
            mode = found.status.st_mode
            if mode & 0o700 == shown & 0o700:
                mode |= status.st_mode & 0o700
            yield Found(
                Layer(directory, parent, found.layer.prefix),
                name,
                descriptor,
                _changed(found.status, st_mode=mode, st_size=status.st_size),
                found.xattrs,
            )
        finally:
            os.close(descriptor)

    def _directory(self, path: str) -> int:
        """A descriptor of the host's directory `path`, open as long as contents are needed."""
        if path not in self._directories:
            descriptor = filesystem.open_directory(path, filesystem.O_DIRECTORY_READ)
            self._directories[path] = self._opened.keep(descriptor)
        return self._directories[path]


def _in_place(found: Found, program: Found, shim: str) -> Found:
    """The `program` itself, with what the script changed of it: not what a shim has otherwise."""
    shown, status = os.lstat(shim), os.fstat(program.descriptor)
    values: Dict[str, int] = {}
    for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        value = getattr(found.status, name)
        values[name] = getattr(status, name) if value == getattr(shown, name) else value
    xattrs = found.xattrs
    if xattrs == tree.read_xattrs(shim):
        xattrs = tree.read_xattrs(filesystem.by_descriptor(program.descriptor))
    changed = _changed(program.status, **values)
    return replace(program, status=changed, xattrs=xattrs)


def _untouched(found: Found, shown: os.stat_result) -> bool:
    return all(
        getattr(found.status, name) == getattr(shown, name)
        for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns")
    )


def _changed(status: os.stat_result, **values: int) -> os.stat_result:
    """`status` with other values."""
    order = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size")
    first = [values.get(name, getattr(status, name)) for name in order]
    time_ns = values.get("st_mtime_ns", status.st_mtime_ns)
    times = [status.st_atime, time_ns // 10**9, status.st_ctime]
    exact = {"st_atime_ns": status.st_atime_ns, "st_mtime_ns": time_ns}
    return os.stat_result([*first, *times], {**exact, "st_ctime_ns": status.st_ctime_ns})


def _named(data: bytes) -> Optional[str]:
    """The program of which these would be the bytes of the shim."""
    _, call, rest = data.partition(_CALL)
    try:
        program = ast.literal_eval(rest.rstrip(b")\n").decode("ascii")) if call else None
    except (SyntaxError, ValueError):
        return None
    return os.fsdecode(program) if isinstance(program, bytes) else None


def _content(path: str) -> Optional[bytes]:
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or "/../" in path:
            return None
        with open(path, "rb") as file:
            return file.read(_MAX_SHIM_BYTES + 1)
    except (OSError, ValueError):
        return None


def _contains(descriptor: int, size: int, marker: bytes) -> bool:
    position, tail = 0, b""
    while position < size:
        part = os.pread(descriptor, _CHUNK_BYTES, position)
        if not part:
            return False
        if marker in tail + part:
            return True
        tail = part[-len(marker) :]
        position += len(part)
    return False
