"""POSIX access lists as the kernel stores them, in hexadecimal (linux/posix_acl_xattr.h). Pure.

A version, then entries of a tag and permissions (16 bits each) and an id (32 bits), little-endian.
"""

from __future__ import annotations

from typing import Dict, List

_HEAD, _ENTRY = 8, 16
_OWNER, _GROUP, _MASK, _OTHER = "0100", "0400", "1000", "2000"
_NAMED = ("0200", "0800")  # accounts and groups other than the file's own


def _entries(value: str) -> List[str]:
    return [value[at : at + _ENTRY] for at in range(_HEAD, len(value), _ENTRY)]


def _given(value: str, permissions: Dict[str, int]) -> str:
    """The list with `permissions` by tag."""
    listed = [
        f"{one[:4]}{permissions[one[:4]] & 7:02x}00{one[8:]}" if one[:4] in permissions else one
        for one in _entries(value)
    ]
    return value[:_HEAD] + "".join(listed)


def with_owner(value: str, mode: int) -> str:
    """The list with what `mode` gives the owner."""
    return _given(value, {_OWNER: mode >> 6})


def with_mode(value: str, mode: int) -> str:
    """The list as chmod(2) leaves it (acl(5))."""
    masked = any(one.startswith(_MASK) for one in _entries(value))
    group = _MASK if masked else _GROUP
    return _given(value, {_OWNER: mode >> 6, group: mode >> 3, _OTHER: mode})


def without_mode(value: str) -> str:
    """The list without what changes with the mode."""
    listed = [one if one[:4] in _NAMED else one[:4] + one[8:] for one in _entries(value)]
    return value[:_HEAD] + "".join(listed)
