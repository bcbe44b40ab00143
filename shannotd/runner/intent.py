"""What a batch is about to do to each path, told so that it can be undone by looking (P4).

An intent says where a step's new and old content are before and after it. Whether the step was
done is not written down anywhere: it is seen from which inode is where, and that is true after
a crash as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, NamedTuple, Optional, Tuple

from shannotd.runner.filesystem import Lasting
from shannotd.runner.plan import FileState, FileStep


class Metadata(NamedTuple):
    """Mode, owner and attributes of a file."""

    mode: Optional[int]
    uid: Optional[int]
    gid: Optional[int]
    xattrs: Dict[str, str]

    @classmethod
    def of(cls, state: FileState) -> Metadata:
        """Those of a state."""
        return cls(state.mode, state.uid, state.gid, state.xattrs)

    def on(self, state: FileState) -> FileState:
        """A state with these instead of its own."""
        return replace(state, **self._asdict())


@dataclass(frozen=True)
class Intent:
    """What one step does. Paths are those that hold when all steps before it are done.

    `parent` and `name` make up the step's path. `temporary` is the name that waits in `parent`
    with what is new (a delete's: what is old), `staged_in` the path of that directory when the
    new content was written. A delete moves to `temporary` in the directory `place`, or in
    `parent`. `inode` is that of what is new; of what is renamed or changed in place, its own.
    `mtime_ns` is a time that the step may replace, `written_ns` that of a new file's content. `was`
    are the metadata that it replaces, where they are not those that its plan says (see given.py).
    """

    index: int
    parent: str
    name: str
    staged_in: Optional[str] = None
    temporary: Optional[str] = None
    place: Optional[str] = None
    inode: Optional[Lasting] = None
    mtime_ns: Optional[int] = None
    written_ns: Optional[int] = None
    was: Optional[Metadata] = None

    @property
    def path(self) -> str:
        """The step's path."""
        return f"{self.parent}/{self.name}"


def rides(intent: Intent, step: FileStep) -> bool:
    """Whether the step's file is made inside a new directory, and comes and goes with it."""
    return step.change == "create" and intent.temporary is None


class Made:
    """What the steps of a batch have made so far, by its path: a later one may move or change it.

    So does a batch that takes back others: what a step deleted is made anew, and then gets the
    metadata that it had before another.
    """

    def __init__(self) -> None:
        # Which inode, and the time that its content has.
        self._at: Dict[str, Tuple[Optional[Lasting], Optional[int]]] = {}

    def follow(self, intent: Intent, step: FileStep) -> Intent:
        """The intent of the next step, with what it moves or changes if that was made."""
        if step.change == "rename":
            assert step.old_path is not None
            return self._rename(intent, step.old_path, step.path)
        if step.change == "metadata":
            return self._change(intent, step)
        self._at.pop(step.path, None)
        if step.change != "delete":
            self._at[step.path] = intent.inode, intent.written_ns
        return intent

    def _rename(self, intent: Intent, old: str, new: str) -> Intent:
        for path in [path for path in self._at if path == old or path.startswith(old + "/")]:
            self._at[new + path[len(old) :]] = self._at.pop(path)
        if new not in self._at:
            return intent
        return replace(intent, inode=self._at[new][0])

    def _change(self, intent: Intent, step: FileStep) -> Intent:
        if step.path not in self._at:
            return intent
        inode, mtime_ns = self._at[step.path]
        if step.after.mtime_ns is not None:
            self._at[step.path] = inode, step.after.mtime_ns
        return replace(intent, inode=inode, mtime_ns=mtime_ns)


def encode(intent: Intent) -> Dict[str, object]:
    """An intent as the journal holds it."""
    return {name: value for name, value in vars(intent).items() if value is not None}


def decode(value: Dict[str, Any]) -> Intent:
    """The intent that `encode` made this of.

    :raises TypeError: it is none.
    """
    inode: Optional[Lasting] = None
    if "inode" in value:
        number, born = value["inode"]
        inode = int(number), int(born)
    was = Metadata(*value["was"]) if "was" in value else None
    return Intent(**{**value, "inode": inode, "was": was})
