"""Capture: what a script did on a real overlay, recorded, applied and compared (P2)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.runner.overlays import Recording
from tests.scenarios import OWNERS, SCENARIOS, Scenario, change_script, layout_script
from tests.support.accounts import is_root

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")


def lay_out(top: Path, scenario: Scenario, owner: Identity) -> None:
    """The starting state in `top`/host, and the same in `top`/copy."""
    for name in ("host", "copy"):
        overlays.run_script(layout_script(scenario), str(top / name), owner)


def check(scenario: Scenario, owner: Identity, builder: str) -> Recording:
    """Dry-run, apply, and compare with the script run plainly on a copy."""
    with overlays.workplace(owner) as top:
        lay_out(top, scenario, owner)
        before = overlays.snapshot(top / "host")
        recording = overlays.dry_run(top, change_script(scenario), owner, builder=builder)
        assert overlays.snapshot(top / "host") == before
        overlays.run_script(change_script(scenario), str(top / "copy"), owner)
        applied = overlays.apply_plan(overlays.plan_of(recording, owner), recording.contents)
        assert applied.error is None
        wanted = overlays.snapshot(top / "copy")
        found = overlays.snapshot(top / "host")
        for path in scenario.untouched:
            keep(wanted, before, path)
        assert found == wanted
        assert [name for name in os.listdir(top) if name.startswith(".")] == []
        return recording


def keep(wanted: overlays.Snapshot, before: overlays.Snapshot, path: str) -> None:
    """What is expected at `path` is what was there before."""
    for snapshot in (wanted,):
        for name in [name for name in snapshot if (name + "/").startswith(path + "/")]:
            del snapshot[name]
    for name, state in before.items():
        if (name + "/").startswith(path + "/"):
            wanted[name] = state


@pytest.mark.P2
@pytest.mark.parametrize("name", SCENARIOS)
def test_as_root(name: str) -> None:
    check(SCENARIOS[name], overlays.who(None), "privileged")


@pytest.mark.P2
@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - {f"owner-{name}" for name in OWNERS}))
@pytest.mark.parametrize("builder", ["privileged", "one-uid"])
def test_as_an_ordinary_account(name: str, builder: str, ordinary: Identity) -> None:
    check(SCENARIOS[name], ordinary, builder)
