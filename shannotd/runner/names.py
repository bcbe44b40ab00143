"""Names of programs, as policy gives them: of which it must be asked, and of which it need not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Iterable, Optional, Sequence, Tuple


class Names:
    """Names, some of them patterns with `*` or `?`."""

    def __init__(self, names: Iterable[str]) -> None:
        given = frozenset(names)
        patterns = sorted(name for name in given if "*" in name or "?" in name)
        self._exact = given.difference(patterns)
        # Once for all sandboxes of a zygote: compiling takes longer than starting a program.
        self._pattern = re.compile("|".join(map(translate, patterns))) if patterns else None

    def __contains__(self, name: str) -> bool:
        if name in self._exact:
            return True
        return self._pattern is not None and self._pattern.match(name) is not None

    def __bool__(self) -> bool:
        return bool(self._exact or self._pattern)


class Denied:
    """Programs of which policy may deny a start: their names, and letters of options.

    With letters, only a start can be denied that has one of them among its options: in an argument
    that begins with one dash, or as the first of one that begins with two. Without, any may be.
    """

    def __init__(self, named: Sequence[Tuple[str, str]]) -> None:
        self._letters = {name: letters for name, letters in named if letters}
        self._any = Names(name for name, letters in named if not letters)

    def may_be(self, name: str, arguments: Optional[Sequence[str]]) -> bool:
        """Whether this start may be denied; `arguments` is None where not all are known."""
        if name in self._any:
            return True
        letters = self._letters.get(name)
        if letters is None:
            return False
        return arguments is None or any(_has_option(each, letters) for each in arguments)


def _has_option(argument: str, letters: str) -> bool:
    if argument.startswith("--"):
        return argument[2:3].lower() in set(letters.lower())
    return argument.startswith("-") and not set(letters).isdisjoint(argument[1:])


@dataclass(frozen=True)
class Asked:
    """Which programs of the directories on PATH policy is asked about, whenever one is called.

    All, but for those of `inside`, which run in the sandbox unless they are of `always`, too.
    """

    inside: Names = field(default_factory=lambda: Names(()))
    always: Names = field(default_factory=lambda: Names(()))

    def __contains__(self, name: str) -> bool:
        return name in self.always or name not in self.inside
