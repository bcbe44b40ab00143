"""Sessions and plans as a daemon sends them, for tests of the clients."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from shannotd.wire.decision import Risk
from shannotd.wire.decode import encode
from shannotd.wire.plan import Identity, Plan, StepCounts, Target
from shannotd.wire.session import Session, State
from shannotd.wire.status import DaemonStatus
from shannotd.wire.step import FileState, Step, StepNote
from shannotd.wire.submission import ScriptKind

ID = "3f9c51d2a07be8846610c9b7e25d4a13"
ABSENT = FileState("absent")
STATUS = DaemonStatus("0.1.0", "embedded", 7, 0, 1.0, "privileged", 2, 0, 1, ("submit",), "/s")
RELOAD = Step(
    "command",
    argv=("systemctl", "reload", "nginx"),
    program="/usr/bin/systemctl",
    cwd="/etc",
    decision="review",
    rule="services",
    exit_status=0,
    assumed=True,
    risk=Risk.CAUTION,
    reason="changes what services do",
)
_NOTES = {"risk", "reason", "diff", "binary", "too_large", "applied", "result"}


def regular(content: str = "x", **changes: Any) -> FileState:
    """The state of a regular file."""
    state = FileState("file", mode=0o644, uid=0, gid=0, size=1, sha256=content * 64)
    return replace(state, **changes)


def file_step(change: str, path: str, **changes: Any) -> Step:
    """A file step with fitting states and a diff."""
    before = ABSENT if change == "create" else regular("a")
    after = ABSENT if change == "delete" else regular("b")
    step = Step(
        "file",
        change=change,
        path=path,
        before=before,
        after=after,
        risk=Risk.CAUTION,
        reason="a configuration file",
        diff="--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new\n",
    )
    return replace(step, **changes)


def canonical(*steps: Step, session: str = ID) -> bytes:
    """The canonical bytes of a plan with these steps."""
    plan = Plan(
        format=1,
        session=session,
        target=Target("local", "0123456789abcdef"),
        identity=Identity("root", 0, 0, (0,), 0o022),
        policy_version="builtin-1",
        on_failure="rollback",
        steps=steps,
    )
    value: Any = encode(plan)
    del value["digest"]
    for step in value["steps"]:
        # Of a command, policy's risk and reason are in the plan itself.
        for name in _NOTES - ({"risk", "reason"} if step["kind"] == "command" else set()):
            del step[name]
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def notes(*steps: Step) -> tuple[StepNote, ...]:
    """What a daemon sends beside these steps."""
    return tuple(
        StepNote(
            step.risk,
            step.reason,
            step.diff,
            step.binary,
            step.too_large,
            step.applied,
            step.result,
        )
        for step in steps
    )


def session(*steps: Step, **changes: Any) -> Session:
    """A session; with steps it is pending and has a plan of them."""
    made = Session(
        id=ID,
        name="fix.py",
        state=State.PENDING if steps else State.EXECUTED,
        profile="default",
        target="local",
        submitter=1000,
        submitter_name="agent",
        identity="root",
        created_at=1_700_000_000.0,
        expires_at=1_700_003_600.0 if steps else None,
        kind=ScriptKind.FILE,
        exit_code=0,
        duration=0.012,
    )
    if steps:
        shown = [step for step in steps if not step.scratch]
        encoded = canonical(*steps)
        made = replace(
            made,
            plan_canonical=encoded,
            notes=notes(*steps),
            digest=Plan.parse(encoded).digest,
            risk=max((step.risk for step in shown), key=lambda risk: risk.rank, default=Risk.SAFE),
            counts=StepCounts(
                create=sum(step.change == "create" for step in shown),
                modify=sum(step.change == "modify" for step in shown),
                delete=sum(step.change == "delete" for step in shown),
                command=sum(step.runs for step in shown),
                observed=sum(step.decision == "observe" for step in shown),
                denied=sum(step.decision == "deny" for step in shown),
                scratch=len(steps) - len(shown),
            ),
        )
    return replace(made, **changes)


def digest_of(made: Session) -> str:
    """The digest of its plan."""
    assert made.plan is not None
    return made.plan.digest


def bare(full: Session, **changes: Any) -> Session:
    """`full` as lists and events carry it."""
    return replace(
        full,
        plan_canonical=None,
        notes=(),
        programs=(),
        amendment=None,
        staying=(),
        script=b"",
        stdout=b"",
        stderr=b"",
        **changes,
    )
