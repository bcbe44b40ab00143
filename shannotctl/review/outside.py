"""The programs beside the reviewer: a person's editor and pager, the clipboard."""

from __future__ import annotations

import base64
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable

from shannotctl import foreground
from shannotctl.drafts import Drafts
from shannotd.wire.errors import UsageError

_PAGERS = ("less", "pager", "more")
_LONGEST_COPY = 60_000  # bytes; terminals refuse more


def edited(content: bytes, step: int, path: str) -> bytes | None:
    """What a person makes of `content`; None where it stays as it is, or nothing is left of it.

    :raises EditorFailed, EditTooLarge: nothing came of it.
    """
    with Drafts() as drafts:
        after = drafts.edit(content, step + 1, path)
    return None if after == content or (content and not after) else after


def page(lines: Iterable[str]) -> None:
    """Let a person read `lines`, which are safe to show, in a pager.

    :raises UsageError: there is none, or it cannot be started.
    """
    words = _pager()
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    try:
        foreground.run(words, text)
    except OSError as error:
        reason = f"the pager {words[0]} cannot be started: {error.strerror or error}"
        raise UsageError(reason=reason) from None


def _pager() -> list[str]:
    chosen = os.environ.get("PAGER", "").strip()
    if chosen:
        try:
            return shlex.split(chosen)
        except ValueError as error:
            raise UsageError(reason=f"PAGER is no command line: {error}") from None
    for name in _PAGERS:
        if shutil.which(name) is not None:
            return [name]
    raise UsageError(reason="there is no pager: set PAGER")


def clipboard_sequence(text: str) -> str:
    """What tells a terminal to put `text` in its clipboard (OSC 52): nothing of it is raw.

    :raises UsageError: it is too long for that.
    """
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > _LONGEST_COPY:
        raise UsageError(reason="that is too long for a terminal's clipboard")
    return f"\x1b]52;c;{base64.b64encode(data).decode('ascii')}\x07"


def copy_in_tmux(text: str) -> None:
    """Put `text` in tmux's buffer, and by it in the terminal's clipboard; it takes no OSC 52.

    :raises UsageError: it does not answer.
    """
    if os.environ.get("TMUX") and shutil.which("tmux") is not None:
        data = text.encode("utf-8", "surrogateescape")
        try:
            subprocess.run(["tmux", "load-buffer", "-w", "-"], input=data, check=False, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            raise UsageError(reason="tmux does not take what is to be copied") from None
