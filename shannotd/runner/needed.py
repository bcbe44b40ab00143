"""Which scratch a plan with commands applies after all: what a later command names.

Scratch is shown and not applied, since nothing but the script cares for it; but a command that
runs at apply finds only what was applied before it.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Callable, Iterator, List, Optional, Sequence, Set, Tuple

from shannotd.runner.delta import lineage
from shannotd.runner.plan import CommandStep, FileStep
from shannotd.runner.scratch import matcher

# What paths are glued to in arguments: --file=/a, /a:/b, user@host:/a, @/a, "/a".
_GLUE = re.compile(r"[=:,;@'\"\s]+")


def apply_named(steps: Sequence[object], patterns: Sequence[str]) -> Tuple[object, ...]:
    """`steps` with that scratch to be applied which a later command that runs then names.

    A command names its directory and every path in its arguments, as far as they match the scratch
    `patterns`, with all that is in them. Together with it comes what it needs: other changes of
    the same path, the directories above, the file that it is a link to.
    """
    if not any(runs(step) for step in steps):
        return tuple(steps)
    needed = _named(steps, matcher(patterns))
    result = list(steps)
    while True:
        applied = [step for step in result if isinstance(step, FileStep) and not step.scratch]
        for step in applied:
            needed.update(_needs(step))
        # A directory goes only as it is expected, so with what changed in it.
        removed = {step.path for step in applied if _removes(step)}
        more = [
            index
            for index, step in enumerate(result)
            if isinstance(step, FileStep)
            and step.scratch
            and (step.path in needed or not removed.isdisjoint(lineage(step.path)))
        ]
        if not more:
            return tuple(result)
        for index in more:
            found = result[index]
            assert isinstance(found, FileStep)
            result[index] = replace(found, scratch=False)


def contents_of(steps: Sequence[object]) -> Set[str]:
    """The SHA-256 of every content that applying `steps` takes."""
    found: Set[str] = set()
    for step in steps:
        if isinstance(step, CommandStep):
            for stream in (step.stdin, step.stdout, step.stderr):
                if stream is not None:
                    found.add(stream.sha256)
        elif isinstance(step, FileStep) and not step.scratch and step.link_to is None:
            if step.appended is not None:
                found.add(step.appended.sha256)
            elif step.change in ("create", "modify") and step.after.sha256 is not None:
                found.add(step.after.sha256)
    return found


def runs(step: object) -> bool:
    """Whether it is a command that runs when the plan is applied."""
    return isinstance(step, CommandStep) and step.decision == "review"


def _removes(step: FileStep) -> bool:
    return step.before.type == "directory" and step.after.type != "directory"


def _needs(step: FileStep) -> List[str]:
    """The paths whose other changes a step that is applied needs."""
    wanted = [step.path, step.link_to, step.old_path]
    if step.change != "delete":
        wanted.extend(lineage(step.path))
    return [path for path in wanted if path is not None]


def _named(steps: Sequence[object], is_scratch: Callable[[str], bool]) -> Set[str]:
    """The paths of scratch steps that a command after them names."""
    named: Set[str] = set()
    before: List[FileStep] = []
    for step in steps:
        if isinstance(step, FileStep) and step.scratch:
            before.append(step)
        elif isinstance(step, CommandStep) and runs(step):
            paths = {path for path in _paths(step) if is_scratch(path)}
            while paths:
                found = [one for one in before if not paths.isdisjoint(lineage(one.path))]
                named.update(one.path for one in found)
                targets = {_target(one) for one in found}
                paths = {path for path in targets - paths if path and is_scratch(path)} - named
    return named


def _paths(command: CommandStep) -> Iterator[str]:
    """Every path that a command may mean by its directory and its words."""
    yield command.cwd
    yield from argument_paths(command)


def argument_paths(command: CommandStep) -> Iterator[str]:
    """Every path that a command may mean by its arguments."""
    for word in command.argv[1:]:
        for part in [word, *_GLUE.split(word)]:
            if not part:
                continue
            yield os.path.normpath(os.path.join(command.cwd, part))
            if "/" in part:  # -I/usr/include
                yield os.path.normpath(part[part.index("/") :])


def _target(step: FileStep) -> Optional[str]:
    """Where a symlink leads, if the step makes one."""
    if step.after.type != "symlink" or step.after.target is None:
        return None
    return os.path.normpath(os.path.join(os.path.dirname(step.path), step.after.target))
