"""What a shim runs, in place of the program whose call it stands for: it asks, and obeys.

Started by `#!/usr/bin/python3 -IS` for each call, so only modules that the interpreter has in
itself are imported, `json` and `os` not among them: they would double what a call costs.
The environment comes from /proc, as the kernel was given it: the interpreter changes its own
(LC_CTYPE); what was called and with which words, the supervisor knows. Nothing here is a boundary:
whoever goes around it runs contained.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import posix
import sys
from _json import encode_basestring_ascii as quoted
from _json import make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

CALLS = b"/run/shannot/calls"
NOT_RUN = 126
_CHUNK = 65536


class _Json:
    """What `json` would tell its own scanner."""

    strict = True
    object_hook = object_pairs_hook = parse_constant = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}


def main() -> "NoReturn":
    """Do what the supervisor says of the call that this process is turned from."""
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)  # ignored by the interpreter, not by a program
    if _signal.getsignal(_signal.SIGINT) == _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    posix.close(int(sys.argv[0].rpartition("/")[2]))  # /dev/fd/N: where we were read from
    standard = _standard()
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.connect(CALLS)
        _send(connection, _call(), standard)
        _obey(connection)
    except (OSError, EOFError, ValueError):
        _write(2, b"shannot: not run: nobody is there who could say what it may do\n")
        posix._exit(NOT_RUN)


def _standard() -> list[int]:
    """Descriptors 0, 1 and 2; one that is closed leads nowhere, until another program runs."""
    for number in range(3):
        try:
            posix.fstat(number)
        except OSError:
            posix.open(b"/dev/null", posix.O_RDWR)  # the lowest that is free
    return [0, 1, 2]


def _words(path: bytes) -> list[bytes]:
    """The words of a file of /proc, each of which ends with a NUL byte."""
    descriptor = posix.open(path, posix.O_RDONLY)
    parts = []
    while True:
        part = posix.read(descriptor, _CHUNK)
        if not part:
            break
        parts.append(part)
    posix.close(descriptor)
    return b"".join(parts).split(b"\0")[:-1]


def _call() -> bytes:
    variables = (word.partition(b"=") for word in _words(b"/proc/self/environ") if b"=" in word)
    pairs = ",".join(f"{_text(name)}:{_text(value)}" for name, _, value in variables if name)
    header = f'{{"op":"call","fds":3,"environment":{{{pairs}}}}}'.encode("ascii")
    return len(header).to_bytes(4, "big") + bytes(4) + header


def _text(word: bytes) -> str:
    return quoted(word.decode("utf-8", "surrogateescape"))


def _send(connection: _socket.socket, frame: bytes, standard: list[int]) -> None:
    rights = b"".join(number.to_bytes(4, sys.byteorder) for number in standard)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
    sent = connection.sendmsg([frame], ancillary, _socket.MSG_NOSIGNAL)
    if sent < len(frame):  # else whoever got it all may have answered and be gone
        connection.sendall(frame[sent:], _socket.MSG_NOSIGNAL)


def _obey(connection: _socket.socket) -> "NoReturn":
    scan = make_scanner(_Json)  # type: ignore[arg-type]
    while True:
        lengths = _take(connection, 8)
        text = _take(connection, int.from_bytes(lengths[:4], "big")).decode("ascii")
        payload = _take(connection, int.from_bytes(lengths[4:], "big"))
        header = scan(text, 0)[0]
        if header["event"] == "output":
            _write(1 if header["stream"] == "stdout" else 2, payload)
        elif header["event"] == "exit":
            _end(header["exit_code"], header["signal"])


def _take(connection: _socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, _CHUNK))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, as a program would; where nobody can read it any more we end like one."""
    while data:
        try:
            data = data[posix.write(descriptor, data) :]
        except BlockingIOError:
            from select import POLLOUT, poll

            waiting = poll()
            waiting.register(descriptor, POLLOUT)
            waiting.poll()
        except OSError:
            return  # closed, full, ...: nobody can be told


def _end(exit_code: int, number: int) -> "NoReturn":
    """End as the program did."""
    if number is not None:
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except OSError:
            pass  # SIGKILL
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [number])
        posix.kill(posix.getpid(), number)
        posix._exit(128 + number)
    posix._exit(exit_code)
