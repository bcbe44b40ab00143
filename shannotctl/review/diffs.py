"""A unified diff, read: its lines with their numbers, and what changed within them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from shannotctl.render.layout import TAB_ARROW, expand_tabs
from shannotd.wire.text import visible

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
_WORDS = re.compile(r"\w+|\s+|.", re.DOTALL)

# Pairs are compared word by word only where it costs little; else the whole line is the change.
# What is made to take long has no words to be told.
_LONGEST_COMPARED = 1000  # characters
_MOST_COMPARED = 60_000  # the words of one line times those of the other
_MOST_TOGETHER = 2_000_000  # the same of all pairs
_LEAST_ALIKE = 0.4

Range = tuple[int, int]


class DiffLine(NamedTuple):
    """One line of a diff. `kind` is `-`, `+`, a blank, `@` (a hunk begins), `h` (a header) or
    a backslash (a remark on the line before).

    `old` and `new` are its numbers in the files, `text` is safe to show and without its sign,
    `changed` are the ranges in it by which it differs from its counterpart.
    """

    kind: str
    text: str
    old: int | None = None
    new: int | None = None
    changed: tuple[Range, ...] = ()


@lru_cache(maxsize=256)
def parse(diff: str) -> tuple[DiffLine, ...]:
    """The lines of a unified diff of one file."""
    found: list[DiffLine] = []
    old = new = 0
    # Only newlines separate a diff's lines: other line boundaries are content.
    for position, raw in enumerate(diff.removesuffix("\n").split("\n")):
        sign = raw[:1]
        if position < 2 and raw.startswith(("--- ", "+++ ")):
            found.append(DiffLine("h", visible(raw)))
        elif sign == "@":
            match = _HUNK.match(raw)
            if match is not None:
                old, new = int(match[1]), int(match[2])
            found.append(DiffLine("@", visible(raw)))
        elif sign == "-":
            found.append(DiffLine("-", _shown(raw[1:], TAB_ARROW), old=old))
            old += 1
        elif sign == "+":
            found.append(DiffLine("+", _shown(raw[1:], TAB_ARROW), new=new))
            new += 1
        elif sign == "\\":
            found.append(DiffLine("\\", visible(raw)))
        else:
            found.append(DiffLine(" ", _shown(raw[1:], " "), old, new))
            old += 1
            new += 1
    return tuple(_with_changes(found))


def _shown(text: str, tab: str) -> str:
    return expand_tabs(visible(text, keep="\t"), tab)


def blocks(lines: Sequence[DiffLine]) -> Iterator[tuple[bool, list[int]]]:
    """The indexes of `lines` in runs: whether it is one of changes, and its indexes."""
    indexed = range(len(lines))
    for changes, run in groupby(indexed, key=lambda index: lines[index].kind in "+-\\"):
        yield changes, list(run)


def pairs(lines: Sequence[DiffLine], run: Sequence[int]) -> Iterator[tuple[int | None, int | None]]:
    """A run of changes as rows of two sides: what is removed beside what is added."""
    removed = [index for index in run if lines[index].kind == "-"]
    added = [index for index in run if lines[index].kind == "+"]
    for row in range(max(len(removed), len(added))):
        yield (
            removed[row] if row < len(removed) else None,
            added[row] if row < len(added) else None,
        )


def _with_changes(lines: list[DiffLine]) -> list[DiffLine]:
    left_over = _MOST_TOGETHER
    for changes, run in list(blocks(lines)):
        if not changes:
            continue
        for left, right in pairs(lines, run):
            if left is None or right is None or left_over <= 0:
                continue
            left_over -= _cost(lines[left].text, lines[right].text)
            old, new = word_changes(lines[left].text, lines[right].text)
            lines[left] = lines[left]._replace(changed=old)
            lines[right] = lines[right]._replace(changed=new)
    return lines


def word_changes(old: str, new: str) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """The ranges of characters by which two lines differ; none where they have little in common."""
    if max(len(old), len(new)) > _LONGEST_COMPARED or _cost(old, new) > _MOST_COMPARED:
        return (), ()
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    if matcher.ratio() < _LEAST_ALIKE:
        return (), ()
    removed: list[Range] = []
    added: list[Range] = []
    for operation, a, b, c, d in matcher.get_opcodes():
        if operation != "equal":
            _extend(removed, before, a, b)
            _extend(added, after, c, d)
    return tuple(removed), tuple(added)


def _cost(old: str, new: str) -> int:
    if max(len(old), len(new)) > _LONGEST_COMPARED:
        return 1
    return len(_WORDS.findall(old)) * len(_WORDS.findall(new))


def _extend(ranges: list[Range], words: Sequence[str], first: int, last: int) -> None:
    if first < last:
        begin = sum(map(len, words[:first]))
        ranges.append((begin, begin + sum(map(len, words[first:last]))))
