"""How the words after `submit` are read.

    submit [OPTIONS] FILE [OPTIONS] [ARGS...]
    submit [OPTIONS] -c CODE [OPTIONS] [ARGS...]      (--sh TEXT likewise)
    submit [OPTIONS] -- COMMAND [ARGS...]

Options of shannotctl stand before the script's name or directly after it. From the first
word on that is none of them, all belongs to the script, whatever it looks like. `--` ends
them early: after a script come its arguments, without one a command.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple


class SubmitLine(NamedTuple):
    """The words after `submit`, sorted: options of shannotctl, and what is run.

    `unfinished`: the last option lacks its value.
    """

    options: tuple[str, ...]
    file: str | None = None
    command: tuple[str, ...] | None = None
    arguments: tuple[str, ...] = ()
    unfinished: bool = False


def read_submit(
    words: Sequence[str], flags: Collection[str], valued: Collection[str], inline: Collection[str]
) -> SubmitLine:
    """Sort `words`.

    :param flags: options without a value.
    :param valued: options with one.
    :param inline: those of `valued` that bring the script with them.
    """
    options: list[str] = []
    file: str | None = None
    has_script = False
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            rest = tuple(words[index + 1 :])
            if has_script:
                return SubmitLine(tuple(options), file, None, rest)
            return SubmitLine(tuple(options), None, rest, ())
        name = _option_name(word)
        if name is None or (has_script and name not in flags and name not in valued):
            if has_script:
                return SubmitLine(tuple(options), file, None, tuple(words[index:]))
            file = word
            has_script = True
            index += 1
            continue
        options.append(word)
        index += 1
        if name in inline:
            has_script = True
        if name in valued and word == name:
            if index == len(words):
                return SubmitLine(tuple(options), file, unfinished=True)
            options.append(words[index])
            index += 1
    return SubmitLine(tuple(options), file)


def _option_name(word: str) -> str | None:
    """The option in `word` without a value glued to it; None where it is no option."""
    if word == "-" or not word.startswith("-"):
        return None
    if word.startswith("--"):
        return word.partition("=")[0]
    return word[:2]
