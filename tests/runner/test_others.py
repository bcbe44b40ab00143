"""What commands are given that somebody else can change after the approval (P2)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner.others import others
from shannotd.runner.plan import ABSENT, CommandStep, FileState, FileStep, Identity
from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.applying import command
from tests.support.runner import review

pytestmark = [pytest.mark.P2, pytest.mark.skipif(not is_root(), reason="gives files away")]
ROOT = Identity("root", 0, 0, (0,), 0o022)
ACCOUNT, STRANGER = 54321, 54322


@pytest.fixture
def place() -> Iterator[Path]:
    """Where everything is root's, up to `/`."""
    with tempfile.TemporaryDirectory(dir="/root") as directory:
        yield Path(directory)


def given(*arguments: str, cwd: str = "/", who: Identity = ROOT, before: object = None) -> object:
    step: CommandStep = command("/bin/cat", *arguments, cwd=cwd)
    steps = [step] if before is None else [before, step]
    return others(steps, who).get(len(steps) - 1, [])


def test_who_owns_a_file_or_a_directory_on_the_way_can_change_it(place: Path) -> None:
    (place / "d").mkdir()
    path = place / "d/file"
    path.write_text("")
    assert given(str(path)) == []
    os.chown(path, ACCOUNT, -1)
    assert given(str(path)) == [str(path)]
    assert given(f"--config={path}", "-v") == [str(path)]
    assert given(f"-I{path}") == [str(path)]
    assert given("d/file", cwd=str(place)) == [str(path)]
    assert given("file", cwd=str(place)) == []
    os.chown(path, 0, -1)
    os.chown(place / "d", ACCOUNT, -1)
    assert given(str(path)) == [str(path)]
    (place / "link").symlink_to("d/file")
    assert given(str(place / "link")) == [str(place / "link")]


def test_the_plans_own_account_is_no_other(place: Path) -> None:
    path = place / "file"
    path.write_text("")
    os.chown(path, ACCOUNT, -1)
    assert given(str(path), who=Identity("a", ACCOUNT, 1, (1,), 0o022)) == []
    assert given(str(path), who=Identity("b", STRANGER, 1, (1,), 0o022)) == [str(path)]


def test_where_everybody_may_write_anybody_can(place: Path) -> None:
    (place / "d").mkdir()
    path = place / "d/file"
    path.write_text("")
    path.chmod(0o666)
    assert given(str(path)) == [str(path)]
    path.chmod(0o664)
    assert given(str(path)) == []
    (place / "d").chmod(0o777)
    assert given(str(path)) == [str(path)]
    (place / "d").chmod(0o1777)
    assert given(str(path)) == []


def test_what_the_plan_itself_makes_there(place: Path) -> None:
    os.chown(place, ACCOUNT, -1)
    path = str(place / "x.service")
    assert given("link", path) == []
    made = FileStep("create", path, ABSENT, FileState("file", 0o644, 0, 0, 0, "a" * 64))
    assert given("link", path, before=made) == [path]


def test_only_commands_that_run_and_so_many(place: Path) -> None:
    names = []
    for number in range(20):
        (place / str(number)).write_text("")
        os.chown(place / str(number), ACCOUNT, -1)
        names.append(str(place / str(number)))
    assert given(*names) == names[:8]
    observed = command("/bin/cat", names[0], decision="observe")
    assert others([observed], ROOT) == {}


def test_a_plan_has_it_beside_the_command(bench: Bench, place: Path) -> None:
    """As the runner sees it when the dry run ends; also of what the script makes there."""
    if bench.builder != "privileged":
        pytest.skip("root's runner")
    os.chown(place, ACCOUNT, -1)
    script = f"echo '[Unit]' > {place}/x.service; df {place}/x.service; df /etc/hostname"
    outcome = bench.run("shell", script, shims=["df"], decide=lambda call: review(), run_as="root")
    assert outcome.error is None, outcome
    beside = [
        note["others"]
        for step, note in zip(outcome.steps, outcome.notes, strict=True)
        if step["kind"] == "command"
    ]
    assert beside == [[f"{place}/x.service"], []]
