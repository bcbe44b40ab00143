"""What the runner tells of a plan that it has changed, taken over or refused."""

from __future__ import annotations

import json

import pytest

from shannotd.sessions.amending import Result, Told, follow
from shannotd.sessions.plans import Notes
from shannotd.sessions.recorded import Recorded
from shannotd.wire.amendment import Amendment, DroppedStep, EditedStep
from shannotd.wire.plan import Plan


def plan_before() -> Plan:
    steps = [
        {"kind": "file", "change": "create", "path": "/a"},
        {"kind": "file", "change": "rename", "path": "/c", "old_path": "/b"},
        {"kind": "command", "argv": ["systemctl", "reload", "x y"], "decision": "review"},
    ]
    plan = {
        "format": 1,
        "session": "s",
        "target": {"kind": "local", "host": "h"},
        "identity": {"name": "n", "uid": 0, "gid": 0, "groups": [], "umask": 18},
        "policy_version": "1",
        "on_failure": "rollback",
        "steps": steps,
    }
    return Plan.parse(json.dumps(plan).encode())


def followed(told: Told, notes: object) -> tuple[Recorded, Amendment]:
    before = [
        {"diff": f"+{name}\n", "binary": name == "b", "too_large": False, "risk": "safe"}
        for name in "abc"
    ]
    made = Recorded("d", "s", b"{}", json.dumps(notes).encode())
    return follow(Result(made, told), plan_before(), Notes(before, []))


def test_notes_that_hold_are_taken_over_and_words_say_what_is_gone() -> None:
    told = Told((1,), (0, 2), ((0, 2), (0, 0)), (0,), ((0, 0),))
    plan, amendment = followed(told, [{}])
    assert json.loads(plan.notes) == [{"diff": "+b\n", "binary": True, "too_large": False}]
    assert amendment == Amendment(
        (DroppedStep(0, "create /a", (0,)), DroppedStep(2, "run systemctl reload 'x y'", (0,))),
        (EditedStep(0, 1, 0),),
    )
    _, other = followed(Told((0, 2), (1,)), [{"diff": None}, {}])
    assert other.dropped == (DroppedStep(1, "rename /b to /c"),)


@pytest.mark.P10
@pytest.mark.parametrize(
    ("told", "notes"),
    [
        (Told((0, 1), ()), [{}, {}]),
        (Told((0, 1, 3), (2,)), [{}] * 3),
        (Told((0, 1), (1, 2)), [{}] * 2),
        (Told((0, 1), (2,)), [{}]),
        (Told((0, 1), (2,)), [{}, None]),
        (Told((0, 1), (2,)), {}),
        (Told((0, 1), (2,), ((2, 2),)), [{}] * 2),
        (Told((0, 1), (2,), ((0, 1),)), [{}] * 2),
        (Told((0, 1), (2,), ((0, 2, 3),)), [{}] * 2),
        (Told((0, 1), (2,), (), (2,)), [{}] * 2),
        (Told((0, 1), (2,), (), (0,), ((1, 0),)), [{}] * 2),
        (Told((0, 1), (2,), (), (0,), ((0, -1),)), [{}] * 2),
    ],
)
def test_what_does_not_fit_is_refused(told: Told, notes: object) -> None:
    with pytest.raises(ValueError):
        followed(told, notes)
