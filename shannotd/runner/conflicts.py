"""What somebody has changed since, of what is to be taken back: asked of the host as it is now.

Each step of a reversal says what it expects to find. Where something else is, it is a conflict:
named, and not touched (P9), unless somebody wants that very path forced. Then the step starts
from what is there now, so that whoever approves it sees just that.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from typing import AbstractSet, Dict, List, Mapping, Optional, Sequence

from shannotd.runner import expectation, tree
from shannotd.runner.course import Course
from shannotd.runner.given import Given
from shannotd.runner.joined import Joined
from shannotd.runner.plan import ABSENT, FileState, FileStep, Identity
from shannotd.runner.tree import NOTHING, Entry, MountInside
from shannotd.runner.workspace import Workspace

_GONE = (errno.ENOENT, errno.ENOTDIR)
_EMPTY = "a directory with nothing in it but what the session made"


@dataclass(frozen=True)
class Conflict:
    """A path at which something else is than was left there, both in words. `forcible` says that
    it can be taken back all the same."""

    path: str
    expected: str
    found: str
    forcible: bool = True


@dataclass(frozen=True)
class Settled:
    """A step that starts from what is there now, and what it should have found instead, in words,
    where it is forced."""

    index: int
    step: FileStep
    changed: Optional[str] = None


class Conflicts:
    """Looks at the paths of a reversal's steps, in order, as the identity that will do them."""

    def __init__(
        self,
        identity: Identity,
        force: AbstractSet[str],
        *,
        force_all: bool,
        names: Joined,
        left: Mapping[int, FileState],
    ) -> None:
        """`force` are paths where the change of somebody else does not count, or all do not;
        `names` those of the plan that was applied, whose steps have `left` something else than it
        says, by their indexes."""
        self._left = left
        self._workspace = Workspace(identity, Given(names))
        self._force = force
        self._force_all = force_all
        self._course = Course()
        self._found: Dict[str, Conflict] = {}

    @property
    def found(self) -> List[Conflict]:
        """All conflicts so far, in the order in which they were met; a path comes once."""
        return list(self._found.values())

    def close(self) -> None:
        """Let go of the directories."""
        self._workspace.directories.forget()

    def settle(self, index: int, step: FileStep) -> List[Settled]:
        """What is to be done for `step` on the host as it is now: the step itself where it finds
        what it expects, or is in conflict."""
        try:
            settled = self._rename(index, step) if step.old_path else self._place(index, step)
        except _Blocked as error:
            self._note(error.conflict)
            settled = [Settled(index, step)]
        for one in settled or [Settled(index, step)]:
            self._course.add(one.step)
        return settled

    def _note(self, conflict: Conflict) -> None:
        self._found.setdefault(conflict.path, conflict)

    def _forces(self, path: str) -> bool:
        return self._force_all or path in self._force

    # One step.

    def _place(self, index: int, step: FileStep) -> List[Settled]:
        here = self._course.before(step.path)
        makes = step.after.type != "absent"
        if here is None:  # what is there is an earlier step's
            if makes:
                self._require_directory(step.path.rpartition("/")[0])
            return [Settled(index, step)]
        metadata = step.change == "metadata"
        found = self._look(here, step.path, step.before, makes=makes, metadata=metadata)
        if _as_expected(step.before, found):
            return self._settled(index, [_as_found(step, found)], found)
        conflict = _conflict(here, step.before, found)
        forced = _forced(step, found)
        if forced is not None and self._is_as_left(index, step, found):
            return self._settled(index, forced, found)
        if forced is None:
            raise _Blocked(replace(conflict, forcible=False))
        if not self._forces(here):
            raise _Blocked(conflict)
        return self._settled(index, forced, found, conflict.expected)

    def _is_as_left(self, index: int, step: FileStep, found: Entry) -> bool:
        """Whether what was `found` has other metadata just since the session itself has given
        them by another of its names: so it left them, or at that they were as expected."""
        if step.change != "metadata":
            return False
        left = self._left.get(index)
        if left is not None and _as_expected(left, found):
            return True
        if not self._workspace.given.knows(step.path, found):
            return False
        now = found.state
        given = replace(step.before, mode=now.mode, uid=now.uid, gid=now.gid, xattrs=now.xattrs)
        if self._workspace.given.timed(found):
            given = replace(given, mtime_ns=None)
        return _as_expected(given, found)

    def _settled(
        self, index: int, steps: Sequence[FileStep], found: Entry, changed: Optional[str] = None
    ) -> List[Settled]:
        """`steps`, which do what is to be done to what was `found`."""
        for step in steps:
            if step.change == "metadata":
                self._workspace.given.intend(step, found)
        return [Settled(index, step, changed) for step in steps]

    def _rename(self, index: int, step: FileStep) -> List[Settled]:
        """Back to the old name, with whatever became of it where that is forced."""
        assert step.old_path is not None
        settled: List[Settled] = []
        changed: Optional[str] = None
        here = self._course.before(step.old_path)
        if here is not None:
            found = self._look(here, step.old_path, step.before, makes=False, metadata=True)
            if not _as_expected(step.before, found):
                conflict = _conflict(here, step.before, found)
                if found.state.type == "absent":
                    raise _Blocked(replace(conflict, forcible=False))
                if not self._forces(here):
                    raise _Blocked(conflict)
                step = replace(step, before=found.state)
                changed = conflict.expected
            moved = _as_found(step, found).before
            step = replace(step, before=moved, after=moved)
        there = self._course.before(step.path)
        if there is not None:
            taken = self._look(there, step.path, ABSENT, makes=True, metadata=False)
            if taken.state.type != "absent":
                conflict = _conflict(there, ABSENT, taken)
                if not self._forces(there):
                    raise _Blocked(conflict)
                gone = FileStep("delete", step.path, taken.state, ABSENT)
                settled.append(Settled(index, gone, conflict.expected))
        return [*settled, Settled(index, step, changed)]

    # Looking.

    def _look(
        self, path: str, named: str, expected: FileState, *, makes: bool, metadata: bool
    ) -> Entry:
        """What is at `path` of the host, which a step has `named`; where something is to be made
        there its directory must be too. A directory comes with its tree, unless only its `metadata`
        matter."""
        parent, _, name = path.rpartition("/")
        try:
            directory, status = self._workspace.directories.get(parent)
            if not name:
                found = tree.describe(directory, status, identity=self._workspace.identity)
                return self._workspace.seen(named, expected, found)
            return self._workspace.entry(
                directory,
                name,
                path,
                expected,
                with_tree=not metadata,
                excluded=self._course.moved,
                named=named,
            )
        except MountInside as error:
            raise _obstacle(path, expected, f"something is mounted at {error}") from error
        except OSError as error:
            if error.errno in _GONE and not makes:
                return NOTHING
            if error.errno in (*_GONE, errno.ELOOP):
                raise self._no_directory(parent) from error
            reason = f"what cannot be looked at ({os.strerror(error.errno or 0)})"
            raise _obstacle(path, expected, reason) from error

    def _require_directory(self, path: str) -> None:
        """See that the directory at `path` is there, unless an earlier step makes it.

        :raises _Blocked: it is not.
        """
        here = self._course.before(path)
        if here is None:
            return
        try:
            self._workspace.directories.get(here)
        except OSError as error:
            if error.errno not in (*_GONE, errno.ELOOP):
                raise
            raise self._no_directory(here) from error

    def _no_directory(self, path: str) -> _Blocked:
        """The topmost of the directories down to `path` that is none."""
        above = ""
        for name in path.split("/")[1:]:
            above = f"{above}/{name}"
            try:
                self._workspace.directories.get(above)
            except OSError as error:
                found = "a symlink" if error.errno == errno.ELOOP else "no directory"
                return _Blocked(Conflict(above, "directory", found, forcible=False))
        return _Blocked(Conflict(path or "/", "directory", "no directory", forcible=False))


class _Blocked(Exception):
    """The step cannot be done as things are."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(conflict.path)
        self.conflict = conflict


def _obstacle(path: str, expected: FileState, found: str) -> _Blocked:
    return _Blocked(Conflict(path, expectation.in_words(expected), found, forcible=False))


def _as_expected(expected: FileState, found: Entry) -> bool:
    same_tree = expected.tree is None or expected.tree == found.state.tree
    # The session itself has touched what it left: that changed the ctime.
    return same_tree and expectation.met(expected, found, renamed=True)


def _as_found(step: FileStep, found: Entry) -> FileStep:
    """The step with what its plan tells besides: the other names of a file, and which file it is
    that cannot be hashed."""
    state = found.state
    fingerprint = None if step.before.fingerprint is None else state.fingerprint
    return replace(step, before=replace(step.before, links=state.links, fingerprint=fingerprint))


def _conflict(path: str, expected: FileState, found: Entry) -> Conflict:
    if expected.tree is not None and expectation.met(expected, found):
        assert found.state.tree is not None
        count, size = found.state.tree.entries, found.state.tree.size
        entries = "1 entry" if count == 1 else f"{count} entries"
        return Conflict(path, _EMPTY, f"{entries} of {size} bytes that it did not make")
    words = expectation.in_words
    unread = found.state.type == "file" and found.state.sha256 is None
    told = " that cannot be read" if unread and expected.sha256 is not None else ""
    return Conflict(path, words(expected), words(found.state) + told)


def _forced(step: FileStep, found: Entry) -> Optional[List[FileStep]]:
    """What does `step` with what was `found` in its place; None where nothing can."""
    state = found.state
    if step.change == "metadata":
        if state.type != step.before.type:
            return None
        after = replace(
            state,
            mode=step.after.mode,
            uid=step.after.uid,
            gid=step.after.gid,
            xattrs=step.after.xattrs,
            mtime_ns=step.after.mtime_ns,
        )
        same = after == replace(state, mtime_ns=step.after.mtime_ns)
        if same and expectation.met(after, found):
            return []
        return [replace(step, before=state, after=after)]
    if state.type == "absent":
        return [] if step.after.type == "absent" else [replace(step, change="create", before=state)]
    if step.after.type not in ("absent", "directory") and expectation.met(step.after, found):
        return []
    change = "delete" if step.after.type == "absent" else "modify"
    return [replace(step, change=change, before=state)]
