"""The host's mount tables, as an observed program sees them in place of its own.

df, mount and findmnt are asked about the host, not about the view.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Container, Dict, List, Optional, Tuple

from shannotd.runner import layout
from shannotd.runner.mounts import ROOT

# Of /proc/PID: each with the column of the mount point (proc_pid_mountinfo(5), fstab(5)).
FILES = (("mountinfo", 4), ("mounts", 1))
_FRESH = ("/run", "/dev")

Size = Tuple[int, int, int]


@dataclass(frozen=True)
class Tables:
    """The lines of each file, and how large those filesystems are that the view has not."""

    lines: Dict[str, List[bytes]]
    sizes: Dict[str, Optional[Size]]

    def paths(self, filesystem: str) -> List[str]:
        """Where filesystems of this kind are mounted."""
        kind = os.fsencode(filesystem)
        found = [line for line in self.lines["mountinfo"] if line.split(b" - ")[1].startswith(kind)]
        return list(dict.fromkeys(_point(line, 4) for line in found))

    def leave_out(self, unlike: Container[str]) -> Tables:
        """Without those mounts whose place in the view (still below ROOT) is no such filesystem:
        `unlike`, and in /run and /dev where the view's is of another size."""
        wrong = {path for path, size in self.sizes.items() if size != _size(ROOT + path)}
        lines = {}
        for name, column in FILES:
            points = ((line, _point(line, column)) for line in self.lines[name])
            lines[name] = [
                line for line, point in points if point not in unlike and point not in wrong
            ]
        return Tables(lines, {})

    def once(self) -> Tables:
        """Each filesystem once, where df shows it: in the view every mount has a device of its own,
        by which df tells what is the same."""
        kept: Dict[bytes, bytes] = {}  # by device
        for line in self.lines["mountinfo"]:
            device = line.split(b" ")[2]
            if device not in kept or _is_nearer(line, kept[device]):
                kept[device] = line
        chosen = set(kept.values())
        lines = [line for line in self.lines["mountinfo"] if line in chosen]
        return Tables({**self.lines, "mountinfo": lines}, self.sizes)


def read() -> Tables:
    """Those of this process, in the host's mount namespace."""
    lines = {}
    for name, _ in FILES:
        with open(f"/proc/self/{name}", "rb") as file:
            lines[name] = file.readlines()
    points = [_point(line, 4) for line in lines["mountinfo"]]
    sizes = {point: _size(point) for point in points if (point + "/").startswith(_PREFIXES)}
    return Tables(lines, sizes)


_PREFIXES = tuple(path + "/" for path in _FRESH)


def _is_nearer(line: bytes, other: bytes) -> bool:
    """Whether a mount is preferred to an earlier `other` of the same filesystem (coreutils' df)."""
    (root, point), (other_root, other_point) = (each.split(b" ")[3:5] for each in (line, other))
    return len(point) < len(other_point) and len(root) <= len(other_root)


def _point(line: bytes, column: int) -> str:
    return layout.unescape(os.fsdecode(line.split(b" ")[column]))


def _size(path: str) -> Optional[Size]:
    """In blocks and inodes; None if nothing is there."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_frsize, found.f_blocks, found.f_files
