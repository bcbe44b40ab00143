"""The state of paths on the host: nothing is followed, nothing but files is opened."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from shannotd.runner import filesystem, kernel, tree
from shannotd.runner.plan import ABSENT, Identity
from tests.runner import overlays
from tests.support.accounts import is_root

STRANGER = Identity("stranger", 54321, 54321, (54321,), 0o022)


@pytest.fixture
def host(top: Path) -> Path:
    return top / "host"


def summary(path: Path, **more: object) -> tree.TreeSummary:
    descriptor = filesystem.open_directory(str(path))
    try:
        return tree.summarise(descriptor, str(path), **more)  # type: ignore[arg-type]
    finally:
        os.close(descriptor)


def test_a_file(host: Path) -> None:
    (host / "file").write_bytes(b"content")
    os.chmod(host / "file", 0o4750)
    os.setxattr(host / "file", "user.x", b"\xff")
    os.link(host / "file", host / "twin")
    state = tree.state(f"{host}/file")
    assert (state.type, state.mode, state.size, state.links) == ("file", 0o4750, 7, 2)
    assert (state.uid, state.gid) == (os.getuid(), os.getgid())
    assert state.sha256 == hashlib.sha256(b"content").hexdigest()
    assert state.xattrs == {"user.x": "ff"}
    assert state.fingerprint is None


def test_other_types_are_looked_at_and_not_opened(host: Path) -> None:
    os.mkfifo(host / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        listener.bind(f"{host}/socket")
    os.symlink("/etc/passwd", host / "link")
    assert tree.state(f"{host}/fifo").type == "fifo"
    assert tree.state(f"{host}/socket").type == "socket"
    link = tree.state(f"{host}/link")
    assert (link.type, link.target, link.sha256) == ("symlink", "/etc/passwd", None)
    assert tree.state("/dev/null").type == "character"
    assert tree.state(f"{host}").type == "directory"
    assert tree.state("/").type == "directory"


def test_what_is_not_there(host: Path) -> None:
    (host / "file").write_bytes(b"")
    assert tree.state(f"{host}/nothing") == ABSENT
    assert tree.state(f"{host}/no/parent") == ABSENT
    assert tree.state(f"{host}/file/below") == ABSENT


@pytest.mark.P2
def test_no_parent_is_a_symlink(host: Path) -> None:
    (host / "real").mkdir()
    (host / "real/file").write_bytes(b"x")
    os.symlink("real", host / "link")
    with pytest.raises(OSError, match="openat2"):
        tree.state(f"{host}/link/file")


def test_large_files_have_a_fingerprint(host: Path) -> None:
    with open(host / "large", "wb") as file:
        file.truncate(tree.HASHED_BYTES + 1)
    state = tree.state(f"{host}/large")
    assert state.sha256 is None
    assert state.fingerprint is not None
    os.utime(host / "large", (1, 1))
    assert tree.state(f"{host}/large").fingerprint != state.fingerprint


def test_what_the_identity_cannot_read_has_a_fingerprint(host: Path) -> None:
    (host / "private").write_bytes(b"secret")
    os.chmod(host / "private", 0o600)
    state = tree.state(f"{host}/private", STRANGER)
    assert state.sha256 is None
    assert state.fingerprint is not None


def test_names_that_are_not_utf8(host: Path) -> None:
    name = b"\xff\n\xfe"
    with open(os.fsencode(host) + b"/" + name, "wb"):
        pass
    assert tree.state(f"{host}/{os.fsdecode(name)}").type == "file"


def test_a_deep_tree(host: Path) -> None:
    descriptor = os.open(host, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("directory-x", dir_fd=descriptor)
        below = os.open("directory-x", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    found = summary(host)
    assert found.entries == 1001
    path = f"{host}" + "/directory-x" * 1000 + "/bottom"
    assert len(path) > 4096
    assert tree.state(path).type == "file"


def test_a_summary_tells_every_change(host: Path) -> None:
    (host / "a/b").mkdir(parents=True)
    (host / "a/b/file").write_bytes(b"12345")
    (host / "a/other").write_bytes(b"")
    os.symlink("x", host / "a/link")
    os.utime(host / "a/b/file", (1, 1))
    first = summary(host)
    assert (first.entries, first.size) == (5, 5)
    assert summary(host) == first
    changes = [
        lambda: os.chmod(host / "a/b", 0o700),
        lambda: os.utime(host / "a/b/file", (2, 2)),
        lambda: os.rename(host / "a/b/file", host / "a/b/elif"),
        lambda: (os.unlink(host / "a/link"), os.symlink("y", host / "a/link")),
        lambda: os.mkfifo(host / "a/fifo"),
        lambda: os.unlink(host / "a/other"),
    ]
    seen = {first}
    for change in changes:
        change()
        found = summary(host)
        assert found not in seen
        seen.add(found)


def test_what_a_summary_leaves_out(host: Path) -> None:
    (host / "kept").mkdir()
    (host / "kept/file").write_bytes(b"x")
    first = summary(host)
    (host / "kept/out").mkdir()
    (host / "kept/out/file").write_bytes(b"x")
    (host / ".shannot-1-2").write_bytes(b"x")
    assert summary(host) != first
    found = summary(host, excluded={f"{host}/kept/out"}, ignored_prefix=".shannot-1-")
    assert found == first


def test_a_mount_in_a_tree(host: Path) -> None:
    if not is_root():
        pytest.skip("mounts")
    (host / "a/mounted").mkdir(parents=True)

    def work() -> str:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(f"{host}/a/mounted", f"{host}/a/mounted", None, kernel.MS_BIND)
        with pytest.raises(tree.MountInside) as raised:
            summary(host)
        return str(raised.value)

    assert overlays.in_child(work) == f"{host}/a/mounted"
