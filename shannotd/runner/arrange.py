"""The changes of all layers as one ordered list of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Dict, List, Sequence, Set, Tuple

from shannotd.runner.compare import Change
from shannotd.runner.delta import lineage
from shannotd.runner.plan import FileState, StepNote

Inode = Tuple[int, int]


def arrange(
    head: Sequence[Change],
    body: Sequence[Change],
    deleted: Sequence[Change],
    kept: Dict[Inode, str],
    is_scratch: Callable[[str], bool],
    *,
    renames: bool = True,
) -> List[Change]:
    """The changes in the order in which they can be applied one by one.

    First `head` (renamed directories and what they need), then `body` in its order (each
    directory before what is in it), then more names of files, then what is `deleted`; scratch
    after all else. `kept` are the host's own files that have several names in a layer. Files
    that were renamed are looked for only where `renames`.
    """
    _mark_scratch([*head, *body, *deleted], is_scratch)
    if renames:
        deleted = _find_renamed_files(body, deleted)
    linked = _find_links(body, kept)
    later = {id(change) for change in linked}
    first = [change for change in body if id(change) not in later]
    ordered = [*head, *first, *linked, *deleted]
    ordered.sort(key=lambda change: change.step.scratch)
    return ordered


def _mark_scratch(changes: Sequence[Change], is_scratch: Callable[[str], bool]) -> None:
    """Scratch is not applied: so what other steps need is none of it."""
    needed: Set[str] = set()
    removed: Set[str] = set()
    shown: List[Change] = []
    for change in changes:
        step = change.step
        if is_scratch(step.path) and (step.old_path is None or is_scratch(step.old_path)):
            shown.append(change)
            continue
        if step.before.type == "directory" and step.after.type != "directory":
            removed.add(step.path)
        if step.change != "delete":
            above = step.path.rpartition("/")[0]
            while above and above not in needed:
                needed.add(above)
                above = above.rpartition("/")[0]
    for change in shown:
        step = change.step
        if removed and not removed.isdisjoint(lineage(step.path)):
            continue  # its directory goes only with what is in it
        if step.path not in needed or step.change == "metadata":
            change.step = replace(step, scratch=True)


def _find_renamed_files(body: Sequence[Change], deleted: Sequence[Change]) -> Sequence[Change]:
    """A file that went and one that appeared, alike in all but the name, are one.

    Returns what remains deleted.
    """
    gone: Dict[Tuple[object, ...], List[Change]] = {}
    for change in deleted:
        state = change.step.before
        if state.type == "file" and state.size and state.sha256 is not None:
            gone.setdefault(_likeness(change, state), []).append(change)
    if not gone:
        return deleted
    found: Set[int] = set()
    for change in body:
        step = change.step
        if step.change != "create" or step.after.type != "file":
            continue
        alike = gone.get(_likeness(change, step.after))
        if not alike:
            continue
        old = alike.pop(0)
        found.add(id(old))
        before = old.step.before
        change.step = replace(
            step, change="rename", before=before, after=before, old_path=old.step.path
        )
        change.note = StepNote()
        change.content = None
    return [change for change in deleted if id(change) not in found]


def _find_links(body: Sequence[Change], kept: Dict[Inode, str]) -> List[Change]:
    """New names of files that have one already; they come after those."""
    first: Dict[Tuple[Inode, bool], str] = {}
    for inode, path in kept.items():
        first[inode, False] = path
        first[inode, True] = path
    preference = {"rename": 0, "append": 1, "modify": 1, "create": 2}
    several = [change for change in body if change.inode is not None]
    several.sort(key=lambda change: (preference[change.step.change], change.step.path))
    linked: List[Change] = []
    for change in several:
        assert change.inode is not None
        step = change.step
        path = first.setdefault((change.inode, step.scratch), step.path)
        if path != step.path and step.change in ("create", "modify", "append"):
            kind = "create" if step.change == "create" else "modify"
            change.step = replace(step, change=kind, appended=None, link_to=path)
            linked.append(change)
    linked.sort(key=lambda change: change.step.path)
    return linked


def _likeness(change: Change, state: FileState) -> Tuple[object, ...]:
    return (
        change.mount,
        change.step.scratch,
        state.sha256,
        state.size,
        state.mode,
        state.uid,
        state.gid,
        change.mtime_ns,
        tuple(sorted(state.xattrs.items())),
    )
