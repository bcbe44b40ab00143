"""How things are named to people."""

from __future__ import annotations

from typing import List, Sequence


def numbers(indexes: Sequence[int]) -> str:
    """The numbers of steps in words, from 1 as people count them: steps 1-4, 6."""
    ranges: List[List[int]] = []
    for number in (index + 1 for index in indexes):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    words = [f"{first}-{last}" if first < last else str(first) for first, last in ranges]
    if not words:
        return "none"
    return ("step " if len(indexes) == 1 else "steps ") + ", ".join(words)
