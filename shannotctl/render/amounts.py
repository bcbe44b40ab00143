"""Numbers for people: sizes, times, durations, modes."""

from __future__ import annotations

import time


def size(count: int) -> str:
    """`812 bytes`, `1 byte`, `4.2 KiB`."""
    if count == 1:
        return "1 byte"
    if count < 1024:
        return f"{count} bytes"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1024 or unit == "TiB":
            return f"{amount:.1f} {unit}"
    raise AssertionError


def number(count: int, singular: str, plural: str | None = None) -> str:
    """`1 step`, `1,204 steps`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def moment(seconds: float) -> str:
    """Local time to the second, with its offset."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def exact_moment(nanoseconds: int) -> str:
    """The same to the nanosecond; as a number where no calendar has it."""
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        text = moment(seconds)
    except (OverflowError, ValueError, OSError):
        return f"{nanoseconds} ns"
    day, time_of_day, offset = text.split()
    return f"{day} {time_of_day}.{rest:09} {offset}"


def duration(seconds: float) -> str:
    """`0.04 s`, `12 s`, `3 min`, `2.5 h`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def mode(bits: int) -> str:
    """`0644`, and in words what is special about it."""
    words = [
        word
        for bit, word in ((0o4000, "setuid"), (0o2000, "setgid"), (0o1000, "sticky"))
        if bits & bit
    ]
    return f"{bits:04o}" + (f" ({', '.join(words)})" if words else "")
