"""Layers that are held open are listed as they are when somebody asks (P2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner.mounts import Overlay
from shannotd.runner.uppers import Uppers
from tests.support.accounts import is_root

pytestmark = pytest.mark.P2


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[int]:
    """A directory for layers."""
    (tmp_path / "upper").mkdir()
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def made(tmp_path: Path, count: int, *, user: bool = True) -> list[Overlay]:
    """So many overlays with an upper layer each."""
    for index in range(count):
        (tmp_path / f"upper/{index}").mkdir()
    owner = os.geteuid(), os.getegid()
    return [Overlay(f"/{index}", "/", index, user, 0o755, owner) for index in range(count)]


def test_what_came_since_is_listed_again_and_again(tmp_path: Path, stage: int) -> None:
    (overlay,) = made(tmp_path, 1)
    uppers = Uppers(stage, [overlay])
    expected: list[str] = []
    for name in ("", "one", "two"):
        if name:
            (tmp_path / "upper/0" / name).touch()
            expected.append(name)
        upper = uppers.rewound(overlay)
        assert upper is not None
        assert sorted(os.listdir(upper)) == expected
    uppers.close()
    assert uppers.rewound(overlay) is None


def test_so_many_are_held_and_no_more(tmp_path: Path, stage: int) -> None:
    overlays = made(tmp_path, 70)
    before = len(os.listdir("/proc/self/fd"))
    uppers = Uppers(stage, overlays)
    held = [overlay for overlay in overlays if uppers.rewound(overlay) is not None]
    assert held == overlays[:64]
    uppers.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_may_not_be_listed_is_left_out(tmp_path: Path, stage: int) -> None:
    if is_root():
        pytest.skip("root may list everything")
    overlays = made(tmp_path, 2)
    (tmp_path / "upper/0").chmod(0o300)
    uppers = Uppers(stage, overlays)
    assert [uppers.rewound(overlay) is not None for overlay in overlays] == [False, True]
    uppers.close()


def test_attributes_of_roots_are_read_where_the_host_has_them(tmp_path: Path, stage: int) -> None:
    one, two = made(tmp_path, 2, user=False)
    try:
        os.setxattr(tmp_path / "upper/1", "user.some", b"x")
    except OSError:
        pytest.skip("this filesystem has no such attributes")
    uppers = Uppers(stage, [one, two])
    assert uppers.given == {1: {"user.some": "78"}}
    uppers.close()
