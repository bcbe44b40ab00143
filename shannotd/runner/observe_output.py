"""Writes what an observed program printed to the descriptors of a shim.

A script made these descriptors: they may block for ever, be of any kind, or be no outputs at
all. So nothing here waits longer than the observation may take, and nothing is written to what
a shell could not have been redirected to. Where it can be had, a pipe that the runner made and
whose other end the shim reads is better: then no descriptor of a script's is used at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import time
from typing import Dict, Optional

# A blocked pipe that can be written takes at least this much: pipe(7).
_CHUNK = 4096
# Major numbers of /dev/null and its like, and of pseudo-terminals: devices.txt of Linux.
_MEMORY, _TERMINALS = 1, range(136, 144)


class Outlet:
    """An `Output` of two descriptors, which stay the caller's, for an observation of `seconds`.

    Waits also end when the `cancel` descriptor can be read or is hung up.
    """

    def __init__(
        self, stdout: int, stderr: int, seconds: float, cancel: Optional[int] = None
    ) -> None:
        self._deadline = time.monotonic() + seconds
        self._cancel = cancel
        self._ways: Dict[str, Optional[_Way]] = {"stdout": _open(stdout), "stderr": _open(stderr)}

    def __enter__(self) -> Outlet:
        return self

    def __exit__(self, *_: object) -> None:
        for way in self._ways.values():
            if way is not None:
                way.close()

    def __call__(self, stream: str, data: bytes) -> None:
        """Write all of `data`.

        :raises BrokenPipeError: it cannot be written there, now or ever.
        :raises TimeoutError: nobody read it in time.
        """
        way = self._ways[stream]
        if way is None:
            raise BrokenPipeError(errno.EPIPE, "no output")
        while data:
            self._wait(way)
            try:
                data = data[way.write(data[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise BrokenPipeError(errno.EPIPE, str(error)) from error

    def _wait(self, way: _Way) -> None:
        poll = select.poll()
        poll.register(way.fileno(), select.POLLOUT)
        if self._cancel is not None:
            poll.register(self._cancel, select.POLLIN)
        ready = poll.poll(max(0.0, (self._deadline - time.monotonic()) * 1000))
        if way.fileno() not in [descriptor for descriptor, _ in ready]:
            raise TimeoutError(errno.ETIMEDOUT, "nobody reads")


class _Way:
    """A descriptor of ours that never blocks."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: bytes) -> int:
        return os.write(self._descriptor, data)

    def close(self) -> None:
        os.close(self._descriptor)


class _SocketWay(_Way):
    def write(self, data: bytes) -> int:
        with socket.socket(fileno=os.dup(self._descriptor)) as handle:
            return handle.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _open(descriptor: int) -> Optional[_Way]:
    """A way to write to `descriptor` without ever blocking; None where it is no output.

    Its own description cannot be made non-blocking: the script shares it. Pipes and terminals
    are opened once more; files keep their offset and never block.
    """
    try:
        status = os.fstat(descriptor)
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        if access & os.O_PATH or access & os.O_ACCMODE == os.O_RDONLY:
            return None
        major = os.major(status.st_rdev)
        terminal = stat.S_ISCHR(status.st_mode) and major in _TERMINALS
        if stat.S_ISFIFO(status.st_mode) or terminal:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return _Way(os.open(f"/proc/self/fd/{descriptor}", flags))
        if stat.S_ISSOCK(status.st_mode):
            return _open_socket(os.dup(descriptor))
        device = stat.S_ISCHR(status.st_mode) and major == _MEMORY
        if stat.S_ISREG(status.st_mode) or device:
            return _Way(os.dup(descriptor))
    except OSError:
        pass
    return None


def _open_socket(descriptor: int) -> Optional[_Way]:
    """Only a stream to another process: what a datagram means depends on its receiver."""
    with socket.socket(fileno=os.dup(descriptor)) as handle:
        if handle.family == socket.AF_UNIX and handle.type == socket.SOCK_STREAM:
            return _SocketWay(descriptor)
    os.close(descriptor)
    return None
