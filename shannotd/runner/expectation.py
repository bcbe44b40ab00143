"""Whether what is found is what a plan expects (P2), and both in words."""

from __future__ import annotations

from typing import Optional

from shannotd.runner.filesystem import Status
from shannotd.runner.plan import FileState
from shannotd.runner.tree import Entry


def met(expected: FileState, found: Entry, *, renamed: bool = False) -> bool:
    """Whether `found` is in the state `expected`; where that has a tree, without it.

    The number of links is no part of it. After a rename of ours (`renamed`) the ctime of a
    file that is not hashed is another one.
    """
    state = found.state
    if state.type != expected.type:
        return False
    if expected.type == "absent":
        return True
    if (state.uid, state.gid, state.target) != (expected.uid, expected.gid, expected.target):
        return False
    if expected.type == "symlink":
        return True
    if state.mode != expected.mode or state.xattrs != expected.xattrs:
        return False
    time_ns = None if found.status is None else found.status.mtime_ns
    if expected.mtime_ns not in (None, time_ns):
        return False
    if expected.type != "file":
        return True
    if state.size != expected.size:
        return False
    if expected.fingerprint is None:
        return state.sha256 == expected.sha256
    return _same_fingerprint(expected.fingerprint, found.status, renamed)


def hashed_size(expected: FileState) -> Optional[int]:
    """The size of a file that must be hashed, however large it is, to tell whether it is the
    `expected` one; None where there is none."""
    return None if expected.sha256 is None else expected.size


def _same_fingerprint(expected: str, status: Optional[Status], renamed: bool) -> bool:
    if status is None:
        return False
    inode, size, mtime, ctime = expected.split(":")
    same = (inode, size, mtime) == (str(status.inode), str(status.size), str(status.mtime_ns))
    return same and (renamed or ctime == str(status.ctime_ns))


def in_words(state: FileState) -> str:
    """A state as the message of `stale` shows it."""
    if state.type == "absent":
        return "nothing"
    words = [state.type]
    if state.mode is not None and state.type != "symlink":
        words.append(f"{state.mode:04o}")
    words.append(f"{state.uid}:{state.gid}")
    if state.target is not None:
        words.append(f"to {state.target}")
    if state.size is not None:
        words.append(f"{state.size} bytes")
    if state.sha256 is not None:
        words.append(f"sha256 {state.sha256[:16]}")
    if state.tree is not None:
        words.append(f"{state.tree.entries} entries, {state.tree.size} bytes")
        words.append(f"sha256 {state.tree.sha256[:16]}")
    if state.xattrs:
        words.append("with " + " ".join(sorted(state.xattrs)))
    return " ".join(words)
