"""What a path leads to in a sandbox, looked at from outside.

A process of the sandbox sees another /proc/self than we do, and absolute links start from its
root, not from ours.
"""

from __future__ import annotations

import os
import re

from shannotd.runner import filesystem

_RESOLVE_IN_ROOT = 0x10  # linux/openat2.h
# Links of /proc that no path describes: to a descriptor, a program, a directory of a process.
_MAGIC = re.compile(
    r"/(?:proc/(?P<process>self|thread-self|[0-9]+)|dev(?=/fd/))"
    r"/(?P<link>fd/[0-9]+|exe|cwd|root)(?P<rest>/.*)?",
    re.DOTALL,
)


class View:
    """The tree of one sandbox."""

    def __init__(self, processes: int) -> None:
        """`processes` is a descriptor of its /proc, which remains the caller's."""
        self._processes = processes
        self._root = os.open("..", filesystem.O_DIRECTORY_PATH, dir_fd=processes)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._root)

    def open(self, pid: int, path: str) -> int:
        """An O_PATH descriptor, the caller's, of the absolute `path` as process `pid` (a host's
        number) sees it.

        :raises OSError: it leads nowhere.
        """
        flags = os.O_PATH | os.O_CLOEXEC
        magic = _MAGIC.fullmatch(path)
        if magic is not None:
            process, link, rest = magic.group("process", "link", "rest")
            if process is not None and process.isdigit():
                found = os.open(f"{process}/{link}", flags, dir_fd=self._processes)
            else:
                found = os.open(f"/proc/{pid}/{link}", flags)
            if rest is None:
                return found
            path = place(found) + rest
            os.close(found)
        return filesystem.openat2(self._root, path, flags, resolve=_RESOLVE_IN_ROOT)

    def read(self, path: str) -> int:
        """A readable descriptor, the caller's, of a file in it.

        :raises OSError: it cannot be opened.
        """
        return filesystem.openat2(self._root, path, os.O_RDONLY, resolve=_RESOLVE_IN_ROOT)


def place(descriptor: int) -> str:
    """Where in its sandbox is what an O_PATH descriptor holds."""
    return os.readlink(filesystem.by_descriptor(descriptor))
