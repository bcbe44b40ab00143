"""/run as an observed program sees it: the host's directories without what is in them.

Beside them there is what programs read and anybody may, the table of users, the sockets that a rule
names, and what it shows. Its size and that of the filesystems below it are the host's.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Mapping, Optional, Sequence, Tuple

from shannotd.runner import kernel, layout
from shannotd.runner.mounts import PROTECTED, ROOT, STAGE, give
from shannotd.runner.observe_mounts import Found, Lower, empty_directory, find, find_directories

RUN = "/run"
# The program's own directory, in which it may write, and before that a place for what the view
# needs itself.
TEMPORARY = "/run/.temporary"

_DIRECTORIES = ("/run/log/journal", "/run/udev/data")
_USERS = "/run/utmp"
_USERS_BYTES = 1 << 20
_SKELETON = STAGE + RUN


@dataclass(frozen=True)
class Run:
    """What there is of /run on the host, looked up before the stage covers it.

    `entries` are relative paths, modes and owners of directories; `spaces` are empty directories
    by the filesystem of which they say the size.
    """

    entries: Sequence[Tuple[str, int, int, int]]
    users: bytes
    sockets: Sequence[Found]
    directories: Sequence[Found]
    spaces: Mapping[str, Found]

    def close(self) -> None:
        """Let go of it."""
        for found in (*self.sockets, *self.directories, *self.spaces.values()):
            os.close(found.descriptor)


def look(sockets: Sequence[str], mounts: Sequence[str]) -> Run:
    """Look at the host; `mounts` are the paths where filesystems like that of /run are."""
    spaces = {}
    for path in mounts:
        if not (path + "/").startswith(RUN + "/"):
            continue
        place = empty_directory(path)
        if place is not None:
            for found in find_directories([place]):
                spaces[path] = found
    return Run(
        entries=layout.directories_of(RUN, depth=2),
        users=_read_users(),
        sockets=find(sockets, stat.S_ISSOCK),
        directories=find_directories(_DIRECTORIES),
        spaces=spaces,
    )


def mount(run: Run, files: Mapping[str, Optional[bytes]], user: bool) -> None:
    """Put it into the view's root, with new `files`: None is one that may not be read.

    :raises OSError: it cannot be made.
    """
    os.mkdir(_SKELETON, 0o755)
    for relative, mode, uid, gid in run.entries:
        place = f"{_SKELETON}/{relative}"
        os.mkdir(place)
        give(place, uid, gid)
        os.chmod(place, mode)
    os.makedirs(STAGE + TEMPORARY, exist_ok=True)
    write(STAGE + _USERS, run.users, 0o644)
    for path, content in files.items():
        write(STAGE + path, content or b"", 0o000 if content is None else 0o444)
    for found in run.sockets:
        if found.path.startswith(RUN + "/"):
            os.makedirs(os.path.dirname(STAGE + found.path), exist_ok=True)
            write(STAGE + found.path, b"", 0o000)
    _mount(RUN, run, user)
    for relative, _, _, _ in run.entries:
        if f"{RUN}/{relative}" in run.spaces:
            _mount(f"{RUN}/{relative}", run, user)
    for found in run.directories:
        Lower(found.path, found.source, user, optional=True).execute()
    for found in run.sockets:
        kernel.mount(found.source, ROOT + found.path, None, kernel.MS_BIND)
    kernel.mount("shannot", ROOT + TEMPORARY, "tmpfs", PROTECTED, "mode=755,size=16m")


def _mount(path: str, run: Run, user: bool) -> None:
    space = run.spaces.get(path)
    Lower(path, STAGE + path, user, False, None if space is None else space.source).execute()


def seal() -> None:
    """What the view needed itself is gone, and the program has a directory to write in.

    To be called when all else is read-only.

    :raises OSError: that cannot be done.
    """
    flags = PROTECTED | kernel.MS_NOEXEC
    kernel.mount("shannot", TEMPORARY, "tmpfs", flags, "mode=1777,size=16m,nr_inodes=4096")


def write(path: str, content: bytes, mode: int) -> None:
    """A file of this content and mode."""
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def _read_users() -> bytes:
    try:
        with open(os.open(_USERS, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            return file.read(_USERS_BYTES)
    except OSError:
        return b""
