"""What travels between daemon and clients, as frozen dataclasses.

Paths, arguments and outputs that are not UTF-8 hold their bytes as surrogate escapes
(PEP 383). Times are seconds since the epoch (UTC), durations seconds, sizes bytes.

A plan travels as its canonical encoding (`Session.plan_canonical`, JSON with sorted keys
in ASCII) beside what was derived from it (`notes`). Its digest is the SHA-256 of just
those bytes: a reader computes it from what it shows, and needs to trust nobody for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from shannotd.wire.decode import decode


class State(StrEnum):
    """Where a session is in its life (design section 2)."""

    RUNNING = "running"
    PENDING = "pending"
    APPROVED = "approved"
    EXECUTING = "executing"
    EXECUTED = "executed"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    STALE = "stale"
    ROLLED_BACK = "rolled_back"


FINAL_STATES = frozenset(
    {
        State.EXECUTED,
        State.FAILED,
        State.REJECTED,
        State.CANCELLED,
        State.EXPIRED,
        State.STALE,
        State.ROLLED_BACK,
    }
)


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


@dataclass(frozen=True)
class StartedProgram:
    """A program that was started in the sandbox, `count` times with the same arguments.

    `cut`: not all of the arguments were kept. Without any it counts what came after the list was
    full. Shown beside the plan, and no part of it.
    """

    argv: tuple[str, ...]
    count: int
    cut: bool = False


@dataclass(frozen=True)
class Identity:
    """Under whom a script runs, in the dry run and at apply."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int


@dataclass(frozen=True)
class Target:
    """The host that a plan is for: `kind` is local, `host` identifies it for good."""

    kind: str
    host: str


@dataclass(frozen=True)
class Plan:
    """The steps that a dry run recorded: what is applied, in order; then, each in their order, the
    calls that were observed, those that were denied, and what was blocked."""

    format: int
    session: str
    target: Target
    identity: Identity
    policy_version: str
    on_failure: str
    steps: tuple[Step, ...]
    digest: str = ""

    @classmethod
    def parse(cls, canonical: bytes, notes: tuple[StepNote, ...] = ()) -> Plan:
        """The plan in `canonical` with its digest computed and `notes` laid beside its steps.

        :raises ValueError: not a plan, or not as many notes as steps.
        """
        # Not every client comes to read a plan, and OpenSSL is slow to load.
        import hashlib
        import json

        plan = decode(cls, json.loads(canonical), "plan")
        if notes and len(notes) != len(plan.steps):
            raise ValueError(f"plan: {len(plan.steps)} steps but {len(notes)} notes")
        steps = plan.steps
        if notes:
            steps = tuple(
                replace(
                    step,
                    risk=note.risk,
                    reason=note.reason,
                    diff=note.diff,
                    binary=note.binary,
                    too_large=note.too_large,
                    applied=note.applied,
                    result=note.result,
                )
                for step, note in zip(plan.steps, notes, strict=True)
            )
        return replace(plan, steps=steps, digest=hashlib.sha256(canonical).hexdigest())


@dataclass(frozen=True)
class Failure:
    """Why a session did not end well: the error's code, message and details."""

    code: str
    message: str
    details: Mapping[str, str | int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class StepCounts:
    """How many steps of each kind a plan has, scratch apart.

    `command` counts those that run when it is applied, `observed` and `denied` the others.
    """

    create: int = 0
    modify: int = 0
    append: int = 0
    delete: int = 0
    metadata: int = 0
    rename: int = 0
    command: int = 0
    blocked: int = 0
    scratch: int = 0
    observed: int = 0
    denied: int = 0


@dataclass(frozen=True)
class DroppedStep:
    """A step that a reviewer left out: its index in the plan before, what it would have done.

    `missed_by` are the indexes of steps of the new plan that may miss it: commands that name its
    path or come after it, files in a directory of which it would have changed mode or owner.
    """

    index: int
    what: str
    missed_by: tuple[int, ...] = ()


@dataclass(frozen=True)
class EditedStep:
    """A step with a reviewer's content: its index, and `origin`, that in the plan before.

    `replaced_by` is the index of a later step that writes the whole file anew.
    """

    index: int
    origin: int
    replaced_by: int | None = None


@dataclass(frozen=True)
class Amendment:
    """How a reviewer made a plan of another session's."""

    dropped: tuple[DroppedStep, ...] = ()
    edited: tuple[EditedStep, ...] = ()


@dataclass(frozen=True)
class StayingCommand:
    """A command of a session that is rolled back, of which what it did stays, and why.

    `step` is its index in the plan of that session.
    """

    step: int
    argv: tuple[str, ...]
    program: str
    reason: str


@dataclass(frozen=True)
class Conflict:
    """A path that is no longer as a session left it, and so is not rolled back; both in words.

    `forcible` says whether it can be rolled back all the same.
    """

    path: str
    expected: str
    found: str
    forcible: bool = True


@dataclass(frozen=True)
class Session:
    """One submitted script and all that became of it.

    In lists and change events `plan_canonical`, `notes`, `programs`, `amendment`, `staying` and the
    outputs are empty. `approvals` is how many distinct people must approve; `decided_by` those who
    did.

    A plan that a reviewer changed is that of a session of its own, which `amends` the one before;
    that one is rejected and `replaced_by` it. `editors` are all who changed the plan, of whom
    `editor_name` was the last: they count as submitters.

    A rollback is a session of its own, which is the `rollback_of` another and has a plan that the
    runner made. When it is executed, that one is `rolled_back`, `rolled_back_by` it. `staying`
    are the commands that it cannot take back. `checkpoint` says of a session that changed files
    whether what they were is `kept`, so that it can be rolled back, or `dropped`.
    """

    id: str
    name: str
    state: State
    profile: str
    target: str
    submitter: int
    submitter_name: str
    identity: str
    created_at: float
    expires_at: float | None
    digest: str | None = None
    risk: Risk | None = None
    kind: ScriptKind = ScriptKind.PYTHON
    arguments: tuple[str, ...] = ()
    cwd: str = "/"
    analysis: str = ""
    script: bytes = b""
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_truncated: int = 0
    stderr_truncated: int = 0
    exit_code: int | None = None
    signal: int | None = None
    duration: float | None = None
    error: Failure | None = None
    counts: StepCounts = field(default_factory=StepCounts)
    approvals: int = 1
    decided_by: tuple[int, ...] = ()
    decided_at: float | None = None
    reason: str = ""
    plan_canonical: bytes | None = None
    notes: tuple[StepNote, ...] = ()
    programs: tuple[StartedProgram, ...] = ()
    amends: str | None = None
    replaced_by: str | None = None
    editors: tuple[int, ...] = ()
    editor_name: str = ""
    amendment: Amendment | None = None
    rollback_of: str | None = None
    rolled_back_by: str | None = None
    staying: tuple[StayingCommand, ...] = ()
    checkpoint: str | None = None

    @property
    def plan(self) -> Plan | None:
        """The plan, parsed and with its digest computed; None where it was not sent.

        :raises ValueError: the daemon sent a plan that is none.
        """
        if self.plan_canonical is None:
            return None
        return Plan.parse(self.plan_canonical, self.notes)


@dataclass(frozen=True)
class SessionPage:
    """One page of `sessions.list`; `next` is the cursor of the following page."""

    sessions: tuple[Session, ...]
    total: int
    next: str | None = None


@dataclass(frozen=True)
class RollbackAnswer:
    """What `sessions.rollback` answers: the session of the rollback, or what is in its way."""

    session: Session | None
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """What is saved of a session, so that it can be rolled back: `size` in bytes on disk.

    `finished` says that nothing of its apply is in doubt. Name and state are null where there is
    no such session any more.
    """

    session: str
    created_at: float
    size: int
    finished: bool
    name: str | None = None
    state: State | None = None


@dataclass(frozen=True)
class SavedStep:
    """What a checkpoint has of one step (an index in the session's plan): of how many entries of
    the file system, in how many bytes of content."""

    step: int
    change: str
    path: str
    entries: int
    size: int


@dataclass(frozen=True)
class CheckpointContents:
    """What `checkpoints.get` answers."""

    checkpoint: Checkpoint
    steps: tuple[SavedStep, ...]


@dataclass(frozen=True)
class DaemonStatus:
    """What `daemon.status` answers.

    `bus` is the bus that the daemon would be on (`system` or `session`), `bus_missing` why it is
    not; `polkit_missing` why nobody is asked by polkit. Each is null where it works.
    """

    version: str
    mode: str
    pid: int
    uid: int
    started_at: float
    builder: str
    pool_ready: int
    running: int
    pending: int
    roles: tuple[str, ...]
    store: str
    bus: str | None = None
    bus_missing: str | None = None
    polkit_missing: str | None = None


@dataclass(frozen=True)
class AuditRecord:
    """One line of the audit log; `line` is the exact text that the hash chain covers."""

    sequence: int
    time: float
    event: str
    uid: int | None
    session: str | None
    details: Mapping[str, str | int | float | bool | None]
    hash: str
    line: str


@dataclass(frozen=True)
class AuditVerdict:
    """What `audit.verify` found: all records in order, from the first kept to the head."""

    records: int
    files: int
    head: str
    first_time: float | None
    last_time: float | None
