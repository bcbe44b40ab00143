"""What the daemon makes of a recorded plan: checks it, judges it, lays notes beside it.

Pure, and linear in the number of steps; a large plan belongs on the store's thread.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgpack

from shannotd.policy.held import HELD, Held, Holder, held_at_apply
from shannotd.policy.risk import assess_plan, counts, plan_risk
from shannotd.sessions.recorded import Recorded
from shannotd.sessions.records import NOTES, PLAN, SCRIPT, STDERR, STDOUT, Stored
from shannotd.wire.amendment import Amendment
from shannotd.wire.decision import Risk
from shannotd.wire.decode import decode, encode
from shannotd.wire.plan import Plan, StartedProgram, StepCounts
from shannotd.wire.step import CommandResult
from shannotd.wire.text import visible

LARGE_BYTES = 32 * 1024  # a plan of this size takes about a millisecond to judge

WireSession = dict[str, object]


class Notes(NamedTuple):
    """What is shown beside a plan, as it travels: one note for each step, the programs that were
    started in the sandbox, how a reviewer made it of another, and commands of the session that it
    takes back of which what they did stays."""

    steps: list[dict[str, Any]]
    programs: list[object]
    amendment: object = None
    staying: object = ()


@dataclass(frozen=True)
class Judged:
    """A plan that was checked: what of it the session shows. `notes` is as it is stored.

    A plan without `effects` is applied by doing nothing, and needs nobody's approval.
    """

    digest: str
    risk: Risk
    counts: StepCounts
    effects: bool
    identity_uid: int
    identity_name: str
    notes: bytes


def judge(
    recorded: Recorded,
    *,
    session: str,
    policy_version: str,
    programs: object = (),
    amendment: Amendment | None = None,
    staying: object = (),
) -> Judged:
    """Check that `recorded` is a plan of `session` under that policy, and judge its steps.

    :param programs: those that were started in the sandbox, as the runner told them.
    :param amendment: how a reviewer made it, if one did.
    :param staying: what a rollback does not take back, as it travels or not.
    :raises ValueError: it is not; the runner sent something wrong.
    """
    digest = hashlib.sha256(recorded.canonical).hexdigest()
    if digest != recorded.digest:
        raise ValueError("its digest is another than the runner said")
    plan = Plan.parse(recorded.canonical)
    if plan.session != session or plan.policy_version != policy_version:
        raise ValueError("it is of another session or policy")
    derived = json.loads(recorded.notes or b"[]")
    if not isinstance(derived, list) or len(derived) != len(plan.steps):
        raise ValueError("it has another number of notes than of steps")
    started = decode(_Started, {"programs": programs}, "started").programs
    recorded_notes = [decode(_Note, note, "note") for note in derived]
    held = {index: note.holders for index, note in enumerate(recorded_notes) if note.holders}
    findings = [
        _with_change(_with_others(finding, note.others), note.changed)
        for finding, note in zip(assess_plan(plan, held), recorded_notes, strict=True)
    ]
    notes = [
        _note(risk, reason, note)
        for (risk, reason), note in zip(findings, recorded_notes, strict=True)
    ]
    return Judged(
        digest=digest,
        risk=plan_risk(findings),
        counts=counts(plan),
        effects=any(step.has_effect for step in plan.steps),
        identity_uid=plan.identity.uid,
        identity_name=plan.identity.name,
        notes=_pack(
            Notes(
                notes,
                [encode(program) for program in started],
                encode(amendment),
                encode(staying),
            )
        ),
    )


@dataclass(frozen=True)
class _Note:
    """What the runner says beside a step."""

    diff: str | None = None
    binary: bool = False
    too_large: bool = False
    holders: tuple[Holder, ...] = ()
    others: tuple[str, ...] = ()
    changed: str | None = None


def _with_change(finding: tuple[Risk, str], changed: str | None) -> tuple[Risk, str]:
    """What is said of a step that takes something back, where somebody has changed that since."""
    if changed is None:
        return finding
    words = f"somebody has changed it since: it was {changed}"
    return Risk.DANGER, words if finding[0] is not Risk.DANGER else f"{words}; {finding[1]}"


def _with_others(finding: tuple[Risk, str], others: Sequence[str]) -> tuple[Risk, str]:
    """What is said of a command that is given what others can change until it runs."""
    if not others:
        return finding
    named = ", ".join(map(visible, others))
    words = f"another account can change what it is given, also after the approval: {named}"
    return Risk.DANGER, f"{words}; {finding[1]}"


@dataclass(frozen=True)
class _Started:
    programs: tuple[StartedProgram, ...]


def _note(risk: Risk, reason: str, recorded: _Note) -> dict[str, object]:
    return {
        "risk": risk.value,
        "reason": reason,
        "diff": recorded.diff,
        "binary": recorded.binary,
        "too_large": recorded.too_large,
        "applied": None,
        "result": None,
    }


def of_commands(canonical: bytes) -> frozenset[str]:
    """The SHA-256 of everything that the commands of a plan are given or have printed."""
    return frozenset(
        part.sha256
        for step in Plan.parse(canonical).steps
        for part in (step.stdin, step.stdout, step.stderr)
        if part is not None
    )


def mark_applied(
    notes: bytes,
    applied: Mapping[int, str],
    results: Mapping[int, CommandResult] | None = None,
    held: Held | None = None,
) -> bytes:
    """`notes` with what became of each step and what its command did, by the step's index; and
    who `held` open for writing what it displaced, where the review did not show anybody."""
    marked = unpack_notes(notes)
    for index, note in enumerate(marked.steps):
        if index in applied:
            note["applied"] = applied[index]
        if held is not None and index in held and HELD not in note["reason"]:
            note["reason"] += f"; {held_at_apply(held[index])}"
        if results is not None and index in results:
            note["result"] = encode(results[index])
    return _pack(marked)


def _pack(notes: Notes) -> bytes:
    stored = notes._asdict()
    return cast(bytes, msgpack.packb(stored, unicode_errors="surrogateescape"))


def unpack_notes(notes: bytes) -> Notes:
    """Stored notes, as they travel."""
    stored = msgpack.unpackb(notes, unicode_errors="surrogateescape")
    if isinstance(stored, list):  # stored before programs were recorded
        return Notes(stored, [])
    return Notes(
        stored["steps"], stored["programs"], stored.get("amendment"), stored.get("staying", ())
    )


def whole_session(stored: Stored) -> WireSession:
    """A session with its plan, notes, script and outputs, as it travels."""
    session = cast(WireSession, encode(stored.record.session))
    contents = stored.contents
    session["script"] = contents.get(SCRIPT, b"")
    session["stdout"] = contents.get(STDOUT, b"")
    session["stderr"] = contents.get(STDERR, b"")
    session["plan_canonical"] = contents.get(PLAN)
    notes = unpack_notes(contents[NOTES]) if NOTES in contents else Notes([], [])
    session["notes"], session["programs"] = notes.steps, notes.programs
    session["amendment"], session["staying"] = notes.amendment, notes.staying
    return session
