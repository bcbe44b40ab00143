"""Directory renames of one overlay as a sequence of operations that can be done one by one.

An upper layer tells where each directory came from, not in which order things happened. Here
an order is found in which every rename has its parent in place and its name free, and nothing
that is still to be moved is inside what is moved or deleted before. Where renames wait for
each other (two directories that changed names) they go by a temporary name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Optional, Set

from shannotd.runner.layer import Folder, Layer, failed

_STASH = ".shannot-moved-"


@dataclass(frozen=True)
class Operation:
    """`kind` is create (a directory), replace (what is no directory by one), delete or move.

    `path` is the path at that moment, `old_path` that of what is moved; `source` is where
    what is moved, replaced or deleted was before the script.
    """

    kind: str
    path: str
    folder: Optional[Folder] = None
    old_path: Optional[str] = None
    source: Optional[str] = None


def folders(root: Folder) -> Iterator[Folder]:
    """`root` and every directory below, each before those in it."""
    pending = [root]
    while pending:
        folder = pending.pop()
        yield folder
        pending.extend(reversed(folder.folders))


def find_sources(layer: Layer, root: Folder) -> Dict[str, Folder]:
    """Set every `source`; the renamed directories by where they were on the host.

    :raises RunnerError: `capture_failed`: the layer contradicts itself.
    """
    moved: Dict[str, Folder] = {}
    for folder in folders(root):
        if folder.parent is None:
            continue
        beside = folder.parent.source_below(folder.name)
        folder.source = beside
        if folder.redirect is None:
            # Nothing is merged below an opaque directory, and the kernel marks only the top.
            folder.opaque = folder.opaque or folder.parent.opaque
            continue
        source = _target(layer, folder)
        if source == beside:
            folder.redirect = None  # moved away and back again
        elif source in moved:
            raise failed(folder.path, f"two directories claim to have been {source}")
        else:
            folder.source = source
            moved[source] = folder
    for folder in folders(root):
        if folder.redirect is not None or folder.parent is None:
            continue
        folder.source = folder.parent.source_below(folder.name)
        if folder.source in moved:
            # Another directory in the place of one that was moved away.
            if not folder.opaque:
                raise failed(folder.path, "a renamed directory is still at its old place")
            folder.source = None
    return moved


def _target(layer: Layer, folder: Folder) -> str:
    redirect = folder.redirect or ""
    names = redirect.strip("/").split("/")
    if any(name in ("", ".", "..") for name in names):
        raise failed(folder.path, f"unknown overlay mark redirect={redirect!r}")
    if redirect.startswith("/"):
        return layer.path("/".join(names))
    beside = folder.parent.source_below(redirect) if folder.parent is not None else None
    if beside is None or len(names) > 1:
        raise failed(folder.path, f"unknown overlay mark redirect={redirect!r}")
    return beside


def order(root: Folder, moved: Dict[str, Folder], kind: Callable[[str], str]) -> List[Operation]:
    """The operations that bring every renamed directory to its place, in order.

    `kind` tells what type of file was at a path before the script ("absent" for none).
    """
    return _Order(root, moved, kind).find()


class _Order:
    def __init__(self, root: Folder, moved: Dict[str, Folder], kind: Callable[[str], str]) -> None:
        self._root = root
        self._moved = moved
        self._kind = kind
        # Where each directory that is not yet in place is now.
        self._pending: Dict[str, str] = {}
        # How many of them are below a path.
        self._below: Dict[str, int] = {}
        for source in moved:
            self._put(source, source)
        self._placed: Set[str] = set()
        self._operations: List[Operation] = []

    def find(self) -> List[Operation]:
        # Those deep inside first: a directory is moved when nothing in it still has to be.
        waiting = sorted(self._moved, key=lambda source: (-source.count("/"), source))
        if not self._place_all(waiting):
            self._stash([source for source in waiting if source in self._pending])
            if not self._place_all(waiting):
                raise failed(self._root.path, "no order was found for the renamed directories")
        return self._operations

    def _place_all(self, waiting: List[str]) -> bool:
        progress = True
        while progress and self._pending:
            progress = False
            for source in waiting:
                if source in self._pending and self._place(self._moved[source]):
                    progress = True
        return not self._pending

    def _place(self, folder: Folder) -> bool:
        way: List[Folder] = []
        above: Optional[Folder] = folder
        while above is not None and above.path not in self._placed:
            way.append(above)
            above = above.parent
        for step in reversed(way):
            if not self._place_one(step):
                return False
            self._placed.add(step.path)
        return True

    def _place_one(self, folder: Folder) -> bool:
        if folder.parent is None:
            return True
        beside = folder.parent.source_below(folder.name)
        if beside != folder.source and beside is not None and self._pending.get(beside) == beside:
            return False
        occupant = "absent"
        if beside is not None and beside not in self._moved:
            occupant = self._kind(beside)
        if folder.redirect is None:
            if occupant == "directory":
                return True
            made = "create" if occupant == "absent" else "replace"
            self._operations.append(Operation(made, folder.path, folder, source=beside))
            return True
        assert folder.source is not None
        now = self._pending[folder.source]
        if self._anything_inside(now):
            return False
        if occupant != "absent":
            assert beside is not None
            if now.startswith(beside + "/") or self._anything_inside(beside):
                return False
            self._operations.append(Operation("delete", folder.path, source=beside))
        self._put(folder.source, None)
        self._operations.append(Operation("move", folder.path, folder, now, folder.source))
        return True

    def _put(self, source: str, now: Optional[str]) -> None:
        """Remember where what was at `source` is now; None when it is in place."""
        before = self._pending.pop(source, None)
        for location, change in ((before, -1), (now, 1)):
            above = "" if location is None else location.rpartition("/")[0]
            while above:
                self._below[above] = self._below.get(above, 0) + change
                above = above.rpartition("/")[0]
        if now is not None:
            self._pending[source] = now

    def _anything_inside(self, path: str) -> bool:
        return self._below.get(path, 0) > 0

    def _stash(self, sources: List[str]) -> None:
        number = 0
        for source in sources:
            directory = self._steady(source)
            while True:
                number += 1
                path = f"{directory.rstrip('/')}/{_STASH}{number}"
                if self._kind(path) == "absent":
                    break
            self._operations.append(Operation("move", path, None, source, source))
            self._put(source, path)

    def _steady(self, source: str) -> str:
        """The deepest directory above `source` that stays where it is.

        What it holds of `source` is moved or deleted, so the script could write in it.
        """
        folder = self._root
        while True:
            for child in folder.folders:
                beside = folder.source_below(child.name)
                stays = child.redirect is None and child.source == beside
                above = source.startswith(child.path + "/")
                if stays and above and self._kind(child.path) == "directory":
                    folder = child
                    break
            else:
                return folder.path
