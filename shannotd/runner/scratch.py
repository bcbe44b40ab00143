"""Which paths are scratch: glob patterns over whole host paths.

`*` and `?` match within one component, `**` any number of components. A pattern that
matches a directory covers what is below it: `/tmp/*` and `/tmp/**` mean the same.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Callable, List, Pattern, Sequence, Tuple


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path, or a directory above it, matches one of `patterns`."""
    if not patterns:
        return lambda path: False
    key = tuple(patterns)
    # Compiled at the first path: most scripts change nothing.
    return lambda path: _compiled(key).fullmatch(path) is not None


@lru_cache(maxsize=8)
def _compiled(patterns: Tuple[str, ...]) -> Pattern[str]:
    alternatives = "|".join(_expression(pattern) for pattern in patterns)
    return re.compile(f"(?:{alternatives})(?:/.*)?", re.DOTALL)


def _expression(pattern: str) -> str:
    parts: List[str] = []
    position = 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            parts.append("(?:.*/)?")
            position += 3
        elif pattern.startswith("**", position):
            parts.append(".+")
            position += 2
        else:
            character = pattern[position]
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character)))
            position += 1
    return "".join(parts)
