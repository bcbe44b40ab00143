"""What the steps of a plan need of each other: what cannot stay when some are dropped.

A step needs another if without it the step would not start from what the dry run saw. The plan
is followed twice, with and without what is dropped, and the two are compared. All is pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import AbstractSet, Dict, List, Optional, Sequence, Tuple

from shannotd.runner.delta import lineage
from shannotd.runner.needed import argument_paths, runs
from shannotd.runner.plan import CommandStep, FileStep
from shannotd.runner.twins import Twins
from shannotd.runner.world import World, alike, alike_below


@dataclass(frozen=True)
class Need:
    """Step `index` cannot be applied without step `needed`: `path` would not be as it must be."""

    index: int
    needed: int
    path: str


@dataclass(frozen=True)
class Missed:
    """Step `index` may miss step `dropped`, though it can be applied without: it is a command
    that names its path or comes after it, or is in a directory of which it sets the mode."""

    index: int
    dropped: int


@dataclass(frozen=True)
class Dependents:
    """Of steps that are dropped: which others cannot stay, and which may miss them."""

    needs: Tuple[Need, ...]
    missed: Tuple[Missed, ...]


def dependents(steps: Sequence[object], dropped: AbstractSet[int]) -> Dependents:
    """What becomes of the other `steps` when those at the indexes `dropped` are left out.

    What needs a step that cannot stay cannot stay either.
    """
    if not dropped:
        return Dependents((), ())
    return _Comparison(Twins(steps, dropped)).follow(steps, dropped)


class _Comparison:
    def __init__(self, twins: Twins) -> None:
        # The host with all steps, and without those that go.
        self._whole = World()
        self._rest = World(self._whole.facts)
        self._twins = twins
        self._gone = _Gone()
        self._missed: List[Missed] = []

    def follow(self, steps: Sequence[object], dropped: AbstractSet[int]) -> Dependents:
        needs: List[Need] = []
        for index, step in enumerate(steps):
            if isinstance(step, CommandStep) and runs(step):
                path = None if index in dropped else self._missing_interpreter(step)
                if path is not None:
                    needs.append(Need(index, self._gone.nearest(path), path))
                if path is not None or index in dropped:
                    self._gone.command = index
                else:
                    self._look_at_command(index, step)
            elif isinstance(step, FileStep) and not step.scratch:
                need = None if index in dropped else self._need(index, step)
                if need is not None:
                    needs.append(need)
                if need is not None or index in dropped:
                    self._gone.add(index, step)
                    self._twins.leave_out(index, step)
                else:
                    self._look_above(index, step)
                    self._rest.add(step)
                    self._twins.add(step)
                self._whole.add(step)
        return Dependents(tuple(needs), tuple(self._missed))

    def _need(self, index: int, step: FileStep) -> Optional[Need]:
        path = self._obstacle(step)
        if path is not None:
            return Need(index, self._gone.nearest(path), path)
        # What it gives to one name the others would get as well, and no step would say so.
        twin = self._twins.left_out(index, step)
        return None if twin is None else Need(index, twin, step.path)

    def _obstacle(self, step: FileStep) -> Optional[str]:
        """The path that is not as the step must find it; None where all is."""
        if not self._gone.paths:
            return None
        source = step.path if step.old_path is None else step.old_path
        if step.change != "metadata":
            for parent in (source.rpartition("/")[0], step.path.rpartition("/")[0]):
                if not self._same_directory(parent):
                    return parent
        with_tree = step.before.type == "directory" and step.change != "metadata"
        if not self._same(source, with_tree=with_tree):
            return source
        for path in (step.path, step.link_to):
            if path is not None and not self._same(path):
                return path
        return None

    def _missing_interpreter(self, step: CommandStep) -> Optional[str]:
        """What runs the command's program and is not as it must be; None where all is."""
        if not self._gone.paths:
            return None
        paths = (one.path for one in step.interpreters)
        return next((path for path in paths if not self._same(path)), None)

    def _same(self, path: str, *, with_tree: bool = False) -> bool:
        compare = alike_below if with_tree else alike
        return compare(self._whole, self._whole.find(path), self._rest, self._rest.find(path))

    def _same_directory(self, path: str) -> bool:
        """Whether the directory at `path` is the same one, whatever its mode."""
        whole, rest = self._whole.find(path), self._rest.find(path)
        states = self._whole.state(whole), self._rest.state(rest)
        types = [None if state is None else state.type for state in states]
        return types[0] == types[1] and whole.host == rest.host

    # What can be applied without them, and may miss them.

    def _look_above(self, index: int, step: FileStep) -> None:
        """A directory above it may have been given another mode."""
        if not self._gone.paths:
            return
        above = zip(self._whole.above(step.path), self._rest.above(step.path))
        for (path, whole), (_, rest) in above:
            if not alike(self._whole, whole, self._rest, rest):
                self._missed.append(Missed(index, self._gone.nearest(path)))

    def _look_at_command(self, index: int, step: CommandStep) -> None:
        found = [self._gone.named_by(path) for path in argument_paths(step)]
        found += [self._gone.around(path) for path in (step.cwd, step.program)]
        found.append(self._gone.command)
        named = sorted({one for one in found if one is not None})
        self._missed += [Missed(index, one) for one in named]


class _Gone:
    """The steps that go, by the paths that they change."""

    def __init__(self) -> None:
        self.command: Optional[int] = None  # the last one that would have run
        self.paths: Dict[str, int] = {}
        self._above: Dict[str, int] = {}

    def add(self, index: int, step: FileStep) -> None:
        for path in (step.path, step.old_path):
            if path is not None:
                self.paths[path] = index
                for directory in lineage(path)[1:]:
                    self._above[directory] = index

    def around(self, path: str) -> Optional[int]:
        """The last step that changes `path`, or else the nearest directory above it."""
        return next((self.paths[one] for one in lineage(path) if one in self.paths), None)

    def named_by(self, path: str) -> Optional[int]:
        """The same, or else something in the directory `path`."""
        found = self.around(path)
        return self._above.get(path) if found is None else found

    def nearest(self, path: str) -> int:
        """The same, for a path that one of them changes for sure."""
        found = self.named_by(path)
        assert found is not None, path
        return found
