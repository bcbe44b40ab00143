"""Contents of steps in a person's editor: private copies, kept where the work would be lost."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from shannotctl import foreground
from shannotd.wire.errors import EditorFailed, EditTooLarge, FileUnreadable
from shannotd.wire.rpc import MAX_EDIT_BYTES

_EDITORS = ("sensible-editor", "editor", "vi", "nano")
_NAME_CHARACTERS = 60


class Drafts:
    """A directory of one's own (mode 0700) with the copies, removed at the end.

    Unless `keep` is called: then the copies that were edited stay.
    """

    def __init__(self) -> None:
        self.directory: Path | None = None
        self._kept = False

    def __enter__(self) -> Drafts:
        return self

    def __exit__(self, *_: object) -> None:
        if self.directory is not None and not self._kept:
            shutil.rmtree(self.directory, ignore_errors=True)

    def keep(self) -> Path | None:
        """Have the copies stay; where they are, None if there are none."""
        self._kept = True
        return self.directory

    def edit(self, content: bytes, number: int, path: str) -> bytes:
        """Let a person edit `content`, of step `number`, which is for the file at `path`.

        :raises EditorFailed: there is no editor, no room for a copy, or it did not end well.
        :raises EditTooLarge: what it left is too large.
        """
        # The name's end tells an editor what it is; all else of it is no editor's business.
        plain = re.sub("[^A-Za-z0-9._-]", "_", path.rpartition("/")[2])[-_NAME_CHARACTERS:]
        try:
            if self.directory is None:
                self.directory = Path(tempfile.mkdtemp(prefix="shannot-amend-"))
            draft = self.directory / f"step-{number}-{plain}"
            draft.touch(mode=0o600, exist_ok=False)
            draft.write_bytes(content)
        except OSError as error:
            reason = f"cannot be given a copy: {error.strerror or error}"
            raise EditorFailed(editor=_editor()[0], reason=reason) from None
        _run_editor(draft, lambda: self._ending(draft, content))
        return _read(draft)

    def _ending(self, draft: Path, content: bytes) -> None:
        """Have stay what an editor leaves that had to end before its time."""
        assert self.directory is not None
        with contextlib.suppress(OSError):  # the terminal may be gone
            if list(self.directory.iterdir()) != [draft] or draft.read_bytes() != content:
                self.keep()
                print(f"what the editor left is kept in {self.directory}", file=sys.stderr)
            else:
                shutil.rmtree(self.directory)


def read_content(path: str) -> bytes:
    """What is in the file at `path`, which may be a pipe.

    :raises FileUnreadable: it cannot be read.
    :raises EditTooLarge: it is too large for one change of a plan.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_EDIT_BYTES + 1)
            size = max(len(content), os.fstat(file.fileno()).st_size)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileUnreadable(path=path, reason=reason) from None
    if len(content) > MAX_EDIT_BYTES:
        raise EditTooLarge(size=size, limit=MAX_EDIT_BYTES)
    return content


def _run_editor(draft: Path, ending: Callable[[], None]) -> None:
    words = _editor()
    try:
        status = foreground.run([*words, str(draft)], ending=ending)
    except OSError as error:
        reason = f"cannot be started: {error.strerror or error}"
        raise EditorFailed(editor=words[0], reason=reason) from None
    if status != 0:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise EditorFailed(editor=words[0], reason=how)


def _editor() -> list[str]:
    """The words of the editor's command line."""
    for variable in ("VISUAL", "EDITOR"):
        chosen = os.environ.get(variable, "").strip()
        if chosen:
            try:
                return shlex.split(chosen)
            except ValueError as error:
                reason = f"is no command line: {error}"
                raise EditorFailed(editor=chosen, reason=reason) from None
    for name in _EDITORS:
        if shutil.which(name) is not None:
            return [name]
    raise EditorFailed(editor=_EDITORS[-1], reason="is not there, nor any other that is known")


def _read(draft: Path) -> bytes:
    try:
        descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise EditorFailed(editor=_editor()[0], reason="left something that is no file")
            if status.st_size > MAX_EDIT_BYTES:
                raise EditTooLarge(size=status.st_size, limit=MAX_EDIT_BYTES)
            return file.read()
    except OSError as error:
        reason = f"left nothing that can be read: {error.strerror or error}"
        raise EditorFailed(editor=_editor()[0], reason=reason) from None
