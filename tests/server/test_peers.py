"""The process at the other end of a socket, held so that it cannot be taken for another."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.server import peers
from shannotd.server.peers import peer_of, process_of

pytestmark = pytest.mark.P5

CONNECTS = """
import socket, sys
made = socket.socket(socket.AF_UNIX)
made.connect(sys.argv[1])
sys.stdin.read()
"""


class Other:
    """Another process, connected to us."""

    def __init__(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen()
            self.process = subprocess.Popen(
                [sys.executable, "-c", CONNECTS, str(path)], stdin=subprocess.PIPE
            )
            self.socket, _ = listening.accept()

    def end(self) -> None:
        """End it, and have its number free."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(params=["of the kernel", "by number"])
def other(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Other]:
    """One, on a kernel that has descriptors of peers, and as if on one that has not."""
    made = Other(tmp_path / "socket")
    if request.param == "by number":
        monkeypatch.setattr(peers, "_SO_PEERPIDFD", 9999)  # no kernel knows that
        with pytest.raises(OSError) as caught:
            made.socket.getsockopt(socket.SOL_SOCKET, 9999)
        assert caught.value.errno == errno.ENOPROTOOPT
    try:
        yield made
    finally:
        made.end()
        made.socket.close()


def test_it_is_held_until_it_ends(other: Other) -> None:
    with process_of(other.socket, peer_of(other.socket)) as process:
        assert process.pid == other.process.pid and process.uid == os.getuid()
        assert process.is_alive()
        other.end()
        select.select([process.descriptor], [], [], 30)
        assert not process.is_alive()
        descriptor = process.descriptor
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_one_that_has_ended_is_told(other: Other) -> None:
    peer = peer_of(other.socket)
    other.end()
    with pytest.raises(ProcessLookupError), process_of(other.socket, peer):
        pass


def test_a_number_that_is_anothers_by_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_SO_PEERPIDFD", 9999)
    first = Other(tmp_path / "first")
    seen = peer_of(first.socket)
    first.end()
    # It began after we had seen the first one; had it the first one's number, this would be it.
    later = Other(tmp_path / "later")
    try:
        started = int(Path(f"/proc/{later.process.pid}/stat").read_text().split()[21])
        ticks = os.sysconf("SC_CLK_TCK")
        before = replace(seen, pid=later.process.pid, seen=(started - 2) / ticks)
        with (
            pytest.raises(ProcessLookupError, match="another has its number"),
            process_of(later.socket, before),
        ):
            pass
        with process_of(later.socket, peer_of(later.socket)) as process:
            assert process.is_alive()
    finally:
        later.end()
        first.socket.close()
        later.socket.close()


def test_a_connection_that_is_no_accounts() -> None:
    """Of the other end of a network connection the kernel says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        with (
            socket.create_connection(address),
            listening.accept()[0] as accepted,
            pytest.raises(OSError),
        ):
            peer_of(accepted)
