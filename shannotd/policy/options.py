"""Reading the arguments of a program whose harmless options are known.

An option that is not declared makes the whole call unknown: nothing is guessed. So GNU's
abbreviations (`--li` for `--lines`) count as unknown too, since an option that is not
declared may be the one that is meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_DECLARATION = re.compile(r"(-[^\s=\[\]]+)(=/?|\[=\])?")


@dataclass(frozen=True)
class Arguments:
    """Arguments, read: the options that are there (as declared), the numbers of those arguments
    that are words of the program, and the values of options. `paths` are other values, which are
    paths: the numbers of their arguments, and where in these they begin."""

    options: frozenset[str]
    words: tuple[int, ...]
    values: tuple[str, ...]
    paths: tuple[tuple[int, int], ...] = ()


class Options:
    """The options that a rule declares.

    One text: `-a` has no value, `-n=` takes one, `-n[=]` takes one that is glued to it;
    `--name` likewise (`--name[=]`: only after `=`), and `-f=/` one that is a path. `-abc` declares
    three short ones. With `exact` there is one kind of option, as for `ip`: whole arguments, never
    combined, whose value is the next argument.

    :raises ValueError: a word of the text declares nothing.
    """

    def __init__(self, text: str, *, exact: bool = False) -> None:
        self._exact = exact
        self._values: dict[str, str] = {}
        for word in text.split():
            match = _DECLARATION.fullmatch(word)
            if match is None:
                raise ValueError(f"options: {word!r} declares no option")
            name, value = match[1], match[2] or ""
            if exact or name.startswith("--") or value:
                if not exact and not name.startswith("--") and len(name) != 2:
                    raise ValueError(f"options: {word!r}: a short option has one letter")
                self._values[name] = value
            else:
                self._values.update({f"-{letter}": "" for letter in name[1:]})

    def read(self, arguments: Sequence[str], *, tolerant: bool = False) -> Arguments | None:
        """The arguments read, or None: one of the options is not declared, or lacks its value.

        With `tolerant`, an option that is not declared is taken for one without a value.
        """
        found: set[str] = set()
        words: list[int] = []
        values: list[str] = []
        paths: list[tuple[int, int]] = []
        index = 0
        while index < len(arguments):
            argument = arguments[index]
            index += 1
            if argument == "--":
                words.extend(range(index, len(arguments)))
                break
            if argument == "-" or not argument.startswith("-"):
                words.append(index - 1)
                continue
            option = self._option(argument, tolerant)
            if option is None:
                return None
            names, value = option
            found.update(names)
            kind = self._values.get(names[-1], "")
            start = len(argument) - len(value or "")
            if value is None and kind.startswith("="):
                if index < len(arguments):
                    value, start = arguments[index], 0
                elif not tolerant:
                    return None
                index += 1
            if value is not None and kind == "=/":
                paths.append((index - 1, start))
            elif value is not None:
                values.append(value)
        return Arguments(frozenset(found), tuple(words), tuple(values), tuple(paths))

    def _option(self, argument: str, tolerant: bool) -> tuple[list[str], str | None] | None:
        """The options in one argument, and the value that is glued to the last of them."""
        if self._exact or argument.startswith("--"):
            name, equals, value = argument.partition("=")
            if not tolerant and (name not in self._values or (equals and not self._values[name])):
                return None
            return [name], value if equals else None
        names = []
        for position, letter in enumerate(argument[1:], 2):
            name = f"-{letter}"
            if name not in self._values and not tolerant:
                return None
            names.append(name)
            if self._values.get(name) and argument[position:]:
                return names, argument[position:]
        return names, None
