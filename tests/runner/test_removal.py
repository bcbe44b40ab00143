"""Removing what a batch displaced."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from shannotd.runner.plan import Identity
from shannotd.runner.removal import remove_all
from tests.runner import overlays
from tests.support.accounts import is_root


def names_in(directory: Path, count: int) -> list[tuple[str, str]]:
    for number in range(count):
        (directory / str(number)).write_text("x")
    return [(str(directory), str(number)) for number in range(count)]


def test_many_names_are_removed_and_what_is_left_is_named(tmp_path: Path) -> None:
    names = names_in(tmp_path, 300)
    left = remove_all([*names, (str(tmp_path), "missing"), (str(tmp_path / "no"), "name")])
    assert os.listdir(tmp_path) == []
    assert all("No such file" in line for line in left)


@pytest.mark.P4
@pytest.mark.skipif(not is_root(), reason="makes an account")
def test_without_a_thread_it_takes_longer(ordinary: Identity, tmp_path: Path) -> None:
    """An account that may have no more threads must not break off an apply that was done."""
    place = tmp_path / "place"
    place.mkdir()
    names = names_in(place, 200)
    os.chown(place, ordinary.uid, ordinary.gid)
    for above in (place, *place.parents):
        if above.stat().st_uid == 0 and str(above).startswith("/tmp/"):
            above.chmod(above.stat().st_mode | 0o055)

    def work() -> list[str]:
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        return remove_all(names)

    assert overlays.in_child(work, ordinary) == []
    assert os.listdir(place) == []
