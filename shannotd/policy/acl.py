"""POSIX access lists as the kernel stores them in extended attributes (acl(5))."""

from __future__ import annotations

import struct
from collections.abc import Mapping

READ, WRITE, EXECUTE = 4, 2, 1

# linux/posix_acl_xattr.h: the version, then for each entry tag, permissions and id.
_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_USER, _GROUP, _MASK = 0x02, 0x08, 0x10


def grants(value: str | None) -> Mapping[str, int]:
    """What the list `value` (in hex) gives to accounts and groups that are named in it: bits of
    READ, WRITE and EXECUTE by "user 1000" or "group 1000". Nothing where there is no list.

    :raises ValueError: it is no such list.
    """
    if value is None:
        return {}
    data = bytes.fromhex(value)
    size = len(data) - _VERSION.size
    if size < 0 or size % _ENTRY.size or _VERSION.unpack_from(data) != (2,):
        raise ValueError("no access list of the version that is known")
    entries = list(_ENTRY.iter_unpack(data[_VERSION.size :]))
    # No more than the mask is given to anybody but owner and others.
    mask = next((bits for tag, bits, _ in entries if tag == _MASK), READ | WRITE | EXECUTE)
    named = {_USER: "user", _GROUP: "group"}
    return {f"{named[tag]} {who}": bits & mask for tag, bits, who in entries if tag in named}
