"""Which processes hold a file open for writing that a plan puts another in the place of.

They go on writing into what is no longer there. Root's processes see those of all accounts
(with CAP_SYS_PTRACE), an account's only its own (proc(5), ptrace access modes).
"""

from __future__ import annotations

import os
import re
import stat
from typing import Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

from shannotd.runner.course import Course
from shannotd.runner.plan import FileStep, Holder

# The mode of a link in /proc/PID/fd tells how the descriptor was opened.
_OPEN_FOR_WRITING = 0o200
# A shared mapping that may be written to, which keeps a file open without a descriptor: inode
# and path.
_MAPPING = re.compile(rb"^\S+ .w.s \S+ \S+ ([1-9][0-9]*) +(/[^\n]*)$", re.MULTILINE)

_Inode = Tuple[int, int]


class _File(NamedTuple):
    """A regular file that is open for writing: which, and where it was opened."""

    inode: _Inode
    path: str


def holders(steps: Sequence[object]) -> Dict[int, List[Holder]]:
    """Who holds open for writing what steps replace or delete, by the index of the step.

    Every process is looked at once, whatever the number of steps, and none where no step
    replaces or deletes anything. Of a directory that goes, the files that were opened below it
    count.
    """
    files: Dict[str, int] = {}
    trees: Dict[str, int] = {}
    course = Course()
    for index, step in enumerate(steps):
        if not isinstance(step, FileStep) or step.scratch:
            continue
        path = course.before(step.path)
        if path is not None and _displaces(step):
            (trees if step.before.type == "directory" else files)[path] = index
        course.add(step)
    if not files and not trees:
        return {}
    opened = _opened_for_writing()
    pids: Dict[int, Set[int]] = {}
    inodes = {file.inode for file in opened}
    by_inode = {
        inode: index
        for inode, index in ((_inode(path), index) for path, index in files.items())
        if inode in inodes
    }
    for file, found in opened.items():
        if file.inode in by_inode:
            pids.setdefault(by_inode[file.inode], set()).update(found)
        for above in _above(file.path) if trees else ():
            if above in trees and _inode(file.path) == file.inode:
                pids.setdefault(trees[above], set()).update(found)
    return {
        index: [Holder(pid, _program(pid)) for pid in sorted(found)]
        for index, found in pids.items()
    }


def _displaces(step: FileStep) -> bool:
    """Whether a file, or all of a directory, is no longer there after `step`."""
    if step.before.type == "directory":
        return step.before.tree is not None and step.change in ("modify", "delete")
    return step.before.type == "file" and step.change in ("modify", "append", "delete")


def _above(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def _inode(path: str) -> _Inode:
    """The inode at `path`; one that no file has where there is none."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return 0, 0
    return status.st_dev, status.st_ino


def _opened_for_writing() -> Dict[_File, Set[int]]:
    """The regular files that processes hold open for writing, each with their ids."""
    opened: Dict[_File, Set[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                for file in (*_descriptors(name), *_mappings(name)):
                    opened.setdefault(file, set()).add(int(name))
            except OSError:  # it has ended, or is not for us to look into
                continue
    return opened


def _descriptors(pid: str) -> Iterator[_File]:
    directory = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(directory):
            try:
                if not os.lstat(name, dir_fd=directory).st_mode & _OPEN_FOR_WRITING:
                    continue
                status = os.stat(name, dir_fd=directory)
                if stat.S_ISREG(status.st_mode):
                    path = os.readlink(name, dir_fd=directory)
                    yield _File((status.st_dev, status.st_ino), path)
            except FileNotFoundError:  # closed meanwhile
                continue
    finally:
        os.close(directory)


def _mappings(pid: str) -> Iterator[_File]:
    with open(f"/proc/{pid}/maps", "rb") as file:
        for found in _MAPPING.finditer(file.read()):
            path = os.fsdecode(found[2])
            # By the path, since the device here is not that of stat(2) everywhere (btrfs).
            inode = _inode(path)
            if inode[1] == int(found[1]):
                yield _File(inode, path)


def _program(pid: int) -> str:
    """What a process runs. Not its arguments, which may hold secrets."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return "which has ended"
