"""What a program of machine code is loaded by and linked to: its own words on it (elf(5)).

Only what the machines have that we run on is read: little-endian files of 64 bits.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

_IDENTITY = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_END, _NEEDED, _STRINGS, _STRINGS_SIZE = 0, 1, 5, 10
# More than any linker writes: a file may say anything.
_MAX_SEGMENTS = 128
_MAX_DYNAMIC_BYTES = 64 * 1024
_MAX_STRINGS_BYTES = 4 * 1024 * 1024
_MAX_PATH_BYTES = 4096


@dataclass(frozen=True)
class Linked:
    """The path of the loader, and the names of the libraries that are needed."""

    loader: Optional[str]
    needed: Tuple[str, ...]


def linked(descriptor: int) -> Optional[Linked]:
    """What the file that `descriptor` reads says; None if it is no such program or library.

    :raises OSError: it cannot be read.
    """
    data = os.pread(descriptor, _HEADER.size, 0)
    if len(data) < _HEADER.size or not data.startswith(_IDENTITY):
        return None
    _, _, _, _, offset, _, _, _, size, count, _, _, _ = _HEADER.unpack(data)
    if size != _SEGMENT.size or count > _MAX_SEGMENTS:
        return None
    table = os.pread(descriptor, size * count, _position(offset))
    segments = list(_SEGMENT.iter_unpack(table[: len(table) - len(table) % size]))
    loader: Optional[str] = None
    dynamic = b""
    loads: List[Tuple[int, int, int]] = []
    for kind, _, place, address, _, file_size, _, _ in segments:
        if kind == _INTERPRETER:
            text = os.pread(descriptor, min(file_size, _MAX_PATH_BYTES), _position(place))
            loader = os.fsdecode(text.split(b"\0")[0])
        elif kind == _DYNAMIC:
            dynamic = os.pread(descriptor, min(file_size, _MAX_DYNAMIC_BYTES), _position(place))
        elif kind == _LOAD:
            loads.append((address, place, file_size))
    return Linked(loader, _needed(descriptor, dynamic, loads))


def _needed(descriptor: int, dynamic: bytes, loads: List[Tuple[int, int, int]]) -> Tuple[str, ...]:
    offsets: List[int] = []
    values: Dict[int, int] = {}
    for tag, value in _ENTRY.iter_unpack(dynamic[: len(dynamic) - len(dynamic) % _ENTRY.size]):
        if tag == _END:
            break
        if tag == _NEEDED:
            offsets.append(value)
        else:
            values[tag] = value
    address, size = values.get(_STRINGS), values.get(_STRINGS_SIZE, 0)
    if address is None or not offsets:
        return ()
    for start, place, length in loads:
        if start <= address < start + length:
            position = _position(place + address - start)
            strings = os.pread(descriptor, min(size, _MAX_STRINGS_BYTES), position)
            names = (strings[offset : strings.find(b"\0", offset)] for offset in offsets)
            return tuple(os.fsdecode(name) for name in names if name)
    return ()


def _position(offset: int) -> int:
    """An offset as pread(2) takes it; at the end of any file if it is none."""
    return min(offset, (1 << 62) - 1)
