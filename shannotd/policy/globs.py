"""Path patterns: what they mean, as one regular expression each.

A pattern is an absolute path, or begins with `**/` (anywhere). In it

- `*` stands for any characters of one component, also none, but not for `/`;
- `?` stands for one character of a component;
- `**` is a component of its own: in the middle or at the front any number of components, also
  none; at the end one or more (`/tmp/**` is all below /tmp, not /tmp itself);
- everything else, `[` and `\\` too, stands for itself. Names that begin with a dot are like others.

Paths are physical and normalized: no `.`, no `..`, no `//`, no slash at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BRACES = re.compile(r"\{([^{}]*)\}")


def translate(pattern: str) -> str:
    """The regular expression for `re.fullmatch` that means `pattern`.

    :raises ValueError: it is no pattern, and why.
    """
    problem = _problem(pattern)
    if problem is not None:
        raise ValueError(f"{pattern!r} {problem}")
    components = _components(pattern)
    expression = ""
    for number, component in enumerate(components):
        if component != "**":
            expression += "/" + _translate_component(component)
        elif number == len(components) - 1:
            expression += "/(?s:.+)"
        else:
            expression += "(?:/[^/]+)*"
    return expression


def compile_patterns(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression that matches, by `fullmatch`, what any of `patterns` matches.

    :raises ValueError: one of them is no pattern.
    """
    # An empty alternation would match the empty string; (?!) matches nothing.
    return re.compile("|".join(f"(?:{translate(pattern)})" for pattern in patterns) or "(?!)")


def matches(pattern: str, path: str) -> bool:
    """Whether `pattern` stands for `path`.

    :raises ValueError: `pattern` is none.
    """
    return re.fullmatch(translate(pattern), path) is not None


def ancestors(pattern: str) -> tuple[str, ...]:
    """The patterns of the directories in which the paths of `pattern` lie, `/` apart.

    For a pattern that begins with `**/`, those directories that it names.

    :raises ValueError: `pattern` is none.
    """
    translate(pattern)
    components = _components(pattern)[:-1]
    found = []
    for length in range(1, len(components) + 1):
        if components[length - 1] != "**":
            joined = "/".join(components[:length])
            found.append(joined if components[0] == "**" else "/" + joined)
    return tuple(found)


def expand_braces(text: str) -> tuple[str, ...]:
    """`text` once for each alternative of its braces: `/{a,b}/c` is `/a/c` and `/b/c`."""
    match = _BRACES.search(text)
    if match is None:
        return (text,)
    before, after = text[: match.start()], text[match.end() :]
    return tuple(
        expanded
        for alternative in match.group(1).split(",")
        for expanded in expand_braces(before + alternative + after)
    )


def expand_home(pattern: str) -> tuple[str, ...]:
    """`~/x` as the pattern in root's home and in those below /home; another one as it is."""
    if pattern.startswith("~/"):
        return ("/root" + pattern[1:], "/home/*" + pattern[1:])
    return (pattern,)


def _components(pattern: str) -> list[str]:
    return pattern.removeprefix("/").split("/")


def _problem(pattern: str) -> str | None:
    if not pattern.startswith(("/", "**/")):
        return "is no path pattern: it must begin with / or **/"
    if "\0" in pattern:
        return "holds a zero byte"
    for component in _components(pattern):
        if component in ("", ".", ".."):
            return "has an empty, . or .. component"
        if "**" in component and component != "**":
            return "has ** beside other characters of a component"
    return None


def _translate_component(component: str) -> str:
    if component == "*":
        return "[^/]+"
    return "".join(
        "[^/]*" if character == "*" else "[^/]" if character == "?" else re.escape(character)
        for character in component
    )
