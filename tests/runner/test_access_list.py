"""Access lists as the kernel changes them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from shannotd.runner.access_list import with_mode, with_owner, without_mode
from shannotd.runner.tree import ACCESS_ACL

NOBODY = 0xFFFFFFFF
NAMED = [(1, 6, NOBODY), (2, 6, 7), (4, 4, NOBODY), (8, 5, 9), (16, 7, NOBODY), (32, 4, NOBODY)]


def encoded(entries: list[tuple[int, int, int]]) -> str:
    return (struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)).hex()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o4711, 0o000, 0o077])
def test_a_list_is_as_chmod_leaves_it(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.touch()
    os.setxattr(path, ACCESS_ACL, bytes.fromhex(encoded(NAMED)))
    path.chmod(mode)
    assert with_mode(encoded(NAMED), mode) == os.getxattr(path, ACCESS_ACL).hex()


def test_a_list_without_a_mask_has_the_bits_of_the_group() -> None:
    plain = [(1, 6, NOBODY), (4, 4, NOBODY), (32, 4, NOBODY)]
    wanted = [(1, 7, NOBODY), (4, 5, NOBODY), (32, 1, NOBODY)]
    assert with_mode(encoded(plain), 0o751) == encoded(wanted)


def test_the_owner_alone() -> None:
    assert with_owner(encoded(NAMED), 0o100) == encoded([(1, 1, NOBODY), *NAMED[1:]])


def test_lists_that_differ_by_the_mode_are_alike_without_it() -> None:
    closed = with_mode(encoded(NAMED), 0)
    assert closed != encoded(NAMED)
    assert without_mode(closed) == without_mode(encoded(NAMED))
    other = [(tag, 1 if tag == 2 else bits, who) for tag, bits, who in NAMED]
    assert without_mode(encoded(other)) != without_mode(encoded(NAMED))
