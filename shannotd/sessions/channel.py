"""The daemon's asyncio end of the frames that it exchanges with the runner.

A frame is two big-endian 32-bit lengths, a JSON header (ASCII, an object) and a raw
payload; descriptors ride with its first byte (SCM_RIGHTS), counted by the header's `fds`.

Reading is by demand: nothing is taken from the socket before somebody asks for a frame,
so a peer that sends faster than its frames are used is held back by the kernel.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

LENGTHS = struct.Struct(">II")
MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_PAYLOAD_BYTES = 256 * 1024 * 1024
MAX_DESCRIPTORS = 4

_READ_BYTES = 65536
_JOINED_BYTES = 65536  # a payload up to this size is sent in one piece with its header
_DESCRIPTOR_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)

# What recvmsg(2) and recvmsg_into(2) give.
_Bytes = TypeVar("_Bytes", bytes, int)
_Ancillary = Sequence[tuple[int, int, bytes]]


class ChannelClosed(Exception):
    """The other end is gone, or sent something that is no frame."""


class Frame(NamedTuple):
    """One frame; `descriptors` belong to who received it."""

    header: Mapping[str, Any]
    payload: bytes | bytearray
    descriptors: list[int]


def pair() -> tuple[Channel, socket.socket]:
    """A new channel and the socket of its other end, to be passed on and then closed."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(here), there


class Channel:
    """Frames over a connected stream socket, within the running loop; owns the socket.

    One reader at a time; writers take turns. After a cancelled `receive` or `send` the
    channel is good for `close` only.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._descriptor = sock.fileno()  # asyncio is quicker with a number
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._sending = asyncio.Lock()
        self._closed = False

    def close(self) -> None:
        """Close the socket and the descriptors that nobody took; who waits meets ChannelClosed."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(ChannelClosed("closed"))
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._socket.close()

    async def send(
        self,
        header: Mapping[str, Any],
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
    ) -> None:
        """Send one frame, all of it.

        :raises ChannelClosed: the other end is gone.
        """
        if descriptors:
            header = {**header, "fds": len(descriptors)}
        encoded = json.dumps(header, separators=(",", ":")).encode("ascii")
        head = LENGTHS.pack(len(encoded), len(payload)) + encoded
        if len(payload) <= _JOINED_BYTES:
            head += payload
            payload = b""
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            if descriptors
            else []
        )
        async with self._sending:
            await self._send_all(head, ancillary)
            if payload:
                await self._send_all(payload, [])

    async def receive(self) -> Frame:
        """The next frame.

        :raises ChannelClosed: the other end is gone, or sent no frame.
        """
        header_size, payload_size = LENGTHS.unpack(await self._take(LENGTHS.size))
        if header_size > MAX_HEADER_BYTES or payload_size > MAX_PAYLOAD_BYTES:
            raise ChannelClosed(f"a frame of {header_size} + {payload_size} bytes")
        header = _parse(await self._take(header_size))
        payload = await self._take_payload(payload_size)
        count = header.get("fds", 0)
        if type(count) is not int or not 0 <= count <= len(self._descriptors):
            raise ChannelClosed("fewer descriptors than announced")
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return Frame(header, payload, taken)

    async def _send_all(self, data: bytes, ancillary: list[tuple[int, int, Any]]) -> None:
        rest = memoryview(data)
        while rest:
            if self._closed:
                raise ChannelClosed("closed")
            try:
                sent = self._socket.sendmsg([rest], ancillary, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                await self._writable()
                continue
            except (BrokenPipeError, ConnectionResetError) as error:
                raise ChannelClosed("the other end is gone") from error
            rest = rest[sent:]
            ancillary = []

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._buffer += await self._read(_READ_BYTES)
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _take_payload(self, size: int) -> bytes | bytearray:
        """A payload; a large one goes straight into its place, without a copy per read."""
        if size <= max(len(self._buffer), _READ_BYTES):
            return await self._take(size)
        payload = bytearray(size)
        filled = len(self._buffer)
        payload[:filled] = self._buffer
        self._buffer.clear()
        with memoryview(payload) as view:
            while filled < size:
                filled += await self._read_into(view[filled:])
        return payload

    async def _read(self, size: int) -> bytes:
        return await self._received(
            lambda: self._socket.recvmsg(size, _DESCRIPTOR_SPACE, socket.MSG_CMSG_CLOEXEC)
        )

    async def _read_into(self, view: memoryview) -> int:
        return await self._received(
            lambda: self._socket.recvmsg_into([view], _DESCRIPTOR_SPACE, socket.MSG_CMSG_CLOEXEC)
        )

    async def _received(self, receive: Callable[[], tuple[_Bytes, _Ancillary, int, Any]]) -> _Bytes:
        """What `receive` gives as soon as something can be received, but for descriptors."""
        while True:
            if self._closed:
                raise ChannelClosed("closed")
            try:
                received, ancillary, _, _ = receive()
            except (BlockingIOError, InterruptedError):
                await self._readable()
                continue
            except ConnectionResetError as error:
                raise ChannelClosed("the other end is gone") from error
            self._keep_descriptors(ancillary)
            if not received:
                raise ChannelClosed("the other end is gone")
            return received

    def _keep_descriptors(self, ancillary: _Ancillary) -> None:
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                rights = array.array("i")
                rights.frombytes(content[: len(content) - len(content) % rights.itemsize])
                self._descriptors.extend(rights)

    async def _readable(self) -> None:
        await self._ready(self._loop.add_reader, self._loop.remove_reader)

    async def _writable(self) -> None:
        await self._ready(self._loop.add_writer, self._loop.remove_writer)

    async def _ready(
        self,
        add: Callable[[int, Callable[[asyncio.Future[None]], None], asyncio.Future[None]], object],
        remove: Callable[[int], object],
    ) -> None:
        """Wait until the loop, which `add` asks for it, says that the socket is ready."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        add(self._descriptor, wake, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if not self._closed:
                remove(self._descriptor)


def wake(waiter: asyncio.Future[None]) -> None:
    """Let the one who waits go on, if he still does."""
    if not waiter.done():
        waiter.set_result(None)


def _parse(encoded: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(encoded)
    except ValueError as error:
        raise ChannelClosed("a frame whose header is no JSON") from error
    if not isinstance(header, dict):
        raise ChannelClosed("a frame whose header is no object")
    return header
