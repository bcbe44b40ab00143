"""Directories that a session closed meanwhile, rolled back and when a plan fails (P4, P9)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shannotd.runner import plan
from shannotd.runner.plan import FileStep
from tests.runner import overlays
from tests.runner.overlays import Recording
from tests.runner.test_delta import HOST
from tests.support.accounts import is_root
from tests.support.applying import shell
from tests.support.phases import Phase, perform, record_phases
from tests.support.rolled import LAYOUT, ROOT, Host, around

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")

# What several batches do with a directory that its owner may not write meanwhile.
CLOSED: dict[str, list[Phase]] = {
    "closed twice": [[("chmod", "d", 0o500)], [("chmod", "d", 0o400)]],
    "closed and opened": [[("chmod", "d", 0o555)], [("chmod", "d", 0o700)]],
    "made, closed and opened": [
        [("mkdir", "new"), ("chmod", "new", 0o500)],
        [("chmod", "new", 0o750)],
    ],
    "closed and gone": [[("chmod", "d", 0o555)], [("remove", "d")]],
    "closed and made anew": [
        [("chmod", "d", 0o500)],
        [("remove", "d")],
        [("mkdir", "d"), ("chmod", "d", 0o500)],
        [("chmod", "d", 0o710)],
    ],
    "closed, filled and closed": [
        [("chmod", "d", 0o500)],
        [("chmod", "d", 0o555), ("write", "d/new", "x")],
        [("chmod", "d", 0o500)],
    ],
}


def closed(host: Host, name: str, *last: plan.CommandStep) -> tuple[plan.Plan, Any]:
    """A plan of them, a command after each; and the `last` commands."""
    perform(str(host.directory), HOST)
    perform(str(host.directory), [("age-all",)])
    steps: list[Any] = []
    contents: dict[str, bytes] = {}
    for recording in record_phases(host.top, CLOSED[name], ROOT):
        steps += [*recording.steps, shell("true")]
        contents.update(recording.contents)
    return overlays.plan_of(Recording((*steps, *last), (), contents), ROOT), contents


@pytest.mark.P9
@pytest.mark.parametrize("name", CLOSED)
def test_a_directory_that_was_closed_meanwhile(name: str, host: Host) -> None:
    found, contents = closed(host, name)
    before = host.snapshot()
    assert host.apply(found, contents).error is None
    after = host.snapshot()
    host.roll_back()
    assert host.snapshot() == before
    host.roll_back("rollback", "redo")
    assert host.snapshot() == after


@pytest.mark.P4
@pytest.mark.parametrize("name", CLOSED)
def test_a_directory_that_was_closed_meanwhile_when_a_plan_fails(name: str, host: Host) -> None:
    found, contents = closed(host, name, shell("exit 1"))
    before = host.snapshot()
    applied = host.apply(found, contents)
    assert applied.code == "command_failed"
    assert applied.error is not None
    assert "rolled back" in applied.error["details"]["before"]
    assert host.snapshot() == before


@pytest.mark.P4
def test_metadata_that_changed_twice_is_taken_back_when_a_plan_fails(host: Host) -> None:
    host.lay_out(LAYOUT)
    before = host.snapshot()
    twice = host.record("os.chmod('d/mode', 0o600)\nos.chmod('d', 0o700)")
    later = host.record("os.chmod('d/mode', 0o640)\nos.chmod('d', 0o750)")
    steps = [
        replace(step, before=replace(first.after, links=None))
        for first, step in zip(twice.steps, later.steps, strict=True)
    ]
    directory = next(step for step in steps if step.path == f"{host.directory}/d")
    moved = FileStep(
        "rename",
        f"{host.directory}/e",
        directory.after,
        directory.after,
        old_path=f"{host.directory}/d",
    )
    found, _ = around(
        host, *twice.steps, shell("true"), *steps, shell("true"), moved, shell("exit 1")
    )
    applied = host.apply(found, {})
    assert applied.code == "command_failed"
    assert applied.error is not None
    assert "rolled back" in applied.error["details"]["before"]
    assert host.snapshot() == before
