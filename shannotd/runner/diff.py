"""Unified diffs of bytes at a bounded cost.

A diff is always correct: it turns `before` into `after`. It is also minimal unless the files
differ in so much that finding out would cost too much; then the middle is one replacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

FILE_BYTES = 256 * 1024  # of one diff
PLAN_BYTES = 32 * 1024 * 1024  # of all diffs of a plan
PLAN_EFFORT = 4_000_000  # comparisons for all diffs of a plan
FILE_EFFORT = 300_000
CONTEXT_LINES = 3
_SAMPLE_BYTES = 65536
_NO_NEWLINE = "\n\\ No newline at end of file\n"

Edit = Tuple[int, int, int, int]  # before[a:b] is replaced by after[c:d]


@dataclass(frozen=True)
class Difference:
    """A diff, or why there is none."""

    text: Optional[str] = None
    binary: bool = False
    too_large: bool = False


BINARY = Difference(binary=True)
TOO_LARGE = Difference(too_large=True)


class Budget:
    """What the diffs of one plan may cost in all."""

    def __init__(self, size: int = PLAN_BYTES, effort: int = PLAN_EFFORT) -> None:
        self.size = size
        self.effort = effort


def is_binary(data: bytes) -> bool:
    """Whether `data` holds a NUL, or mostly bytes that are not UTF-8."""
    if b"\0" in data:
        return True
    sample = data[:_SAMPLE_BYTES]
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError:
        return len(sample.decode("utf-8", "ignore").encode("utf-8")) < 0.7 * len(sample)
    return False


def difference(
    old_path: Optional[str],
    new_path: Optional[str],
    before: bytes,
    after: bytes,
    budget: Budget,
) -> Difference:
    """The unified diff from `before` to `after`; a path of None is /dev/null."""
    if is_binary(before) or is_binary(after):
        return BINARY
    limit = min(FILE_BYTES, budget.size)
    # What neither common end covers is in the diff for sure.
    if abs(len(before) - len(after)) > limit:
        return TOO_LARGE
    parts = [_header(old_path, new_path)]
    size = len(parts[0])
    if not before or not after:
        text = parts[0] + _one_sided("-" if before else "+", before or after)
        if len(text) > limit:
            return TOO_LARGE
        budget.size -= len(text)
        return Difference(text)
    old, new = _lines(before), _lines(after)
    edits = _edits(old, new, budget)
    for hunk in _hunks(edits):
        for part in _hunk(hunk, edits, old, new):
            size += len(part)
            parts.append(part)
        if size > limit:
            return TOO_LARGE
    budget.size -= size
    return Difference("".join(parts))


def appended(path: str, tail: bytes, lines: int, suffix: bytes, budget: Budget) -> Difference:
    """The diff of `suffix` added to a file whose last bytes are `tail`.

    `lines` is the number of newlines in all of the old content. `tail` begins at a line's
    start and holds at most its last few lines.
    """
    if is_binary(tail) or is_binary(suffix):
        return BINARY
    limit = min(FILE_BYTES, budget.size)
    if len(suffix) + len(tail) > limit:
        return TOO_LARGE
    whole_lines = tail.count(b"\n")
    first = lines - whole_lines
    old = _lines(tail)
    new = _lines(tail + suffix)
    edits = _edits(old, new, budget)
    parts = [_header(path, path)]
    for hunk in _hunks(edits):
        parts.extend(_hunk(hunk, edits, old, new, first))
    text = "".join(parts)
    budget.size -= len(text)
    return Difference(text)


def _one_sided(mark: str, data: bytes) -> str:
    """The one hunk of content that has nothing on the other side."""
    if not data:
        return ""
    text = data.decode("utf-8", "surrogateescape")
    whole = text.endswith("\n")
    count = text.count("\n") + (0 if whole else 1)
    begin, end = ("0,0", _range(0, count)) if mark == "+" else (_range(0, count), "0,0")
    marked = mark + (text[:-1] if whole else text).replace("\n", "\n" + mark)
    return f"@@ -{begin} +{end} @@\n{marked}" + ("\n" if whole else _NO_NEWLINE)


def _lines(data: bytes) -> List[str]:
    """The lines with their newlines; only "\\n" ends one."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    last = lines.pop()
    found = [line + "\n" for line in lines]
    if last:
        found.append(last)
    return found


def _header(old_path: Optional[str], new_path: Optional[str]) -> str:
    old = "/dev/null" if old_path is None else _quoted("a" + old_path)
    new = "/dev/null" if new_path is None else _quoted("b" + new_path)
    return f"--- {old}\n+++ {new}\n"


def _quoted(path: str) -> str:
    """`path` as git writes it: in quotes where it holds what would break the line."""
    if path.isprintable() and '"' not in path and "\\" not in path:
        return path
    encoded = path.encode("utf-8", "surrogateescape")
    quoted = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in encoded
    )
    return f'"{quoted}"'


def _edits(old: Sequence[str], new: Sequence[str], budget: Budget) -> List[Edit]:
    start = 0
    shorter = min(len(old), len(new))
    while start < shorter and old[start] == new[start]:
        start += 1
    end = 0
    while end < shorter - start and old[-1 - end] == new[-1 - end]:
        end += 1
    old_end, new_end = len(old) - end, len(new) - end
    if start == old_end and start == new_end:
        return []
    if start in (old_end, new_end):
        return [(start, old_end, start, new_end)]
    matches = _matches(old[start:old_end], new[start:new_end], budget)
    if matches is None:
        return [(start, old_end, start, new_end)]
    edits: List[Edit] = []
    a, c = start, start
    for old_at, new_at, length in [*matches, (old_end - start, new_end - start, 0)]:
        if a < start + old_at or c < start + new_at:
            edits.append((a, start + old_at, c, start + new_at))
        a, c = start + old_at + length, start + new_at + length
    return edits


def _matches(
    old: Sequence[str], new: Sequence[str], budget: Budget
) -> Optional[List[Tuple[int, int, int]]]:
    """Common runs (old index, new index, length) of a shortest edit script, or None.

    Myers, "An O(ND) Difference Algorithm and Its Variations" (1986), greedy, given up when the
    effort is spent.
    """
    numbers: Dict[str, int] = {}
    a = [numbers.setdefault(line, len(numbers)) for line in old]
    b = [numbers.setdefault(line, len(numbers)) for line in new]
    n, m = len(a), len(b)
    effort = min(FILE_EFFORT, budget.effort)
    furthest: Dict[int, int] = {1: 0}
    trace: List[Dict[int, int]] = []
    spent = 0
    for distance in range(n + m + 1):
        # The copy for the way back costs as much as the step itself.
        spent += 2 * (distance + 1)
        if spent > effort:
            budget.effort -= spent
            return None
        trace.append(dict(furthest))
        for diagonal in range(-distance, distance + 1, 2):
            if diagonal == -distance or (
                diagonal != distance
                and furthest.get(diagonal - 1, -1) < furthest.get(diagonal + 1, -1)
            ):
                x = furthest[diagonal + 1]
            else:
                x = furthest[diagonal - 1] + 1
            y = x - diagonal
            begin = x
            while x < n and y < m and a[x] == b[y]:
                x += 1
                y += 1
            spent += x - begin
            furthest[diagonal] = x
            if x >= n and y >= m:
                budget.effort -= spent
                return _way_back(trace, n, m)
    return None


def _way_back(trace: List[Dict[int, int]], n: int, m: int) -> List[Tuple[int, int, int]]:
    runs: List[Tuple[int, int, int]] = []
    x, y = n, m
    for distance in range(len(trace) - 1, -1, -1):
        furthest = trace[distance]
        diagonal = x - y
        if diagonal == -distance or (
            diagonal != distance and furthest.get(diagonal - 1, -1) < furthest.get(diagonal + 1, -1)
        ):
            previous = diagonal + 1
        else:
            previous = diagonal - 1
        before_x = furthest.get(previous, 0)
        before_y = before_x - previous
        # After the one insertion or deletion of this step came a run of equal lines.
        begin = x if distance == 0 else before_x + (1 if previous == diagonal - 1 else 0)
        if distance == 0:
            begin = 0
        if x > begin:
            runs.append((begin, begin - diagonal, x - begin))
        x, y = before_x, before_y
    runs.reverse()
    return runs


def _hunks(edits: List[Edit]) -> List[Tuple[int, int]]:
    """Ranges of `edits` that are near enough to share their context."""
    hunks: List[Tuple[int, int]] = []
    begin = 0
    for index in range(1, len(edits) + 1):
        if index == len(edits) or edits[index][0] - edits[index - 1][1] > 2 * CONTEXT_LINES:
            hunks.append((begin, index))
            begin = index
    return hunks


def _hunk(
    hunk: Tuple[int, int],
    edits: List[Edit],
    old: Sequence[str],
    new: Sequence[str],
    first: int = 0,
) -> List[str]:
    """The text of one hunk; line numbers are counted from `first`."""
    chosen = edits[hunk[0] : hunk[1]]
    lead = min(chosen[0][0], CONTEXT_LINES)
    old_begin, new_begin = chosen[0][0] - lead, chosen[0][2] - lead
    trail = min(len(old) - chosen[-1][1], CONTEXT_LINES)
    old_end, new_end = chosen[-1][1] + trail, chosen[-1][3] + trail
    parts = [
        f"@@ -{_range(old_begin + first, old_end - old_begin)}"
        f" +{_range(new_begin + first, new_end - new_begin)} @@\n"
    ]
    at = old_begin
    for old_from, old_to, new_from, new_to in chosen:
        parts.extend(_marked(" ", old[at:old_from]))
        parts.extend(_marked("-", old[old_from:old_to]))
        parts.extend(_marked("+", new[new_from:new_to]))
        at = old_to
    parts.extend(_marked(" ", old[at:old_end]))
    return parts


def _marked(mark: str, lines: Sequence[str]) -> List[str]:
    marked = [mark + line for line in lines]
    if marked and not marked[-1].endswith("\n"):
        marked[-1] += _NO_NEWLINE
    return marked


def _range(begin: int, length: int) -> str:
    # An empty range is after the line that it names (POSIX diff, unified format).
    if length == 0:
        return f"{begin},0"
    return str(begin + 1) if length == 1 else f"{begin + 1},{length}"
