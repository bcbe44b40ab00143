"""What policy says of a program's call, and how risky what is planned looks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Risk(StrEnum):
    """How a step is shown, mildest first."""

    SAFE = "safe"
    CAUTION = "caution"
    UNKNOWN = "unknown"
    DANGER = "danger"

    @property
    def rank(self) -> int:
        """0 (safe) to 3 (danger), to find the highest of several."""
        return tuple(Risk).index(self)


class Decision(StrEnum):
    """What policy says of one command, mildest first."""

    CONTAIN = "contain"
    OBSERVE = "observe"
    REVIEW = "review"
    DENY = "deny"


@dataclass(frozen=True)
class ProgramCall:
    """One call of a program, as policy judges it.

    `path` is the absolute path that was called (or was found on PATH), `program` the file on
    the host that it leads to when every link is followed. `argv` holds what was really passed.
    """

    path: str
    program: str
    argv: tuple[str, ...]
    cwd: str = "/"
    as_root: bool = False


@dataclass(frozen=True)
class Observation:
    """How an observed program is run: `argv` as it was judged, with an absolute path first.

    `net` is `none`, `host` or `interfaces`, `sockets` are the host's sockets that it may reach,
    `as_root` says that a root runner does not drop to another account, `groups` are those of the
    host that a script of root's lends it otherwise, `shows` what it is shown that it may not look
    up itself. `owners` are `shown` where it prints whose something is, `sought` where it looks for
    what belongs to an account. `seconds` and `output_bytes` (of each stream) are its limits.
    """

    program: str
    argv: tuple[str, ...]
    net: str = "none"
    sockets: tuple[str, ...] = ()
    as_root: bool = False
    groups: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()
    owners: str = ""
    seconds: float = 30.0
    output_bytes: int = 1024 * 1024


@dataclass(frozen=True)
class Recording:
    """How a command that waits for review is recorded.

    The script gets `exit_status` and `stdout` as if it had run. `stdin` says that what it is
    given on a pipe is kept for it, `undo` is the command that makes up for it in a rollback,
    `seconds` is its time when it is applied.
    """

    exit_status: int = 0
    stdout: str = ""
    stdin: bool = False
    undo: tuple[str, ...] | None = None
    seconds: float = 300.0


@dataclass(frozen=True)
class Verdict:
    """What policy says of one call: the decision, the rule that made it and why.

    `observation` is there for `observe`, `recording` for `review`.
    """

    decision: Decision
    rule: str
    reason: str
    risk: Risk
    observation: Observation | None = None
    recording: Recording | None = None


@dataclass(frozen=True)
class Explanation:
    """What `policy.explain` answers; `found` says whether the host has such a program."""

    profile: str
    call: ProgramCall
    found: bool
    verdict: Verdict
