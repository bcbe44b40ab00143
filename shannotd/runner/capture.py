"""From the upper layers of a sandbox's overlays to the steps of a plan.

What was before always comes from the host's own tree, never through an overlay, or from what
was recorded at a barrier before (see delta.py). The layers must not change meanwhile: the sandbox
is frozen or gone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from shannotd.runner import moves, scratch
from shannotd.runner.arrange import arrange
from shannotd.runner.before import Before
from shannotd.runner.capture_directories import Directories
from shannotd.runner.capture_files import Files
from shannotd.runner.clock import Clock
from shannotd.runner.compare import Change, Comparer, Content
from shannotd.runner.delta import (
    History,
    follow,
    gone,
    lineage,
    overlapping,
)
from shannotd.runner.findings import Findings
from shannotd.runner.layer import (
    Folder,
    Layer,
    Opened,
    failed,
    failed_by,
    read_layer,
)
from shannotd.runner.passwords import NO_PASSWORDS, Passwords, Shown
from shannotd.runner.plan import (
    ABSENT,
    BlockedStep,
    FileStep,
    Identity,
    StepNote,
)
from shannotd.runner.tree import MountInside

__all__ = ["Content", "Layer", "Recorded", "capture"]

Step = Union[FileStep, BlockedStep]


@dataclass(frozen=True)
class Recorded:
    """The steps in the order in which they are to be applied, what to show beside each, and
    the contents that they need. Close it when the contents have been read.

    `history` is the one that the next capture of the same session is to go by.
    """

    steps: Tuple[Step, ...]
    notes: Tuple[StepNote, ...]
    contents: Dict[str, Content]
    opened: Opened
    history: History

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Undo what reading the layers needed."""
        self.opened.close()


def capture(
    layers: Sequence[Layer],
    *,
    started_ns: int,
    scratch: Sequence[str],
    identity: Identity,
    limits: Mapping[str, Any],
    history: Optional[History] = None,
    keep_scratch: bool = False,
    passwords: Passwords = NO_PASSWORDS,
) -> Recorded:
    """What the script did to the host's files, seen through `layers`.

    `started_ns` is when the script began (time.time_ns): older times on what it made were set
    on purpose. `scratch` are glob patterns (see scratch.py). `identity` will apply the plan:
    what it cannot read is not hashed. Of `limits`, `steps` and `written_bytes` are used. With the
    `history` of earlier captures it is what was done since the last of them. `keep_scratch` has
    the contents of scratch come along. Where the script was shown tokens of `passwords`, they are
    the passwords again.

    :raises RunnerError: `capture_failed` or `limit_exceeded`.
    """
    opened = Opened()
    try:
        found = history or History()
        clock = Clock(started_ns, time.time_ns())
        shown = Shown(passwords, () if keep_scratch else scratch)
        work = _Capture(layers, clock, scratch, identity, limits, opened, found, shown)
        return work.run(keep_scratch)
    except BaseException:
        opened.close()
        raise


class _Capture:
    def __init__(
        self,
        layers: Sequence[Layer],
        clock: Clock,
        patterns: Sequence[str],
        identity: Identity,
        limits: Mapping[str, Any],
        opened: Opened,
        history: History,
        shown: Shown,
    ) -> None:
        self._layers = sorted(layers, key=lambda layer: layer.mountpoint)
        self._mountpoints = frozenset(layer.mountpoint for layer in layers)
        self._clock = clock
        self._is_scratch = scratch.matcher(patterns)
        self._limit: Optional[int] = limits.get("steps")
        self._opened = opened
        self._history = history
        self._before = Before(history, identity)
        self._findings = Findings(self._limit, history.steps)
        written = limits.get("written_bytes")
        self._comparer = Comparer(clock.promised, clock.started_ns, written, history, shown)
        self._files = Files(
            self._before,
            self._findings,
            self._comparer,
            opened,
            clock,
            self._mountpoints,
        )
        self._directories = Directories(self._before, self._findings, self._files, clock)
        # Old path to new of each layer's renamed directories.
        self._places: Dict[str, Dict[str, str]] = {}

    def run(self, keep_scratch: bool) -> Recorded:
        """Look at all layers."""
        for layer in self._layers:
            path = layer.mountpoint
            try:
                root = read_layer(layer, self._mountpoints, self._opened, self._limit)
                moved = moves.find_sources(layer, root)
                self._before.begin(moved)
                placed = self._move(root, moved) if self._moves_are_new(root, moved) else set()
                self._directories.walk(layer, root, placed)
            except MountInside as error:
                raise failed(str(error), "something is mounted there") from error
            except OSError as error:
                name = error.filename if isinstance(error.filename, str) else path
                raise failed_by(error, name) from error
        self._find_gone()
        return self._recorded(keep_scratch)

    def _recorded(self, keep_scratch: bool) -> Recorded:
        ordered = arrange(
            self._findings.head,
            self._findings.body,
            self._findings.deleted,
            self._findings.kept_inodes,
            self._is_scratch,
            renames=not self._history.begun,
        )
        contents: Dict[str, Content] = {}
        for change in ordered:
            step = change.step
            wanted = keep_scratch or not step.scratch
            if change.content is not None and wanted and step.link_to is None:
                contents.setdefault(change.content.sha256, change.content)
        steps: List[Step] = [change.step for change in ordered]
        notes = [change.note for change in ordered]
        blocked = [step for step in self._findings.blocked if step not in self._history.blocked]
        steps.extend(blocked)
        notes.extend(StepNote() for _ in blocked)
        history = follow(
            self._history,
            steps,
            data={change.step.path: change.data for change in ordered if change.data is not None},
            moved=self._places,
            versions=self._files.versions,
            captured_ns=self._clock.now_ns,
        )
        return Recorded(tuple(steps), tuple(notes), contents, self._opened, history)

    def _find_gone(self) -> None:
        """What earlier deltas made and the script then removed leaves no mark in any layer."""
        findings = self._findings
        turned = {
            change.step.path
            for change in findings.body
            if change.step.before.type == "directory" and change.step.after.type != "directory"
        }
        first: List[Change] = []
        last: List[Change] = []
        for path in gone(self._history, self._files.present):
            self._before.check_known(path)
            before = self._before.known_whole(path)
            assert before is not None
            note = self._comparer.deleted(path, before)
            change = Change(FileStep("delete", path, before.state, ABSENT), note, 0)
            inside = turned and not turned.isdisjoint(lineage(path))
            findings.add(first if inside else last, change)
        findings.head[:0] = first
        findings.deleted[:0] = last

    def _moves_are_new(self, root: Folder, moved: Mapping[str, Folder]) -> bool:
        """Whether the renamed directories of a layer are to be told, as they were not before.

        :raises RunnerError: `capture_failed`: some were, or deltas changed something in them.
        """
        places = {source: folder.path for source, folder in moved.items()}
        before = self._history.moved.get(root.path, {})
        self._places[root.path] = places
        if not self._history.begun or places == before:
            return not self._history.begun and bool(places)
        changed = sorted({*places.items()} ^ {*before.items()})[0]
        both = [*places, *places.values()]
        if before or overlapping(self._history, both) is not None:
            raise failed(changed[1], "a directory was renamed on both sides of a command")
        return True

    def _move(self, root: Folder, moved: Dict[str, Folder]) -> Set[str]:
        """The renames of a layer; returns the directories that they put in place."""
        placed: Set[str] = set()
        for operation in moves.order(root, moved, self._before.kind):
            path, folder, source = operation.path, operation.folder, operation.source
            before = ABSENT
            if operation.kind != "create" and source is not None:
                before = self._before.state(source)
            if operation.kind == "move":
                after = replace(before, tree=None)
                step = FileStep("rename", path, before, after, operation.old_path)
            elif operation.kind == "delete":
                step = FileStep("delete", path, before, ABSENT)
            else:
                assert folder is not None
                kind = "create" if operation.kind == "create" else "modify"
                step = FileStep(kind, path, before, self._directories.made(folder))
            if folder is not None:
                placed.add(path)
            change = Change(step, StepNote(), self._findings.mount)
            self._findings.add(self._findings.head, change)
        return placed
