"""Outlet: what a script made its outputs of can neither block nor fool the runner (P1)."""

from __future__ import annotations

import os
import pty
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shannotd.runner.observe_output import Outlet

pytestmark = pytest.mark.P1

NULL = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)


def written(descriptor: int, data: bytes, seconds: float = 20, cancel: int | None = None) -> None:
    """Write `data` to the descriptor by an outlet of its own."""
    with Outlet(descriptor, NULL, seconds, cancel) as outlet:
        outlet("stdout", data)
        outlet("stderr", b"x")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            pass


def test_a_pipe_gets_all_of_it_while_somebody_reads(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    data, got = os.urandom(1 << 20), bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(reader, 65536))

    thread = threading.Thread(target=read)
    thread.start()
    written(writer, data)
    thread.join()
    assert got == data


def test_the_scripts_own_description_stays_blocking(pipe: tuple[int, int]) -> None:
    written(pipe[1], b"x")
    assert os.get_blocking(pipe[1])


def test_a_pipe_that_nobody_reads_blocks_only_for_its_time(pipe: tuple[int, int]) -> None:
    with pytest.raises(TimeoutError):
        written(pipe[1], bytes(1 << 20), seconds=0.05)


def test_a_cancel_ends_the_wait(pipe: tuple[int, int]) -> None:
    cancel, other = os.pipe()
    os.close(other)
    try:
        with pytest.raises(TimeoutError):
            written(pipe[1], bytes(1 << 20), seconds=1000, cancel=cancel)
    finally:
        os.close(cancel)


def test_a_pipe_without_a_reader_is_broken(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    with pytest.raises(BrokenPipeError):
        written(pipe[1], b"x")


def test_a_file_is_written_where_the_script_left_off(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with open(path, "wb", buffering=0) as file:
        file.write(b"before ")
        written(file.fileno(), b"inside")
        file.write(b" after")
    assert path.read_bytes() == b"before inside after"


def test_a_full_disk_is_a_broken_output() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(BrokenPipeError):
            written(full, b"x")
    finally:
        os.close(full)


def test_a_socket_gets_it_too_and_cannot_block() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        written(theirs.fileno(), b"inside")
        assert ours.recv(64) == b"inside"
        with pytest.raises(TimeoutError):
            written(theirs.fileno(), bytes(1 << 22), seconds=0.05)
        ours.close()
        with pytest.raises(BrokenPipeError):
            written(theirs.fileno(), b"x")


def test_a_terminal_gets_it() -> None:
    main, terminal = pty.openpty()
    try:
        written(terminal, b"inside")
        assert os.read(main, 64) == b"inside"
    finally:
        os.close(main)
        os.close(terminal)


def _datagram() -> int:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()


def _internet() -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()


def _netlink() -> int:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).detach()


@pytest.mark.parametrize(
    "make",
    [
        _datagram,
        _internet,
        _netlink,
        lambda: os.open("/etc/passwd", os.O_RDONLY),
        lambda: os.open("/etc/passwd", os.O_PATH),
        lambda: os.open("/", os.O_RDONLY | os.O_DIRECTORY),
        lambda: os.eventfd(0),
        lambda: os.pidfd_open(os.getpid()),
    ],
    ids=["datagram", "internet", "netlink", "read-only", "path", "directory", "eventfd", "pidfd"],
)
@pytest.mark.P10
def test_what_is_no_output_is_not_written_to(make: Callable[[], int]) -> None:
    descriptor = make()
    try:
        with pytest.raises(BrokenPipeError):
            written(descriptor, b"x")
    finally:
        os.close(descriptor)


def test_a_number_that_is_no_descriptor_is_no_output() -> None:
    with pytest.raises(BrokenPipeError):
        written(987654, b"x")


def test_nothing_stays_open(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as file:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            written(file.fileno(), b"x")
        assert len(os.listdir("/proc/self/fd")) == before
