"""Sessions as plain objects for `--json`; docs/json.md and docs/session.schema.json define them."""

from __future__ import annotations

from shannotctl.protocol import Changed, Event, Output, plan_of
from shannotd.wire.decode import encode
from shannotd.wire.errors import ShannotError
from shannotd.wire.model import FileState, Plan, Session, Step

Object = dict[str, object]


def session_object(session: Session) -> Object:
    """One session with its plan and outputs.

    :raises BadFrame: the daemon sent a plan that is none.
    """
    plan = plan_of(session)
    return {
        **_summary(session),
        # Computed from what was received, where that is there: nobody's word is taken for it.
        "digest": session.digest if plan is None else plan.digest,
        "stdout": _text(session.stdout),
        "stderr": _text(session.stderr),
        "plan": None if plan is None else plan_object(plan),
    }


def list_object(session: Session) -> Object:
    """One session as in lists and events: the same keys, but no plan and no outputs."""
    return {**_summary(session), "stdout": None, "stderr": None, "plan": None}


def plan_object(plan: Plan) -> Object:
    """The plan with its steps in order and the digest computed from what was received."""
    return {
        "digest": plan.digest,
        "format": plan.format,
        "session": plan.session,
        "target": encode(plan.target),
        "identity": encode(plan.identity),
        "policy_version": plan.policy_version,
        "on_failure": plan.on_failure,
        "steps": [step_object(step) for step in plan.steps],
    }


def step_object(step: Step) -> Object:
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
            "cwd": step.cwd,
            "decision": step.decision,
            "rule": step.rule,
            "assumed": step.assumed,
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
    return {"error": error.to_wire()}


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
    }


def _state(state: FileState | None) -> object:
    return None if state is None else encode(state)


def _text(data: bytes) -> str:
    # Bytes that are not UTF-8 become lone surrogates, which JSON writes as \udcXX.
    return data.decode("utf-8", "surrogateescape")
