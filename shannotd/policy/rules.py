"""The risk rules of `risk.toml`, compiled once."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files

from shannotd.policy.globs import ancestors, compile_patterns, expand_braces, translate
from shannotd.wire.decision import Risk
from shannotd.wire.decode import decode


@dataclass(frozen=True)
class Rule:
    """What a change of the paths that it names means (see risk.toml for each key)."""

    risk: Risk
    role: str
    effect: str
    paths: tuple[str, ...]
    create: Risk | None = None
    links: bool = True


@dataclass(frozen=True)
class Deletions:
    """From which size on a deletion is caution or danger."""

    danger_entries: int
    caution_entries: int
    danger_bytes: int
    directories: tuple[str, ...]


@dataclass(frozen=True)
class _System:
    paths: tuple[str, ...]


@dataclass(frozen=True)
class _Blocked:
    default: Risk
    danger: tuple[str, ...]
    danger_targets: tuple[str, ...]


@dataclass(frozen=True)
class _Commands:
    variables: tuple[str, ...]
    scratch: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    rule: tuple[Rule, ...]
    deletions: Deletions
    system: _System
    blocked: _Blocked
    commands: _Commands


_NONE = 1 << 30


class _Node:
    """A place in the tree of patterns; the numbers are those of rules, `_NONE` for no rule."""

    __slots__ = ("any", "below", "children", "here", "partial")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.partial: dict[str, tuple[re.Pattern[str], _Node]] = {}
        self.here = _NONE
        self.below = _NONE

    def child(self, component: str) -> _Node:
        """The place that `component` of a pattern leads to, made if it is new."""
        if component == "*":
            self.any = self.any or _Node()
            return self.any
        if "*" in component or "?" in component:
            expression = re.compile(translate("/" + component)[1:])
            return self.partial.setdefault(component, (expression, _Node()))[1]
        return self.children.setdefault(component, _Node())

    def follow(self, component: str, found: list[_Node]) -> None:
        """Add to `found` each place that `component` of a path leads to."""
        if self.any is not None:
            found.append(self.any)
        self.follow_named(component, found)

    def follow_named(self, component: str, found: list[_Node]) -> None:
        """`follow` without the place that every component leads to."""
        child = self.children.get(component)
        if child is not None:
            found.append(child)
        for expression, partial in self.partial.values():
            if expression.fullmatch(component):
                found.append(partial)


class PathTable:
    """Finds the first of many rules that names a path, without trying each one.

    The patterns form a tree by their components. Those for anywhere (`**/`) form one that
    is walked from a path's last component backwards.
    """

    def __init__(self, rules: Iterable[tuple[Rule, str]]) -> None:
        """`rules` are pairs of a rule and one of its patterns, without braces.

        :raises ValueError: a pattern has `**` elsewhere than at its front or (if it is
            absolute) at its end.
        """
        self.entries = tuple(rules)
        self._absolute = _Node()
        self._anywhere = _Node()
        for number, (_, pattern) in enumerate(self.entries):
            self._add(pattern, number)
        self._directory = functools.lru_cache(maxsize=1024)(self._walk)

    def _add(self, pattern: str, number: int) -> None:
        translate(pattern)
        anywhere = pattern.startswith("**/")
        components = pattern.removeprefix("**/").removeprefix("/").split("/")
        below = not anywhere and components[-1] == "**"
        if below:
            components.pop()
        if "**" in components:
            raise ValueError(f"{pattern!r}: ** in a place where rules may not have it")
        node = self._anywhere if anywhere else self._absolute
        for component in reversed(components) if anywhere else components:
            node = node.child(component)
        if below:
            node.below = min(node.below, number)
        else:
            node.here = min(node.here, number)

    def find(self, path: str) -> Rule | None:
        """The first rule that names `path`."""
        directory, _, name = path.rpartition("/")
        # Many files of a plan lie in one directory.
        nodes, best = self._directory(directory)
        found: list[_Node] = []
        for node in nodes:
            node.follow(name, found)
        for node in found:
            best = min(best, node.here)
        named: list[_Node] = []
        self._anywhere.follow_named(name, named)
        if named:
            best = min(best, _backwards(named, directory))
        return None if best == _NONE else self.entries[best][0]

    def _walk(self, directory: str) -> tuple[tuple[_Node, ...], int]:
        """For the paths in `directory`: the places in the tree that their names may lead on
        from, and the first rule that names them all."""
        best = _NONE
        nodes = [self._absolute]
        for component in directory.split("/")[1:]:
            following: list[_Node] = []
            for node in nodes:
                best = min(best, node.below)
                node.follow(component, following)
            nodes = following
            if not nodes:
                break
        for node in nodes:
            best = min(best, node.below)
        if self._anywhere.any is not None:
            best = min(best, _backwards([self._anywhere.any], directory))
        return tuple(nodes), best


def _backwards(nodes: list[_Node], directory: str) -> int:
    """The first rule for anywhere that ends with `nodes`, going up from `directory`."""
    best = min(node.here for node in nodes)
    while directory and nodes:
        directory, _, component = directory.rpartition("/")
        following: list[_Node] = []
        for node in nodes:
            node.follow(component, following)
        for node in following:
            best = min(best, node.here)
        nodes = following
    return best


@dataclass(frozen=True)
class RiskRules:
    """All that `assess_plan` looks up."""

    paths: PathTable
    holders: PathTable
    deletions: Deletions
    whole_directories: re.Pattern[str]
    system: re.Pattern[str]
    scratch: re.Pattern[str]
    blocked_default: Risk
    blocked_danger: frozenset[str] = field(default_factory=frozenset)
    blocked_danger_targets: frozenset[str] = field(default_factory=frozenset)
    dangerous_variables: tuple[str, ...] = ()


@functools.cache
def risk_rules() -> RiskRules:
    """The package's rules.

    :raises ValueError: risk.toml is not valid (a fault of the package).
    """
    text = files("shannotd.policy").joinpath("risk.toml").read_text("utf-8")
    content = decode(_File, tomllib.loads(text), "risk.toml")
    pairs = [(rule, path) for rule in content.rule for path in _expanded(rule.paths)]
    # Only the dangerous ones make the directories above them dangerous to lose.
    holders: dict[str, Rule] = {}
    for rule, path in pairs:
        if rule.risk is Risk.DANGER:
            for holder in ancestors(path):
                holders.setdefault(holder, rule)
    return RiskRules(
        paths=PathTable(pairs),
        holders=PathTable((rule, holder) for holder, rule in holders.items()),
        deletions=content.deletions,
        whole_directories=compile_patterns(_expanded(content.deletions.directories)),
        system=compile_patterns(_expanded(content.system.paths)),
        scratch=compile_patterns(_expanded(content.commands.scratch)),
        blocked_default=content.blocked.default,
        blocked_danger=frozenset(content.blocked.danger),
        blocked_danger_targets=frozenset(content.blocked.danger_targets),
        dangerous_variables=content.commands.variables,
    )


def _expanded(patterns: Iterable[str]) -> list[str]:
    return [expanded for pattern in patterns for expanded in expand_braces(pattern)]
