"""Stand-ins for the private keys of an SSH server, which no script may see.

`sshd -t` wants to load them. A stand-in has the public part of its key and anything for the secret
one: it is loaded, and signs nothing that somebody would accept. Nobody but root may read it, as
with the key itself.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import struct
from fnmatch import fnmatchcase
from typing import List, Optional

PATTERN = "/etc/ssh/ssh_host_*_key"
# By which a copy of a stand-in is known; sshd reads nothing after the end of a key.
MARK = b"$hidden-by-shannot$"
_MAX_PUBLIC_BYTES = 64 * 1024
_LINE_CHARACTERS = 70


def is_host_key(path: str) -> bool:
    """Whether that is where a server has a private key."""
    return fnmatchcase(path, PATTERN) and path.count("/") == PATTERN.count("/")


def stand_in(path: str) -> Optional[bytes]:
    """What stands in for the private key at `path`; None where there is no public one beside it."""
    try:
        with open(path + ".pub", "rb") as file:
            words = file.read(_MAX_PUBLIC_BYTES).split()
        return _private(base64.b64decode(words[1], validate=True))
    except (OSError, ValueError, IndexError, binascii.Error, struct.error):
        return None


def _private(public: bytes) -> bytes:
    """A file with a private key (PROTOCOL.key of OpenSSH) for the public one in wire format.

    :raises ValueError, struct.error: it is none that we know.
    """
    kind, *fields = _strings(public)
    check = secrets.token_bytes(4)
    secret = check + check + _string(kind) + b"".join(map(_string, _fields(kind, fields)))
    secret += _string(b"")  # a comment
    secret += bytes(range(1, 1 + -len(secret) % 8))
    blob = b"openssh-key-v1\0" + _string(b"none") * 2 + _string(b"") + struct.pack(">I", 1)
    text = base64.b64encode(blob + _string(public) + _string(secret))
    lines = [text[at : at + _LINE_CHARACTERS] for at in range(0, len(text), _LINE_CHARACTERS)]
    begin, end = (b"-----%b OPENSSH PRIVATE KEY-----" % word for word in (b"BEGIN", b"END"))
    return b"\n".join((begin, *lines, end, MARK, b""))


def _fields(kind: bytes, public: List[bytes]) -> List[bytes]:
    """What a private key has after its kind: the public part again, and a secret."""
    if kind == b"ssh-ed25519":
        (point,) = public
        return [point, secrets.token_bytes(32) + point]
    if kind.startswith(b"ecdsa-sha2-"):
        curve, point = public
        # Below the order of the group, which has as many bytes as a coordinate.
        return [curve, point, _number(len(point) // 2 - 1)]
    if kind == b"ssh-rsa":
        exponent, modulus = public
        half = len(modulus) // 2
        return [modulus, exponent, *(_number(size) for size in (2 * half, half, half, half))]
    raise ValueError("a key of another kind")


def _number(size: int) -> bytes:
    """An odd number of so many bytes, none of them a sign."""
    data = bytearray(secrets.token_bytes(size))
    data[0] = data[0] & 0x3F | 0x20
    data[-1] |= 1
    return bytes(data)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _strings(data: bytes) -> List[bytes]:
    found: List[bytes] = []
    while data:
        (size,) = struct.unpack(">I", data[:4])
        if size > len(data) - 4:
            raise ValueError("a string that is cut off")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found
