"""The state of paths on the host: nothing is followed, nothing but files is opened."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from pathlib import Path

import pytest

from shannotd.runner import filesystem, kernel, tree
from shannotd.runner.plan import ABSENT, Identity
from tests.runner import overlays
from tests.support.accounts import is_root

STRANGER = Identity("stranger", 54321, 54321, (54321,), 0o022)
# posix_acl_xattr.h: version 2, then tag, permissions and id of the owner, uid 1, the group, the
# mask and others. Without a named entry the kernel would keep it as a mode.
UNDEFINED = 0xFFFFFFFF
ENTRIES = [
    (1, 6, UNDEFINED),
    (2, 4, 1),
    (4, 4, UNDEFINED),
    (0x10, 4, UNDEFINED),
    (0x20, 4, UNDEFINED),
]
ACL_OF_0644 = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number) for tag, permissions, number in ENTRIES
)


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


@pytest.mark.P2
@pytest.mark.parametrize(
    ("mode", "gid", "groups", "acl", "readable"),
    [
        (0o640, 1, (1, 54321), False, True),
        (0o640, 54321, (), False, True),
        (0o640, 1, (), False, False),
        (0o604, 1, (), False, True),
        (0o604, 54321, (54321,), False, False),  # the group's bits hold for its members
        (0o644, 54321, (54321,), True, False),  # what an ACL says is not known
    ],
)
def test_what_may_be_read_is_judged_by_owner_mode_and_groups(
    mode: int, gid: int, groups: tuple[int, ...], acl: bool, readable: bool, host: Path
) -> None:
    if not is_root():
        pytest.skip("gives a file away")
    (host / "file").write_bytes(b"x")
    os.chown(host / "file", 1, gid)
    os.chmod(host / "file", mode)
    if acl:
        os.setxattr(host / "file", tree.ACCESS_ACL, ACL_OF_0644)
    os.setxattr(host / "file", "user.x", b"\xff")
    someone = Identity("someone", 54321, 54321, groups, 0o022)
    state = tree.state(f"{host}/file", someone)
    assert (state.sha256 is not None) == readable
    # What the identity cannot look at again is not recorded.
    assert ("user.x" in state.xattrs) == readable
    assert (tree.ACCESS_ACL in state.xattrs) == acl


@pytest.mark.P2
def test_what_cannot_be_read_by_us_is_no_content_of_anothers(
    host: Path, ordinary: Identity
) -> None:
    if not is_root():
        pytest.skip("becomes an ordinary account")
    root = Identity("root", 0, 0, (), 0o022)
    (host / "private").write_bytes(b"secret")
    os.chmod(host / "private", 0o600)
    (host / "own").write_bytes(b"write-only")
    os.setxattr(host / "own", "user.x", b"\xff")
    os.chown(host / "own", ordinary.uid, ordinary.gid)
    os.chmod(host / "own", 0o200)

    def work() -> list[tuple[object, ...]]:
        with pytest.raises(PermissionError):
            tree.state(f"{host}/private", root)
        states = [tree.state(f"{host}/{name}") for name in ("private", "own")]
        return [(state.sha256, state.fingerprint is None, state.xattrs) for state in states]

    assert overlays.in_child(work, ordinary) == [(None, False, {})] * 2


def test_attributes_of_what_is_not_there(host: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tree.read_xattrs(f"{host}/missing")


def test_content_in_pieces(host: Path) -> None:
    data = os.urandom(tree.CHUNK_BYTES + 5)
    (host / "file").write_bytes(data)
    with open(host / "file", "rb") as file:
        assert tree.hash_content(file.fileno(), 7) == hashlib.sha256(data[:7]).hexdigest()
        assert tree.read_all(file.fileno()) == data[7:]
        assert tree.read_all(file.fileno()) == b""
        # What is said to be there and is not.
        assert tree.hash_content(file.fileno(), 7) == hashlib.sha256(b"").hexdigest()


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


def test_a_directory_that_the_identity_cannot_read_is_an_entry_only(host: Path) -> None:
    (host / "open").mkdir()
    (host / "closed").mkdir()
    os.chmod(host / "closed", 0o700)
    os.chmod(host, 0o755)
    before = summary(host, identity=STRANGER)
    assert before.entries == 2
    (host / "closed/file").write_bytes(b"x")
    assert summary(host, identity=STRANGER) == before
    assert summary(host).entries == 3
    assert summary(host / "closed", identity=STRANGER).entries == 0
    (host / "open/file").write_bytes(b"x")
    assert summary(host, identity=STRANGER) != before


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_mount_in_a_tree(host: Path, kind: str) -> None:
    if not is_root():
        pytest.skip("mounts")
    (host / "a").mkdir()
    (host / "a/mounted").mkdir() if kind == "directory" else (host / "a/mounted").touch()
    source = f"{host}/a/mounted" if kind == "directory" else "/proc/version"

    def work() -> str:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(source, f"{host}/a/mounted", None, kernel.MS_BIND)
        with pytest.raises(tree.MountInside) as raised:
            summary(host)
        return str(raised.value)

    assert overlays.in_child(work) == f"{host}/a/mounted"
