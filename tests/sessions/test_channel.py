"""The daemon's frames against the runner's own codec."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.runner.frames import Channel as RunnerChannel
from shannotd.sessions.channel import ChannelClosed, pair
from tests.support.service import in_loop

texts = st.text() | st.binary().map(os.fsdecode)
headers = st.dictionaries(
    st.text(max_size=9).filter(lambda key: key != "fds"), texts | st.integers(), max_size=4
)


async def in_thread(work: Callable[[], Any]) -> Any:
    """What blocking `work` gives."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


@given(st.lists(st.tuples(headers, st.binary(max_size=300_000)), max_size=5))
@in_loop
async def test_frames_survive_both_ways(frames: list[tuple[dict[str, Any], bytes]]) -> None:
    ours, their_socket = pair()
    theirs = RunnerChannel(their_socket)
    their_socket.setblocking(True)

    def echo() -> None:
        for _ in frames:
            header, payload, _ = theirs.receive()
            theirs.send(header, payload)

    echoing = asyncio.ensure_future(in_thread(echo))
    for header, payload in frames:
        await ours.send(header, payload)
        received = await ours.receive()
        assert received.header == header
        assert bytes(received.payload) == payload
    await echoing
    theirs.close()
    with pytest.raises(ChannelClosed):
        await ours.receive()
    ours.close()


@in_loop
async def test_descriptors_arrive_with_their_frame() -> None:
    ours, their_socket = pair()
    read_end, write_end = os.pipe()
    with RunnerChannel(their_socket) as theirs:
        theirs.send({"event": "blob"}, b"x" * 200_000, (read_end,))
        theirs.send({"event": "end"})
        os.close(read_end)
        first = await ours.receive()
        second = await ours.receive()
        assert second.descriptors == []
        os.write(write_end, b"through")
        assert os.read(first.descriptors[0], 100) == b"through"
        os.close(first.descriptors[0])
    os.close(write_end)
    ours.close()


@in_loop
async def test_unclaimed_descriptors_are_closed() -> None:
    ours, theirs = pair()
    read_end, write_end = os.pipe()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write_end]))]
    frame = b'{"event":"started"}'
    theirs.sendmsg([struct.pack(">II", len(frame), 0) + frame], rights)
    os.close(write_end)
    assert (await ours.receive()).descriptors == []
    ours.close()
    assert os.read(read_end, 1) == b""  # nobody has the writing end any more
    os.close(read_end)
    theirs.close()


@pytest.mark.P10
@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">II", 0xFFFFFFFF, 0),
        struct.pack(">II", 10, 0xFFFFFFFF),
        struct.pack(">II", 3, 0) + b"{,}",
        struct.pack(">II", 2, 0) + b"[]",
        struct.pack(">II", 9, 0) + b'{"fds":3}',
        struct.pack(">II", 10, 0) + b"{",
    ],
)
@in_loop
async def test_what_is_no_frame_closes(sent: bytes) -> None:
    ours, theirs = pair()
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(ChannelClosed):
        await ours.receive()
    ours.close()


@in_loop
async def test_closing_wakes_who_waits() -> None:
    ours, theirs = pair()
    waiting = asyncio.ensure_future(ours.receive())
    await asyncio.sleep(0)
    ours.close()
    with pytest.raises(ChannelClosed):
        await waiting
    with pytest.raises(ChannelClosed):
        await ours.send({"op": "cancel"})
    theirs.close()
