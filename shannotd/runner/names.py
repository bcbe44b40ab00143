"""Names of programs, as policy gives them: of which it must be asked, and of which it need not."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Dict, Iterable

_KEPT = 4096


class Names:
    """Names, some of them patterns with `*` or `?`."""

    def __init__(self, names: Iterable[str]) -> None:
        given = frozenset(names)
        self._patterns = tuple(name for name in given if "*" in name or "?" in name)
        self._exact = given.difference(self._patterns)
        self._known: Dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        if name in self._exact or not self._patterns:
            return name in self._exact
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = any(fnmatchcase(name, pattern) for pattern in self._patterns)
            self._known[name] = known
        return known

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)


@dataclass(frozen=True)
class Asked:
    """Which programs of the directories on PATH policy is asked about, whenever one is called.

    All, but for those of `inside`, which run in the sandbox unless they are of `always`, too.
    """

    inside: Names = field(default_factory=lambda: Names(()))
    always: Names = field(default_factory=lambda: Names(()))

    def __contains__(self, name: str) -> bool:
        return name in self.always or name not in self.inside
