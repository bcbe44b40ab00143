"""Where an audit log ends when it is opened, after a clean stop or a crash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shannotd.audit.verify import (
    HEAD_NAME,
    START,
    Head,
    line_hash,
    log_files,
    parse_line,
    read_head,
    read_lines,
)
from shannotd.wire.errors import AuditBroken


@dataclass(frozen=True)
class LogEnd:
    """The end of a log: the last good record, the file that takes the next one, its size
    without `torn` (what a crash left after the last good line) and the day it was begun.

    `head` is None for a log that does not exist yet.
    """

    head: Head | None
    position: Head
    file: str | None
    size: int
    first_time: float | None
    torn: bytes


def find_end(directory: Path, boot: str) -> LogEnd:
    """Follow the log in `directory` from its head to its end, reading no more than the files
    from the head's on.

    Only what a crash explains may follow the last good line: an unfinished line at the very
    end; or, when the machine was booted since (`boot` is its boot id now), bytes of the last
    file that never came to the disk as they were written.

    :raises AuditBroken: anything else is wrong there.
    """
    names = log_files(directory)
    head = read_head(directory)
    if head is None:
        if names:
            raise AuditBroken(file=HEAD_NAME, line=1, reason="the file is missing")
        return LogEnd(None, START, None, 0, None, b"")
    walk = _Walk(boot)
    if head != START:
        if head.file not in names:
            raise AuditBroken(file=head.file, line=1, reason="the file is missing")
        names = names[names.index(head.file) :]
    for name in names:
        walk.file(directory / name, head, last=name == names[-1])
    if walk.position.sequence < head.sequence:
        missing = f"records up to {head.sequence} are missing"
        raise AuditBroken(file=head.file, line=walk.lines + 1, reason=missing)
    return LogEnd(
        head=head,
        position=walk.position,
        file=names[-1] if names else None,
        size=walk.size,
        first_time=walk.first_time,
        torn=walk.torn,
    )


class _Walk:
    """The lines from the head's file on; those before the head are covered by its hash."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._last_boot: str | None = None
        self.position = START
        self.lines = 0
        self.size = 0
        self.first_time: float | None = None
        self.torn = b""

    def file(self, path: Path, head: Head, *, last: bool) -> None:
        """Follow one file."""
        self.lines = self.size = 0
        self.first_time = None
        skip = head.offset if path.name == head.file else 0
        for encoded, end in read_lines(path):
            if self.torn:
                self.torn += encoded
                continue
            if end < skip:
                self._before_head(encoded)
            else:
                problem = self._next(encoded, path.name, end, head)
                if problem is not None:
                    if not last or not self._explained(encoded):
                        raise AuditBroken(file=path.name, line=self.lines + 1, reason=problem)
                    self.torn = encoded
                    continue
            self.lines, self.size = self.lines + 1, end

    def _before_head(self, encoded: bytes) -> None:
        """Only the first of these lines is looked at, for its time."""
        if self.lines == 0:
            try:
                self.first_time = parse_line(encoded[:-1]).time
            except ValueError:
                self.first_time = 0.0

    def _next(self, encoded: bytes, name: str, end: int, head: Head) -> str | None:
        """Take the line if it is a good one, else say what is wrong with it."""
        if not encoded.endswith(b"\n"):
            return "the line is unfinished"
        try:
            line = parse_line(encoded[:-1])
        except ValueError as error:
            return str(error)
        place = Head(name, line_hash(encoded[:-1]), end, line.sequence)
        if head != START and self.position == START:
            if place != head:
                return "it is not the record that the head names"
        elif (line.previous, line.sequence) != (self.position.hash, self.position.sequence + 1):
            return "it does not follow the line before it"
        self.position = place
        self._last_boot = line.boot
        if self.lines == 0:
            self.first_time = line.time
        return None

    def _explained(self, encoded: bytes) -> bool:
        """Whether a crash explains a bad line after the head."""
        return not encoded.endswith(b"\n") or self._last_boot != self._boot
