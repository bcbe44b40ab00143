"""Commands and paths as text that a shell can be given without surprise."""

from __future__ import annotations

import shlex

from shannotd.wire.step import Step
from shannotd.wire.text import visible


def command_text(step: Step) -> str:
    """A command's words, quoted for a shell; of a file step, its path; of a blocked one, to what.

    All of it is shown text: what is not is written as `$'...'`, which a shell reads as the same.
    """
    if step.kind == "command":
        return " ".join(quoted(word) for word in step.argv)
    return quoted(step.path or step.target or "")


def quoted(word: str) -> str:
    """One word for a shell, without any character that a terminal would act on."""
    if visible(word) == word:
        return shlex.quote(word)
    data = word.encode("utf-8", "surrogateescape")
    return "$'" + "".join(_byte(value) for value in data) + "'"


def _byte(value: int) -> str:
    character = chr(value)
    if character in "\\'":
        return f"\\{character}"
    return character if 0x20 <= value < 0x7F else f"\\x{value:02x}"
