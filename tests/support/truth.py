"""Whether what is told of an apply is what is there (P2, P3, P4)."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from shannotd.runner import checkpoints
from tests.runner import overlays
from tests.runner.overlays import Snapshot
from tests.support import mixed
from tests.support.applying import SESSION, Applying
from tests.support.mixed import Bed

# What a step can be told to be, where its change is on the host.
_THERE = ("done",)


def files_told(bed: Bed, told: Applying) -> set[str]:
    """What became of the file steps."""
    return {told.steps[i] for i, step in enumerate(bed.steps) if step.kind == "file" and told.steps}


def check_between(bed: Bed, number: int) -> None:
    """Every path is as before the batch `number` or as after it."""
    found = overlays.snapshot(bed.host)
    assert mixed.is_between(found, *bed.states[number : number + 2]) is None


def check_order(bed: Bed) -> None:
    """Each command saw all that comes before it, and nothing that comes after."""
    for number, line in enumerate(bed.seen(), 1):
        paths = {path for path in bed.states[number] if path and path.count("/") < 2}
        assert set(line.split()) == paths, f"command {number}"


def check_told(
    bed: Bed,
    applied: Applying,
    *,
    ignored: Collection[str] = (),
    ran: tuple[int, int] | None = None,
) -> None:
    """The tree is what was told: so many batches, but for the paths that are named.

    Those in `ignored`, and what is below them, may be anything. `ran` is how many commands ran at
    least and at most, where what they wrote does not tell.
    """
    assert not applied.lost
    done = _batches_done(bed, applied)
    if applied.error is None:
        assert done == len(bed.states) - 1
    _check_commands(bed, applied, ran or (len(bed.seen()), len(bed.seen())))
    found = overlays.snapshot(bed.host)
    excluded = {*_named(bed, applied.error, found), *ignored}
    # What was taken back from the checkpoint is a file of its own, with one name; and what is left
    # elsewhere may be another name.
    names = "undone" not in applied.steps.values() and not excluded
    names = names and applied.code != "clean_up_failed"
    expected = _without(bed.states[done], excluded, names)
    found = _without(found, excluded, names)
    assert _differences(found, expected) == [], applied.error
    assert left_outside(bed) == _named_outside(bed, applied.error)


def _differences(found: Snapshot, expected: Snapshot) -> list[str]:
    return [
        f"{path}: {found.get(path)}, expected {expected.get(path)}"
        for path in sorted({*found, *expected})
        if found.get(path) != expected.get(path)
    ]


def _without(snapshot: Snapshot, excluded: Collection[str], names: bool) -> Snapshot:
    """Without some paths and what is below them; with the other `names` of files, or without."""
    return {
        path: entry if names else {**entry, "twins": ()}
        for path, entry in snapshot.items()
        if not any(path == name or path.startswith(name + "/") for name in excluded)
    }


def _words(error: Mapping[str, Any] | None) -> str:
    details = {} if error is None else error["details"]
    return ", ".join(str(details.get(name, "")) for name in ("before", "left"))


def _named(bed: Bed, error: Mapping[str, Any] | None, found: Snapshot) -> set[str]:
    """The paths that an error says are not as before; all names of a file are one."""
    pattern = rf"{re.escape(str(bed.host))}(?:/([^ ,;]*))?(?= \(|,|;|$)"
    named = set(re.findall(pattern, _words(error)))
    renames = {step.path: step.old_path for step in bed.steps if _is_rename(step)}
    olds = [renames.get(f"{bed.host}/{name}") for name in named]
    named |= {os.path.relpath(old, bed.host) for old in olds if old is not None}
    return named | {twin for name in named for twin in found.get(name, {}).get("twins", ())}


def _is_rename(step: Any) -> bool:
    return step.kind == "file" and step.change == "rename"


def _named_outside(bed: Bed, error: Mapping[str, Any] | None) -> set[str]:
    """The temporary names above the tree that an error names."""
    places = [re.escape(str(above)) for above in (bed.top, *bed.top.parents)]
    pattern = rf"(?:{'|'.join(places)})/(\.shannot-[0-9a-f-]+)"
    return {f"{name}" for name in re.findall(pattern, _words(error))}


def left_outside(bed: Bed) -> set[str]:
    """Temporary names of this apply above the tree: nothing else is to have them."""
    if SESSION not in checkpoints.sessions(str(bed.state)):
        return set()
    with checkpoints.reopen(str(bed.state), SESSION) as checkpoint:
        prefixes = tuple(batch.prefix for batch in checkpoint.applied().batches)
    above = [bed.top, *bed.top.parents]
    names = [path.name for directory in above for path in Path(directory).glob(".shannot-*")]
    return {name for name in names if name.startswith(prefixes)} if prefixes else set()


def _batches_done(bed: Bed, applied: Applying) -> int:
    """How many batches were told to be done: those before it are too, and nothing after it."""
    assert len(applied.steps) in (0, len(bed.steps))
    done = 0
    for batch in range(len(bed.states) - 1):
        told = {
            applied.steps.get(index, "skipped") in _THERE
            for index, step in enumerate(bed.steps)
            if step.kind == "file" and bed.batch_of(index) == batch
        }
        assert len(told) == 1, applied.steps
        if told == {True}:
            assert done == batch
            done = batch + 1
    return done


def _check_commands(bed: Bed, applied: Applying, ran: tuple[int, int]) -> None:
    commands = [index for index, step in enumerate(bed.steps) if step.kind == "command"]
    for number, index in enumerate(commands):
        told = applied.steps.get(index, "skipped")
        if told == "done":
            assert number < ran[1], applied.steps
        elif told == "skipped":
            assert number >= ran[0], applied.steps
