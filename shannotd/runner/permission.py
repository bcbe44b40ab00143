"""May the identity that will apply a plan do what its steps say? Asked before the review.

What is asked is what applying needs: new content comes to its place by rename(2), so the
directory must be writable, and what is new must get the owner that the plan says.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from shannotd.runner import filesystem
from shannotd.runner.child import in_child
from shannotd.runner.course import Course
from shannotd.runner.directories import Directories, writable
from shannotd.runner.filesystem import Status
from shannotd.runner.frames import RunnerError
from shannotd.runner.obstacles import Obstacles
from shannotd.runner.plan import BlockedStep, FileStep, Identity
from shannotd.runner.tree import CAPABILITY, DEVICES

Refusal = Tuple[str, str, str]  # action, path, reason
NOTHING: Mapping[str, str] = {}


# A uid that no account has: the last but one, the last means none (setresuid(2)).
_NOBODYS = 2**32 - 2
# What says that a directory is not there: another host than the plan expects.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def first_refusal(
    steps: Sequence[Union[FileStep, BlockedStep]],
    identity: Identity,
    protected: Mapping[str, str] = NOTHING,
) -> Optional[Refusal]:
    """The first thing in a whole plan that `identity` may not do, None if it may do all.

    `protected` as in Obstacles.

    :raises OSError: it could not be found out.
    """

    def ask() -> str:
        return json.dumps(refusal_of_all(steps, identity, protected))

    found = json.loads(as_identity(identity, ask))
    return None if found is None else (found[0], found[1], found[2])


def as_identity(identity: Identity, work: Callable[[], str]) -> str:
    """What `work` returns when `identity` does it, in ASCII.

    Where this process is root and `identity` is not, a child does it that has become that one.

    :raises OSError: it could not be done.
    """
    if os.geteuid() == identity.uid or os.geteuid() != 0:
        return work()

    def become_and_work() -> str:
        become(identity)
        return work()

    text, status = in_child(become_and_work)
    if status != 0:
        raise OSError(0, f"the host could not be checked as {identity.name}")
    return text


def not_permitted(identity: Identity, found: Refusal) -> RunnerError:
    """A refusal as the error that the caller meets."""
    action, path, reason = found
    return RunnerError(
        "not_permitted", identity=identity.name, action=action, path=path, reason=reason
    )


def become(identity: Identity) -> None:
    """Take on `identity` for good; only for root.

    Where it is an ordinary one it is the effective uid only, by which all rights go. Other
    processes of the account may not signal this one then (kill(2)): stopped, it would have every
    other plan wait. Before it executes something `become_wholly`.

    :raises OSError: not permitted.
    """
    os.setgroups(list(identity.groups))
    os.setresgid(identity.gid, identity.gid, identity.gid)
    other = identity.uid if identity.uid == 0 else _NOBODYS
    try:
        os.setresuid(other, identity.uid, other)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # A user namespace without that uid (user_namespaces(7)).
        os.setresuid(identity.uid, identity.uid, identity.uid)
    os.umask(identity.umask)


def become_wholly() -> None:
    """Have no uid but the effective one, after `become`."""
    uid = os.geteuid()
    os.setresuid(uid, uid, uid)


def refusal_of_all(
    steps: Sequence[Union[FileStep, BlockedStep]],
    identity: Identity,
    protected: Mapping[str, str],
    *,
    applying: bool = False,
) -> Optional[Refusal]:
    """As `first_refusal`, by this process as it is.

    With `applying` it is about to do it: it tries what filesystems can do where that is not
    known, and a directory that is not there is left to the check of states.
    """
    course = Course()
    opened = {
        step.path for step in steps if isinstance(step, FileStep) and step.change == "metadata"
    }
    with Directories() as directories:
        judge = _Judge(
            identity, directories, opened, Obstacles(protected, trying=applying), applying
        )
        for step in steps:
            if isinstance(step, FileStep) and not step.scratch:
                found = judge.refusal(step, course)
                if found is not None:
                    return found
                course.add(step)
    return None


class _Looked(NamedTuple):
    """What is at a path of the host, and the directory that it is in."""

    path: str
    directory: int
    status: Status
    above: Status


class _Judge:
    def __init__(
        self,
        identity: Identity,
        directories: Directories,
        changed: Set[str],
        obstacles: Obstacles,
        applying: bool,
    ) -> None:
        self._identity = identity
        self._directories = directories
        # Paths whose mode the plan changes: it may make a directory writable.
        self._changed = changed
        self._obstacles = obstacles
        self._applying = applying
        self._parents: Dict[str, Optional[str]] = {}

    def refusal(self, step: FileStep, course: Course) -> Optional[Refusal]:
        named = self._obstacles.of_names(step)
        if named is not None:
            return (verb(step), *named)
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
        try:
            directory, status = self._directories.get(host)
        except OSError as error:
            if self._applying and error.errno in _GONE:
                return None
            return verb(step), path, f"{host or '/'}: {os.strerror(error.errno or 0)}"
        if host not in self._parents:
            self._parents[host] = self._judge_parent(host, parent, directory, status)
        reason = self._parents[host]
        if reason is None:
            reason = self._obstacles.of_rename(step, directory, status)
            reason = None if reason is None else f"it {reason}"
        return None if reason is None else (verb(step), path, reason)

    def _judge_parent(
        self, host: str, parent: str, directory: int, status: Status
    ) -> Optional[str]:
        reason = self._obstacles.of_directory(directory, status)
        if reason is not None:
            return f"the directory {host or '/'} {reason}"
        if not writable(directory) and not self._opens(parent, status):
            return f"the directory {host or '/'} is not writable"
        return None

    def _opens(self, parent: str, status: Status) -> bool:
        return parent in self._changed and status.uid == self._identity.uid

    def _look(self, path: str, course: Course) -> Optional[_Looked]:
        """What is at `path` on the host, and its directory; None if the host does not tell."""
        host = course.before(path)
        if host is None:
            return None
        parent, _, name = host.rpartition("/")
        try:
            directory, above = self._directories.get(parent)
            status = filesystem.status_at(directory, name) if name else above
        except OSError:
            return None  # no longer what it was: that is for the check of states to say
        return _Looked(host, directory, status, above)

    def _target(self, step: FileStep, path: str, course: Course) -> Optional[Refusal]:
        looked = self._look(path, course)
        if looked is None:
            return None
        status, above = looked.status, looked.above
        reason = self._obstacles.of_target(step, looked.path, looked.directory, status)
        if reason is not None:
            return verb(step), path, f"it {reason}"
        own = self._identity.uid in (0, status.uid, above.uid)
        if above.mode & stat.S_ISVTX and not own:
            reason = "its directory is sticky (chmod +t), and neither of the two is its own"
        if reason is None and step.old_path is not None and stat.S_ISDIR(status.mode):
            same = step.old_path.rpartition("/")[0] == step.path.rpartition("/")[0]
            if not same and not self._writable_directory(path, course):
                reason = "a directory that is not writable cannot change its place"
        return None if reason is None else (verb(step), path, reason)

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
            return verb(step), step.path, reason
        if CAPABILITY in step.after.xattrs:
            return "give capabilities to", step.path, "only root may"
        if step.after.type in DEVICES:
            return "make the device node", step.path, "only root may"
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
        return verb(step), step.path, reason

    def _metadata(self, step: FileStep, course: Course) -> Optional[Refusal]:
        looked = self._look(step.path, course)
        if looked is None:
            return None
        status = looked.status
        reason = self._obstacles.of_target(step, looked.path, looked.directory, status)
        if reason is not None:
            return verb(step), step.path, f"it {reason}"
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


def verb(step: FileStep) -> str:
    """What `step` does to its path, in a word."""
    return {
        "create": "create",
        "delete": "delete",
        "rename": "rename",
        "append": "append to",
    }.get(step.change, "change")
