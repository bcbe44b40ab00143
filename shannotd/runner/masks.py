"""What covers, in a sandbox, the files and directories that no script may see (`hide`)."""

from __future__ import annotations

import os
import stat
from typing import List, Optional, Sequence, Tuple

from shannotd.runner import host_keys, kernel, mounts, tls_keys
from shannotd.runner.sandbox import HIDDEN_FILE, SCRIPT_DIRECTORY, UNMAPPED, unavailable


def mask(paths: Sequence[str], empty: str = HIDDEN_FILE) -> List[str]:
    """Cover files and directories that no script may see (`hide`); returns those that are there.

    A file becomes `empty`, which nobody may open, a directory one of the same owner that nobody
    may enter; the private keys of servers become others (host_keys.py, tls_keys.py).
    """
    flags = mounts.PROTECTED | kernel.MS_RDONLY | kernel.MS_NOEXEC
    masked: List[str] = []
    try:
        status = os.stat(empty)
        owner = status.st_uid
        for path in paths:
            if owner == UNMAPPED and path in tls_keys.DIRECTORIES and _show_keys(path):
                kernel.mount(None, path, None, kernel.MS_REMOUNT | flags)
            elif os.path.isdir(path):
                options = f"mode=000,size=4k,uid={owner},gid={status.st_gid}"
                kernel.mount("shannot", path, "tmpfs", flags, options)
            elif os.path.lexists(path):
                cover = _host_key(path) if owner == UNMAPPED else None
                kernel.mount(cover or empty, path, None, kernel.MS_BIND)
                kernel.mount(None, path, None, kernel.MS_REMOUNT | kernel.MS_BIND | flags)
            else:
                continue
            masked.append(path)
    except OSError as error:
        raise unavailable("hiding what no script may see", error) from error
    return masked


def _host_key(path: str) -> Optional[str]:
    """A file that stands in for the key of an SSH server; None for any other file."""
    key = host_keys.stand_in(path) if host_keys.is_host_key(path) else None
    if key is None:
        return None
    place = f"{SCRIPT_DIRECTORY}/.{os.path.basename(path)}"
    with open(place, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(key)
    return place


def _show_keys(path: str) -> bool:
    """Cover a directory of private keys by one with others (tls_keys.py); False where there is
    none, or too much in it."""
    try:
        status = os.stat(path)
        found = tls_keys.entries(path)
    except OSError:
        return False
    if found is None:
        return False
    options = f"mode={stat.S_IMODE(status.st_mode):o},uid={status.st_uid},gid={status.st_gid}"
    kernel.mount("shannot", path, "tmpfs", mounts.PROTECTED | kernel.MS_NOEXEC, options)
    for entry in found:
        place, mode = f"{path}/{entry.path}", stat.S_IMODE(entry.status.st_mode)
        uid, gid = entry.status.st_uid, entry.status.st_gid
        if entry.target:
            os.symlink(entry.target, place)
        elif stat.S_ISDIR(entry.status.st_mode):
            os.mkdir(place)
        else:
            if entry.content is None:
                mode, uid, gid = 0, UNMAPPED, UNMAPPED
            with open(place, "xb") as file:
                file.write(entry.content or b"")
        os.chown(place, uid, gid, follow_symlinks=False)
        if not entry.target:
            os.chmod(place, mode)
    return True


def unmask(paths: Sequence[str]) -> None:
    """Take away the masks that `mask` made of `paths`."""
    try:
        for path in paths:
            kernel.unmount(path)
    except OSError as error:
        raise unavailable("what was hidden", error) from error


def show_instead(sizes: Sequence[Tuple[str, int]], views: bytes) -> None:
    """Give files other contents in this sandbox, of so many bytes of `views` each; all else of
    them stays as it is."""
    position = 0
    try:
        for path, size in sizes:
            flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(path, flags), "wb") as file:
                status = os.fstat(file.fileno())
                file.truncate()
                file.write(views[position : position + size])
                file.flush()
                os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
            position += size
    except OSError as error:
        raise unavailable("hiding passwords", error) from error
