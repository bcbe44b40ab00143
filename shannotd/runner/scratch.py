"""Which paths are scratch: glob patterns over whole host paths.

`*` and `?` match within one component, `**` any number of components. A pattern that
matches a directory covers what is below it: `/tmp/*` and `/tmp/**` mean the same.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Callable, List, Optional, Pattern, Sequence, Tuple


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path, or a directory above it, matches one of `patterns`, and none with `!` before
    it: such exceptions hold everywhere but in /run, of which a script sees nothing of the host's.
    """
    if not patterns:
        return lambda path: False
    key = tuple(patterns)
    # Compiled at the first path: most scripts change nothing.
    return lambda path: _matches(key, path)


def _matches(patterns: Tuple[str, ...], path: str) -> bool:
    scratch, kept = _compiled(patterns)
    if scratch.fullmatch(path) is None:
        return False
    return kept is None or path.startswith("/run/") or kept.fullmatch(path) is None


@lru_cache(maxsize=8)
def _compiled(patterns: Tuple[str, ...]) -> Tuple[Pattern[str], Optional[Pattern[str]]]:
    kept = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    scratch = [pattern for pattern in patterns if not pattern.startswith("!")]
    return _joined(scratch), _joined(kept) if kept else None


def _joined(patterns: Sequence[str]) -> Pattern[str]:
    alternatives = "|".join(_expression(pattern) for pattern in patterns)
    # No pattern at all would match what is empty; (?!) matches nothing.
    return re.compile(f"(?:{alternatives or '(?!)'})(?:/.*)?", re.DOTALL)


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
