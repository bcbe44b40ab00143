"""The times of one run, as far as files' times are told by them."""

from __future__ import annotations

from dataclasses import dataclass

from shannotd.runner.delta import CLOCK_LAG_NS


@dataclass(frozen=True)
class Clock:
    """The script ran from `started_ns` until `now_ns` (time.time_ns)."""

    started_ns: int
    now_ns: int

    def is_old(self, mtime_ns: int) -> bool:
        """Whether a time is from before the script, so that it was set on purpose."""
        return mtime_ns < self.started_ns - CLOCK_LAG_NS

    def promised(self, mtime_ns: int) -> bool:
        """Whether a file's modification time was set on purpose: no clock gave it."""
        return self.is_old(mtime_ns) or mtime_ns > self.now_ns
