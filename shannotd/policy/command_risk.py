"""What a plan tells of its commands beyond policy's word on each call: what they will meet.

A command runs on the host after the changes that the plan makes before it. What is said here is
added to policy's reason and only ever raises the risk.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from shannotd.policy.patterns import merged
from shannotd.policy.rules import RiskRules
from shannotd.wire.decision import Decision, Risk
from shannotd.wire.step import Step
from shannotd.wire.text import visible

Finding = tuple[Risk, str]

_EXECUTABLE = 0o111
_MAX_WORDS = 4096  # of a command's arguments, that are looked up as paths


def assess_commands(
    steps: Sequence[Step], findings: Sequence[Finding], rules: RiskRules
) -> list[Finding]:
    """`findings` on `steps` with what is to be said of commands and of what follows them."""
    changes = _Changes()
    assessed: list[Finding] = []
    assumed: int | None = None  # the number of the first such step, as people count
    for number, (step, finding) in enumerate(zip(steps, findings, strict=True), 1):
        if step.kind == "command":
            finding = _joined((step.risk, step.reason), *_marks(step, changes, rules))
        else:
            changes.add(number, step)
        if assumed is not None and step.has_effect:
            finding = finding[0], f"{finding[1]}; comes after step {assumed}, which is assumed"
        assessed.append(finding)
        if step.runs and step.assumed and assumed is None:
            assumed = number
    return assessed


def _joined(*findings: Finding) -> Finding:
    """The highest of the risks with all reasons."""
    reasons = "; ".join(dict.fromkeys(reason for _, reason in findings if reason))
    risk = max((risk for risk, _ in findings), key=lambda risk: risk.rank)
    return risk, reasons or "no reason is given"


def _marks(step: Step, changes: _Changes, rules: RiskRules) -> Iterator[Finding]:
    if step.decision == Decision.DENY:
        yield Risk.SAFE, "was denied in the dry run; it is not part of what is applied"
    if not step.runs:
        return
    changed = None if step.program is None else changes.of_program(step.program)
    if changed is not None:
        yield Risk.DANGER, f"step {changed} of this plan changes the program itself"
    for one in step.interpreters:
        changed = changes.of_program(one.path)
        if changed is not None:
            words = f"step {changed} of this plan changes {visible(one.path)}, which runs it"
            yield Risk.DANGER, words
    loaded = changes.loaded_by(step)
    if loaded:
        path = min(loaded)
        more = f", and {len(loaded) - 1} more" if len(loaded) > 1 else ""
        yield (
            Risk.DANGER,
            f"step {loaded[path]} of this plan changes {visible(path)}, which it loads{more}",
        )
    for path, number in changes.executables_in(step):
        yield (
            Risk.DANGER,
            f"is given {visible(path)}, a program that step {number} of this plan changes",
        )
    for path, number in changes.scratch_in(step):
        yield (
            Risk.CAUTION,
            f"is given {visible(path)}, which is scratch (step {number}) and not applied",
        )
    names = [name for name in step.changed if _is_dangerous(name, rules)]
    if names:
        shown = visible(", ".join(names))
        yield Risk.DANGER, f"sets what decides which code programs run ({shown})"
    if step.cwd is not None and rules.scratch.fullmatch(step.cwd):
        yield Risk.DANGER, "runs in a scratch directory, where others may have left files"
    if step.assumed:
        yield Risk.CAUTION, "assumed: the script may have read its output, which nobody knew"


def _is_dangerous(name: str, rules: RiskRules) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in rules.dangerous_variables)


class _Changes:
    """What the steps so far change: paths, each with the number of the last step that did."""

    def __init__(self) -> None:
        self._paths: dict[str, int] = {}
        self._replaced: dict[str, int] = {}  # with all that was below it
        self._executables: dict[str, int] = {}
        self._scratch: dict[str, int] = {}
        self._libraries: dict[str, dict[str, int]] = {}  # by their names

    def add(self, number: int, step: Step) -> None:
        """One more step."""
        if step.kind != "file" or step.path is None:
            return
        if step.scratch:
            self._scratch[step.path] = number
            return
        before = "absent" if step.before is None else step.before.type
        for path in (step.path, step.old_path):
            if path is None:
                continue
            self._paths[path] = number
            if step.change == "rename" or (before == "directory" and step.change != "metadata"):
                self._replaced[path] = number
        after = step.after
        if after is not None and after.type == "file" and (after.mode or 0) & _EXECUTABLE:
            self._executables[step.path] = number
        name = posixpath.basename(step.path)
        if after is not None and after.type != "absent" and ".so" in name:
            self._libraries.setdefault(name, {})[step.path] = number

    def of_program(self, program: str) -> int | None:
        """The step that changes the file at `program`, or a directory in which it is."""
        path = merged(program)
        found = self._paths.get(path)
        while found is None and path not in ("", "/"):
            path = posixpath.dirname(path)
            found = self._replaced.get(path)
        return found

    def loaded_by(self, step: Step) -> dict[str, int]:
        """What its program loads when it starts that an earlier step changes, or makes: a library
        of the name of one that it needs, wherever that is. With the numbers of those steps."""
        found: dict[str, int] = {}
        for path in step.loaded:
            changed = self.of_program(path) if path.startswith("/") else None
            if changed is not None:
                found[merged(path)] = changed
            found.update(self._libraries.get(posixpath.basename(path), {}))
        return found

    def executables_in(self, step: Step) -> Iterator[tuple[str, int]]:
        """Programs among the arguments of `step` that an earlier step makes or changes."""
        return _named(step, self._executables)

    def scratch_in(self, step: Step) -> Iterator[tuple[str, int]]:
        """Scratch among the arguments of `step`: it is not there when the command runs."""
        return _named(step, self._scratch)


def _named(step: Step, paths: dict[str, int]) -> Iterator[tuple[str, int]]:
    if not paths:
        return
    seen: set[str] = set()
    for word in step.argv[1 : _MAX_WORDS + 1]:
        for text in (word, word.partition("=")[2]):
            if not text:
                continue
            path = merged(posixpath.normpath(posixpath.join(step.cwd or "/", text)))
            if path in paths and path not in seen:
                seen.add(path)
                yield path, paths[path]
