"""Which paths of the host no script may see: the `hide` patterns, looked up on the host.

`*` and `?` match within one component (names that begin with a dot too), `**` any number of
components; everything else stands for itself. The patterns are walked together, as a tree, so
that each directory is listed once.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from functools import lru_cache
from typing import Dict, FrozenSet, Iterable, List, Pattern, Sequence, Set

from shannotd.runner.paths import above, resolved

Owners = FrozenSet[int]

# A directory is listed when this many of its names are asked for, else each is looked up.
_LIST_FROM = 4
# So much is hidden one by one in a directory.
_MANY = 100


class _Node(Dict[str, "_Node"]):
    """The components that may follow; `ends` where a pattern ends here."""

    ends = False


class Found:
    """What a search found: `paths`, links resolved, and the directories that it looked into.

    `followed` says that there were links: what it found depends on other directories as well.
    """

    def __init__(self) -> None:
        self.paths: Set[str] = set()
        self.directories: Set[str] = set()
        self.followed = False

    def add(self, path: str) -> None:
        """What is at `path`, if something is."""
        target = resolved(path)
        self.followed = self.followed or target != path
        if target is not None:
            self.paths.add(target)

    def outermost(self) -> List[str]:
        """The paths without those that are in others, and without `/`."""
        outermost: List[str] = []
        for path in sorted(self.paths - {"/"}, key=lambda path: path.split("/")):
            if not (outermost and path.startswith(outermost[-1] + "/")):
                outermost.append(path)
        return outermost


def hidden_paths(patterns: Sequence[str], always: Iterable[str]) -> List[str]:
    """The paths that `patterns` name, and `always`, as they are mounted: links resolved.

    Only outermost paths are given, and only those that exist; never `/`.
    """
    return search(patterns, always).outermost()


def search(patterns: Sequence[str], always: Iterable[str]) -> Found:
    """The same, with what it depends on."""
    found = Found()
    for path in always:
        found.directories.update(above(path))
        found.add(path)
    _walk(_tree(tuple(patterns)), "", found, frozenset())
    _gather(found)
    return found


def _gather(found: Found) -> None:
    """Hide a directory of an account's as a whole that has more to be hidden than is worth it: by
    masses of it one account could slow down, or hinder, everybody's scripts."""
    parents = Counter(os.path.dirname(path) for path in found.paths)
    for parent in [parent for parent, count in parents.items() if count > _MANY]:
        inside = [path for path in found.paths if os.path.dirname(path) == parent]
        try:
            owner = os.stat(parent).st_uid
            own = sum(1 for path in inside if os.lstat(path).st_uid == owner)
        except OSError:
            continue
        # Nobody can hide what is another's by files of their own in it.
        if owner != 0 and own > _MANY:
            found.add(parent)


@lru_cache(maxsize=8)
def _tree(patterns: Sequence[str]) -> _Node:
    root = _Node()
    for pattern in patterns:
        node = root
        for component in pattern.strip("/").split("/"):
            node = node.setdefault(component, _Node())
        node.ends = True
    return root


def _walk(node: _Node, directory: str, found: Found, owners: Owners) -> None:
    """Follow `node`'s components below `directory` (without a slash at its end), to which links of
    these accounts have led."""
    found.directories.add(directory or "/")
    wild = [component for component in node if "*" in component or "?" in component]
    literal = [component for component in node if component not in wild]
    names: Iterable[str] = literal
    if wild or len(literal) >= _LIST_FROM:
        try:
            listed = os.listdir(directory or "/")
        except OSError:
            return
        names = set(literal).intersection(listed)
        for component in wild:
            _walk_wild(component, node[component], directory, listed, found, owners)
    for name in names:
        _meet(node[name], f"{directory}/{name}", found, owners)


def _walk_wild(
    component: str,
    node: _Node,
    directory: str,
    listed: List[str],
    found: Found,
    owners: Owners,
) -> None:
    if component == "**":
        _walk(node, directory, found, owners)
        for name in listed:
            path = f"{directory}/{name}"
            if node.ends:
                _hide(path, found, _through(path, found, owners))
            if os.path.isdir(path) and not os.path.islink(path):
                deeper = _Node({"**": node})
                _walk(deeper, path, found, owners)
        return
    matcher = _expression(component)
    for name in listed:
        if matcher.fullmatch(name):
            _meet(node, f"{directory}/{name}", found, owners)


@lru_cache(maxsize=256)
def _expression(component: str) -> Pattern[str]:
    parts = [{"*": ".*", "?": "."}.get(character, re.escape(character)) for character in component]
    return re.compile("".join(parts), re.DOTALL)


def _meet(node: _Node, path: str, found: Found, owners: Owners) -> None:
    owners = _through(path, found, owners)
    if node.ends:
        _hide(path, found, owners)
    if node:
        _walk(node, path, found, owners)


def _through(path: str, found: Found, owners: Owners) -> Owners:
    """`owners`, and that of a link at `path`; root may lead anywhere."""
    try:
        status = os.lstat(path)
    except OSError:
        return owners
    if not stat.S_ISLNK(status.st_mode):
        return owners
    found.followed = True
    return owners if status.st_uid == 0 else owners | {status.st_uid}


def _hide(path: str, found: Found, owners: Owners) -> None:
    """Add what is at `path`, if all the accounts whose links led there could have put it there.

    Otherwise any account could hide what is not its own from everybody's scripts.
    """
    try:
        owner = os.stat(path).st_uid
    except OSError:
        return  # Nothing is there.
    if not owners or owners == {owner}:
        found.add(path)
