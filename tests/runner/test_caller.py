"""What shims send are claims: what is none is refused or hung up on, and harms nobody (P10)."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner import caller
from shannotd.runner.caller import MAX_HEADER_BYTES, MAX_WORD_BYTES, Caller, Claim, Refused
from shannotd.runner.frames import Channel, Closed

pytestmark = pytest.mark.P10

NAMESPACE = os.stat("/proc/self/ns/pid").st_ino


class Shim:
    """The other end of a caller's connection, and what it sends."""

    def __init__(self, sock: socket.socket, served: Caller) -> None:
        self.socket = sock
        self.caller = served
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def send(self, header: object, *, payload: int = 0, fds: int = 3, more: bytes = b"") -> None:
        """A frame with a header, and so many descriptors; `payload` is announced only."""
        content = header if isinstance(header, bytes) else json.dumps(header).encode()
        frame = struct.pack(">II", len(content), payload) + content + more
        socket.send_fds(self.socket, [frame], [self.null] * fds)

    def call(self, environment: object, fds: int = 3) -> None:
        """A call with this environment."""
        self.send({"op": "call", "fds": 3, "environment": environment}, fds=fds)

    def received(self) -> Claim | None:
        """What has come of it, when all was read that is there."""
        while True:
            claim = self.caller.receive()
            if claim is not None or not self.waiting():
                return claim

    def waiting(self) -> bool:
        """Whether there is more to be read."""
        reading = socket.socket(fileno=os.dup(self.caller.fileno()))
        with reading:
            try:
                return bool(reading.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            except BlockingIOError:
                return False


def count() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def shim(tmp_path: Path) -> Iterator[Shim]:
    before = count()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(str(tmp_path / "calls"))
        listener.listen()
        sock.connect(str(tmp_path / "calls"))
        served = caller.accept(listener, NAMESPACE)
        assert served is not None
        made = Shim(sock, served)
        try:
            yield made
        finally:
            os.close(made.null)
            served.close()
    assert count() == before, "a descriptor that was passed is still open"


def test_a_call_is_taken_as_it_is(shim: Shim) -> None:
    assert shim.caller.process == os.getpid()
    assert shim.caller.receive() is None
    shim.call({"A": "1", "B": "\udcff"})
    claim = shim.received()
    assert claim is not None
    assert claim.environment == {"A": "1", "B": "\udcff"}
    for descriptor in claim.standard:
        assert os.path.samestat(os.fstat(descriptor), os.fstat(shim.null))
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


def test_a_call_may_come_in_pieces(shim: Shim) -> None:
    content = json.dumps({"op": "call", "fds": 3, "environment": {}}).encode()
    frame = struct.pack(">II", len(content), 0) + content
    for number, byte in enumerate(frame[:-1]):
        passed = [shim.null] if number < 3 else []
        socket.send_fds(shim.socket, [bytes([byte])], passed)
        assert shim.caller.receive() is None
    shim.socket.send(frame[-1:])
    claim = shim.caller.receive()
    assert claim is not None
    for descriptor in claim.standard:
        os.close(descriptor)


@pytest.mark.parametrize(
    "header",
    [
        {"op": "other", "fds": 3, "environment": {}},
        {"op": "call", "fds": 2, "environment": {}},
        {"op": "call", "fds": 3, "environment": ["A=1"]},
        {"op": "call", "fds": 3, "environment": {"A": 1}},
        {"op": "call", "fds": 3, "environment": {"A": "x\0y"}},
        {"op": "call", "fds": 3, "environment": {"A": "\ud800"}},
        {"op": "call", "fds": 3, "environment": {"": "x"}},
        {"op": "call", "fds": 3, "environment": {"A=B": "x"}},
        {"op": "call", "fds": 3},
        b"no header",
        b"[]",
    ],
    ids=str,
)
def test_what_is_no_call_is_hung_up_on(shim: Shim, header: object) -> None:
    shim.send(header)
    with pytest.raises(Closed):
        shim.received()


@pytest.mark.parametrize("fds", [0, 2, 4])
def test_a_call_has_just_three_descriptors(shim: Shim, fds: int) -> None:
    shim.call({}, fds=fds)
    with pytest.raises(Closed):
        shim.received()


def test_a_call_has_no_payload(shim: Shim) -> None:
    shim.send({"op": "call", "fds": 3, "environment": {}}, payload=1)
    with pytest.raises(Closed):
        shim.received()


def test_there_is_one_call_and_nothing_after_it(shim: Shim) -> None:
    shim.send({"op": "call", "fds": 3, "environment": {}}, more=b"x")
    with pytest.raises(Closed):
        shim.received()


def test_who_calls_again_is_hung_up_on(shim: Shim) -> None:
    shim.call({})
    claim = shim.received()
    assert claim is not None
    for descriptor in claim.standard:
        os.close(descriptor)
    shim.call({})
    with pytest.raises(Closed):
        shim.received()


def test_who_goes_is_gone(shim: Shim) -> None:
    shim.socket.close()
    with pytest.raises(Closed):
        shim.caller.receive()


def test_who_goes_with_something_unread_is_gone(shim: Shim) -> None:
    shim.caller.send({"event": "output"}, b"x")
    shim.socket.close()  # the kernel then says that the connection was reset
    with pytest.raises(Closed):
        shim.caller.receive()
    with pytest.raises(Closed):
        shim.caller.send({"event": "exit"})


def test_a_large_environment_is_refused_in_words(shim: Shim) -> None:
    shim.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_WORD_BYTES)
    shim.call({"A": "x" * (MAX_WORD_BYTES - 2)})
    with pytest.raises(Refused, match="too large"):
        shim.received()


def test_the_rest_of_a_header_that_is_too_large_is_thrown_away(shim: Shim) -> None:
    shim.socket.sendall(struct.pack(">II", MAX_HEADER_BYTES + 1, 0))
    with pytest.raises(Refused, match="too large"):
        shim.received()
    assert shim.caller.draining
    for _ in range(20):
        shim.socket.sendall(bytes(100_000))
        assert shim.received() is None
    shim.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(Closed):
        shim.received()


def test_nobody_waits_for_a_shim_that_does_not_read(shim: Shim) -> None:
    sent = os.urandom(3 << 20)
    shim.caller.send({"event": "output"}, sent)
    assert 0 < shim.caller.unsent <= len(sent) + 100
    channel = Channel(shim.socket)
    reading = bytearray()
    while shim.caller.unsent:
        reading += channel.socket.recv(1 << 20)
        shim.caller.flush()
    while len(reading) < len(sent):
        reading += channel.socket.recv(1 << 20)
    assert reading.endswith(sent)


def test_who_is_in_another_sandbox_is_not_served(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(str(tmp_path / "calls"))
        listener.listen()
        sock.connect(str(tmp_path / "calls"))
        assert caller.accept(listener, NAMESPACE + 1) is None
        assert sock.recv(1) == b""


def test_there_may_be_nobody(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "calls"))
        listener.listen()
        listener.setblocking(False)
        assert caller.accept(listener, NAMESPACE) is None
