"""What the earlier deltas of a session will have made of the host when the next one is applied.

At a barrier a plan's steps must lead from the last barrier to this one. The upper layers only
tell how everything differs from the host, so what was recorded before stands in for the host
wherever it named a path. All here is pure.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import (
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from shannotd.runner.diff import Budget
from shannotd.runner.plan import ABSENT, BlockedStep, FileState, FileStep
from shannotd.runner.tree import HASHED_BYTES

# File times come from a clock that lags up to a tick (10 ms at HZ=100) behind the precise one.
CLOCK_LAG_NS = 20_000_000


class Version(NamedTuple):
    """What another content, or other metadata, of a file in an upper layer never has."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def version(status: os.stat_result) -> Version:
    """The version of the file whose status this is."""
    return Version(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


@dataclass(frozen=True)
class Known:
    """What the deltas so far leave at one path.

    `mtime_ns` is its time where that is promised; `data` its content where that was kept.
    """

    state: FileState
    mtime_ns: Optional[int] = None
    data: Optional[bytes] = None


@dataclass(frozen=True)
class History:
    """The deltas so far: of `steps` steps in all, the last captured at `captured_ns`.

    `known` is what they leave at each path that they named. Below the paths of `cut` nothing is
    the host's own any more. `moved` has for each overlay its renamed directories (old path to
    new), `versions` the files that were looked at, `blocked` what was reported.
    """

    known: Mapping[str, Known] = field(default_factory=dict)
    cut: FrozenSet[str] = frozenset()
    moved: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    versions: Mapping[str, Version] = field(default_factory=dict)
    blocked: FrozenSet[BlockedStep] = frozenset()
    steps: int = 0
    captured_ns: int = 0
    begun: bool = False
    budget: Budget = field(default_factory=Budget)

    @property
    def kept_bytes(self) -> int:
        """How much content it keeps."""
        return sum(len(known.data) for known in self.known.values() if known.data is not None)

    def is_cut(self, path: str) -> bool:
        """Whether what the host has at `path` was gone at some barrier before."""
        return bool(self.cut) and any(above in self.cut for above in lineage(path))

    def unchanged(self, path: str, found: Version) -> bool:
        """Whether the file at `path` is for sure as it was at the last barrier.

        What changed within a tick of the clock before may have changed once more after it.
        """
        settled = found.ctime_ns < self.captured_ns - CLOCK_LAG_NS
        return settled and self.versions.get(path) == found

    def is_parted(self, path: str, found: Version) -> bool:
        """Whether the file at `path` was one with others at the last barrier and is so no more."""
        last = self.versions.get(path)
        if last is None or last[:2] == found[:2]:
            return False
        return self._names[last[:2]] > 1

    @cached_property
    def _names(self) -> Counter[Tuple[int, int]]:
        return Counter((one.device, one.inode) for one in self.versions.values())

    def below(self, path: str) -> List[str]:
        """The known paths in the directory `path`, at any depth."""
        return [known for known in self.known if known.startswith(path + "/")]


def lineage(path: str) -> List[str]:
    """`path` and the directories above it, without the root."""
    found = []
    while path:
        found.append(path)
        path = path.rpartition("/")[0]
    return found


def can_be_checked(state: FileState, uid: int) -> bool:
    """Whether an earlier batch leaves a state that a later one, as `uid`, can tell again.

    A file that is not hashed is told by its inode, and nobody knows that of one not yet made.
    """
    if state.type != "file":
        return True
    readable = uid in (0, state.uid) and (uid == 0 or (state.mode or 0) & 0o400 != 0)
    readable = readable or (state.mode or 0) & 0o044 == 0o044
    return state.sha256 is not None and (state.size or 0) <= HASHED_BYTES and readable


def follow(
    history: History,
    steps: Sequence[object],
    *,
    data: Mapping[str, bytes],
    moved: Mapping[str, Mapping[str, str]],
    versions: Mapping[str, Version],
    captured_ns: int,
) -> History:
    """The history with one more delta: its `steps`, the kept contents `data` of the files that
    they change, and what else was found (see History)."""
    known: Dict[str, Known] = dict(history.known)
    cut: Set[str] = set(history.cut)
    for step in steps:
        if not isinstance(step, FileStep):
            continue
        if step.old_path is not None:
            known[step.old_path] = Known(ABSENT)
            cut.add(step.old_path)
        if step.before.type == "directory" and step.after.type != "directory":
            cut.add(step.path)
        known[step.path] = _known(step, known.get(step.path), data.get(step.path))
    return History(
        known,
        frozenset(cut),
        moved,
        versions,
        history.blocked.union(step for step in steps if isinstance(step, BlockedStep)),
        history.steps + len(steps),
        captured_ns,
        True,
        history.budget,
    )


def _known(step: FileStep, before: Optional[Known], data: Optional[bytes]) -> Known:
    if step.after.type == "absent":
        return Known(ABSENT)
    time_ns = step.after.mtime_ns
    if step.change == "metadata" and time_ns is None and before is not None:
        time_ns = before.mtime_ns
    state = replace(step.after, mtime_ns=None, tree=None, links=None)
    return Known(state, None if state.type == "directory" else time_ns, data)


def gone(history: History, present: Iterable[str]) -> List[str]:
    """The known paths where something was and nothing is any more, those deep inside first."""
    there = set(present)
    return [
        path
        for path in sorted(history.known, reverse=True)
        if history.known[path].state.type != "absent" and path not in there
    ]


def overlapping(history: History, paths: Iterable[str]) -> Optional[str]:
    """A known path that is one of `paths`, in it, or above it; None where there is none."""
    for path in paths:
        for known in history.known:
            if known == path or known.startswith(path + "/") or path.startswith(known + "/"):
                return known
    return None
