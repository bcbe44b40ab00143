"""Every change of every kind of path: dry run, plan, apply, against running it plainly (P1, P2).

Through the whole runner, under both builders, as root and as an ordinary identity.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.scenarios import SCENARIOS, change_script, layout_script

pytestmark = [pytest.mark.P1, pytest.mark.P2]


@dataclass(frozen=True)
class Place:
    """Two directories alike, and the identity that works in them."""

    host: Path
    copy: Path
    who: Identity
    run_as: str | None


IDENTITIES = [("privileged", "own"), ("privileged", "another"), ("one-uid", "own")]
CASES = [
    (builder, identity, name)
    for builder, identity in (IDENTITIES if os.geteuid() == 0 else IDENTITIES[2:])
    for name in SCENARIOS
    # Only root gives files away.
    if not name.startswith("owner-") or (builder, identity) == ("privileged", "own")
]


@pytest.fixture
def twins(bench: Bench, request: pytest.FixtureRequest, account: str) -> Iterator[Place]:
    run_as = None
    name = pwd.getpwuid(bench.uid).pw_name
    home = bench.home
    if request.param == "another":
        run_as = name = account
        home = Path(f"/home/{account}")
    who = overlays.who(name)
    top = Path(tempfile.mkdtemp(prefix="shannot-matrix-", dir=home))
    os.chmod(top, 0o755)
    os.chown(top, who.uid, who.gid)
    for side in ("host", "copy"):
        (top / side).mkdir()
        os.chown(top / side, who.uid, who.gid)
    yield Place(top / "host", top / "copy", who, run_as)
    # Some are deeper than Python's own recursion goes.
    subprocess.run(["rm", "-rf", str(top)], check=True)


@pytest.mark.parametrize(
    ("builder", "twins", "name"), CASES, indirect=["builder", "twins"], scope="session"
)
def test_dry_run_and_apply_equal_running_it(bench: Bench, twins: Place, name: str) -> None:
    """`another`: a privileged runner that runs the script as an ordinary account."""
    scenario = SCENARIOS[name]
    for side in (twins.host, twins.copy):
        overlays.run_script(layout_script(scenario), str(side), twins.who)
    before = overlays.snapshot(twins.host)
    overlays.run_script(change_script(scenario), str(twins.copy), twins.who)

    outcome = bench.run("python", change_script(scenario), str(twins.host), run_as=twins.run_as)
    assert outcome.exit_code == 0, outcome.stderr.decode()
    assert outcome.error is None, outcome.error
    assert overlays.snapshot(twins.host) == before, "the dry run touched the host"

    expected = overlays.snapshot(twins.copy)
    for path in scenario.untouched:
        blocked = [step["target"] for step in outcome.steps if step["kind"] == "blocked"]
        # A FIFO that becomes a FIFO is no change, so there is nothing to tell.
        assert f"{twins.host}/{path}" in blocked or before[path]["type"] == "fifo"
        for found in (before, expected):
            for entry in [entry for entry in found if (entry + "/").startswith(path + "/")]:
                del found[entry]

    steps, error = bench.runner.apply(outcome)
    assert error is None, error
    after = overlays.snapshot(twins.host)
    for path in scenario.untouched:
        for entry in [entry for entry in after if (entry + "/").startswith(path + "/")]:
            del after[entry]
    assert after == expected
    assert {step["applied"] for step in steps} <= {"done", "skipped"}
