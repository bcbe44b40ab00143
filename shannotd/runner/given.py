"""What the steps of an apply gave to files, by inode: all names of a file change with one.

In the sandbox names of one file may have parted, and a plan tells each of them by its path. So what
is found at one of them may be what an earlier step did through another: that is nobody else's
doing, and counts as what the plan expects there (P2). All here is pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Set, Tuple

from shannotd.runner.access_list import with_mode
from shannotd.runner.filesystem import Identity, Status
from shannotd.runner.joined import Joined
from shannotd.runner.plan import FileState, FileStep
from shannotd.runner.tree import ACCESS_ACL, RECORDED, Entry


@dataclass(frozen=True)
class _Look:
    """The metadata that an inode has at some moment, and what is known of its content."""

    state: FileState
    status: Status

    def is_expected(self, expected: FileState) -> bool:
        """Whether a plan `expected` these metadata."""
        one, two = self.state, expected
        same = (one.mode, one.uid, one.gid, one.xattrs) == (two.mode, two.uid, two.gid, two.xattrs)
        return same and expected.mtime_ns in (None, self.status.mtime_ns)

    def is_still(self, found: Entry) -> bool:
        """Whether `found`, the same inode, is just so."""
        assert found.status is not None
        one, two = self.state, found.state
        if (one.type, one.mode, one.uid, one.gid) != (two.type, two.mode, two.uid, two.gid):
            return False
        if one.type == "directory":
            return one.xattrs == two.xattrs
        if (self.status.size, self.status.mtime_ns) != (found.status.size, found.status.mtime_ns):
            return False
        if None in (one.sha256, two.sha256):  # who may not read it sees fewer attributes as well
            return _recorded(one) == _recorded(two)
        return (one.sha256, one.xattrs) == (two.sha256, two.xattrs)

    def on(self, found: Entry, now: _Look) -> Entry:
        """`found`, which is as `now`, with these metadata instead."""
        assert found.status is not None
        one, status = self.state, found.status
        state = replace(found.state, mode=one.mode, uid=one.uid, gid=one.gid, xattrs=one.xattrs)
        if state.sha256 is None and one.sha256 is not None:
            # A step has taken the right to read it from the identity.
            state = replace(state, sha256=one.sha256, fingerprint=None)
        if status.ctime_ns == now.status.ctime_ns:
            status = status._replace(ctime_ns=self.status.ctime_ns)
        return replace(found, state=state, status=status._replace(mtime_ns=self.status.mtime_ns))


def _recorded(state: FileState) -> Dict[str, str]:
    return {name: value for name, value in state.xattrs.items() if name in RECORDED}


class Given:
    """Remembers them from the first step on that changes an inode's metadata."""

    def __init__(self, names: Optional[Joined] = None) -> None:
        """What was given by one path counts at those that `names` join with it."""
        self._names = Joined(()) if names is None else names
        # The looks that an inode has had or will have, in order, and how it really is.
        self._looks: Dict[Identity, List[_Look]] = {}
        self._now: Dict[Identity, _Look] = {}
        # What was last given to one by each of its paths.
        self._by_path: Dict[Tuple[Identity, str], _Look] = {}
        # How it will be after all that steps intend, and how one, by a path, left it that is to be
        # taken back.
        self._next: Dict[Identity, FileState] = {}
        self._left: Dict[Tuple[Identity, str], _Look] = {}
        # By the names of which group an inode was given something.
        self._groups: Dict[Identity, Set[str]] = {}

    def copy(self) -> Given:
        """Another one that knows the same, for a batch that may fail."""
        other = Given(self._names)
        other.take(self)
        return other

    def take(self, other: Given) -> None:
        """Know what `other` knows: its batch is done."""
        self._looks = {identity: list(looks) for identity, looks in other._looks.items()}
        self._now = dict(other._now)
        self._by_path = dict(other._by_path)
        self._next = {}
        self._groups = {identity: set(groups) for identity, groups in other._groups.items()}

    def foresee(self, path: str, status: Status, before: FileState, left: FileState) -> None:
        """A step that takes another back expects `before` at `path`, where the inode with this
        `status` is: that was given to it, and others may have been through other names since. The
        other one has really `left` this."""
        look = _after(_Look(before, status), before)
        self._looks.setdefault(status.identity, []).append(look)
        self._by_path.setdefault((status.identity, path), look)
        self._left.setdefault((status.identity, path), _after(_Look(left, status), left))

    def intend(self, step: FileStep, found: Entry) -> Tuple[Entry, FileState]:
        """A `step` is going to change the metadata of what was `found`, as it expects. How that
        really is now, and how it will be."""
        if found.status is None:
            return found, step.after
        identity = found.status.identity
        first = _Look(found.state, found.status)
        now = self._now.setdefault(identity, first)
        self._groups.setdefault(identity, set()).add(self._names.group(step.path))
        look = self._by_path[identity, step.path] = _after(first, step.after)
        self._looks.setdefault(identity, [first]).append(look)
        real = self._next.get(identity, now.state)
        self._next[identity] = given_to(real, step.before, step.after)
        return Entry(now.state, now.status), self._next[identity]

    def changed(self, path: str, found: Entry, after: FileState, really: Entry) -> None:
        """A step has done so, and left the file as it `really` is now."""
        assert found.status is not None and really.status is not None
        first = _Look(found.state, found.status)
        planned = _after(first, after)
        look = replace(planned, status=really.status)
        identity = really.status.identity
        self._now[identity] = _Look(really.state, really.status)
        self._by_path[identity, path] = look
        self._groups.setdefault(identity, set()).add(self._names.group(path))
        # Of what the batch has made itself, no step intended anything when all was looked at.
        looks = self._looks.get(identity, [first, planned])
        self._looks[identity] = [look if one == planned else one for one in looks]

    def seen(self, path: str, expected: FileState, found: Entry) -> Entry:
        """What was `found` at `path`, as it is `expected` if it was so at any of the steps."""
        if not self._looks or found.status is None:
            return found
        identity = found.status.identity
        looks = self._looks.get(identity)
        now = self._now.get(identity) if self.knows(path, found) else None
        if identity not in self._now:
            now = self._left.get((identity, path))
        if looks is None or now is None or not now.is_still(found):
            return found
        self._now[identity] = now
        # The one of just this path is the right one, if only a time that no step tells differs.
        known = self._by_path.get((identity, path))
        if known is None and found.status.links == 1:
            known = now
        likely = [*([] if known is None else [known]), *looks, now]
        look = next((one for one in likely if one.is_expected(expected)), looks[-1])
        return look.on(found, now)

    def knows(self, path: str, found: Entry) -> bool:
        """Whether a step changes what was `found` at `path` by one of the names that it had."""
        if found.status is None:
            return False
        return self._names.group(path) in self._groups.get(found.status.identity, ())

    def timed(self, found: Entry) -> bool:
        """Whether a step gives a time to what was `found`."""
        assert found.status is not None
        looks = self._looks[found.status.identity]
        return len({look.status.mtime_ns for look in looks}) > 1

    def original(self, status: Status) -> Optional[Entry]:
        """The metadata that the inode had before the steps; None where none of them changed it, or
        it is not as they left it."""
        now = self._now.get(status.identity)
        if now is None:
            return None
        left = now.status
        as_left = (left.mode, left.uid, left.gid, left.size, left.mtime_ns)
        if as_left != (status.mode, status.uid, status.gid, status.size, status.mtime_ns):
            return None
        first = self._looks[status.identity][0]
        return Entry(first.state, first.status)


def given_to(real: FileState, before: FileState, after: FileState) -> FileState:
    """What a step makes of a file that is `real`: just what differs between `before` and `after`
    changes, since another name may have got the rest."""

    def given(now: Optional[int], old: Optional[int], new: Optional[int]) -> Optional[int]:
        return now if old == new else new

    xattrs = dict(real.xattrs)
    for name in {*before.xattrs, *after.xattrs}:
        if before.xattrs.get(name) == after.xattrs.get(name):
            continue
        xattrs.pop(name, None)
        if name in after.xattrs:
            xattrs[name] = after.xattrs[name]
    mode = given(real.mode, before.mode, after.mode)
    if ACCESS_ACL in xattrs and mode is not None:
        xattrs[ACCESS_ACL] = with_mode(xattrs[ACCESS_ACL], mode)
    return replace(
        after,
        mode=mode,
        uid=given(real.uid, before.uid, after.uid),
        gid=given(real.gid, before.gid, after.gid),
        xattrs=xattrs,
    )


def _after(look: _Look, after: FileState) -> _Look:
    """The same inode with the metadata of `after`."""
    state = look.state
    state = replace(state, mode=after.mode, uid=after.uid, gid=after.gid, xattrs=after.xattrs)
    status = look.status
    if after.mtime_ns is not None:
        status = status._replace(mtime_ns=after.mtime_ns)
    return _Look(state, status)
