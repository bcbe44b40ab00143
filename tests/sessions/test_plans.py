"""What the daemon makes of a recorded plan: whether it waits for somebody, and what is shown."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.runner import plan as runner
from shannotd.sessions.plans import Judged, judge, mark_applied, unpack_notes
from shannotd.sessions.recorded import Recorded
from shannotd.wire.decision import Risk
from shannotd.wire.decode import decode
from shannotd.wire.plan import Plan, StepCounts
from shannotd.wire.step import CommandInput, CommandOutput, CommandResult, StepNote

CONTENT = hashlib.sha256(b"x").hexdigest()
REVIEWED = runner.CommandStep(
    decision="review",
    program="/usr/bin/systemctl",
    program_sha256="a" * 64,
    argv=("systemctl", "reload", "nginx\udcff"),
    cwd="/etc",
    environment={"LANG": "C", "PATH": "/usr/bin"},
    changed=("LANG",),
    exit_status=3,
    rule="services",
    reason="changes what services do",
    risk="caution",
    stdin=runner.Input(CONTENT, 1),
    seconds=60.0,
    output_bytes=4096,
    undo=("systemctl", "stop", "nginx"),
)
OBSERVED = replace(
    REVIEWED,
    decision="observe",
    stdin=None,
    stdout=runner.Output(CONTENT, 1, truncated=True),
    risk="safe",
)
DENIED = replace(REVIEWED, decision="deny", exit_status=126, risk="danger")
FILE = runner.FileState("file", 0o644, 0, 0, 1, CONTENT)
CREATED = runner.FileStep("create", "/srv/x", runner.ABSENT, FILE)
SCRATCH = replace(CREATED, path="/tmp/x", scratch=True)
BLOCKED = runner.BlockedStep("connect", "192.0.2.1:80", 1)


def recorded(*steps: Any, notes: Any = None) -> Recorded:
    """A plan as the runner's own code encodes it."""
    identity = runner.Identity("root", 0, 0, (0,), 0o022)
    target = {"kind": "local", "host": "h"}
    encoded = runner.canonical(runner.Plan("s", target, identity, "v", "rollback", steps))
    beside = [{"diff": None}] * len(steps) if notes is None else notes
    return Recorded(runner.digest(encoded), "seal", encoded, json.dumps(beside).encode())


def judged(*steps: Any, **more: Any) -> Judged:
    return judge(recorded(*steps), session="s", policy_version="v", **more)


@pytest.mark.P2
def test_the_runners_command_is_read_as_it_was_written() -> None:
    step = Plan.parse(recorded(REVIEWED, OBSERVED).canonical).steps[0]
    assert step.argv == ("systemctl", "reload", "nginx\udcff")
    assert (step.program, step.program_sha256) == ("/usr/bin/systemctl", "a" * 64)
    assert step.cwd == "/etc" and step.exit_status == 3
    assert step.environment == {"LANG": "C", "PATH": "/usr/bin"} and step.changed == ("LANG",)
    assert step.stdin == CommandInput(CONTENT, 1)
    assert step.undo == ("systemctl", "stop", "nginx")
    assert (step.seconds, step.output_bytes) == (60.0, 4096)
    assert (step.decision, step.rule, step.assumed) == ("review", "services", False)
    assert (step.risk, step.reason) == (Risk.CAUTION, "changes what services do")
    observed = Plan.parse(recorded(REVIEWED, OBSERVED).canonical).steps[1]
    assert observed.stdout == CommandOutput(CONTENT, 1, truncated=True)
    assert observed.stderr is None and observed.stdin is None


@pytest.mark.P7
def test_what_others_can_change_until_a_command_runs_is_danger_and_named() -> None:
    notes = [{"others": ["/home/x/\x1b[2J", "/srv/y"]}]
    made = judge(recorded(REVIEWED, notes=notes), session="s", policy_version="v")
    (note,) = unpack_notes(made.notes).steps
    assert (made.risk, note["risk"]) == (Risk.DANGER, "danger")
    assert note["reason"] == (
        "another account can change what it is given, also after the approval:"
        " /home/x/\\e[2J, /srv/y; changes what services do"
    )


@pytest.mark.P1
@pytest.mark.parametrize(
    ("steps", "effects"),
    [
        ((), False),
        ((BLOCKED,), False),
        ((SCRATCH,), False),
        ((OBSERVED, DENIED, SCRATCH, BLOCKED), False),
        ((REVIEWED,), True),
        ((OBSERVED, REVIEWED, DENIED), True),
        ((OBSERVED, CREATED), True),
        ((replace(OBSERVED, decision="contain"),), True),
        ((replace(OBSERVED, decision="of next year"),), True),
    ],
)
def test_only_what_changes_nothing_needs_nobody(steps: tuple[Any, ...], effects: bool) -> None:
    assert judged(*steps).effects is effects


KINDS = st.sampled_from([REVIEWED, OBSERVED, DENIED, CREATED, SCRATCH, BLOCKED])


@pytest.mark.P1
@given(st.lists(KINDS, max_size=8))
def test_any_reviewed_command_or_change_waits_for_somebody(steps: list[Any]) -> None:
    assert judged(*steps).effects is (REVIEWED in steps or CREATED in steps)


@pytest.mark.P7
def test_counts_and_risk_are_of_all_steps() -> None:
    found = judged(CREATED, OBSERVED, OBSERVED, REVIEWED, SCRATCH, BLOCKED)
    assert found.counts == StepCounts(create=1, command=1, observed=2, scratch=1, blocked=1)
    assert found.risk is Risk.CAUTION
    assert judged(DENIED).risk is Risk.DANGER


@pytest.mark.P7
def test_the_notes_carry_what_is_said_of_a_command() -> None:
    notes = unpack_notes(judged(replace(REVIEWED, assumed=True), CREATED).notes).steps
    assert notes[0]["reason"].startswith("changes what services do; assumed")
    assert "comes after step 1, which is assumed" in notes[1]["reason"]
    assert [decode(StepNote, note).risk for note in notes] == [Risk.CAUTION, Risk.SAFE]


@pytest.mark.P7
def test_programs_that_ran_inside_stand_beside_the_plan() -> None:
    programs = [
        {"argv": ["rm", "a\udcff"], "count": 3, "cut": False},
        {"argv": [], "count": 7, "cut": True},
    ]
    with_them, without = judged(SCRATCH, programs=programs), judged(SCRATCH)
    assert unpack_notes(with_them.notes).programs == programs
    assert unpack_notes(without.notes).programs == []
    assert with_them.digest == without.digest


@pytest.mark.P10
@pytest.mark.parametrize(
    "programs", ["x", [1], [{}], [{"argv": "rm", "count": 1}], [{"argv": [], "count": "1"}], None]
)
def test_programs_that_are_none_are_refused(programs: object) -> None:
    with pytest.raises(ValueError, match="programs"):
        judged(SCRATCH, programs=programs)


@pytest.mark.P10
@pytest.mark.parametrize("notes", [{}, [], [1], [{"diff": 1}], [{}, {}]])
def test_notes_that_are_none_are_refused(notes: object) -> None:
    with pytest.raises(ValueError, match=r"note|diff"):
        judge(recorded(CREATED, notes=notes), session="s", policy_version="v")


def test_an_apply_is_noted_with_what_its_commands_did() -> None:
    found = judged(CREATED, REVIEWED, OBSERVED, programs=[{"argv": ["ls"], "count": 1}])
    result = CommandResult(3, "out\udcff", "", 0.5, truncated=("stdout",))
    marked = unpack_notes(
        mark_applied(found.notes, {0: "done", 1: "failed", 9: "done"}, {1: result})
    )
    notes = [decode(StepNote, note) for note in marked.steps]
    assert [note.applied for note in notes] == ["done", "failed", None]
    assert [note.result for note in notes] == [None, result, None]
    assert marked.programs == unpack_notes(found.notes).programs


def test_notes_of_an_earlier_version_are_read() -> None:
    old = msgpack.packb([{"risk": "safe", "reason": "x", "applied": None}])
    assert unpack_notes(old).programs == []
    assert unpack_notes(mark_applied(old, {0: "done"})).steps[0]["applied"] == "done"
