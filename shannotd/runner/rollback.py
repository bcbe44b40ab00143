"""Taking back what an apply has done so far, in the process that applies: one more batch."""

from __future__ import annotations

import os
from typing import Dict, Sequence, Tuple, Union

from shannotd.runner.batch import Batch, Setting
from shannotd.runner.checkpoint import Checkpoint
from shannotd.runner.contents import EMPTY, Source
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import FileState, FileStep
from shannotd.runner.reverse import Irreversible, reverse
from shannotd.runner.saved import Saved, Stored

_NOTHING = Stored(0, 0, EMPTY)


class SavedContent:
    """One content of a checkpoint: `size` bytes."""

    def __init__(self, checkpoint: Checkpoint, stored: Stored) -> None:
        self._checkpoint = checkpoint
        self._stored = stored
        self.size = stored.size
        self.offset = stored.offset

    def read(self) -> bytes:
        """All of it."""
        descriptor, offset = self._checkpoint.content(self._stored)
        return os.pread(descriptor, self.size, offset)

    def open(self) -> int:
        """A read-only descriptor at its beginning; the caller's."""
        return self._checkpoint.open_content(self._stored)


class SavedContents:
    """The contents of a checkpoint; all of them are at hand."""

    def __init__(self, checkpoint: Checkpoint, saved: Dict[int, Saved]) -> None:
        self._checkpoint = checkpoint
        self._saved = saved
        self._stored: Dict[str, Stored] = {
            entry.content.sha256: entry.content
            for one in saved.values()
            for entry in one.entries
            if entry.content is not None
        }

    @property
    def left(self) -> Dict[int, FileState]:
        """What steps left, by index, where that is not what their plan says."""
        return {one.index: one.left for one in self._saved.values() if one.left is not None}

    def has(self, sha256: str) -> bool:
        """Whether it was saved."""
        return sha256 == EMPTY or sha256 in self._stored

    def get(self, sha256: str) -> Union[bytes, Source]:
        """Where it is."""
        if sha256 == EMPTY:
            return b""
        return Source(*self._checkpoint.content(self._stored[sha256]))

    def sendable(self, sha256: str) -> SavedContent:
        """The content, to be sent somewhere."""
        return SavedContent(self._checkpoint, self._stored.get(sha256, _NOTHING))

    def ask(self, wanted: Sequence[Tuple[str, int]]) -> None:
        """Nothing more can be had.

        :raises RunnerError: `apply_failed`.
        """
        reason = "the checkpoint lacks a content"
        raise RunnerError("apply_failed", step=0, path="", reason=reason, before="not applied")


def take_back(setting: Setting, done: Sequence[Tuple[int, FileStep]]) -> None:
    """Restore all that the file steps `done` changed.

    :raises RunnerError: nothing was: `stale` where somebody changed a path since, or another.
    """
    if not done:
        return
    saved = setting.checkpoint.saved()
    try:
        steps = reverse(done, saved)
    except Irreversible as error:
        step = int(str(error))
        reason = "the checkpoint lacks what was there before"
        path = dict(done)[step].path
        details = {"step": step, "path": path, "reason": reason, "before": "not applied"}
        raise RunnerError("apply_failed", **details) from error
    contents = SavedContents(setting.checkpoint, saved)
    Batch(steps, setting, contents, reverse=True, left=contents.left).run()
