"""The changes that a capture has found so far, before they are put in order."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

from shannotd.runner.compare import Change
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import BlockedStep, FileState, FileStep, StepNote


class Findings:
    """Collects them; `mount` is that of the host's files that are being looked at.

    `head` comes first in a plan, `body` next, then what is `deleted` (see arrange.py); `blocked`
    is what no plan can make. `kept_inodes` are the files with several names in an upper layer
    that are one of the host's own, each with one of its paths.
    """

    def __init__(self, limit: Optional[int], told: int) -> None:
        """`limit` is how many there may be, None for any number, with those `told` before."""
        self._limit = limit
        self._told = told
        self.mount = 0
        self.head: List[Change] = []
        self.body: List[Change] = []
        self.deleted: List[Change] = []
        self.blocked: List[BlockedStep] = []
        self.kept_inodes: Dict[Tuple[int, int], str] = {}

    def add(self, changes: List[Change], change: Change) -> None:
        """Put one of the lists' `changes` at its end.

        :raises RunnerError: `limit_exceeded`, here and below.
        """
        changes.append(change)
        self._check_limit()

    def change(self, change: str, path: str, before: FileState, after: FileState) -> None:
        """One without content."""
        step = FileStep(change, path, before, after)
        self.add(self.body, Change(step, StepNote(), self.mount))

    def block(self, kind: str, path: str) -> None:
        """Something that no plan can make."""
        self.blocked.append(BlockedStep(kind, path, 1))
        self._check_limit()

    def _check_limit(self) -> None:
        count = len(self.head) + len(self.body) + len(self.deleted) + len(self.blocked)
        count += self._told
        if self._limit is not None and count > self._limit:
            raise RunnerError("limit_exceeded", name="steps", limit=self._limit)
