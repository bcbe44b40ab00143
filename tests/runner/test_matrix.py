"""Every change of every kind of path: dry run, plan, apply, against running it plainly (P1, P2).

Through the whole runner, under both builders, as root and as an ordinary identity.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


# Only root gives files away.
ANYBODYS = [name for name in SCENARIOS if not name.startswith("owner-")]


@contextmanager
def twins(name: str, home: Path, run_as: str | None) -> Iterator[Place]:
    """Two directories of the account `name` below its home."""
    who = overlays.who(name)
    top = Path(tempfile.mkdtemp(prefix="shannot-matrix-", dir=home))
    try:
        os.chmod(top, 0o755)
        os.chown(top, who.uid, who.gid)
        for side in ("host", "copy"):
            (top / side).mkdir()
            os.chown(top / side, who.uid, who.gid)
        yield Place(top / "host", top / "copy", who, run_as)
    finally:
        overlays.remove(top)


@pytest.mark.parametrize("name", ANYBODYS)
def test_as_the_runners_own_identity(bench: Bench, name: str) -> None:
    with twins(pwd.getpwuid(bench.uid).pw_name, bench.home, None) as places:
        compare(bench, places, name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("builder", ["privileged"], indirect=True)
@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - set(ANYBODYS)))
def test_owners(bench: Bench, name: str) -> None:
    with twins("root", bench.home, None) as places:
        compare(bench, places, name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root takes another identity")
@pytest.mark.parametrize("builder", ["privileged"], indirect=True)
@pytest.mark.parametrize("name", ANYBODYS)
def test_as_another_identity(bench: Bench, account: str, name: str) -> None:
    with twins(account, Path(f"/home/{account}"), account) as places:
        compare(bench, places, name)


def compare(bench: Bench, places: Place, name: str) -> None:
    """Dry run and apply of a scenario in one directory, the plain script in the other."""
    scenario = SCENARIOS[name]
    for side in (places.host, places.copy):
        overlays.run_script(layout_script(scenario), str(side), places.who)
    before = overlays.snapshot(places.host)
    overlays.run_script(change_script(scenario), str(places.copy), places.who)

    outcome = bench.run("python", change_script(scenario), str(places.host), run_as=places.run_as)
    assert outcome.exit_code == 0, outcome.stderr.decode()
    assert outcome.error is None, outcome.error
    assert overlays.snapshot(places.host) == before, "the dry run touched the host"

    expected = overlays.snapshot(places.copy)
    for path in scenario.untouched:
        blocked = [step["target"] for step in outcome.steps if step["kind"] == "blocked"]
        # A FIFO that becomes a FIFO is no change, so there is nothing to tell.
        assert f"{places.host}/{path}" in blocked or before[path]["type"] == "fifo"
        for found in (before, expected):
            for entry in [entry for entry in found if (entry + "/").startswith(path + "/")]:
                del found[entry]

    steps, error = bench.runner.apply(outcome)
    assert error is None, error
    after = overlays.snapshot(places.host)
    for path in scenario.untouched:
        for entry in [entry for entry in after if (entry + "/").startswith(path + "/")]:
            del after[entry]
    assert after == expected
    assert {step["applied"] for step in steps} <= {"done", "skipped"}
