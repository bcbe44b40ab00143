"""What is there of a daemon: processes and their memory, mounts, cgroups, directories."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Presence:
    """How much of a daemon is on the machine."""

    processes: int
    mounts: int
    cgroups: int
    directories: int


def presence(daemon: int, state: Path) -> Presence:
    """What the daemon of that process id, with that state directory, has at this moment.

    Nothing hides by belonging to nobody: processes that lost their parent are known by the
    state directory in their command lines, mounts are all those of the machine.
    """
    mounts = (PROC / "self" / "mountinfo").read_text(errors="surrogateescape").splitlines()
    own = {process for process in _processes() if str(state) in command_line(process)}
    return Presence(
        processes=len(own | set(descendants(daemon))),
        mounts=len(mounts),
        cgroups=sum(1 for path in _cgroup_directories(mounts) if "shannot" in path.name),
        directories=sum(1 for path in (state / "runner").rglob("*") if path.is_dir()),
    )


def descendants(parent: int) -> list[int]:
    """The process ids of all children of `parent`, and of theirs."""
    children = _children()
    found: list[int] = []
    waiting = list(children.get(parent, ()))
    while waiting:
        process = waiting.pop()
        found.append(process)
        waiting.extend(children.get(process, ()))
    return found


def children_of(parent: int) -> list[int]:
    """The process ids of the children of `parent`."""
    return sorted(_children().get(parent, ()))


def command_line(process: int) -> str:
    """The command line of a process; empty if it is gone."""
    try:
        return (PROC / str(process) / "cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def proportional_memory(process: int) -> int:
    """The proportional set size of a process in bytes: shared pages are divided among those
    that share them. 0 if it is gone."""
    try:
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _processes() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for process in _processes():
        try:
            status = (PROC / str(process) / "stat").read_text(errors="replace")
        except OSError:
            continue
        # The name, in parentheses, may hold spaces and parentheses itself.
        state, parent = status.rpartition(")")[2].split()[:2]
        if state != "Z":
            children.setdefault(int(parent), []).append(process)
    return children


def _cgroup_directories(mounts: list[str]) -> list[Path]:
    places = {
        Path(line.split()[4]) for line in mounts if line.rpartition(" - ")[2].startswith("cgroup")
    }
    # Unlike rglob, walk goes on where a group vanishes meanwhile.
    return [Path(path) for place in places for path, _, _ in os.walk(place)]
