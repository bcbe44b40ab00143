"""The passwords of accounts, kept from scripts of root that edit the account files.

No script may see /etc/shadow and its kin, yet every tool for accounts rewrites them, and so does a
package that brings an account. There a script of root finds a token in the place of each
password. In a plan stand the passwords that it kept, and where a plan is shown the tokens.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from shannotd.runner import filesystem, scratch, tls_keys
from shannotd.runner.host_keys import MARK as _MARK
from shannotd.runner.host_keys import is_host_key
from shannotd.runner.layer import failed
from shannotd.runner.tree import read_all

# shadow(5) and gshadow(5): the password is the second field of each line.
FILES = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-")
MAX_BYTES = 1024 * 1024  # of each; one that is larger stays hidden

# No output of crypt(5) is shorter; shorter words (`*`, `x`, `NP`) let nobody in.
_MIN_PASSWORD_BYTES = 13
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Passwords:
    """The `passwords` by token, and the `views` by path that a script of root is shown; `keys` says
    whether it finds other keys in the place of servers', too."""

    passwords: Mapping[bytes, bytes] = field(default_factory=dict)
    views: Mapping[str, bytes] = field(default_factory=dict)
    keys: bool = False


NO_PASSWORDS = Passwords()


class Shown:
    """What was shown to a script, as seen in what it left."""

    def __init__(self, passwords: Passwords, ignored: Sequence[str]) -> None:
        """What matches the patterns `ignored` is in no plan, whatever is in it."""
        self._words = passwords.passwords
        self._views = passwords.views
        self._has_marks = bool(self._words) or passwords.keys
        self._tokens = {word: token for token, word in self._words.items()}
        self._is_ignored = scratch.matcher(ignored)

    def restored(self, path: str, descriptor: int, size: int) -> Optional[bytes]:
        """What a script left at `path` with the passwords that it kept; None: it is as it is.

        :raises RunnerError: `capture_failed`: a token is where nobody could put a password back.
        """
        if not self._has_marks:
            return None
        if path not in FILES or size > MAX_BYTES:
            if _contains(descriptor, size, _MARK) and not self._is_ignored(path):
                reason = "it holds what only stands for a secret in the sandbox: "
                raise failed(path, reason + "passwords of accounts and host keys cannot be copied")
            return None
        data = _with_words(os.pread(descriptor, size, 0), lambda word: self._words.get(word, word))
        if _MARK in data:
            raise failed(path, "it holds what only stands for a password, and not as one")
        return data

    def is_untouched(self, path: str, descriptor: int, size: int) -> bool:
        """Whether what a script left at `path` is just what it was shown there."""
        view = self._views.get(path)
        return view is not None and size == len(view) and os.pread(descriptor, size, 0) == view

    def concealed(self, path: str, data: bytes) -> bytes:
        """What is at `path`, as it may be shown."""
        if path not in FILES or not self._tokens:
            return data
        return _with_words(data, lambda word: self._tokens.get(word, word))


class Tokens:
    """Stands a token in for each password; the same for the same one."""

    def __init__(self) -> None:
        self.by_word: Dict[bytes, bytes] = {}

    def concealed(self, path: str, data: bytes) -> bytes:
        """What is at `path`, with no password in it where it is one of the account files."""
        return self.view(data) if path in FILES else data

    def view(self, data: bytes) -> bytes:
        """An account file with no password in it."""
        return _with_words(data, self._token)

    def _token(self, word: bytes) -> bytes:
        if len(word) < _MIN_PASSWORD_BYTES:
            return word
        token = _MARK + os.urandom(16).hex().encode("ascii") + b"$"
        return self.by_word.setdefault(word, token)


def take_from(hidden: Sequence[str]) -> Tuple[List[str], Passwords]:
    """Of the paths `hidden` those that stay so, and what a script of root is shown of others.

    A file in which nobody has a password is shown as it is.
    """
    left: List[str] = []
    views: Dict[str, bytes] = {}
    tokens = Tokens()
    for path in hidden:
        data = _read(path) if path in FILES else None
        if data is None:
            left.append(path)
            continue
        view = tokens.view(data)
        if view != data:
            views[path] = view
    words = {made: word for word, made in tokens.by_word.items()}
    keys = any(is_host_key(path) or path in tls_keys.DIRECTORIES for path in left)
    return left, Passwords(words, views, keys)


def _with_words(data: bytes, other: Callable[[bytes], bytes]) -> bytes:
    """`data` with another word for each that is a password; locked (`!`) it stays locked."""

    def line(found: re.Match[bytes]) -> bytes:
        return found[1] + other(found[2])

    return re.sub(rb"(?m)^([^:\n]*:!*)([^:\n!][^:\n]*)", line, data)


def _read(path: str) -> Optional[bytes]:
    """What is in the file; None where it is none that can be shown, or not ours to read."""
    try:
        descriptor = os.open(path, filesystem.O_READ)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return None
        data = read_all(descriptor)
    finally:
        os.close(descriptor)
    return None if _MARK in data else data


def _contains(descriptor: int, size: int, mark: bytes) -> bool:
    position, tail = 0, b""
    while position < size:
        part = os.pread(descriptor, _CHUNK_BYTES, position)
        if not part:
            return False
        if mark in tail + part:
            return True
        tail = part[-len(mark) :]
        position += len(part)
    return False
