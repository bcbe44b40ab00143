"""Stand-ins for the private keys of TLS servers, which no script may see.

`nginx -t` and its like load the keys that a configuration names, and compare them with their
certificates: by the public part. So a stand-in has that, and anything for the secret one.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
from typing import List, NamedTuple, Optional

from shannotd.runner.host_keys import MARK

# The directories of such keys that are hidden; what is in them besides is no secret.
DIRECTORIES = ("/etc/ssl/private", "/etc/letsencrypt/archive")
MAX_BYTES = 64 * 1024  # of one file
MAX_FILES = 1000

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n(.*?)-----END \1-----", re.DOTALL)
_PUBLIC = (b"CERTIFICATE", b"TRUSTED CERTIFICATE", b"X509 CRL", b"DH PARAMETERS", b"EC PARAMETERS")
_INTEGER, _BITS, _OCTETS, _SEQUENCE = 0x02, 0x03, 0x04, 0x30
_PUBLIC_OF_EC = 0xA1  # RFC 5915: the public key, which may be left out
_LINE_CHARACTERS = 64


class Entry(NamedTuple):
    """Something in a directory with keys: its path within, what it is, what is shown of it.

    `content` is that of a file, None where nobody may see it; `target` that of a symlink.
    """

    path: str
    status: os.stat_result
    content: Optional[bytes] = None
    target: str = ""


def entries(directory: str) -> Optional[List[Entry]]:
    """What is shown of all that is in a directory, parents first; None where it is too much.

    :raises OSError: it cannot be read.
    """
    found: List[Entry] = []
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        for name in sorted(os.listdir(os.path.join(directory, parent))):
            path = os.path.join(parent, name)
            found.append(_entry(os.path.join(directory, path), path))
            if stat.S_ISDIR(found[-1].status.st_mode):
                waiting.append(path)
            if len(found) > MAX_FILES:
                return None
    return found


def _entry(place: str, path: str) -> Entry:
    status = os.lstat(place)
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, status, target=os.readlink(place))
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        return Entry(path, status)
    with open(place, "rb") as file:
        return Entry(path, status, stand_in(file.read(MAX_BYTES)))


class _Element(NamedTuple):
    """One element of DER (X.690): its tag, and where its content is."""

    tag: int
    start: int
    end: int


def stand_in(text: bytes) -> Optional[bytes]:
    """A file of PEM blocks with other secrets in its private keys; None where it may hold others.

    What is public only stays as it is.
    """
    parts: List[bytes] = []
    position, changed = 0, False
    for block in _BLOCK.finditer(text):
        label, content = block.groups()
        if b"PRIVATE KEY" in label:
            key = _without_secret(label, content)
            if key is None:
                return None
            parts.append(text[position : block.start()] + key)
            changed = True
        elif label in _PUBLIC:
            parts.append(text[position : block.end()])
        else:
            return None
        position = block.end()
    if not parts:
        return None
    rest = b"".join(parts) + text[position:]
    return rest.rstrip(b"\n") + b"\n" + MARK + b"\n" if changed else rest


def _without_secret(label: bytes, content: bytes) -> Optional[bytes]:
    try:
        der = bytearray(base64.b64decode(b"".join(content.split()), validate=True))
        known = _overwrite(label, der)
    except (ValueError, IndexError, binascii.Error):
        return None
    if not known:
        return None
    coded = base64.b64encode(der)
    step = _LINE_CHARACTERS
    lines = [coded[at : at + step] for at in range(0, len(coded), step)]
    begin, end = (b"-----%b %b-----" % (word, label) for word in (b"BEGIN", b"END"))
    return b"\n".join((begin, *lines, end))


def _overwrite(label: bytes, der: bytearray) -> bool:
    """Replace the secrets of a key in place; False for one that we do not know."""
    (outer,) = _elements(der, 0, len(der))
    fields = _elements(der, outer.start, outer.end)
    tags = [field.tag for field in fields]
    if label == b"RSA PRIVATE KEY":
        return _overwrite_rsa(der, fields)
    if label == b"EC PRIVATE KEY":
        return _overwrite_ec(der, fields)
    if label != b"PRIVATE KEY" or tags[:3] != [_INTEGER, _SEQUENCE, _OCTETS]:
        return False
    (inner,) = _elements(der, fields[2].start, fields[2].end)
    fields = _elements(der, inner.start, inner.end) if inner.tag == _SEQUENCE else []
    return _overwrite_rsa(der, fields) or _overwrite_ec(der, fields)


def _overwrite_rsa(der: bytearray, fields: List[_Element]) -> bool:
    """RFC 8017: a version, modulus, public exponent, and six numbers that are secret."""
    if [field.tag for field in fields] != [_INTEGER] * 9:
        return False
    for field in fields[3:]:
        _fill(der, field, 0x3F)
        der[field.end - 1] |= 1
    return True


def _overwrite_ec(der: bytearray, fields: List[_Element]) -> bool:
    """RFC 5915: a version, the secret, and the public point, without which it would be derived."""
    tags = [field.tag for field in fields]
    if tags[:2] != [_INTEGER, _OCTETS] or _PUBLIC_OF_EC not in tags[2:]:
        return False
    _fill(der, fields[1], 0x00)  # below the order of any group
    return True


def _fill(der: bytearray, field: _Element, first: int) -> None:
    size = field.end - field.start
    data = bytearray(secrets.token_bytes(size))
    data[0] = data[0] & first | first // 2
    der[field.start : field.end] = data


def _elements(der: bytearray, position: int, end: int) -> List[_Element]:
    """What follows each other from `position` to `end`.

    :raises ValueError, IndexError: it is no DER.
    """
    found: List[_Element] = []
    while position < end:
        tag, size = der[position], der[position + 1]
        start = position + 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(der[position + 2 : start], "big")
        position = start + size
        if position > end:
            raise ValueError("an element that is cut off")
        found.append(_Element(tag, start, position))
    return found
