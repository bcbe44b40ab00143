"""One submitted script and all that became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shannotd.wire.amendment import Amendment
from shannotd.wire.decision import Risk
from shannotd.wire.plan import Plan, StartedProgram, StepCounts
from shannotd.wire.step import StepNote
from shannotd.wire.submission import ScriptKind


class State(StrEnum):
    """Where a session is in its life."""

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


@dataclass(frozen=True)
class Failure:
    """Why a session did not end well: the error's code, message and details."""

    code: str
    message: str
    details: Mapping[str, str | int | None] = field(default_factory=dict)


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
