"""Sessions as plain objects for `--json`; docs/json.md and docs/session.schema.json define them."""

from __future__ import annotations

from collections.abc import Mapping

from shannotctl.protocol import (
    Changed,
    CommandPrinted,
    Decided,
    Event,
    Output,
    conflicts_of,
    plan_of,
)
from shannotd.wire.decode import encode
from shannotd.wire.errors import RollbackConflict, ShannotError
from shannotd.wire.plan import Plan
from shannotd.wire.session import Session
from shannotd.wire.step import CommandInput, CommandOutput, FileState, Step

Object = dict[str, object]


def session_object(session: Session, contents: Mapping[str, bytes] | None = None) -> Object:
    """One session with its plan and outputs.

    :param contents: those of the plan's commands, by SHA-256, as far as they are there.
    :raises BadFrame: the daemon sent a plan that is none.
    """
    plan = plan_of(session)
    return {
        **_summary(session),
        # Computed from what was received, where that is there: nobody's word is taken for it.
        "digest": session.digest if plan is None else plan.digest,
        "stdout": _text(session.stdout),
        "stderr": _text(session.stderr),
        "plan": None if plan is None else plan_object(plan, contents or {}),
        "programs": [encode(program) for program in session.programs],
        "amendment": encode(session.amendment),
        "staying": encode(session.staying),
    }


def list_object(session: Session) -> Object:
    """One session as in lists and events: the same keys, but no plan and no outputs."""
    left_out = dict.fromkeys(("stdout", "stderr", "plan", "programs", "amendment", "staying"))
    return {**_summary(session), **left_out}


def plan_object(plan: Plan, contents: Mapping[str, bytes]) -> Object:
    """The plan with its steps in order and the digest computed from what was received."""
    return {
        "digest": plan.digest,
        "format": plan.format,
        "session": plan.session,
        "target": encode(plan.target),
        "identity": encode(plan.identity),
        "policy_version": plan.policy_version,
        "on_failure": plan.on_failure,
        "steps": [step_object(step, contents) for step in plan.steps],
    }


def step_object(step: Step, contents: Mapping[str, bytes]) -> Object:
    """One step; which keys there are depends on its kind."""
    common: Object = {
        "kind": step.kind,
        "risk": step.risk.value,
        "reason": step.reason,
        "applied": step.applied,
    }
    if step.kind == "command":
        return {
            **common,
            "argv": list(step.argv),
            "program": step.program,
            "program_sha256": step.program_sha256,
            "cwd": step.cwd,
            "environment": dict(step.environment),
            "changed": list(step.changed),
            "decision": step.decision,
            "rule": step.rule,
            "stdin": _content(step.stdin, contents),
            "exit_status": step.exit_status,
            "assumed": step.assumed,
            "stdout": _content(step.stdout, contents),
            "stderr": _content(step.stderr, contents),
            "seconds": step.seconds,
            "output_bytes": step.output_bytes,
            "memory_bytes": step.memory_bytes,
            "processes": step.processes,
            "interpreters": encode(step.interpreters),
            "loaded": list(step.loaded),
            "undo": encode(step.undo),
            "called_after": step.called_after,
            "link": step.link,
            "unread": step.unread,
            "result": encode(step.result),
        }
    if step.kind == "blocked":
        return {**common, "what": step.what, "target": step.target, "count": step.count}
    return {
        **common,
        "change": step.change,
        "path": step.path,
        "old_path": step.old_path,
        "before": _state(step.before),
        "after": _state(step.after),
        "appended": encode(step.appended),
        "link_to": step.link_to,
        "diff": step.diff,
        "binary": step.binary,
        "too_large": step.too_large,
        "scratch": step.scratch,
    }


def error_object(error: ShannotError) -> Object:
    """What stands on standard output when there is no session to show."""
    told = error.to_wire()
    if isinstance(error, RollbackConflict):
        conflicts = [encode(conflict) for conflict in conflicts_of(error)]
        told["details"] = {**error.details, "conflicts": conflicts}
    return {"error": told}


def event_object(event: Event) -> Object:
    """One event of `watch --json`."""
    if isinstance(event, Changed):
        return {"event": "changed", "session": list_object(event.session)}
    if isinstance(event, Output):
        return {
            "event": "output",
            "id": event.id,
            "stream": event.stream,
            "data": _text(event.data),
        }
    if isinstance(event, Decided):
        return {
            "event": "command",
            "id": event.id,
            "command": event.command,
            "decision": event.decision,
            "rule": event.rule,
            "reason": event.reason,
        }
    if isinstance(event, CommandPrinted):
        return {
            "event": "command_output",
            "id": event.id,
            "index": event.step,
            "stream": event.stream,
            "data": _text(event.data),
        }
    return {"event": "step", "id": event.id, "index": event.step, "applied": event.applied}


def _summary(session: Session) -> Object:
    return {
        "id": session.id,
        "name": session.name,
        "state": session.state.value,
        "digest": session.digest,
        "risk": None if session.risk is None else session.risk.value,
        "profile": session.profile,
        "target": session.target,
        "submitter": session.submitter,
        "submitter_name": session.submitter_name,
        "identity": session.identity,
        "created_at": session.created_at,
        "expires_at": session.expires_at,
        "kind": session.kind.value,
        "arguments": list(session.arguments),
        "cwd": session.cwd,
        "analysis": session.analysis,
        "stdout_truncated": session.stdout_truncated,
        "stderr_truncated": session.stderr_truncated,
        "exit_code": session.exit_code,
        "signal": session.signal,
        "duration": session.duration,
        "error": encode(session.error),
        "counts": encode(session.counts),
        "approvals": session.approvals,
        "decided_by": list(session.decided_by),
        "decided_at": session.decided_at,
        "reason": session.reason,
        "amends": session.amends,
        "replaced_by": session.replaced_by,
        "editors": list(session.editors),
        "editor_name": session.editor_name,
        "rollback_of": session.rollback_of,
        "rolled_back_by": session.rolled_back_by,
        "checkpoint": session.checkpoint,
    }


def _state(state: FileState | None) -> object:
    return None if state is None else encode(state)


def _content(part: CommandInput | CommandOutput | None, contents: Mapping[str, bytes]) -> object:
    if part is None:
        return None
    data = b"" if part.size == 0 else contents.get(part.sha256)
    described: Object = {"sha256": part.sha256, "size": part.size}
    if isinstance(part, CommandOutput):
        described["truncated"] = part.truncated
    return {**described, "text": None if data is None else _text(data)}


def _text(data: bytes) -> str:
    # Bytes that are not UTF-8 become lone surrogates, which JSON writes as \udcXX.
    return data.decode("utf-8", "surrogateescape")
