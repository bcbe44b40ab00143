"""What a submitter hands in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ScriptKind(StrEnum):
    """What a submitter hands in."""

    PYTHON = "python"  # Python source, run by the warm interpreter
    FILE = "file"  # a file's bytes: its #! line decides, Python without one
    SHELL = "shell"  # text for /bin/sh
    COMMAND = "command"  # argv of one program
    ROLLBACK = "rollback"  # nothing: the plan takes another session back


@dataclass(frozen=True)
class Submission:
    """A script and how to run it: the parameters of `sessions.submit`."""

    kind: ScriptKind
    script: bytes = b""
    arguments: tuple[str, ...] = ()
    name: str = ""
    path: str | None = None
    stdin: bytes = b""
    cwd: str = "/"
    profile: str | None = None
    timeout: float | None = None
    analysis: str = ""
    wait: bool = True
