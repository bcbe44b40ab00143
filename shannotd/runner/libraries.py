"""The files that the host's loader reads to start a program of machine code (ld.so(8)).

Found as glibc's loader does, by /etc/ld.so.cache; of a library that is not there only the name is
known. Nothing depends on it but what a reviewer is told.
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from typing import Dict, Iterator, List, Optional, Set, Tuple

from shannotd.runner import elf
from shannotd.runner.elf import Linked

CACHE = "/etc/ld.so.cache"
_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sII20x")  # struct cache_file_new of glibc's dl-cache.h
_ENTRY = struct.Struct("<iIIIQ")
_MAX_CACHE_BYTES = 16 * 1024 * 1024
_MAX_FILES = 256

Key = Tuple[int, int, int, int]


def loaded(program: str) -> Tuple[str, ...]:
    """The loader of the host's `program`, what it is linked to, and what that is linked to, sorted:
    paths (links, and where they lead), and names where no path is known."""
    return _loaded(program, _key(program), _key(CACHE))


@lru_cache(maxsize=256)
def _loaded(program: str, _: Optional[Key], cache: Optional[Key]) -> Tuple[str, ...]:
    libraries = _cached(cache)
    found: Set[str] = set()
    waiting = [program]
    seen: Set[str] = set()
    while waiting and len(seen) < _MAX_FILES:
        path = waiting.pop()
        about = None if path in seen else _about(path)
        seen.add(path)
        if about is None:
            continue
        paths = [] if about.loader is None else [about.loader]
        for name in about.needed:
            paths += libraries.get(name, ())
            if name not in libraries:
                found.add(name)
        waiting += paths
        for one in paths:
            found.add(os.path.join(os.path.realpath(os.path.dirname(one)), os.path.basename(one)))
            found.add(os.path.realpath(one))
    return tuple(sorted(found))


def _about(path: str) -> Optional[Linked]:
    key = _key(path)
    return None if key is None else _linked(path, key)


@lru_cache(maxsize=1024)
def _linked(path: str, key: Key) -> Optional[Linked]:
    """What `path`, of that version, says."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return elf.linked(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


@lru_cache(maxsize=1)
def _cached(key: Optional[Key]) -> Dict[str, List[str]]:
    """The paths of libraries by their names, of that version of the cache."""
    try:
        with open(CACHE, "rb") as file:
            data = file.read(_MAX_CACHE_BYTES)
    except OSError:
        return {}
    libraries: Dict[str, List[str]] = {}
    for name, path in _entries(data):
        libraries.setdefault(name, []).append(path)
    return libraries


def _entries(data: bytes) -> Iterator[Tuple[str, str]]:
    start = data.find(_MAGIC)  # an older cache may come before it
    if start < 0 or len(data) < start + _HEADER.size:
        return
    data = data[start:]
    _, count, _ = _HEADER.unpack_from(data)
    end = min(len(data), _HEADER.size + count * _ENTRY.size)
    table = data[_HEADER.size : end - (end - _HEADER.size) % _ENTRY.size]
    for _, name, path, _, _ in _ENTRY.iter_unpack(table):
        yield _text(data, name), _text(data, path)


def _text(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    return os.fsdecode(data[offset:end]) if end > 0 else ""


def _key(path: str) -> Optional[Key]:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
