"""Why nobody, root included, may change something on the host: flags, mounts, what is ours.

Whether an identity has the permission is for permission.py. A reason is a phrase without its
subject: "is immutable (chattr +i)".
"""

from __future__ import annotations

import os
import re
from typing import Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from shannotd.runner import exchange, filesystem
from shannotd.runner.filesystem import RENAME_EXCHANGE, RENAME_NOREPLACE, Status
from shannotd.runner.identity import Floor
from shannotd.runner.plan import FileStep

_REPLACES = ("modify", "append")  # what puts a new file in the place of an old one
_FLAGS = {
    RENAME_EXCHANGE: "changing places of two files at once (RENAME_EXCHANGE)",
    RENAME_NOREPLACE: "renaming that replaces nothing (RENAME_NOREPLACE)",
}


def flagged(status: Status) -> Optional[str]:
    """The flag of this inode by which neither it nor what is in it can change."""
    if status.immutable:
        return "is immutable (chattr +i)"
    if status.append_only:
        return "is append-only (chattr +a)"
    return None


class _Mount(NamedTuple):
    identity: int
    path: str
    filesystem: str


class Mounts:
    """The mounts that this process sees, as they were when it was made (proc(5), mountinfo).

    A file can be a mount point too, which only this list tells without looking at each.
    """

    def __init__(self) -> None:
        self._mounts = list(_mounts())
        self._filesystems = {mount.identity: mount.filesystem for mount in self._mounts}

    def below(self, path: str) -> Optional[str]:
        """A mount point below `path`, if there is any."""
        return _first_below(path, [mount.path for mount in self._mounts])

    def filesystem(self, identity: int) -> str:
        """The type of the filesystem of the mount `identity`, as in /proc/filesystems."""
        return self._filesystems.get(identity, "unknown")


def _mounts() -> Iterator[_Mount]:
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split(b" ")
            kind = fields[fields.index(b"-") + 1]
            yield _Mount(int(fields[0]), _unescaped(fields[4]), os.fsdecode(kind))


def _swap_files() -> List[str]:
    """The files that the kernel swaps to (proc(5), swaps)."""
    try:
        with open("/proc/swaps", "rb") as file:
            return [_unescaped(line.split(b" ")[0]) for line in file.readlines()[1:]]
    except FileNotFoundError:  # a kernel without swap
        return []


def _unescaped(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field))


def _first_below(path: str, found: Sequence[str]) -> Optional[str]:
    prefix = path.rstrip("/") + "/"
    return next((one for one in found if one.startswith(prefix)), None)


class Obstacles:
    """What stands in the way of steps, on the host as it is now."""

    def __init__(self, protected: Mapping[str, str], *, trying: bool = False) -> None:
        """`protected` are paths that no plan changes, nor anything below them, each with why:
        "is protected by ...". `trying` says that something may be written to find out."""
        self._protected = [(path.rstrip("/"), reason) for path, reason in protected.items()]
        self._mounts = Mounts()
        self._swaps: Optional[List[str]] = None
        self._read_only: Dict[int, bool] = {}
        self._trying = trying
        self._tried: Dict[int, FrozenSet[int]] = {}

    def of_names(self, step: FileStep) -> Optional[Tuple[str, str]]:
        """A path that `step` names, or takes along with it, and why it is not to be changed."""
        whole = step.before.type == "directory" and step.change != "metadata"
        for path in (step.path, step.old_path, step.link_to):
            if path is None:
                continue
            for kept, reason in self._protected:
                if (path + "/").startswith(kept + "/"):
                    return path, f"it {reason}"
                # What is moved or deleted as a whole takes along what is below it.
                if whole and kept.startswith(path + "/"):
                    return path, f"{kept} in it {reason}"
        return None

    def of_directory(self, directory: int, status: Status) -> Optional[str]:
        """Why no name in `directory` can be made, replaced or removed."""
        return flagged(status) or self.read_only(directory, status)

    def of_rename(self, step: FileStep, directory: int, status: Status) -> Optional[str]:
        """Why the filesystem of `directory` cannot do what `step` takes, as far as it is known.

        Where this object is `trying`, that is found out.
        """
        needed = RENAME_EXCHANGE if step.change in _REPLACES else RENAME_NOREPLACE
        kind = self._mounts.filesystem(status.mount)
        if needed not in self._lacking(kind, directory, status):
            return None
        return f"is on a filesystem ({kind}) that lacks what an apply goes by: {_FLAGS[needed]}"

    def _lacking(self, kind: str, directory: int, status: Status) -> FrozenSet[int]:
        if self._trying and status.mount not in self._tried and not exchange.is_certain(kind):
            try:
                self._tried[status.mount] = exchange.found_to_lack(directory)
            except OSError:
                pass  # this directory says no; what comes will say why
        return self._tried.get(status.mount, exchange.known_to_lack(kind))

    def read_only(self, directory: int, status: Status) -> Optional[str]:
        """Whether the mount that `directory` was reached by, or its filesystem, is read-only."""
        known = self._read_only.get(status.mount)
        if known is None:
            known = bool(os.fstatvfs(directory).f_flag & os.ST_RDONLY)
            self._read_only[status.mount] = known
        return "is on a filesystem that is mounted read-only" if known else None

    def of_target(self, step: FileStep, path: str, directory: int, status: Status) -> Optional[str]:
        """Why what is at the host's `path` cannot be changed, moved or deleted as `step` says.

        `directory` is the one that it is in, `status` its own.
        """
        reason = flagged(status)
        if step.change == "metadata":
            return reason or self._read_only_target(path, directory, status)
        if reason is not None:
            if step.change == "append":
                reason += ", and what is appended comes with a new file in its place"
            return reason
        if status.mount_root:
            return "is a mount point"
        if step.before.type == "directory":
            below = self._mounts.below(path)
            if below is not None:
                return f"has something mounted in it, at {below}"
        return self._swapped_to(step, path)

    def _read_only_target(self, path: str, directory: int, status: Status) -> Optional[str]:
        if not status.mount_root:
            return self.read_only(directory, status)
        name = path.rpartition("/")[2] or "."
        mounted = os.open(name, filesystem.O_PATH, dir_fd=directory)
        try:
            return self.read_only(mounted, status)
        finally:
            os.close(mounted)

    def _swapped_to(self, step: FileStep, path: str) -> Optional[str]:
        """The kernel neither moves nor removes such a file (IS_SWAPFILE in fs/namei.c)."""
        if self._swaps is None:
            self._swaps = _swap_files()
        if path in self._swaps:
            return "is in use as swap space"
        below = _first_below(path, self._swaps)
        if below is None or step.change == "rename":
            return None
        return f"has a file in it that is in use as swap space, {below}"


def protected_paths(floor: Floor) -> Dict[str, str]:
    """The paths that no plan changes, nor anything below them, each with the reason."""
    found = dict.fromkeys(floor.protected, "is protected by the runner's runner.conf")
    for path in floor.own:
        found[os.path.realpath(path)] = "is where shannot keeps sessions, keys and checkpoints"
    return found
