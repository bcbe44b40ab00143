"""Reads an audit log and says whether it is whole. Changes nothing.

The log is a directory:

- `audit-000001.jsonl`, `audit-000002.jsonl`, ...: one record a line, canonical JSON (sorted
  keys, no spaces, ASCII) with `boot`, `details`, `event`, `previous`, `sequence`, `session`,
  `time` and `uid`. `previous` is the SHA-256 of the line before it (without its newline), also
  across files; in the very first line it is 64 zeros. Sequences count from 1 without a gap.
- `head`: where the log had come to when it was last synced (`file`, `hash`, `offset`,
  `sequence`), so that a cut tail is found. Lines after it are accepted if they chain: a crash
  may come between a line and the next head.
- `torn-000000000042`: bytes of an unfinished line that power loss left, set aside by the record
  of that sequence (event `audit.torn`), which has their SHA-256.

Whoever can write all of these files can forge a whole log: only a copy on another host
protects from that.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from shannotd.wire.audit import AuditRecord, AuditVerdict
from shannotd.wire.decode import decode
from shannotd.wire.errors import AuditBroken

HEAD_NAME = "head"
LOCK_NAME = "lock"
GENESIS_HASH = "0" * 64
TORN_EVENT = "audit.torn"

_FILE_NAME = re.compile(r"audit-([0-9]{6,})\.jsonl", re.ASCII)
_TORN_NAME = re.compile(r"torn-([0-9]{12,})", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LINE_KEYS = frozenset(
    {"boot", "details", "event", "previous", "sequence", "session", "time", "uid"}
)
# A line is a few hundred bytes; what claims to be longer than this is not read on.
MAX_LINE_BYTES = 1024 * 1024
_MAX_WHOLE_BYTES = 64 * 1024 * 1024

Detail = str | int | float | bool | None


@dataclass(frozen=True)
class Head:
    """A place in the log: after the record `sequence`, whose line hashes to `hash` and ends
    at byte `offset` of `file`."""

    file: str
    hash: str
    offset: int
    sequence: int


START = Head(file="", hash=GENESIS_HASH, offset=0, sequence=0)


@dataclass(frozen=True)
class Line:
    """What a line holds beside what `AuditRecord` shows of it."""

    boot: str
    details: Mapping[str, Detail]
    event: str
    previous: str
    sequence: int
    session: str | None
    time: float
    uid: int | None


def encode_line(line: Line) -> bytes:
    """The bytes of one record, without the newline.

    :raises ValueError: a number that JSON cannot hold (NaN, infinity).
    """
    # Not dataclasses.asdict, which copies deeply: this is on the way of every decision.
    return _canonical(
        {
            "boot": line.boot,
            "details": dict(line.details),
            "event": line.event,
            "previous": line.previous,
            "sequence": line.sequence,
            "session": line.session,
            "time": line.time,
            "uid": line.uid,
        }
    )


def line_hash(line: bytes) -> str:
    """SHA-256 of a line without its newline, in hex: the next line's `previous`."""
    return hashlib.sha256(line).hexdigest()


def parse_line(encoded: bytes) -> Line:
    """The record in `encoded` (without newline).

    :raises ValueError: the bytes are not the canonical encoding of a record.
    """
    try:
        value = json.loads(encoded.decode("ascii"))
        line = decode(Line, value, "record")
        exact = set(value) == _LINE_KEYS and _canonical(value) == encoded
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no audit record ({type(error).__name__})") from error
    if not exact:
        raise ValueError("it is not in the form that the daemon writes")
    return line


def record_of(line: Line, encoded: bytes) -> AuditRecord:
    """What a client sees of `line`, whose bytes are `encoded`."""
    return AuditRecord(
        sequence=line.sequence,
        time=line.time,
        event=line.event,
        uid=line.uid,
        session=line.session,
        details=line.details,
        hash=line_hash(encoded),
        line=encoded.decode("ascii"),
    )


def encode_head(head: Head) -> bytes:
    """The content of the `head` file."""
    return _canonical(asdict(head)) + b"\n"


def read_head(directory: Path) -> Head | None:
    """What the `head` file records; None where there is none.

    :raises AuditBroken: the file is there and is no head.
    """
    try:
        content = read_whole(directory / HEAD_NAME)
    except FileNotFoundError:
        return None
    try:
        head = decode(Head, json.loads(content.decode("ascii")), "head")
        if encode_head(head) != content or not _HASH.fullmatch(head.hash):
            raise ValueError("not canonical")
    except (ValueError, RecursionError):
        raise _broken(HEAD_NAME, 1, "it is not a head that the daemon wrote") from None
    return head


def log_files(directory: Path) -> list[str]:
    """The names of the log's files in their order, without a gap.

    :raises AuditBroken: a file of the row is missing.
    """
    numbered = sorted(
        (int(match.group(1)), path.name)
        for path in directory.iterdir()
        if (match := _FILE_NAME.fullmatch(path.name))
    )
    for expected, (number, name) in enumerate(numbered, start=1):
        if number != expected or name != file_name(number):
            raise _broken(file_name(expected), 1, "the file is missing or renamed")
    return [name for _, name in numbered]


def file_name(number: int) -> str:
    """The name of the log's file of that number, from 1."""
    return f"audit-{number:06d}.jsonl"


def file_number(name: str) -> int:
    """The number in the name of one of the log's files."""
    return int(name.removeprefix("audit-").removesuffix(".jsonl"))


def torn_name(sequence: int) -> str:
    """The name under which the record `sequence` set an unfinished line aside."""
    return f"torn-{sequence:012d}"


def verify_directory(
    directory: Path, *, head: Head | None = None, end: Head | None = None
) -> AuditVerdict:
    """Check every record of the log in `directory`, from the first to the last.

    `head` is what the log must contain (by default what the `head` file says). `end` is where
    it must stop, known to its writer alone: bytes after it are then not looked at.

    :raises AuditBroken: naming the file and line of the first thing that is wrong.
    :raises OSError: the log cannot be read.
    """
    names = log_files(directory)
    head = head or read_head(directory)
    if head is None:
        if names or end is not None:
            raise _broken(HEAD_NAME, 1, "the file is missing")
        return AuditVerdict(records=0, files=0, head=GENESIS_HASH, first_time=None, last_time=None)
    if head.sequence == 0 and head != START:
        raise _broken(HEAD_NAME, 1, "it is not a head that the daemon wrote")
    if end is not None and end.file in names:
        names = names[: names.index(end.file) + 1]
    chain = _Chain(directory, head)
    chain.follow(names, end)
    return chain.verdict(len(names))


class _Chain:
    """The walk along all lines, with what the next line must be."""

    def __init__(self, directory: Path, head: Head) -> None:
        self._directory = directory
        self._head = head
        self._previous = GENESIS_HASH
        self._sequence = 0
        self._first_time: float | None = None
        self._last_time: float | None = None
        self._torn: set[str] = set()

    def follow(self, names: list[str], end: Head | None) -> None:
        """Check the files of those names, up to `end` if it is known."""
        for name in names:
            until = end.offset if end is not None and name == end.file else None
            lines = self._file(name, until)
            if lines == 0 and name != names[-1]:
                raise _broken(name, 1, "the file is empty")
        last = names[-1] if names else file_name(1)
        needed = max(self._head.sequence, 0 if end is None else end.sequence)
        if self._sequence < needed:
            missing = f"records {self._sequence + 1} to {needed} are missing"
            raise _broken(last, self._sequence + 1, missing)
        if end is not None and (self._sequence, self._previous) != (end.sequence, end.hash):
            raise _broken(last, self._sequence, "it is not the record that the daemon wrote last")
        self._unknown_torn()

    def verdict(self, files: int) -> AuditVerdict:
        """What was found, after `follow`."""
        return AuditVerdict(
            records=self._sequence,
            files=files,
            head=self._previous,
            first_time=self._first_time,
            last_time=self._last_time,
        )

    def _file(self, name: str, until: int | None) -> int:
        number = 0
        for number, (line, end) in enumerate(read_lines(self._directory / name, until), start=1):
            if not line.endswith(b"\n"):
                raise _broken(
                    name, number, "the line is unfinished (after power loss: start the daemon)"
                )
            self._line(name, number, line[:-1], end)
        return number

    def _line(self, name: str, number: int, encoded: bytes, end: int) -> None:
        try:
            line = parse_line(encoded)
        except ValueError as error:
            raise _broken(name, number, str(error)) from None
        if line.previous != self._previous:
            raise _broken(name, number, "it does not follow the line before it")
        if line.sequence != self._sequence + 1:
            raise _broken(name, number, f"it has sequence {line.sequence} after {self._sequence}")
        hashed = line_hash(encoded)
        head = self._head
        if line.sequence == head.sequence and (name, end, hashed) != (
            head.file,
            head.offset,
            head.hash,
        ):
            raise _broken(name, number, "it is not the record that the head names")
        if line.event == TORN_EVENT:
            self._check_torn(name, number, line)
        self._previous, self._sequence = hashed, line.sequence
        self._first_time = line.time if self._first_time is None else self._first_time
        self._last_time = line.time

    def _check_torn(self, name: str, number: int, line: Line) -> None:
        torn = torn_name(line.sequence)
        try:
            content = read_whole(self._directory / torn)
        except FileNotFoundError:
            raise _broken(name, number, f"{torn}, which it set aside, is missing") from None
        if line_hash(content) != line.details.get("sha256"):
            raise _broken(torn, 1, "it is not what was set aside")
        self._torn.add(torn)

    def _unknown_torn(self) -> None:
        for name in sorted(path.name for path in self._directory.iterdir()):
            match = _TORN_NAME.fullmatch(name)
            if match and name not in self._torn and int(match.group(1)) <= self._sequence:
                raise _broken(name, 1, "no record says that it was set aside")


def read_lines(path: Path, until: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Each line of `path` with its newline, and the offset at which it ends.

    Only the last may lack the newline. `until` is the offset at which to stop.

    :raises AuditBroken: it is no regular file.
    :raises OSError: the file cannot be read.
    """
    with _open_regular(path) as file:
        offset = 0
        while until is None or offset < until:
            line = file.readline(MAX_LINE_BYTES if until is None else until - offset)
            if not line:
                return
            offset += len(line)
            yield line, offset


def _canonical(value: Mapping[str, object]) -> bytes:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def _open_regular(path: Path) -> BinaryIO:
    try:
        # Non-blocking, since a FIFO in the file's place would hold us for ever.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _broken(path.name, 1, "it is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _broken(path.name, 1, "it is not a regular file")
    return file


def read_whole(path: Path) -> bytes:
    """The content of a regular file, of a huge one only the first 64 MiB.

    :raises AuditBroken: it is no regular file.
    :raises OSError: it cannot be read.
    """
    with _open_regular(path) as file:
        return file.read(_MAX_WHOLE_BYTES)


def _broken(file: str, line: int, reason: str) -> AuditBroken:
    return AuditBroken(file=file, line=line, reason=reason)
