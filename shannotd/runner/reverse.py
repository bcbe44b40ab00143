"""The steps that take back what was applied, from what a checkpoint saved. Pure.

They are steps like any others: each says what it expects to find (what was applied), so that
nobody else's later work is touched (P9), and can themselves be taken back.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Dict, Iterable, List, Sequence, Tuple

from shannotd.runner.plan import ABSENT, FileState, FileStep, TreeSummary
from shannotd.runner.saved import Saved, SavedEntry

EMPTY_TREE = TreeSummary(0, 0, hashlib.sha256().hexdigest())

Indexed = Tuple[int, FileStep]


class Irreversible(Exception):
    """A step whose reverse is not known; the argument is its index."""


def reverse(done: Sequence[Indexed], saved: Dict[int, Saved]) -> List[Indexed]:
    """The steps that take back `done` (in the order in which they were applied), each with the
    index of the step that it takes back.

    :raises Irreversible: the checkpoint lacks what a step replaced.
    """
    steps: List[Indexed] = []
    for index, step in reversed(done):
        steps += [(index, one) for one in _reverse_one(index, step, saved)]
    return steps


def kept_by_other_names(done: Sequence[Indexed]) -> List[int]:
    """The indexes of those of `done` that gave metadata to a file with several names of which a
    later one deleted or replaced the one that was named: what is made anew is another file."""
    given: Dict[str, int] = {}
    kept: List[int] = []
    for index, step in done:
        if step.change == "metadata":
            if step.before.links is not None:
                given[step.path] = index
            continue
        if step.old_path is not None:
            for path in _with_below(given, step.old_path):
                given[step.path + path[len(step.old_path) :]] = given.pop(path)
            continue
        kept += [given.pop(path) for path in _with_below(given, step.path)]
    return sorted(kept)


def _with_below(paths: Iterable[str], top: str) -> List[str]:
    return [path for path in paths if path == top or path.startswith(top + "/")]


def _reverse_one(index: int, step: FileStep, saved: Dict[int, Saved]) -> List[FileStep]:
    if step.change == "create":
        return [FileStep("delete", step.path, _left(step.after), ABSENT)]
    if step.change == "rename":
        assert step.old_path is not None
        moved = replace(step.after, tree=None, links=None)
        return [FileStep("rename", step.old_path, moved, moved, old_path=step.path)]
    if index not in saved:
        raise Irreversible(index)
    first, *rest = saved[index].entries
    if step.change == "metadata":
        return [_metadata(step, first)]
    change = "create" if step.change == "delete" else "modify"
    left = saved[index].left or step.after
    before = ABSENT if step.change == "delete" else _left(left)
    steps = [FileStep(change, step.path, before, first.state)]
    for entry in rest:
        path = f"{step.path}/{entry.relative}"
        steps.append(FileStep("create", path, ABSENT, entry.state))
    return steps


def _left(state: FileState) -> FileState:
    """What a step left behind, as it is found. What it made in a directory was taken back first."""
    left = replace(state, links=None)
    if state.type == "directory":
        return replace(left, tree=EMPTY_TREE, mtime_ns=None)
    return left


def _metadata(step: FileStep, first: SavedEntry) -> FileStep:
    after = replace(step.before, links=None)
    before = replace(step.after, links=None)
    if step.after.mtime_ns is not None:
        after = replace(after, mtime_ns=first.state.mtime_ns)
        if before.fingerprint is not None:
            inode, size, _, changed = before.fingerprint.split(":")
            before = replace(before, fingerprint=f"{inode}:{size}:{before.mtime_ns}:{changed}")
    if before.type == "directory":
        before = replace(before, mtime_ns=None)
    return FileStep("metadata", step.path, before, after)
