"""What a view is made of beside the sandbox's own mount operations, each with an `execute`."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence

from shannotd.runner import kernel, layout
from shannotd.runner.mounts import PROTECTED, ROOT, STAGE, escape

# How deep devices are: /dev/disk/by-id/NAME. The links that every /dev has are the view's own.
_DEPTH = 3
_STANDARD = ("fd", "stdin", "stdout", "stderr", "core")
_KERNEL_FILES = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True)
class Lower:
    """A read-only overlay of `lower` (a host path, or a skeleton) seen at `path`.

    The kernel wants two layers where none can be written: the other one is empty. An overlay says
    the free space of its first layer (statfs(2)): where `lower` is a skeleton, that must be an
    empty directory of the host's, `space`.
    """

    path: str
    lower: str
    user: bool
    optional: bool
    space: Optional[str] = None

    def execute(self) -> None:
        """Mount it."""
        target = ROOT + self.path if self.path != "/" else ROOT
        kind = "userxattr" if self.user else "redirect_dir=nofollow,metacopy=off,index=off"
        both = [self.lower, f"{STAGE}/empty"] if self.space is None else [self.space, self.lower]
        layers = "lowerdir=" + ":".join(map(escape, both))
        flags = PROTECTED | kernel.MS_RDONLY
        kernel.mount("shannot", target, "overlay", flags, f"{layers},{kind}")


@dataclass(frozen=True)
class KernelFiles:
    """The host's own /proc, /sys or /dev/pts with all that is mounted below.

    Names and numbers of terminals can be looked up, no device can be opened. The seal makes it
    read-only.
    """

    path: str

    def execute(self) -> None:
        """Bind it, then take away what it allows."""
        target = ROOT + self.path
        kernel.mount(self.path, target, None, kernel.MS_BIND | kernel.MS_REC)
        kernel.set_mount_attributes(target, _KERNEL_FILES)


@dataclass(frozen=True)
class Disks:
    """The host's block devices and the links to them, in a fresh /dev: to be looked at only.

    No device can be opened through these, whoever tries: a disk's content has all files in it.
    """

    path = "/dev"

    def execute(self) -> None:
        """Bind the nodes, and make the links again."""
        flags = kernel.MS_RDONLY | PROTECTED | kernel.MS_NOEXEC
        device = os.stat(self.path).st_dev
        for top, names, files in os.walk(self.path):
            entries = [*names, *files]
            # Nothing below another mount: /dev/shm, /dev/pts.
            deep = top.count("/") >= _DEPTH
            names[:] = [name for name in names if not deep and _is_on(device, f"{top}/{name}")]
            for name in entries:
                place = f"{top}/{name}"
                try:
                    mode = os.lstat(place).st_mode
                    if stat.S_ISLNK(mode) and name not in _STANDARD:
                        os.makedirs(ROOT + top, exist_ok=True)
                        os.symlink(os.readlink(place), ROOT + place)
                    elif stat.S_ISBLK(mode):
                        os.makedirs(ROOT + top, exist_ok=True)
                        os.close(os.open(ROOT + place, os.O_CREAT | os.O_CLOEXEC, 0o600))
                        kernel.mount(place, ROOT + place, None, kernel.MS_BIND)
                        again = kernel.MS_REMOUNT | kernel.MS_BIND
                        kernel.mount(None, ROOT + place, None, again | flags)
                except FileNotFoundError:
                    continue  # it is gone


def _is_on(device: int, path: str) -> bool:
    try:
        return os.lstat(path).st_dev == device
    except OSError:
        return False


@dataclass(frozen=True)
class Found:
    """Something of the host's, held open since the stage covers the way to it."""

    path: str
    descriptor: int

    @property
    def source(self) -> str:
        """A path that leads to it."""
        return f"/proc/self/fd/{self.descriptor}"


def find(paths: Sequence[str], wanted: Callable[[int], bool]) -> List[Found]:
    """Those of `paths` that are there and of the wanted kind, by where links lead."""
    found = []
    for place in dict.fromkeys(map(os.path.realpath, paths)):
        try:
            descriptor = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        if wanted(os.fstat(descriptor).st_mode):
            found.append(Found(place, descriptor))
        else:
            os.close(descriptor)
    return found


def find_directories(paths: Sequence[str]) -> List[Found]:
    """Those of `paths` that are directories."""
    return find(paths, stat.S_ISDIR)


def empty_directory(root: str) -> Optional[str]:
    """An empty directory near `root` and on its filesystem."""
    try:
        device = os.stat(root).st_dev
    except OSError:
        return None
    waiting = [root]
    for _ in range(3):
        for path in waiting:
            try:
                if os.stat(path).st_dev == device and not os.listdir(path):
                    return path
            except OSError:
                continue
        below = [f"{top.rstrip('/')}/{name}" for top in waiting for name in _directories(top)]
        waiting = [path for path in below if path not in layout.FRESH]
    return None


def _directories(path: str) -> List[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
