"""What a warm sandbox hides already, and whether that is still all that a job has to have hidden.

To look up every pattern takes longer than a small script runs. So it is done while the sandbox is
warm, and the kernel is asked to tell of any change in the directories that were looked into
(inotify(7)). Where it could not tell of one, or tells of one, all is looked up once more.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from dataclasses import dataclass
from typing import Collection, Dict, Iterable, List, Optional, Sequence, Tuple

from shannotd.runner import kernel, passwords
from shannotd.runner.delta import CLOCK_LAG_NS, version
from shannotd.runner.hiding import hidden_paths, search
from shannotd.runner.layout import LOCAL
from shannotd.runner.passwords import NO_PASSWORDS, Passwords
from shannotd.runner.paths import above, resolved

# So many directories are watched: `**` may lead into very many.
_MOST = 1024
_EVENTS = (
    kernel.IN_CREATE
    | kernel.IN_DELETE
    | kernel.IN_MOVED_FROM
    | kernel.IN_MOVED_TO
    | kernel.IN_ATTRIB
    | kernel.IN_DELETE_SELF
    | kernel.IN_MOVE_SELF
    | kernel.IN_ONLYDIR
    | kernel.IN_ONESHOT  # one tells as much as many
)

Ways = Tuple[Tuple[int, ...], ...]


@dataclass(frozen=True)
class Difference:
    """What is to be masked beside what is, what not any more, and the passwords that the files
    of accounts which are shown instead have."""

    masked: List[str]
    shown: List[str]
    passwords: Passwords


class Concealment:
    """What is hidden in a warm sandbox: `paths`, to be masked there as soon as this was made."""

    def __init__(
        self, patterns: Sequence[str], always: Iterable[str], *, for_root: bool = False
    ) -> None:
        """`patterns` are what most jobs hide, `always` paths that each hides; `for_root` says
        whether most are root's."""
        self._patterns = tuple(patterns)
        self._always = tuple(always)
        self._watch = DirectoryWatch()
        watched = search(self._patterns, self._always).directories
        complete = self._watch.add(watched)
        # Now that changes are told of.
        found = search(self._patterns, self._always)
        self._reliable = complete and not found.followed and found.directories <= watched
        self._hidden = found.outermost()
        self._for_root = for_root
        self._files = _versions()
        self._taken = _for_identity(self._hidden, for_root)
        self.paths = self._taken[0]
        self._ways = ways_to(self.paths)

    def difference(self, patterns: Sequence[str], *, for_root: bool = False) -> Difference:
        """What differs for a job with these `patterns`, as the host is now."""
        hidden, same = self._hidden, True
        if not self._reliable or tuple(patterns) != self._patterns or self._watch.changed():
            hidden = hidden_paths(patterns, self._always)
            same = ways_to(self.paths) == self._ways
        if hidden is self._hidden and for_root == self._for_root and self._is_settled():
            paths, found = self._taken
        else:
            paths, found = _for_identity(hidden, for_root)
        # What holds on to what is not there any more is masked anew.
        kept = frozenset(self.paths) if same else frozenset()
        masked = [path for path in paths if path not in kept]
        shown = [path for path in self.paths if path not in kept or path not in paths]
        return Difference(masked, shown, found)

    def _is_settled(self) -> bool:
        """Whether the files with passwords are as they were."""
        return self._files is not None and _versions() == self._files

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()


def _versions() -> Optional[Tuple[Tuple[int, ...], ...]]:
    """What another content of the files with passwords never has; None where one changed a moment
    ago: it may change once more, and nothing but its content would tell."""
    settled = time.time_ns() - CLOCK_LAG_NS
    found: List[Tuple[int, ...]] = []
    for path in passwords.FILES:
        try:
            status = os.lstat(path)
        except OSError:
            found.append(())
            continue
        if status.st_ctime_ns >= settled:
            return None
        found.append(version(status))
    return tuple(found)


def _for_identity(hidden: List[str], for_root: bool) -> Tuple[List[str], Passwords]:
    return passwords.take_from(hidden) if for_root else (hidden, NO_PASSWORDS)


def ways_to(paths: Iterable[str]) -> Ways:
    """What a mask of `paths` holds on to: the directories above each, and what kind each is.

    A sandbox goes on showing such a directory as it was, even when the host has another.
    """
    directories = sorted({directory for path in paths for directory in above(path)})
    found: List[Tuple[int, ...]] = []
    for directory in directories:
        try:
            status = os.stat(directory)
        except OSError:
            found.append(())
            continue
        rights = (status.st_mode, status.st_uid, status.st_gid, status.st_ctime_ns)
        found.append((status.st_dev, status.st_ino, *rights))
    for path in paths:
        try:
            found.append((stat.S_IFMT(os.stat(path).st_mode),))
        except OSError:
            found.append(())
    return tuple(found)


class DirectoryWatch:
    """Tells whether names in directories came, went or got other rights since they were added."""

    def __init__(self) -> None:
        self._changed = False
        self._poll = select.poll()
        try:
            self._descriptor = kernel.inotify_init()
        except OSError:  # the account has as many as it may
            self._descriptor = -1
            return
        self._poll.register(self._descriptor, select.POLLIN)

    def add(self, directories: Collection[str]) -> bool:
        """Watch `directories`; False where a change in one might not be told of.

        What is not there, or cannot be entered, will not without a change in the directory above.
        """
        if self._descriptor < 0 or len(directories) > _MOST:
            return False
        filesystems = _filesystems()
        return all(self._add(directory, filesystems) for directory in directories)

    def _add(self, path: str, filesystems: Dict[Tuple[int, int], str]) -> bool:
        try:
            kernel.inotify_add_watch(self._descriptor, path, _EVENTS)
            device = os.stat(path).st_dev
        except OSError as error:
            if error.errno == errno.EACCES:
                return not os.access(path, os.X_OK, effective_ids=True)
            return error.errno in (errno.ENOENT, errno.ENOTDIR)
        # A link may be led elsewhere by a directory that is not watched.
        if resolved(path) != path:
            return False
        return filesystems.get((os.major(device), os.minor(device))) in LOCAL

    def changed(self) -> bool:
        """Whether there was a change."""
        self._changed = self._changed or bool(self._poll.poll(0))
        return self._changed

    def close(self) -> None:
        """Watch no more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _filesystems() -> Dict[Tuple[int, int], str]:
    """The filesystems that are mounted, by the device that files of theirs have.

    Those of btrfs have others than its mounts: there a change might not be told of.
    """
    found: Dict[Tuple[int, int], str] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            major, _, minor = fields[2].partition(":")
            found[int(major), int(minor)] = fields[fields.index("-") + 1]
    return found
