"""Contents of files of a plan that is amended: how long they are, and what to show of them.

They are read as the plan's identity, from the host as it is now and from what the daemon keeps.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import Iterator, Optional, Sequence

from shannotd.runner import diff, expectation, filesystem, tree
from shannotd.runner.compare import SHOWN_BYTES, TAIL_BYTES, as_note, last_lines
from shannotd.runner.contents import Contents
from shannotd.runner.directories import Directories
from shannotd.runner.frames import RunnerError
from shannotd.runner.passwords import FILES, Tokens
from shannotd.runner.plan import FileState, FileStep, StepNote
from shannotd.runner.tree import CHUNK_BYTES
from shannotd.runner.workspace import stale
from shannotd.runner.world import OnHost, Pieces, Written

_SAMPLE_BYTES = 65536
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Renewal:
    """Reads contents piece by piece, and keeps what the diffs may still cost."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._budget = diff.Budget()
        # Which passwords the script kept, nobody knows any more: none is shown.
        self._tokens = Tokens()
        self._directories = Directories()

    def __enter__(self) -> Renewal:
        return self

    def __exit__(self, *_: object) -> None:
        self._directories.forget()

    def measure(self, state: FileState, pieces: Pieces, appended: Written) -> Written:
        """SHA-256 and size of a file in `state`, which consists of `pieces`, and `appended`.

        :raises RunnerError: `stale`: the host has another file.
        :raises OSError: it cannot be read.
        """
        digest = hashlib.sha256()
        for part in self._read(state, pieces, growing=True):
            digest.update(part)
        for part in self._written(appended):
            digest.update(part)
        return Written(digest.hexdigest(), (state.size or 0) + appended.size)

    def note(self, step: FileStep, before: Pieces, after: Pieces) -> StepNote:
        """What to show of `step`, whose file has these contents before and after it.

        :raises RunnerError: `stale`: the host has another file.
        """
        if step.appended is not None and step.path not in FILES:
            return self._appended(step, before)
        if step.change in ("metadata", "rename"):
            return StepNote()
        old = self._small(step.path, step.before, before)
        if step.change == "delete":
            if old is None:
                return StepNote(too_large=True)
            return as_note(diff.difference(step.path, None, old, b"", self._budget))
        new = self._small(step.path, step.after, after)
        if old is None or new is None:
            sample = next(self._read(step.after, after), b"")[:_SAMPLE_BYTES]
            return StepNote(binary=True) if diff.is_binary(sample) else StepNote(too_large=True)
        if old == new:
            return StepNote()
        old_path = step.path if step.before.type == "file" else None
        return as_note(diff.difference(old_path, step.path, old, new, self._budget))

    def _appended(self, step: FileStep, before: Pieces) -> StepNote:
        assert step.appended is not None
        added = Written(step.appended.sha256, step.appended.size)
        lines, tail = 0, b""
        for part in self._read(step.before, before, growing=True):
            lines += part.count(b"\n")
            tail = (tail + part)[-TAIL_BYTES:]
        tail = last_lines(tail)
        if added.size > diff.FILE_BYTES:
            return StepNote(binary=diff.is_binary(tail), too_large=True)
        suffix = b"".join(self._written(added))
        return as_note(diff.appended(step.path, tail, lines, suffix, self._budget))

    def _small(self, path: str, state: FileState, pieces: Pieces) -> Optional[bytes]:
        """The content as it may be shown at `path`, where it is small enough and can be read;
        nothing of no file."""
        if state.type != "file":
            return b""
        if (state.size or 0) > SHOWN_BYTES:
            return None
        try:
            return self._tokens.concealed(path, b"".join(self._read(state, pieces)))
        except PermissionError:
            return None

    # Reading.

    def _read(
        self, state: FileState, pieces: Sequence[object], *, growing: bool = False
    ) -> Iterator[bytes]:
        """The content of a file in `state`; with `growing` the host's may have become longer."""
        digest = hashlib.sha256()
        left = state.size or 0
        left -= sum(piece.size for piece in pieces if isinstance(piece, Written))
        for piece in pieces:
            if isinstance(piece, OnHost):
                parts = self._on_host(piece.path, state, left, growing)
            else:
                assert isinstance(piece, Written)
                parts = self._written(piece)
            for part in parts:
                digest.update(part)
                yield part
        if state.sha256 is not None and digest.hexdigest() != state.sha256:
            path = next((piece.path for piece in pieces if isinstance(piece, OnHost)), "")
            raise stale(0, path, expectation.in_words(state), "another content")

    def _on_host(self, path: str, state: FileState, size: int, growing: bool) -> Iterator[bytes]:
        """The first `size` bytes of the host's file at `path`."""
        parent, _, name = path.rpartition("/")
        try:
            directory, _ = self._directories.get(parent)
            looked = os.open(name, filesystem.O_PATH, dir_fd=directory)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise stale(0, path, expectation.in_words(state), "nothing") from error
        try:
            status = filesystem.status(looked)
            same = stat.S_ISREG(status.mode) and status.size >= size
            if state.sha256 is None:
                same = same and tree.fingerprint(status) == state.fingerprint
            if not same or (status.size > size and not growing):
                found = expectation.in_words(tree.describe(looked, status).state)
                raise stale(0, path, expectation.in_words(state), found)
            content = filesystem.open_content(looked)
        finally:
            os.close(looked)
        try:
            yield from _parts(content, size)
        finally:
            os.close(content)

    def _written(self, piece: Written) -> Iterator[bytes]:
        if not self._contents.has(piece.sha256):
            self._contents.ask([(piece.sha256, piece.size)])
        content = self._contents.get(piece.sha256)
        if isinstance(content, bytes):
            yield content
            return
        digest = hashlib.sha256()
        for part in _parts(content.descriptor, piece.size, content.offset):
            digest.update(part)
            yield part
        if digest.hexdigest() != piece.sha256:
            reason = f"the content sent for {piece.sha256} is another one"
            raise RunnerError("invalid_request", method="amend", reason=reason)


def _parts(descriptor: int, size: int, offset: int = 0) -> Iterator[bytes]:
    position = 0
    while position < size:
        part = os.pread(descriptor, min(CHUNK_BYTES, size - position), offset + position)
        if not part:
            return
        position += len(part)
        yield part
