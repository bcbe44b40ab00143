"""What a plan's steps make of the host's files, one after the other, as far as they name them.

Where no step named a path, it is as on the host, which nothing here looks at. All is pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Optional, Set, Tuple, Union

from shannotd.runner.plan import ABSENT, FileState, FileStep

Essence = Tuple[object, ...]


@dataclass(frozen=True)
class OnHost:
    """The content of a file that is at `path` on the untouched host."""

    path: str


@dataclass(frozen=True)
class Written:
    """A content that a step writes: SHA-256 and size in bytes."""

    sha256: str
    size: int


Pieces = Tuple[Union[OnHost, Written], ...]


@dataclass
class Place:
    """What is at one path after some steps.

    `state` is what a step left there, None where it is as on the host; `host` is where it was
    on the untouched host, None for what was not there. `pieces` make up the content of a file
    that a step wrote, `edit` is the edited step of which it has something. `below` are the
    names in a directory that steps named.
    """

    state: Optional[FileState] = None
    host: Optional[str] = None
    pieces: Optional[Pieces] = None
    edit: Optional[int] = None
    below: Dict[str, Place] = field(default_factory=dict)

    def at(self, name: str) -> Place:
        """What is at `name` in this directory."""
        found = self.below.get(name)
        if found is not None:
            return found
        return Place(ABSENT) if self.host is None else Place(host=f"{self.host}/{name}")

    @property
    def content(self) -> Pieces:
        """The content of the file that is there; nothing where there is none."""
        if self.pieces is not None:
            return self.pieces
        return () if self.host is None else (OnHost(self.host),)

    @property
    def edits(self) -> Set[int]:
        """The edited steps of which something is in it."""
        found: Set[int] = set()
        pending = [self]
        while pending:
            place = pending.pop()
            if place.edit is not None:
                found.add(place.edit)
            pending.extend(place.below.values())
        return found


class World:
    """The host after the steps so far; `facts` are what they found at paths of the host."""

    def __init__(self, facts: Optional[Dict[str, FileState]] = None) -> None:
        """Begin with the untouched host, of which another world may know `facts` already."""
        self.facts: Dict[str, FileState] = {} if facts is None else facts
        self._root = Place(host="")

    def find(self, path: str) -> Place:
        """What is at `path` now."""
        place = self._root
        for name in _names(path):
            place = place.at(name)
        return place

    def above(self, path: str) -> Iterator[Tuple[str, Place]]:
        """The directories above `path` with their paths, from the topmost, the root left out."""
        place, at = self._root, ""
        for name in _names(path)[:-1]:
            place, at = place.at(name), f"{at}/{name}"
            yield at, place

    def state(self, place: Place) -> Optional[FileState]:
        """The state of what is at `place`; None where only the host could tell."""
        if place.state is not None or place.host is None:
            return place.state or ABSENT
        return self.facts.get(place.host)

    def add(self, step: FileStep, *, edit: Optional[int] = None) -> None:
        """Do one more step; `edit` is its index where a reviewer gave it another content."""
        if step.change == "rename":
            self._rename(step)
            return
        place = self._own(step.path)
        self._learn(place, step.before)
        if step.change == "metadata":
            place.state = step.after
            return
        pieces: Optional[Pieces] = None
        if step.link_to is not None:
            target = self.find(step.link_to)
            pieces, edit = target.content, target.edit
        elif step.appended is not None:
            pieces = (*place.content, Written(step.appended.sha256, step.appended.size))
            edit = place.edit if edit is None else edit
        elif step.after.type == "file" and step.after.sha256 is not None:
            pieces = (Written(step.after.sha256, step.after.size or 0),)
        place.state, place.host, place.pieces = step.after, None, pieces
        place.edit, place.below = edit, {}

    def _rename(self, step: FileStep) -> None:
        assert step.old_path is not None
        moved = self._own(step.old_path)
        self._learn(moved, step.before)
        self._learn(self._own(step.path), ABSENT)
        self._put(step.old_path, Place(ABSENT))
        moved.state = step.after
        self._put(step.path, moved)

    def _learn(self, place: Place, before: FileState) -> None:
        if place.state is None and place.host is not None:
            self.facts.setdefault(place.host, before)

    def _own(self, path: str) -> Place:
        """What is at `path`, so that it can be changed."""
        place = self._root
        for name in _names(path):
            place = place.below.setdefault(name, place.at(name))
        return place

    def _put(self, path: str, place: Place) -> None:
        parent, _, name = path.rpartition("/")
        self._own(parent).below[name] = place


def alike(one: World, first: Place, other: World, second: Place) -> bool:
    """Whether `first` of the world `one` is, by itself, as `second` of `other`."""
    states = one.state(first), other.state(second)
    if states[0] is None or states[1] is None:
        return states[0] is states[1] and first.host == second.host
    return _essence(states[0]) == _essence(states[1])


def alike_below(one: World, first: Place, other: World, second: Place) -> bool:
    """The same with all that is in it, where it is a directory."""
    pending: List[Tuple[Place, Place]] = [(first, second)]
    while pending:
        first, second = pending.pop()
        if not alike(one, first, other, second):
            return False
        state = one.state(first)
        if state is not None and state.type == "directory" and first.host != second.host:
            return False
        pending.extend(
            (first.at(name), second.at(name)) for name in {**first.below, **second.below}
        )
    return True


def _essence(state: FileState) -> Essence:
    """That in which the end of one step and the beginning of the next agree."""
    owner = (state.mode, state.uid, state.gid, sorted(state.xattrs.items()))
    content = (state.size, state.sha256, state.fingerprint) if state.type == "file" else ()
    return (state.type, state.target, *content, *(() if state.type == "absent" else owner))


def _names(path: str) -> List[str]:
    return [name for name in path.split("/") if name]
