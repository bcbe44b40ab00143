"""Walking, opening and removing without following or trusting names (P2, P10)."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from shannotd.runner import filesystem, kernel
from shannotd.runner.directories import remove
from shannotd.runner.filesystem import Descent
from shannotd.runner.tree import MountInside
from tests.runner import overlays
from tests.support.accounts import is_root

needs_root = pytest.mark.skipif(not is_root(), reason="makes mounts, sets file attributes")


@pytest.fixture
def host(top: Path) -> Path:
    return top / "host"


def test_paths_are_absolute() -> None:
    with pytest.raises(OSError, match="not an absolute path") as raised:
        filesystem.open_directory("etc")
    assert raised.value.filename == "etc"


@pytest.mark.P10
def test_what_would_block_is_not_opened(host: Path) -> None:
    os.mkfifo(host / "fifo")
    looked = os.open(host / "fifo", filesystem.O_PATH)
    try:
        with pytest.raises(OSError, match="neither a regular file nor a directory"):
            filesystem.open_content(looked)
    finally:
        os.close(looked)


@pytest.mark.P4
def test_what_cannot_be_synced_or_changed_is_told_by_its_call(host: Path) -> None:
    directory = os.open(host, filesystem.O_DIRECTORY_PATH)
    try:
        with pytest.raises(OSError, match="syncfs") as raised:
            filesystem.sync_filesystem(directory)
        assert raised.value.errno == errno.EBADF
    finally:
        os.close(directory)
    with pytest.raises(OSError, match="fchownat"):
        filesystem.change_owner(-1, os.getuid(), os.getgid())
    with pytest.raises(OSError, match="utimensat"):
        filesystem.change_time(-1, 0)


def test_a_symlink_itself_gets_an_owner_and_a_time(host: Path) -> None:
    (host / "file").touch()
    (host / "link").symlink_to("file")
    before = (host / "file").stat()
    descriptor = os.open(host / "link", filesystem.O_PATH)
    try:
        filesystem.change_owner(descriptor, os.getuid(), os.getgid())
        filesystem.change_time(descriptor, 1_500_000_000_000_000_001)
    finally:
        os.close(descriptor)
    assert (host / "link").lstat().st_mtime_ns == 1_500_000_000_000_000_001
    assert (host / "file").stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.P2
def test_a_directory_that_is_moved_while_it_is_read_is_noticed(host: Path) -> None:
    depth = 200
    (host / "other").mkdir()
    with Descent(os.open(host, filesystem.O_DIRECTORY_PATH)) as descent:
        for _ in range(depth):
            os.mkdir("d", dir_fd=descent.current)
            descent.enter(os.open("d", filesystem.O_DIRECTORY_PATH, dir_fd=descent.current))
        (host / "d/d").rename(host / "other/d")
        with pytest.raises(OSError, match="moved while it was read"):
            for _ in range(depth):
                descent.leave()


def entry_of(path: Path) -> int:
    return os.open(path, filesystem.O_DIRECTORY_PATH)


@needs_root
def test_what_cannot_be_removed_is_told(host: Path) -> None:
    (host / "file").touch()
    subprocess.run(["chattr", "+i", host / "file"], check=True)
    directory = entry_of(host)
    try:
        with pytest.raises(PermissionError):
            remove(directory, "file", str(host))
    finally:
        subprocess.run(["chattr", "-i", host / "file"], check=True)
        os.close(directory)
    assert (host / "file").exists()


@needs_root
def test_nothing_is_removed_from_a_mount(host: Path) -> None:
    (host / "tree/mounted").mkdir(parents=True)
    (host / "kept").mkdir()
    (host / "kept/file").touch()

    def work() -> str:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(host / "kept", host / "tree/mounted", None, kernel.MS_BIND)
        with pytest.raises(MountInside) as raised:
            remove(entry_of(host), "tree", str(host))
        return str(raised.value)

    assert overlays.in_child(work).startswith(f"{host}/tree")
    assert (host / "kept/file").exists()


@needs_root
def test_an_owner_removes_what_its_own_modes_protect() -> None:
    ordinary = overlays.who("daemon")
    with overlays.workplace(ordinary) as top:

        def work() -> list[str]:
            (top / "host/tree/sub").mkdir(parents=True)
            (top / "host/tree/sub/file").touch()
            os.chmod(top / "host/tree/sub", 0o000)
            os.chmod(top / "host/tree", 0o100)
            remove(entry_of(top / "host"), "tree", str(top / "host"))
            return os.listdir(top / "host")

        assert overlays.in_child(work, ordinary) == []
