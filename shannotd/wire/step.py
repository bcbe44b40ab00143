"""One step of a plan: a file change, a call of a host's program or a blocked attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shannotd.wire.decision import Decision, Risk


@dataclass(frozen=True)
class TreeSummary:
    """A directory tree that is deleted or replaced as a whole.

    `sha256` covers every entry's relative path, type, mode, owner, size, modification
    time and link target (not contents).
    """

    entries: int
    size: int
    sha256: str


@dataclass(frozen=True)
class FileState:
    """What is, or will be, at a path. `type` is absent, file, directory, symlink, fifo,
    socket, character or block; `target` that of a symlink, or a device's numbers (8:0)."""

    type: str
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    sha256: str | None = None
    target: str | None = None
    xattrs: Mapping[str, str] = field(default_factory=dict)
    mtime_ns: int | None = None
    links: int | None = None
    fingerprint: str | None = None
    tree: TreeSummary | None = None


@dataclass(frozen=True)
class Interpreter:
    """A file that runs a command's program, or that program's interpreter: a script's `#!` line
    names it."""

    path: str
    sha256: str


@dataclass(frozen=True)
class CommandInput:
    """What a command is given on its standard input: a content by SHA-256 and size."""

    sha256: str
    size: int


@dataclass(frozen=True)
class CommandOutput:
    """What an observed program printed on one stream: a content, and whether more was cut off."""

    sha256: str
    size: int
    truncated: bool = False


@dataclass(frozen=True)
class CommandResult:
    """What a command did when it was applied.

    One of `exit_status` and `signal` is null. `stopped` names the limit that ended it, `truncated`
    the streams of which not all was kept.
    """

    exit_status: int | None
    stdout: str
    stderr: str
    duration: float
    signal: int | None = None
    stopped: str | None = None
    truncated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of a plan: a file change, a call of a host's program or a blocked attempt.

    Which fields are set depends on `kind` (`file`, `command`, `blocked`); `diff`, `binary`,
    `too_large`, `applied` and `result` are notes beside the digest, and so are `risk` and
    `reason`, except that a command has policy's own in its plan.

    A command's `decision` is `review` (it runs when the plan is applied, and must end with
    `exit_status`), `observe` (it ran in the dry run, and printed `stdout` and `stderr`) or `deny`.
    `environment` is all of it, `changed` names what in it is not of the clean base; without
    `stdin` it reads /dev/null. `assumed`: the script may have read its output, which nobody knew.
    `called_after`, of one that is not applied: the index of the reviewed command that the script
    had called last; None where it had called none. `link`: the path that was called, where it is
    one that leads to the program. `unread`: it was called with a pipe that is not kept.
    """

    kind: str
    # file
    change: str | None = None
    path: str | None = None
    old_path: str | None = None
    before: FileState | None = None
    after: FileState | None = None
    appended: TreeSummary | None = None
    link_to: str | None = None
    scratch: bool = False
    # command
    argv: tuple[str, ...] = ()
    program: str | None = None
    program_sha256: str | None = None
    cwd: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    decision: str | None = None
    rule: str | None = None
    exit_status: int | None = None
    stdin: CommandInput | None = None
    assumed: bool = False
    stdout: CommandOutput | None = None
    stderr: CommandOutput | None = None
    seconds: float | None = None
    output_bytes: int | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    interpreters: tuple[Interpreter, ...] = ()
    loaded: tuple[str, ...] = ()
    undo: tuple[str, ...] | None = None
    called_after: int | None = None
    link: str | None = None
    unread: bool = False
    # blocked
    what: str | None = None
    target: str | None = None
    count: int = 1
    # notes
    risk: Risk = Risk.UNKNOWN
    reason: str = ""
    diff: str | None = None
    binary: bool = False
    too_large: bool = False
    applied: str | None = None
    result: CommandResult | None = None

    @property
    def runs(self) -> bool:
        """Whether it is a command that runs on the host when the plan is applied.

        Only what is known not to run does not.
        """
        return self.kind == "command" and self.decision not in (Decision.OBSERVE, Decision.DENY)

    @property
    def has_effect(self) -> bool:
        """Whether applying it changes anything, so that somebody must approve it."""
        if self.kind == "command":
            return self.runs
        return self.kind != "blocked" and not self.scratch


@dataclass(frozen=True)
class StepNote:
    """What was derived of one step: shown, not part of the digest.

    `applied` is None until an apply has come to the step, then `done`, `failed`, `stale`,
    `skipped`, `undone` (it was done and taken back, since a later one failed) or `in_doubt` (a
    command that was running when its apply was cut short).
    """

    risk: Risk
    reason: str
    diff: str | None = None
    binary: bool = False
    too_large: bool = False
    applied: str | None = None
    result: CommandResult | None = None
