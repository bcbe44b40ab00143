"""The socket of a sandbox on which shims call, and one shim's connection, from outside.

What comes from inside are claims: nothing in it is believed, all of it is bounded, and nobody
who sends or reads slowly holds anything up but his own call.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from shannotd.runner.frames import (
    LENGTHS,
    MAX_DESCRIPTORS,
    Closed,
    Header,
    encode,
    parse_header,
    passed_descriptors,
)
from shannotd.runner.mounts import SCRIPT_DIRECTORY

ADDRESS = SCRIPT_DIRECTORY + "/calls"
# Of an environment; and of a call's header, where each byte may be written as six characters.
MAX_WORD_BYTES = 256 * 1024
MAX_HEADER_BYTES = 6 * MAX_WORD_BYTES + 64 * 1024
# What is kept for a shim that does not read; beyond it, who produces it waits.
MAX_UNSENT_BYTES = 256 * 1024
_CREDENTIALS = struct.Struct("=iII")


class Refused(Exception):
    """A call that cannot be served; says why, in words."""


@dataclass(frozen=True)
class Claim:
    """What a shim says of its call: what is in its environment, and its descriptors 0, 1 and 2,
    the caller's."""

    environment: Dict[str, str]
    standard: Tuple[int, int, int]


def accept(listener: socket.socket, namespace: int) -> Optional[Caller]:
    """The next connection of a process in the pid namespace with the inode `namespace`.

    None where there is none, or it is another's.
    """
    try:
        sock, _ = listener.accept()
    except OSError:  # it was gone before, or we have too many descriptors
        return None
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(raw)
    try:
        inside = os.stat(f"/proc/{pid}/ns/pid").st_ino == namespace
    except OSError:
        inside = False
    if not inside:
        sock.close()
        return None
    sock.setblocking(False)
    return Caller(sock, pid)


class Caller:
    """A shim that waits for what becomes of its call; owns the connection.

    `process` is the one that connected.
    """

    def __init__(self, sock: socket.socket, process: int) -> None:
        self.process = process
        self._socket = sock
        self._received = bytearray()
        self._descriptors: List[int] = []
        self._unsent = bytearray()
        self._called = False
        self.draining = False  # what still comes of a refused call is thrown away

    def fileno(self) -> int:
        """The connection, for poll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up; descriptors that nobody took are closed."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._socket.close()

    @property
    def unsent(self) -> int:
        """How many bytes wait until the shim reads."""
        return len(self._unsent)

    def receive(self) -> Optional[Claim]:
        """Its call, when the last of it has come; None before that.

        :raises Closed: it is gone, or sent no call, or more than one.
        :raises Refused: what it sent cannot be served.
        """
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                65536, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except OSError as error:
            raise Closed from error
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._descriptors += passed_descriptors(content)
        if data and self.draining:
            return None
        if not data or self._called or len(self._descriptors) > MAX_DESCRIPTORS:
            raise Closed
        self._received += data
        return self._whole()

    def _whole(self) -> Optional[Claim]:
        if len(self._received) < LENGTHS.size:
            return None
        header_size, payload_size = LENGTHS.unpack_from(self._received)
        if payload_size:
            raise Closed("a call with a payload")
        if header_size > MAX_HEADER_BYTES:
            self._called = self.draining = True
            self._received.clear()
            raise Refused("its environment is too large")
        end = LENGTHS.size + header_size
        if len(self._received) < end:
            return None
        if len(self._received) > end:
            raise Closed("more than one call")
        self._called = True
        header = parse_header(bytes(self._received[LENGTHS.size :]))
        self._received.clear()
        return self._claim(header)

    def _claim(self, header: Header) -> Claim:
        if header.get("op") != "call" or header.get("fds") != 3 or len(self._descriptors) != 3:
            raise Closed("no call with three descriptors")
        environment = header.get("environment")
        if not isinstance(environment, dict):
            raise Closed("a call without an environment")
        if sum(map(_size, (*environment, *environment.values()))) > MAX_WORD_BYTES:
            raise Refused("its environment is too large")
        if any("=" in name or not name for name in environment):
            raise Closed("a variable without a name")
        standard = (self._descriptors[0], self._descriptors[1], self._descriptors[2])
        self._descriptors.clear()
        return Claim(environment, standard)

    def send(self, header: Header, payload: bytes = b"") -> None:
        """Have a frame sent as soon as the shim reads.

        :raises Closed: it is gone.
        """
        self._unsent += encode(header, payload) + payload
        self.flush()

    def flush(self) -> None:
        """Send what can be sent now.

        :raises Closed: it is gone.
        """
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as error:
                raise Closed from error
            del self._unsent[:sent]


def _size(word: object) -> int:
    """How many bytes a word has.

    :raises Closed: no program could be given it.
    """
    try:
        encoded = os.fsencode(word) if isinstance(word, str) else b"\0"
    except UnicodeEncodeError as error:
        raise Closed("a word that is no text and no bytes") from error
    if b"\0" in encoded:
        raise Closed("a word with a NUL byte in it")
    return len(encoded) + 1
