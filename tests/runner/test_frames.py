"""Frames that are none end the channel, and nothing that came with them stays open (P10)."""

from __future__ import annotations

import array
import os
import socket
from pathlib import Path

import pytest

from shannotd.runner.contents import AskedContents, Source
from shannotd.runner.frames import LENGTHS, MAX_HEADER_BYTES, Channel, Closed, RunnerError

pytestmark = pytest.mark.P10


def pair() -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (LENGTHS.pack(MAX_HEADER_BYTES + 1, 0), "a frame of"),
        (LENGTHS.pack(2, 1 << 31) + b"{}", "a frame of"),
        (LENGTHS.pack(3, 0) + b"{]}", "no JSON"),
        (LENGTHS.pack(2, 0) + b"[]", "no object"),
        (LENGTHS.pack(9, 0) + b'{"fds":1}', "fewer descriptors"),
        (LENGTHS.pack(10, 0) + b'{"fds":-1}', "fewer descriptors"),
        (LENGTHS.pack(11, 0) + b'{"fds":"1"}', "fewer descriptors"),
        (LENGTHS.pack(100, 0) + b"{", None),
        (b"", None),
    ],
)
def test_what_is_no_frame_closes(sent: bytes, words: str | None) -> None:
    channel, theirs = pair()
    with channel:
        theirs.sendall(sent)
        theirs.close()
        with pytest.raises(Closed, match=words):
            channel.receive()


def test_descriptors_that_nobody_took_are_closed() -> None:
    channel, theirs = pair()
    reader, writer = os.pipe()
    rights = array.array("i", [writer])
    with theirs:
        theirs.sendmsg(
            [LENGTHS.pack(2, 0) + b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        )
        os.close(writer)
        with channel:
            assert channel.receive() == ({}, b"", [])
        with open(reader, "rb") as pipe:
            assert pipe.read() == b""  # ends only when every other end is closed


def test_an_end_that_is_gone_or_does_not_read() -> None:
    channel, theirs = pair()
    with channel, theirs:
        channel.limit_sending(1)
        with pytest.raises(Closed, match="does not read"):
            channel.send({}, bytes(8 << 20))
        theirs.close()
        with pytest.raises(Closed):
            channel.send({})


def test_contents_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    wanted = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of "x"
    with open(tmp_path / "file", "rb") as file:
        blob = {"op": "blob", "sha256": wanted}
        for header, descriptors in (
            ({"op": "end"}, ()),
            ({"op": "blobs"}, ()),
            ({"op": "blobs", "blobs": []}, ()),
            ({"op": "blobs", "blobs": 7}, (file.fileno(),)),
            (blob, ()),
            ({"op": "blobs", "blobs": [[wanted, 2]]}, ()),
        ):
            channel, theirs = pair()
            with channel, Channel(theirs) as daemon, AskedContents(channel) as contents:
                daemon.send(header, b"no", descriptors)
                with pytest.raises(RunnerError) as raised:
                    contents.ask([(wanted, 1)])
                assert raised.value.code == "apply_failed"
        channel, theirs = pair()
        with channel, Channel(theirs) as daemon, AskedContents(channel) as contents:
            daemon.send({**blob, "sha256": "another"}, b"", (file.fileno(),))
            daemon.send({**blob, "sha256": "another"}, b"", (file.fileno(),))
            daemon.send(blob, b"", (file.fileno(),))
            contents.ask([(wanted, 1)])
            content = contents.get(wanted)
            assert isinstance(content, Source)
            assert os.pread(content.descriptor, 9, 0) == b"x"
