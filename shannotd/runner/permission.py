"""May the identity that will apply a plan do what its steps say? Asked before the review.

What is asked is what applying needs: new content comes to its place by rename(2), so the
directory must be writable, and what is new must get the owner that the plan says.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Dict, List, Optional, Sequence, Tuple, Union

from shannotd.runner import filesystem
from shannotd.runner.course import Course
from shannotd.runner.directories import Directories, MountPoints, ReadOnly, writable
from shannotd.runner.filesystem import Status
from shannotd.runner.plan import BlockedStep, FileStep, Identity
from shannotd.runner.tree import CAPABILITY

Refusal = Tuple[str, str, str]  # action, path, reason


def obstacle(status: Status) -> Optional[str]:
    """Why nobody, root included, can change this inode or what is in this directory."""
    if status.immutable:
        return "it is immutable (chattr +i)"
    if status.append_only:
        return "it is append-only (chattr +a)"
    return None


def refusal(step: FileStep, identity: Identity) -> Optional[Refusal]:
    """What this process, which has `identity`, may not do of `step`: action, path, reason.

    `step` must start from the untouched host; for later steps see `first_refusal`.
    """
    with Directories() as directories:
        return _Judge(identity, directories, set()).refusal(step, Course())


def first_refusal(
    steps: Sequence[Union[FileStep, BlockedStep]], identity: Identity
) -> Optional[Refusal]:
    """The first thing in a whole plan that `identity` may not do, None if it may do all.

    Where this process is root and `identity` is not, a child asks that has become it.

    :raises OSError: it could not be found out.
    """
    if os.geteuid() == identity.uid or os.geteuid() != 0:
        return _ask(steps, identity)
    answer, question = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(answer)
            become(identity)
            with open(question, "w", encoding="utf-8", errors="surrogateescape") as pipe:
                json.dump(_ask(steps, identity), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(question)
    with open(answer, encoding="utf-8", errors="surrogateescape") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise OSError(0, f"the permissions of {identity.name} could not be checked")
    found = json.loads(text)
    return None if found is None else (found[0], found[1], found[2])


def become(identity: Identity) -> None:
    """Take on `identity` for good; only for root.

    :raises OSError: not permitted.
    """
    os.setgroups(list(identity.groups))
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    os.umask(identity.umask)


def _ask(steps: Sequence[Union[FileStep, BlockedStep]], identity: Identity) -> Optional[Refusal]:
    course = Course()
    opened = {
        step.path for step in steps if isinstance(step, FileStep) and step.change == "metadata"
    }
    with Directories() as directories:
        judge = _Judge(identity, directories, opened)
        for step in steps:
            if isinstance(step, FileStep) and not step.scratch:
                found = judge.refusal(step, course)
                if found is not None:
                    return found
                course.add(step)
    return None


class _Judge:
    def __init__(self, identity: Identity, directories: Directories, changed: set[str]) -> None:
        self._identity = identity
        self._directories = directories
        # Paths whose mode the plan changes: it may make a directory writable.
        self._changed = changed
        self._read_only = ReadOnly()
        self._mounts = MountPoints()
        self._parents: Dict[str, Optional[str]] = {}

    def refusal(self, step: FileStep, course: Course) -> Optional[Refusal]:
        checks: List[Optional[Refusal]] = []
        if step.change == "metadata":
            checks.append(self._metadata(step, course))
        else:
            checks.append(self._parent(step, step.path, course))
            if step.old_path is not None:
                checks.append(self._parent(step, step.old_path, course))
                checks.append(self._target(step, step.old_path, course))
            elif step.before.type != "absent":
                checks.append(self._target(step, step.path, course))
            if step.change not in ("rename", "delete"):
                checks.append(self._owner(step, course))
        return next((found for found in checks if found is not None), None)

    def _parent(self, step: FileStep, path: str, course: Course) -> Optional[Refusal]:
        parent = path.rpartition("/")[0]
        host = course.before(parent)
        if host is None:
            return None  # made by an earlier step, which was judged
        if host not in self._parents:
            self._parents[host] = self._parent_reason(host, parent)
        reason = self._parents[host]
        return None if reason is None else (_verb(step), path, reason)

    def _parent_reason(self, host: str, parent: str) -> Optional[str]:
        try:
            directory, status = self._directories.get(host)
        except OSError as error:
            return f"{host or '/'}: {os.strerror(error.errno or 0)}"
        reason = obstacle(status)
        if reason is None and self._read_only.is_set(directory, status):
            reason = "the filesystem is mounted read-only"
        elif reason is not None:
            reason = f"{host or '/'}: {reason}"
        elif not writable(directory) and not self._opens(parent, status):
            reason = f"the directory {host or '/'} is not writable"
        return reason

    def _opens(self, parent: str, status: Status) -> bool:
        return parent in self._changed and status.uid == self._identity.uid

    def _look(self, path: str, course: Course) -> Optional[Tuple[Status, Status]]:
        """What is at `path` on the host, and its directory; None if the host does not tell."""
        host = course.before(path)
        if not host:
            return None
        parent, _, name = host.rpartition("/")
        try:
            directory, above = self._directories.get(parent)
            return filesystem.status_at(directory, name), above
        except OSError:
            return None  # no longer what it was: that is for the check of states to say

    def _target(self, step: FileStep, path: str, course: Course) -> Optional[Refusal]:
        looked = self._look(path, course)
        if looked is None:
            return None
        status, above = looked
        reason = obstacle(status)
        if reason is None and status.mount_root:
            reason = "it is a mount point"
        if reason is None and step.before.type == "directory":
            below = self._mounts.below(course.before(path) or path)
            reason = None if below is None else f"something is mounted at {below}"
        own = self._identity.uid in (0, status.uid, above.uid)
        if reason is None and above.mode & stat.S_ISVTX and not own:
            reason = "its directory is sticky, and neither of the two is its own"
        if reason is None and step.old_path is not None and stat.S_ISDIR(status.mode):
            same = step.old_path.rpartition("/")[0] == step.path.rpartition("/")[0]
            if not same and not self._writable_directory(path, course):
                reason = "a directory that is not writable cannot change its place"
        return None if reason is None else (_verb(step), path, reason)

    def _writable_directory(self, path: str, course: Course) -> bool:
        host = course.before(path)
        if host is None:
            return True
        try:
            directory, status = self._directories.get(host)
        except OSError:
            return False
        return os.access(".", os.W_OK, dir_fd=directory, effective_ids=True) or self._opens(
            path, status
        )

    def _owner(self, step: FileStep, course: Course) -> Optional[Refusal]:
        """Whether what is new can be given the owner and capability that it is to have."""
        if self._identity.uid == 0:
            return None
        if step.after.uid != self._identity.uid:
            reason = f"it would have to belong to uid {step.after.uid}"
            return _verb(step), step.path, reason
        if CAPABILITY in step.after.xattrs:
            return "give capabilities to", step.path, "only root may"
        groups = {self._identity.gid, *self._identity.groups}
        if step.after.gid in groups or step.link_to is not None:
            return None
        # In a setgid directory new files get its group by themselves (inode(7)).
        host = course.before(step.path.rpartition("/")[0])
        if host is not None:
            try:
                _, status = self._directories.get(host)
            except OSError:
                return None
            if status.mode & stat.S_ISGID and status.gid == step.after.gid:
                return None
        elif step.after.gid is not None:
            return None  # in a directory that the plan makes; that one was judged
        reason = f"it would have to belong to group {step.after.gid}"
        return _verb(step), step.path, reason

    def _metadata(self, step: FileStep, course: Course) -> Optional[Refusal]:
        looked = self._look(step.path, course)
        if looked is None:
            return None
        status, _ = looked
        reason = obstacle(status)
        if reason is not None:
            return "change", step.path, reason
        if self._identity.uid == 0:
            return None
        before, after = step.before, step.after
        if after.uid != before.uid:
            return "change the owner of", step.path, "only root may"
        if after.xattrs.get(CAPABILITY) != before.xattrs.get(CAPABILITY):
            return "give capabilities to", step.path, "only root may"
        if status.uid != self._identity.uid:
            return "change the mode, group, attributes or times of", step.path, "it is not its own"
        if after.gid not in (before.gid, self._identity.gid, *self._identity.groups):
            return "change the group of", step.path, f"it is not in group {after.gid}"
        return None


def _verb(step: FileStep) -> str:
    return {
        "create": "create",
        "delete": "delete",
        "rename": "rename",
        "append": "append to",
    }.get(step.change, "change")
