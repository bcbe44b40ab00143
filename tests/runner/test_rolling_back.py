"""Rolling back: what an applied session did is taken back, by a plan like any other (P2, P9)."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shannotd.runner import checkpoints, plan, tree
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import FileStep, Identity
from tests.runner import overlays
from tests.runner.overlays import Recording
from tests.runner.test_delta import HOST, with_directories
from tests.runner.test_recovery import Kill, killed_apply, resumed
from tests.scenarios import SCENARIOS, change_script, layout_script
from tests.support.accounts import is_root
from tests.support.applying import shell
from tests.support.phases import Phase, perform, record_phases
from tests.support.rolled import (
    CHANGE,
    FIRST,
    LAYOUT,
    PLACES,
    ROOT,
    SHOWN,
    Host,
    around,
    conflicts_of,
)
from tests.support.runner import Outcome

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")

# Trees of a thousand levels, of which each path is long: once there and back is enough.
DEEP = {"change-deep", "change-deep_gone", "change-deep_change"}
# What an account cannot do with a file that it may not read itself: see docs/apply.md.
UNREADABLE = {"change-unreadable", "change-closed_after_change"}


def steps_of(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """The steps of a plan by their paths' last names, with the notes beside them."""
    return {
        step["path"].rpartition("/")[2]: {**step, "note": note}
        for step, note in zip(outcome.steps, outcome.notes, strict=True)
    }


@pytest.mark.P9
@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_is_as_before_and_again_as_after(name: str, top: Path) -> None:
    host = Host(top, ROOT)
    _there_and_back(host, name)


@pytest.mark.P9
@pytest.mark.parametrize("own", [False, True], ids=["by-root", "by-itself"])
@pytest.mark.parametrize(
    "name",
    sorted({name for name in SCENARIOS if name.startswith("change-")} - DEEP - UNREADABLE),
)
def test_an_account_takes_back_what_it_did(
    name: str, own: bool, top: Path, ordinary: Identity
) -> None:
    _there_and_back(Host(top, ordinary, own=own), name)


def _there_and_back(host: Host, name: str) -> None:
    scenario = SCENARIOS[name]
    overlays.run_script(layout_script(scenario), str(host.directory), host.who)
    before = host.snapshot()
    recording = overlays.dry_run(host.top, change_script(scenario), host.who, builder="privileged")
    if not any(isinstance(step, FileStep) and not step.scratch for step in recording.steps):
        return
    applied = host.apply(overlays.plan_of(recording, host.who), recording.contents)
    assert applied.error is None, applied.error
    after = host.snapshot()
    host.roll_back()
    assert host.snapshot() == before
    if name in DEEP:
        return
    host.roll_back("rollback", "redo")
    assert host.snapshot() == after
    host.roll_back("redo", "and-back-again")
    assert host.snapshot() == before


# What the plan shows


@pytest.mark.P7
def test_the_plan_shows_what_is_there_and_what_will_be(host: Host) -> None:
    host.lay_out(LAYOUT)
    host.do(SHOWN)
    outcome = host.ask()
    steps = steps_of(outcome)
    changes = {name: step["change"] for name, step in steps.items()}
    assert changes == {
        "file": "modify",
        "fresh": "delete",
        "gone": "create",
        "name": "rename",
        "mode": "metadata",
        "log": "modify",
    }
    assert "-new\n+old\n" in steps["file"]["note"]["diff"]
    assert "-fresh\n" in steps["fresh"]["note"]["diff"]
    assert "+gone\n" in steps["gone"]["note"]["diff"]
    assert " first\n-second\n" in steps["log"]["note"]["diff"]
    assert steps["mode"]["after"]["mode"] == 0o644
    assert {note["changed"] for note in outcome.notes} == {None}
    assert plan.seal(overlays.KEY, "rollback", outcome.digest) == outcome.seal
    found = plan.parse(outcome.canonical)
    assert (found.session, found.identity, found.on_failure) == ("rollback", ROOT, "rollback")
    assert outcome.staying == []


def test_a_file_with_other_names_is_told(host: Host) -> None:
    host.lay_out(LAYOUT)
    host.do(SHOWN)
    host.script("os.link('d/file', 'd/twin')")
    assert steps_of(host.ask())["file"]["before"]["links"] == 2


@pytest.mark.P7
def test_what_cannot_be_shown_says_so(host: Host) -> None:
    host.lay_out("write('binary', 'x\\0y')\nwrite('large', 'x\\n' * 700_000)")
    host.do("write('binary', 'other\\0')\nwrite('large', 'y\\n' * 700_000)\nwrite('l', 'z' * 10)")
    steps = steps_of(host.ask())
    assert steps["binary"]["note"]["binary"]
    assert steps["large"]["note"]["too_large"]
    assert steps["l"]["note"]["diff"] is not None


# What there is besides


def test_a_deleted_tree_with_special_files_comes_back(host: Host) -> None:
    host.lay_out("make('full_directory', 'tree', 'x')\nos.mkfifo('tree/sub/fifo', 0o640)")
    tree_ = host.directory / "tree"
    os.mknod(tree_ / "null", 0o620 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(tree_ / "loop", 0o660 | stat.S_IFBLK, os.makedev(7, 250))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{os.open(tree_, os.O_RDONLY)}/socket")
    before = host.snapshot()
    host.do("shutil.rmtree('tree')")
    assert not tree_.exists()
    host.roll_back()
    assert host.snapshot() == before
    assert os.stat(tree_ / "null").st_rdev == os.makedev(1, 3)
    assert os.stat(tree_ / "loop").st_rdev == os.makedev(7, 250)


@pytest.mark.P5
def test_an_account_makes_no_device_node(top: Path, ordinary: Identity) -> None:
    host = Host(top, ordinary)
    host.lay_out("os.mkdir('tree')")
    os.mknod(host.directory / "tree/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.chown(host.directory / "tree/null", ordinary.uid, ordinary.gid)
    host.do("shutil.rmtree('tree')")
    outcome = host.ask()
    assert outcome.error is not None and outcome.error["code"] == "not_permitted"
    assert outcome.error["details"]["path"] == f"{host.directory}/tree/null"


def test_a_link_that_was_broken_stays_broken(host: Host) -> None:
    host.lay_out("write('one', 'old\\n')\nos.link('one', 'two')")
    host.do("os.unlink('two')\nwrite('two', 'new\\n')")
    host.roll_back()
    one, two = (host.directory / name for name in ("one", "two"))
    assert one.read_text() == two.read_text() == "old\n"
    assert one.stat().st_ino != two.stat().st_ino


@pytest.mark.parametrize("own", [False, True], ids=["by-root", "by-itself"])
def test_files_that_are_too_large_to_be_hashed_as_a_matter_of_course(
    own: bool, top: Path, ordinary: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All processes are forked from this one.
    monkeypatch.setattr(tree, "HASHED_BYTES", 10_000)
    host = Host(top, ordinary if own else ROOT, own=own)
    host.lay_out(
        "for name in ('changed', 'longer', 'mode', 'time', 'moved', 'gone'):\n"
        "    write(name, name * 20_000)"
    )
    before = host.snapshot()
    host.do(
        "write('changed', 'x' * 30_000)\nwrite('new', 'y' * 40_000)\n"
        "open('longer', 'a').write('z' * 50_000)\nos.chmod('mode', 0o600)\n"
        "os.utime('time', (10**9, 10**9))\nos.rename('moved', 'there')\nos.unlink('gone')"
    )
    after = host.snapshot()
    host.roll_back()
    assert host.snapshot() == before
    host.roll_back("rollback", "redo")
    assert host.snapshot() == after
    host.script("write('new', 'w' * 40_000)")
    assert set(conflicts_of(host, host.ask("redo"))) == {"new"}


def test_an_append_to_a_file_that_had_grown(host: Host) -> None:
    host.lay_out("write('log', 'first\\n')")
    recording = host.record("open('log', 'a').write('second\\n')")
    host.script("open('log', 'a').write('theirs\\n')")
    grown = host.snapshot()
    applied = host.apply(overlays.plan_of(recording, ROOT), recording.contents)
    assert applied.error is None
    assert (host.directory / "log").read_text() == "first\ntheirs\nsecond\n"
    host.roll_back()
    assert host.snapshot() == grown
    host.roll_back("rollback", "redo")
    assert (host.directory / "log").read_text() == "first\ntheirs\nsecond\n"


@pytest.mark.P9
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(with_directories, max_size=5), min_size=1, max_size=4))
@example([[("mkdir", "new"), ("write", "new/a", "x")], [("rename", "d", "new/e")], [("age", "a")]])
@example([[("write", "new", "x")], [("chmod", "new", 0o600)], [("write", "new", "y")]])
@example([[("remove", "d")], [("mkdir", "d"), ("write", "d/a", "")], [("remove", "d/a")]])
@example([[("write", "a", "x"), ("chmod", "b", 0o600)], [("rename", "a", "new"), ("remove", "b")]])
def test_any_session_is_taken_back_and_done_again(wanted: list[Phase]) -> None:
    with overlays.workplace(ROOT) as top:
        host = Host(top, ROOT)
        perform(str(host.directory), HOST)
        # Times that are promised are told apart from others by their age.
        perform(str(host.directory), [("age-all",)])
        before = host.snapshot()
        try:
            recordings = record_phases(top, wanted, ROOT)
        except RunnerError as error:
            assert error.code == "capture_failed"
            return
        steps: list[Any] = []
        contents: dict[str, bytes] = {}
        for recording in recordings:
            steps += [*recording.steps, shell("true")]
            contents.update(recording.contents)
        if all(step.kind == "command" for step in steps):
            return
        found = overlays.plan_of(Recording(tuple(steps), (), contents), ROOT)
        applied = host.apply(found, contents)
        assert applied.error is None, applied.error
        after = host.snapshot()
        host.roll_back()
        assert host.snapshot() == before, steps
        host.roll_back("rollback", "redo")
        assert host.snapshot() == after, steps
        host.roll_back("redo", "again")
        assert host.snapshot() == before, steps


@pytest.mark.P4
def test_what_failed_and_was_kept_is_taken_back(host: Host) -> None:
    host.lay_out(LAYOUT)
    before = host.snapshot()
    found, contents = around(
        host, SHOWN, shell("exit 1"), "write('d/late', 'x')", shell("true"), on_failure="keep"
    )
    assert host.apply(found, contents).code == "command_failed"
    outcome = host.ask()
    index = next(i for i, step in enumerate(found.steps) if step.kind == "command")
    assert [(one["step"], one["reason"]) for one in outcome.staying] == [
        (index, "it did not end as it should have: what it did is not known")
    ]
    assert outcome.staying[0]["argv"] == list(found.steps[index].argv)
    host.roll_back()
    assert host.snapshot() == before


def test_nothing_that_could_be_taken_back(host: Host) -> None:
    host.lay_out(LAYOUT)
    found, contents = around(host, shell("true"))
    assert host.apply(found, contents).error is None
    outcome = host.ask()
    assert outcome.error is not None and outcome.error["code"] == "not_reversible"
    assert "no file" in outcome.error["details"]["reason"]


def test_everything_was_taken_back_by_hand(host: Host) -> None:
    host.lay_out(LAYOUT)
    host.do("write('d/fresh', 'x')")
    host.script("os.unlink('d/fresh')")
    assert set(conflicts_of(host, host.ask())) == {"d/fresh"}
    outcome = host.ask(force_all=True)
    assert outcome.error is not None and outcome.error["code"] == "not_reversible"


@pytest.mark.P5
def test_an_account_has_no_rights_that_it_has_lost_since(top: Path, ordinary: Identity) -> None:
    host = Host(top, replace(ordinary, groups=(*ordinary.groups, 4)))
    host.lay_out("os.mkdir('d')")
    host.do("write('d/file', 'new')")
    assert host.roll_back().identity == ordinary


@pytest.mark.P5
@pytest.mark.parametrize("change", [{"uid": 12345}, {"gid": 12345}, {"name": "no-such-account"}])
def test_another_account_of_that_name_is_refused(
    change: dict[str, Any], top: Path, ordinary: Identity
) -> None:
    host = Host(top, replace(ordinary, **change))
    host.lay_out("os.mkdir('d')")
    host.do("write('d/file', 'new')")
    outcome = host.ask()
    assert outcome.error is not None and outcome.error["code"] == "identity_refused"


# Which sessions


def test_what_was_never_applied_or_failed_and_was_taken_back(host: Host) -> None:
    outcome = host.ask("another")
    assert outcome.error is not None and outcome.error["code"] == "checkpoint_unknown"
    host.lay_out(LAYOUT)
    found, contents = around(host, SHOWN, shell("exit 1"))
    assert host.apply(found, contents).code == "command_failed"
    outcome = host.ask()
    assert outcome.error is not None and outcome.error["code"] == "not_reversible"


@pytest.mark.P4
@pytest.mark.parametrize("point", ["checked", "staged", "changed", "done"])
def test_a_rollback_that_is_killed_is_itself_taken_back(point: str, host: Host) -> None:
    host.lay_out(PLACES)
    before = host.snapshot()
    host.do(CHANGE)
    after = host.snapshot()
    outcome = host.ask()
    found = plan.parse(outcome.canonical)
    recording = Recording(found.steps, (), outcome.blobs)
    killed_apply(found, recording, host.state, Kill(point))
    assert resumed(host.state, "rollback").code in (None, "apply_interrupted")
    if point == "done":
        assert host.snapshot() == before
        return
    assert host.snapshot() == after
    # It came to nothing, so that another may do it.
    host.roll_back(session="second")
    assert host.snapshot() == before


@pytest.mark.P4
def test_an_apply_that_was_cut_short_is_brought_to_an_end_first(host: Host) -> None:
    host.lay_out(PLACES)
    before = host.snapshot()
    recording = host.record(CHANGE)
    killed_apply(overlays.plan_of(recording, ROOT), recording, host.state, Kill("changed", 3))
    assert checkpoints.unfinished(str(host.state)) == [FIRST]
    outcome = host.ask()
    assert outcome.error is not None and outcome.error["code"] == "not_reversible"
    assert checkpoints.unfinished(str(host.state)) == []
    assert host.snapshot() == before


@pytest.mark.P10
@pytest.mark.parametrize("header", [{"of": "../x"}, {"session": "a/b"}, {"of": "rollback"}])
def test_what_is_no_request_is_refused(header: dict[str, str], host: Host) -> None:
    outcome = host.ask(header=header)
    assert outcome.error is not None and outcome.error["code"] == "invalid_request"


@pytest.mark.P10
def test_a_checkpoint_that_cannot_be_read_says_so(host: Host) -> None:
    host.lay_out(LAYOUT)
    host.do(SHOWN)
    (host.state / "checkpoints" / FIRST / "index").write_bytes(b"")
    outcome = host.ask()
    assert outcome.error is not None and outcome.error["code"] == "not_reversible"
    assert "its checkpoint lacks" in outcome.error["details"]["reason"]
    (host.state / "checkpoints" / FIRST / "plan").write_bytes(b"{}")
    outcome = host.ask()
    assert outcome.error is not None and outcome.error["code"] == "not_reversible"
    (host.state / "checkpoints" / FIRST / "plan").unlink()
    outcome = host.ask()
    assert outcome.error is not None and outcome.error["code"] == "checkpoint_unknown"
