"""Patterns of commands, as administrators write them: `systemctl status *`, `rm -rf /*`.

Words are separated as a shell does it. The first names the program, by its name or by an
absolute path. In every word `*` stands for any characters but `/`, `**` for any, `?` for
one; a `*` that is the last word stands for any further arguments, also none, and one
before it for one argument.

A pattern is read in two ways:

- `covers` is for rules that forbid: it finds the pattern however the call is written. Options
  stand for themselves in any order, combined or not, long (also shortened) or short, with
  their value glued or not; words must come in the order of the pattern, with anything between.
  In doubt it says yes.
- `admits` is for rules that permit: the arguments are those of the pattern, one by one.
  In doubt it says no.
"""

from __future__ import annotations

import functools
import posixpath
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

# Letters that mean the same as a long option of another beginning, or as another letter.
_SYNONYMS = {"r": "rR", "R": "rR", "i": "iI", "I": "iI"}
_MAX_LETTERS = 32  # of one argument, behind which a glued value is looked for
_SHORT_CLUSTER = re.compile(r"-[A-Za-z]+")
# Their options are words with one dash.
_SINGLE_DASH = frozenset({"find", "ip", "java", "openssl", "tc", "bridge", "ffmpeg", "convert"})
_MERGED = re.compile(r"/(bin|sbin|lib)/")


@dataclass(frozen=True)
class ArgumentPattern:
    """A pattern without its program."""

    words: tuple[str, ...]
    more: bool

    def covers(self, name: str, arguments: Sequence[str], cwd: str) -> bool:
        """Whether the call may mean this, however it is written."""
        given = _Given(arguments, cwd)
        wanted = []
        for word in self.words:
            if word == "--":
                continue
            if not word.startswith("-") or word == "-":
                wanted.append(_matcher(word))
            elif name in _SINGLE_DASH and not word.startswith("--"):
                if word not in arguments:
                    return False
            elif word.startswith("--"):
                option, equals, value = word.partition("=")
                if not given.has_long(option[2:]):
                    return False
                if equals and not given.has_value(_matcher(value)):
                    return False
            elif not given.has_letters(word):
                return False
        return given.has_words(wanted)

    def admits(self, arguments: Sequence[str]) -> bool:
        """Whether the arguments are just those of the pattern."""
        if len(arguments) < len(self.words) or (len(arguments) > len(self.words) and not self.more):
            return False
        return all(
            _matcher(word).fullmatch(argument) is not None
            and (word == argument or ".." not in argument.split("/"))
            for word, argument in zip(self.words, arguments, strict=False)
        )

    @property
    def letters(self) -> str:
        """Letters of which one is among the options of every call that `covers` says yes to: in
        a cluster of short ones, or the first of a long one. None ("") where it needs no option."""
        for word in self.words:
            if word.startswith("-") and word not in ("-", "--"):
                first = word.lstrip("-")[:1]
                return _SYNONYMS.get(first, first)
        return ""

    @property
    def is_all(self) -> bool:
        """Whether it stands for all calls of its program."""
        return not self.words


@dataclass(frozen=True)
class CommandPattern:
    """A pattern of whole calls."""

    text: str
    program: str
    arguments: ArgumentPattern

    def names(self, names: Collection[str], paths: Collection[str]) -> bool:
        """Whether the program that has these names and absolute paths is meant."""
        matcher = _matcher(merged(self.program))
        if self.program.startswith("/"):
            return any(matcher.fullmatch(merged(path)) for path in paths)
        return any(matcher.fullmatch(name) for name in names)


def argument_pattern(words: Sequence[str]) -> ArgumentPattern:
    """The pattern of these words."""
    more = bool(words) and words[-1] == "*"
    return ArgumentPattern(tuple(words[:-1] if more else words), more)


def command_pattern(text: str) -> CommandPattern:
    """The pattern that `text` writes. One without arguments stands for every call.

    :raises ValueError: it is none, and why.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no pattern of a command: {error}") from None
    if not words or not words[0] or "\0" in text:
        raise ValueError(f"{text!r} is no pattern of a command: it names no program")
    program = words[0]
    if "/" in program and not program.startswith("/"):
        raise ValueError(f"{text!r}: a program is named by its name or by an absolute path")
    return CommandPattern(text, program, argument_pattern(words[1:] or ["*"]))


def merged(path: str) -> str:
    """`path` as it is where /bin, /sbin and /lib are links into /usr."""
    return "/usr" + path if _MERGED.match(path) else path


class _Given:
    """The arguments of a call with everything that they may mean."""

    def __init__(self, arguments: Sequence[str], cwd: str) -> None:
        self._cwd = cwd
        self._words: list[tuple[str, ...]] = []  # for each argument, what its word may be
        self._letters: set[str] = set()
        self._long: set[str] = set()
        for argument in arguments:
            if argument.startswith("--"):
                name, _, value = argument[2:].partition("=")
                self._long.add(name)
                self._words.append((argument, value))
            elif argument.startswith("-"):
                self._letters.update(argument[1:])
                # A value may be glued to any letter.
                end = min(len(argument), _MAX_LETTERS)
                values = (argument[begin:].removeprefix("=") for begin in range(2, end))
                self._words.append((argument, *values))
            else:
                # `key=value` arguments have a value too, as those of dd.
                self._words.append((argument,))

    def has_long(self, wanted: str) -> bool:
        """Whether the long option is there, perhaps shortened, or a letter that may be it."""
        if any(name and wanted.startswith(name) for name in self._long):
            return True
        letters = _SYNONYMS.get(wanted[:1], wanted[:1])
        return any(letter in self._letters for letter in letters)

    def has_letters(self, word: str) -> bool:
        """Whether the short options of `word` are there, or long ones that may be they."""
        if _SHORT_CLUSTER.fullmatch(word):
            return all(self._has_letter(letter) for letter in word[1:])
        return self._has_letter(word[1]) and self.has_value(_matcher(word[2:]))

    def _has_letter(self, letter: str) -> bool:
        letters = _SYNONYMS.get(letter, letter)
        if any(each in self._letters for each in letters):
            return True
        return any(name[:1] and name[0].lower() in letters.lower() for name in self._long)

    def has_value(self, wanted: re.Pattern[str]) -> bool:
        """Whether any argument, or a part of it that may be a value, is what is wanted."""
        return any(self._fits(wanted, readings) for readings in self._words)

    def has_words(self, wanted: Sequence[re.Pattern[str]]) -> bool:
        """Whether the words are there in their order."""
        rest = iter(self._words)
        return all(any(self._fits(word, readings) for readings in rest) for word in wanted)

    def _fits(self, wanted: re.Pattern[str], readings: Sequence[str]) -> bool:
        """Whether one of the readings, the first of which is the whole argument, is `wanted`."""
        option = readings[0].startswith("-")
        return any(
            wanted.fullmatch(form) is not None
            for reading in readings
            for form in self._forms(reading, option)
        )

    def _forms(self, reading: str, option: bool) -> Iterator[str]:
        """A word, and the path that it may be, and the same after a `key=`."""
        yield reading
        # In an option, every letter would be a file of the working directory.
        if not option or reading.startswith(("/", "./", "../")):
            yield _absolute(self._cwd, reading)
        key, equals, value = reading.partition("=")
        if equals:
            yield f"{key}={_absolute(self._cwd, value)}"


def _absolute(cwd: str, path: str) -> str:
    return posixpath.normpath("/" + posixpath.join(cwd, path)).replace("//", "/", 1)


@functools.lru_cache(maxsize=4096)
def _matcher(word: str) -> re.Pattern[str]:
    """What a word of a pattern stands for, as an expression for `fullmatch`."""
    if word == "*":
        return _ANYTHING
    pieces = re.split(r"(\*\*|\*|\?)", word)
    meaning = {"**": "(?s:.*)", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(piece, re.escape(piece)) for piece in pieces))


_ANYTHING = re.compile("(?s:.*)")
