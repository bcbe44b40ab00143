"""What a batch is about to do to each path, told so that it can be undone by looking (P4).

An intent says where a step's new and old content are before and after it. Whether the step was
done is not written down anywhere: it is seen from which inode is where, and that is true after
a crash as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional

from shannotd.runner.filesystem import Lasting
from shannotd.runner.plan import FileStep


@dataclass(frozen=True)
class Intent:
    """What one step does. Paths are those that hold when all steps before it are done.

    `parent` and `name` make up the step's path. `temporary` is the name that waits in `parent`
    with what is new (a delete's: what is old), `staged_in` the path of that directory when the
    new content was written. A delete moves to `temporary` in the directory `place`, or in
    `parent`. `inode` is that of what is new; of what is renamed or changed in place, its own.
    `mtime_ns` is a time that the step may replace, `written_ns` that of a new file's content.
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

    @property
    def path(self) -> str:
        """The step's path."""
        return f"{self.parent}/{self.name}"


def rides(intent: Intent, step: FileStep) -> bool:
    """Whether the step's file is made inside a new directory, and comes and goes with it."""
    return step.change == "create" and intent.temporary is None


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
    return Intent(**{**value, "inode": inode})
