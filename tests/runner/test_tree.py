"""The state of paths on the host: nothing is followed, nothing but files is opened."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner import filesystem, kernel, tree
from shannotd.runner.plan import ABSENT, Identity
from tests.runner import overlays
from tests.support.accounts import is_root

STRANGER = Identity("stranger", 54321, 54321, (54321,), 0o022)


@pytest.fixture
def top() -> Iterator[Path]:
    with overlays.workplace(overlays.ourselves()) as directory:
        yield directory / "host"


def summary(path: Path, **more: object) -> tree.TreeSummary:
    descriptor = filesystem.open_directory(str(path))
    try:
        return tree.summarise(descriptor, str(path), **more)  # type: ignore[arg-type]
    finally:
        os.close(descriptor)


def test_a_file(top: Path) -> None:
    (top / "file").write_bytes(b"content")
    os.chmod(top / "file", 0o4750)
    os.setxattr(top / "file", "user.x", b"\xff")
    os.link(top / "file", top / "twin")
    state = tree.state(f"{top}/file")
    assert (state.type, state.mode, state.size, state.links) == ("file", 0o4750, 7, 2)
    assert (state.uid, state.gid) == (os.getuid(), os.getgid())
    assert state.sha256 == hashlib.sha256(b"content").hexdigest()
    assert state.xattrs == {"user.x": "ff"}
    assert state.fingerprint is None


def test_other_types_are_looked_at_and_not_opened(top: Path) -> None:
    os.mkfifo(top / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind(f"{top}/socket")
    os.symlink("/etc/passwd", top / "link")
    assert tree.state(f"{top}/fifo").type == "fifo"
    assert tree.state(f"{top}/socket").type == "socket"
    link = tree.state(f"{top}/link")
    assert (link.type, link.target, link.sha256) == ("symlink", "/etc/passwd", None)
    assert tree.state("/dev/null").type == "character"
    assert tree.state(f"{top}").type == "directory"
    assert tree.state("/").type == "directory"


def test_what_is_not_there(top: Path) -> None:
    (top / "file").write_bytes(b"")
    assert tree.state(f"{top}/nothing") == ABSENT
    assert tree.state(f"{top}/no/parent") == ABSENT
    assert tree.state(f"{top}/file/below") == ABSENT


@pytest.mark.P2
def test_no_parent_is_a_symlink(top: Path) -> None:
    (top / "real").mkdir()
    (top / "real/file").write_bytes(b"x")
    os.symlink("real", top / "link")
    with pytest.raises(OSError, match="openat2"):
        tree.state(f"{top}/link/file")


def test_large_files_have_a_fingerprint(top: Path) -> None:
    with open(top / "large", "wb") as file:
        file.truncate(tree.HASHED_BYTES + 1)
    state = tree.state(f"{top}/large")
    assert state.sha256 is None
    assert state.fingerprint is not None
    os.utime(top / "large", (1, 1))
    assert tree.state(f"{top}/large").fingerprint != state.fingerprint


def test_what_the_identity_cannot_read_has_a_fingerprint(top: Path) -> None:
    (top / "private").write_bytes(b"secret")
    os.chmod(top / "private", 0o600)
    state = tree.state(f"{top}/private", STRANGER)
    assert state.sha256 is None
    assert state.fingerprint is not None


def test_names_that_are_not_utf8(top: Path) -> None:
    name = b"\xff\n\xfe"
    with open(os.fsencode(top) + b"/" + name, "wb"):
        pass
    assert tree.state(f"{top}/{os.fsdecode(name)}").type == "file"


def test_a_deep_tree(top: Path) -> None:
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("directory-x", dir_fd=descriptor)
        below = os.open("directory-x", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    found = summary(top)
    assert found.entries == 1001
    path = f"{top}" + "/directory-x" * 1000 + "/bottom"
    assert len(path) > 4096
    assert tree.state(path).type == "file"


def test_a_summary_tells_every_change(top: Path) -> None:
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").write_bytes(b"12345")
    (top / "a/other").write_bytes(b"")
    os.symlink("x", top / "a/link")
    os.utime(top / "a/b/file", (1, 1))
    first = summary(top)
    assert (first.entries, first.size) == (5, 5)
    assert summary(top) == first
    changes = [
        lambda: os.chmod(top / "a/b", 0o700),
        lambda: os.utime(top / "a/b/file", (2, 2)),
        lambda: os.rename(top / "a/b/file", top / "a/b/elif"),
        lambda: (os.unlink(top / "a/link"), os.symlink("y", top / "a/link")),
        lambda: os.mkfifo(top / "a/fifo"),
        lambda: os.unlink(top / "a/other"),
    ]
    seen = {first}
    for change in changes:
        change()
        found = summary(top)
        assert found not in seen
        seen.add(found)


def test_what_a_summary_leaves_out(top: Path) -> None:
    (top / "kept").mkdir()
    (top / "kept/file").write_bytes(b"x")
    first = summary(top)
    (top / "kept/out").mkdir()
    (top / "kept/out/file").write_bytes(b"x")
    (top / ".shannot-1-2").write_bytes(b"x")
    assert summary(top) != first
    found = summary(top, excluded={f"{top}/kept/out"}, ignored_prefix=".shannot-1-")
    assert found == first


def test_a_mount_in_a_tree(top: Path) -> None:
    if not is_root():
        pytest.skip("mounts")
    (top / "a/mounted").mkdir(parents=True)

    def work() -> str:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(f"{top}/a/mounted", f"{top}/a/mounted", None, kernel.MS_BIND)
        with pytest.raises(tree.MountInside) as raised:
            summary(top)
        return str(raised.value)

    assert overlays.in_child(work) == f"{top}/a/mounted"
