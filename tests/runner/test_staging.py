"""New files as they are to be: content, holes, attributes, whatever the filesystem (P2, P4)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.runner import filesystem, staging, tree
from shannotd.runner.contents import Source
from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.support.accounts import is_root

MIB = 1 << 20


@pytest.fixture
def host(top: Path) -> Path:
    return top / "host"


@contextmanager
def new(path: Path) -> Iterator[int]:
    """A descriptor of a new file."""
    descriptor = os.open(path, staging.O_NEW, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_runs_of_zeros_are_holes(host: Path) -> None:
    data = b"begin" + bytes(4 * MIB) + b"end" + bytes(4 * MIB)
    with new(host / "file") as descriptor:
        staging.write(descriptor, b"kept")
        staging.write(descriptor, data, 4)
    assert (host / "file").read_bytes() == b"kept" + data
    assert (host / "file").stat().st_blocks * 512 < MIB


@pytest.mark.P2
@pytest.mark.parametrize("position", [0, 3])
def test_bytes_of_another_hash_are_no_content(host: Path, position: int) -> None:
    data = os.urandom(tree.CHUNK_BYTES + 1)
    with tempfile.TemporaryFile() as source, new(host / "file") as descriptor:
        source.write(data)
        source.flush()
        staging.write_from(descriptor, Source(source.fileno()), len(data), sha256(data), position)
        assert (host / "file").read_bytes() == bytes(position) + data
        with pytest.raises(staging.WrongContent):
            staging.write_from(
                descriptor, Source(source.fileno()), len(data), sha256(b""), position
            )
        with pytest.raises(staging.WrongContent):  # shorter than it was said to be
            staging.write_from(
                descriptor, Source(source.fileno()), len(data) + 1, sha256(data + b"x")
            )


@pytest.mark.parametrize("filesystem_of_source", ["/var/tmp", "/dev/shm"], ids=["same", "other"])
@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, b"begin")],
        [(2 * MIB, b"middle")],
        [(0, b"x" * (MIB + 1)), (3 * MIB, b"y" * 10)],
    ],
    ids=["hole", "begin", "middle", "large"],
)
def test_a_copy_has_the_same_content_and_holes(
    host: Path, filesystem_of_source: str, pieces: list[tuple[int, bytes]]
) -> None:
    size = 5 * MIB
    with tempfile.TemporaryFile(dir=filesystem_of_source) as source:
        source.truncate(size + 1)
        for position, data in pieces:
            os.pwrite(source.fileno(), data, position)
        os.pwrite(source.fileno(), b"z", size)  # beyond what is to be copied
        with new(host / "file") as descriptor:
            staging.copy(source.fileno(), descriptor, size)
        expected = os.pread(source.fileno(), size, 0)
    assert (host / "file").read_bytes() == expected
    used = (host / "file").stat().st_blocks * 512
    assert used <= sum(len(data) for _, data in pieces) + 64 * 1024


@pytest.mark.P10
def test_what_cannot_be_copied_is_told(host: Path) -> None:
    (host / "source").write_bytes(b"x")
    reader, writer = os.pipe()
    with open(host / "source", "rb") as source:
        with new(host / "file") as descriptor, pytest.raises(OSError, match="Illegal seek"):
            staging.copy(reader, descriptor, 1)
        with pytest.raises(OSError, match="Bad file descriptor"):
            staging.copy(source.fileno(), source.fileno(), 1)
    os.close(reader)
    os.close(writer)


@pytest.mark.P2
def test_attributes_of_a_file_that_its_owner_cannot_write(ordinary: Identity) -> None:
    if not is_root():
        pytest.skip("becomes an ordinary account")
    with overlays.workplace(ordinary) as top:
        path = top / "host/file"

        def work() -> object:
            path.write_bytes(b"x")
            for name in ("user.kept", "user.changed", "user.removed"):
                os.setxattr(path, name, b"1")
            path.chmod(0o400)
            found = tree.state(str(path))
            wanted = {"user.kept": "31", "user.changed": "32", "user.added": "33"}
            descriptor = os.open(path, filesystem.O_PATH)
            try:
                staging.set_state(
                    descriptor,
                    replace(found, xattrs=wanted),
                    filesystem.status(descriptor),
                    keep_open=False,
                )
            finally:
                os.close(descriptor)
            after = tree.state(str(path))
            return after == replace(found, xattrs=wanted), after

        same, after = overlays.in_child(work, ordinary)  # type: ignore[misc]
        assert same, after
