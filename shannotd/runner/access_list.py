"""POSIX access lists as the kernel stores them, in hexadecimal (linux/posix_acl_xattr.h). Pure.

A version, then entries of a tag and permissions (16 bits each) and an id (32 bits), little-endian.
"""

from __future__ import annotations

from typing import List

_HEAD, _ENTRY = 8, 16
_OWNER = "0100"
_NAMED = ("0200", "0800")  # accounts and groups other than the file's own


def _entries(value: str) -> List[str]:
    return [value[at : at + _ENTRY] for at in range(_HEAD, len(value), _ENTRY)]


def with_owner(value: str, mode: int) -> str:
    """The list with what `mode` gives the owner: chmod(2) changes both."""
    permissions = f"{mode >> 6 & 7:02x}00"
    listed = [
        one[:4] + permissions + one[8:] if one.startswith(_OWNER) else one
        for one in _entries(value)
    ]
    return value[:_HEAD] + "".join(listed)


def without_mode(value: str) -> str:
    """The list without what changes with the mode."""
    listed = [one if one[:4] in _NAMED else one[:4] + one[8:] for one in _entries(value)]
    return value[:_HEAD] + "".join(listed)
