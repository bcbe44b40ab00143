"""Rolling back: what an applied session did is taken back, by a plan like any other (P2, P9)."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shannotd.runner import checkpoints, libraries, plan, tree
from shannotd.runner.frames import RunnerError
from shannotd.runner.identity import machine
from shannotd.runner.plan import FileStep, Identity
from tests.runner import overlays
from tests.runner.overlays import Recording
from tests.runner.test_delta import HOST, with_directories
from tests.runner.test_recovery import Kill, killed_apply, resumed
from tests.scenarios import SCENARIOS, change_script, layout_script
from tests.support.accounts import is_root
from tests.support.applying import command, shell
from tests.support.mixed import bed
from tests.support.phases import Phase, perform, record_phases
from tests.support.rolled import FIRST, Host
from tests.support.runner import Outcome, review, verdict

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")
ROOT = overlays.who("root")

# Trees of a thousand levels, of which each path is long: once there and back is enough.
DEEP = {"change-deep", "change-deep_gone", "change-deep_change"}
# What an account cannot do with a file that it may not read itself: see docs/apply.md.
UNREADABLE = {"change-unreadable", "change-closed_after_change"}


@pytest.fixture
def host(top: Path) -> Host:
    return Host(top, ROOT)


def wanted(host: Host, outcome: Outcome) -> dict[str, tuple[str, str]]:
    """The conflicts: what was expected and found, by the path below the directory."""
    prefix = f"{host.directory}/"
    return {
        one["path"].removeprefix(prefix): (one["expected"], one["found"])
        for one in outcome.conflicts
    }


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

SHOWN = """
write('d/file', 'new\\n')
write('d/fresh', 'fresh\\n')
os.unlink('d/gone')
os.rename('d/name', 'd/other')
os.chmod('d/mode', 0o600)
open('d/log', 'a').write('second\\n')
"""
LAYOUT = """
os.mkdir('d')
write('d/file', 'old\\n')
write('d/gone', 'gone\\n')
write('d/name', 'name\\n')
write('d/mode', 'mode\\n')
write('d/log', 'first\\n')
"""


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


# Conflicts

CHANGE = """
write('d/file', 'new\\n')
write('d/fresh', 'fresh\\n')
os.unlink('d/gone')
os.rename('d/name', 'd/other')
os.chmod('d/mode', 0o600)
os.makedirs('d/new/deeper')
write('d/new/deeper/file', 'x')
os.rename('d/moving', 'd/moved')
write('d/moved/inner', 'changed\\n')
"""
PLACES = LAYOUT + "os.mkdir('d/moving')\nwrite('d/moving/inner', 'inner\\n')\nos.mkdir('d/empty')\n"
# What somebody does afterwards, and what is in the way then: path, what is found there.
IN_THE_WAY: dict[str, tuple[str, dict[str, str]]] = {
    "content": ("write('d/file', 'mine\\n')", {"d/file": "file 0644 0:0 5 bytes"}),
    "mode": ("os.chmod('d/file', 0o640)", {"d/file": "file 0640"}),
    "owner": ("os.chown('d/file', 1, 1)", {"d/file": "file 0644 1:1"}),
    "attribute": ("os.setxattr('d/file', 'user.x', b'1')", {"d/file": "with user.x"}),
    "directory": ("os.unlink('d/file')\nos.mkdir('d/file')", {"d/file": "directory"}),
    "link": ("os.unlink('d/file')\nos.symlink('fresh', 'd/file')", {"d/file": "to fresh"}),
    "fifo": ("os.unlink('d/file')\nos.mkfifo('d/file')", {"d/file": "fifo"}),
    "deleted": ("os.unlink('d/file')", {"d/file": "nothing"}),
    "new one deleted": ("os.unlink('d/fresh')", {"d/fresh": "nothing"}),
    "new one changed": ("write('d/fresh', 'mine')", {"d/fresh": "4 bytes"}),
    "made again": ("write('d/gone', 'mine')", {"d/gone": "4 bytes"}),
    "old name taken": ("write('d/name', 'mine')", {"d/name": "4 bytes"}),
    "renamed one changed": ("write('d/other', 'mine')", {"d/other": "4 bytes"}),
    "renamed one deleted": ("os.unlink('d/other')", {"d/other": "nothing"}),
    "mode again": ("os.chmod('d/mode', 0o644)", {"d/mode": "file 0644"}),
    "content of the other mode": ("write('d/mode', 'mine', 0o600)", {"d/mode": "4 bytes"}),
    "put into a new directory": (
        "write('d/new/theirs', 'mine')",
        {"d/new": "1 entry of 4 bytes that it did not make"},
    ),
    "put deeper": (
        "os.makedirs('d/new/deeper/a/b')",
        {"d/new/deeper": "2 entries of 0 bytes that it did not make"},
    ),
    "new directory gone": (
        "shutil.rmtree('d/new')",
        {"d/new": "nothing", "d/new/deeper": "nothing", "d/new/deeper/file": "nothing"},
    ),
    "in a moved directory": ("write('d/moved/inner', 'mine')", {"d/moved/inner": "4 bytes"}),
    "the directory moved": ("os.rename('d', 'e')", {"d": "no directory"}),
    "the directory a link": ("os.rename('d', 'e')\nos.symlink('e', 'd')", {"d": "a symlink"}),
    "several": (
        "write('d/file', 'mine')\nos.unlink('d/fresh')\nos.chmod('d/mode', 0o400)",
        {"d/file": "4 bytes", "d/fresh": "nothing", "d/mode": "file 0400"},
    ),
}


@pytest.mark.P9
@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_somebody_changed_since_is_named_and_nothing_is_touched(name: str, host: Host) -> None:
    host.lay_out(PLACES)
    host.do(CHANGE)
    act, expected = IN_THE_WAY[name]
    host.script(act)
    before = host.snapshot()
    outcome = host.ask()
    found = wanted(host, outcome)
    assert (outcome.error, outcome.canonical, outcome.blobs) == (None, b"", {})
    for path, words in expected.items():
        assert words in found[path][1], found
    if name == "the directory moved" or name == "the directory a link":
        assert found["d"][0] == "directory"
        assert not next(one for one in outcome.conflicts if one["path"].endswith("/d"))["forcible"]
    else:
        assert set(found) == set(expected)
        assert all(expected != now for expected, now in found.values())
    assert host.snapshot() == before


@pytest.mark.P9
def test_what_somebody_else_does_beside_it_is_nobodys_conflict(host: Host) -> None:
    host.lay_out(PLACES)
    before = host.snapshot()
    host.do(CHANGE)
    host.script("write('d/theirs', 'x')\nos.utime('d')\nwrite('d/moved/theirs', 'y')")
    host.roll_back()
    after = host.snapshot()
    assert after.pop("d/theirs")["type"] == "file"
    assert after.pop("d/moving/theirs")["type"] == "file"
    assert after == before


@pytest.mark.P9
def test_a_change_after_the_plan_was_made_is_stale_and_nothing_is_touched(host: Host) -> None:
    host.lay_out(PLACES)
    host.do(CHANGE)
    outcome = host.ask()
    host.script("write('d/file', 'mine\\n')")
    before = host.snapshot()
    applied = host.apply(plan.parse(outcome.canonical), outcome.blobs)
    assert applied.code == "stale"
    assert host.snapshot() == before


# Force

# What somebody does, what is forced, and what is there in the end in place of what was before.
FORCED: dict[str, tuple[str, list[str], dict[str, str | None]]] = {
    "content": ("write('d/file', 'mine\\n')", ["d/file"], {}),
    "directory": (
        "os.unlink('d/file')\nos.mkdir('d/file')\nwrite('d/file/x', 'x')",
        ["d/file"],
        {},
    ),
    "link": ("os.unlink('d/file')\nos.symlink('fresh', 'd/file')", ["d/file"], {}),
    "fifo": ("os.unlink('d/file')\nos.mkfifo('d/file')", ["d/file"], {}),
    "deleted": ("os.unlink('d/file')", ["d/file"], {}),
    "new one deleted": ("os.unlink('d/fresh')", ["d/fresh"], {}),
    "made again": ("write('d/gone', 'mine')", ["d/gone"], {}),
    "made again as a directory": ("os.mkdir('d/gone')\nwrite('d/gone/x', 'x')", ["d/gone"], {}),
    "old name taken": ("write('d/name', 'mine')", ["d/name"], {}),
    "renamed one changed": ("write('d/other', 'mine')", ["d/other"], {"d/name": "mine"}),
    "content of the other mode": ("write('d/mode', 'mine', 0o600)", ["d/mode"], {"d/mode": "mine"}),
    "mode again": ("os.chmod('d/mode', 0o644)", ["d/mode"], {}),
    "put into a new directory": ("write('d/new/theirs', 'mine')", ["d/new"], {}),
    "new directory gone": (
        "shutil.rmtree('d/new')",
        ["d/new", "d/new/deeper", "d/new/deeper/file"],
        {},
    ),
    "in a moved directory": ("write('d/moved/inner', 'mine')", ["d/moved/inner"], {}),
}


@pytest.mark.P9
@pytest.mark.parametrize("force_all", [False, True], ids=["path", "all"])
@pytest.mark.parametrize("name", FORCED)
def test_what_is_forced_is_taken_back_and_told(name: str, force_all: bool, host: Host) -> None:
    act, paths, different = FORCED[name]
    host.lay_out(PLACES)
    before = host.snapshot()
    host.do(CHANGE)
    host.script(act)
    theirs = host.snapshot()
    force = [] if force_all else [f"{host.directory}/{path}" for path in paths]
    outcome = host.ask(force=force, force_all=force_all)
    changed = [note["changed"] for note in outcome.notes if note["changed"]]
    # What is as it should be by now needs no step; all else that is forced is told.
    nothing_to_do = name in ("new one deleted", "new directory gone", "mode again")
    assert len(changed) == (0 if nothing_to_do else 1)
    host.roll_back(force=force, force_all=force_all)
    after = host.snapshot()
    for path, text in different.items():
        assert (host.directory / path).read_text() == text
        assert after.pop(path)["type"] == before.pop(path)["type"]
    assert after == before
    # What was forced is saved as well.
    host.roll_back("rollback", "redo")
    assert host.snapshot() == theirs


@pytest.mark.P9
def test_only_the_paths_that_are_named_are_forced(host: Host) -> None:
    host.lay_out(PLACES)
    host.do(CHANGE)
    host.script("write('d/file', 'mine')\nwrite('d/fresh', 'mine')")
    outcome = host.ask(force=[f"{host.directory}/d/file"])
    assert set(wanted(host, outcome)) == {"d/fresh"}


@pytest.mark.P9
def test_a_file_that_went_and_came_back_and_whose_directory_is_gone(host: Host) -> None:
    host.lay_out("os.mkdir('e')\nwrite('e/file', 'old')")
    found, contents = around(host, "os.unlink('e/file')", shell("true"))
    host.script("os.unlink('e/file')")
    again = host.record("write('e/file', 'new')")
    host.script("write('e/file', 'old')")
    found = replace(found, steps=(*found.steps, *again.steps))
    assert host.apply(found, {**contents, **again.contents}).error is None
    host.script("shutil.rmtree('e')")
    outcome = host.ask(force_all=True)
    assert outcome.error is None, outcome.error
    assert wanted(host, outcome) == {"e": ("directory", "no directory")}


@pytest.mark.P9
@pytest.mark.parametrize(
    "act",
    [
        "os.unlink('d/other')",
        "os.unlink('d/mode')\nos.mkdir('d/mode')",
        "os.rename('d', 'e')",
        "os.rename('d', 'e')\nos.symlink('e', 'd')",
    ],
)
def test_what_cannot_be_forced_stays_in_the_way(act: str, host: Host) -> None:
    host.lay_out(PLACES)
    host.do(CHANGE)
    host.script(act)
    before = host.snapshot()
    outcome = host.ask(force_all=True)
    assert outcome.canonical == b""
    assert [one["forcible"] for one in outcome.conflicts].count(False) == len(outcome.conflicts)
    assert outcome.conflicts
    assert host.snapshot() == before


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
    assert set(wanted(host, host.ask("redo"))) == {"new"}


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


# Commands among the changes


def around(host: Host, *parts: Any, on_failure: str = "rollback") -> tuple[plan.Plan, Any]:
    """A plan of scripts and commands, in this order; the scripts know nothing of each other."""
    steps: list[Any] = []
    contents: dict[str, bytes] = {}
    for part in parts:
        if isinstance(part, str):
            recording = host.record(part)
            steps += recording.steps
            contents.update(recording.contents)
        else:
            steps.append(part)
    found = plan.Plan(
        FIRST, {"kind": "local", "host": machine()}, host.who, "1", on_failure, tuple(steps)
    )
    return found, contents


def told(host: Host, name: str, **more: Any) -> plan.CommandStep:
    """A command that tells of itself in a file beside."""
    return shell(f'echo {name} $(cat "$1/d/file") >> "$2"', *_places(host), **more)


def _places(host: Host) -> tuple[str, str]:
    return str(host.directory), str(host.top / "told")


def said(host: Host) -> list[str]:
    """What the commands told, since it was asked last."""
    path = host.top / "told"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def named(content: bytes) -> tuple[str, int]:
    return hashlib.sha256(content).hexdigest(), len(content)


def undoing(host: Host, name: str) -> plan.CommandStep:
    """A command, and one that makes up for it and is made up for by it."""
    return replace(told(host, name), undo=told(host, f"un{name}").argv)


def repeated(host: Host, name: str) -> plan.CommandStep:
    """A command that has something take up a new configuration."""
    command = told(host, name)
    return replace(command, undo=command.argv)


def answers(host: Host) -> Any:
    """The policy for these commands."""

    def decide(call: dict[str, Any]) -> dict[str, Any]:
        text = call["argv"][2]
        assert text.startswith("echo ")
        name = text.split()[1]
        other = name[2:] if name.startswith("un") else f"un{name}"
        undo = call["argv"] if name == "reload" else list(told(host, other).argv)
        return review(undo=undo, seconds=7.0)

    return decide


@pytest.mark.P3
@pytest.mark.P9
def test_commands_are_made_up_for_in_their_place(host: Host) -> None:
    host.lay_out(LAYOUT)
    before = host.snapshot()
    found, contents = around(
        host,
        "write('d/file', 'one\\n')",
        repeated(host, "reload"),
        undoing(host, "enable"),
        "os.unlink('d/gone')",
    )
    assert host.apply(found, contents).error is None
    after = host.snapshot()
    assert said(host) == ["reload one", "enable one"]
    back = host.roll_back(decide=answers(host))
    # What makes up for a command comes before the file is restored, what takes it up after.
    assert said(host) == ["unenable one", "reload old"]
    assert host.snapshot() == before
    commands = [step for step in back.steps if isinstance(step, plan.CommandStep)]
    assert [command.seconds for command in commands] == [7.0, 7.0]
    assert commands[0].reason == "makes up for step 3: told so"
    assert commands[0].undo == told(host, "enable").argv
    assert commands[1].undo == commands[1].argv
    host.roll_back("rollback", "redo", decide=answers(host))
    assert said(host) == ["reload one", "enable one"]
    assert host.snapshot() == after


@pytest.mark.P9
def test_a_chain_of_changes_around_commands(host: Host) -> None:
    with bed(host.top) as mixed:
        state = mixed.top / "state"
        state.mkdir(mode=0o700)
        host.top, host.state = mixed.top, state
        mixed.lay_out()
        found = overlays.plan_of(Recording(mixed.steps, (), mixed.contents), ROOT)
        assert host.apply(found, mixed.contents).error is None
        assert overlays.snapshot(mixed.host) == mixed.states[-1]
        outcome = host.ask()
        assert [one["step"] for one in outcome.staying] == [
            index for index, step in enumerate(mixed.steps) if step.kind == "command"
        ]
        assert {one["reason"] for one in outcome.staying} == {"no rule says what makes up for it"}
        host.roll_back()
        assert host.snapshot() == Host.plain(mixed.states[0])
        host.roll_back("rollback", "redo")
        assert host.snapshot() == Host.plain(mixed.states[-1])
        host.roll_back("redo", "again")
        assert host.snapshot() == Host.plain(mixed.states[0])


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


def program(host: Host, name: str = "reload") -> plan.CommandStep:
    """A script that has something take up a new configuration, called by a link to it."""
    path = host.top / name
    path.write_text(f"#!/bin/sh\necho $0 $(cat {host.directory}/d/file) >> {host.top}/told\n")
    path.chmod(0o755)
    (host.top / "link").symlink_to(name)
    step = command(str(path), loaded=("libc.so.6",), memory_bytes=2 << 30, processes=100)
    called = str(host.top / "link")
    return replace(step, argv=(called, "x"), undo=(called, "x"), link=called)


@pytest.mark.P2
@pytest.mark.P9
def test_a_script_is_repeated_by_its_interpreter_and_its_name(host: Host) -> None:
    host.lay_out(LAYOUT)
    found, contents = around(host, "write('d/file', 'new\\n')", program(host))
    assert host.apply(found, contents).error is None
    back = host.roll_back(decide=lambda call: review(undo=call["argv"]))
    assert said(host) == [f"{host.top}/link new", f"{host.top}/link old"]
    first = next(step for step in found.steps if isinstance(step, plan.CommandStep))
    again = next(step for step in back.steps if isinstance(step, plan.CommandStep))
    assert (again.interpreters, again.link) == (first.interpreters, first.link)
    assert (again.memory_bytes, again.processes) == (first.memory_bytes, first.processes)
    assert again.loaded == libraries.loaded(first.interpreters[-1].path) != ()


@pytest.mark.P2
@pytest.mark.P9
def test_a_command_is_repeated_by_the_program_that_is_restored(host: Host) -> None:
    host.lay_out(LAYOUT + "write('run', '#!/bin/sh\\ntrue old\\n', 0o755)")
    old = command(str(host.directory / "run"))
    new = host.record("write('run', '#!/bin/sh\\ntrue new\\n', 0o755)")
    sha256 = next(iter(new.contents))
    step = replace(old, program_sha256=sha256, undo=old.argv)
    found = replace(around(host)[0], steps=(*new.steps, step))
    assert host.apply(found, new.contents).error is None
    back = host.roll_back(decide=lambda call: review(undo=call["argv"]))
    again = next(step for step in back.steps if isinstance(step, plan.CommandStep))
    assert again.program_sha256 == old.program_sha256


def test_what_nothing_makes_up_for_is_told(host: Host) -> None:
    host.lay_out(LAYOUT)
    enable, other, gone, given = (undoing(host, name) for name in ("a", "b", "c", "d"))
    gone = replace(gone, undo=("/usr/bin/no-such-program", "x"))
    given = replace(told(host, "d"), stdin=plan.Input(*named(b"input")))
    given = replace(given, undo=given.argv)
    found, contents = around(host, "write('d/file', 'new')", enable, other, gone, given)
    assert host.apply(found, {**contents, named(b"input")[0]: b"input"}).error is None

    def decide(call: dict[str, Any]) -> dict[str, Any]:
        return verdict("deny") if "unb" in call["argv"][2] else verdict("contain", risk="safe")

    outcome = host.ask(decide=decide)
    first = len(found.steps) - 4
    assert {one["step"] - first: one["reason"] for one in outcome.staying} == {
        1: "what would make up for it is denied: told so",
        2: "there is no program /usr/bin/no-such-program, which would make up for it",
        3: "it would need its standard input once more",
    }
    commands = outcome.commands()
    assert [(one["decision"], one["risk"], one["undo"]) for one in commands] == [
        ("review", "caution", None)
    ]


def test_a_command_begins_elsewhere_where_its_directory_is_gone(host: Host) -> None:
    host.lay_out(LAYOUT)
    cwd = str(host.directory / "new")
    environment = {"PATH": "/usr/bin:/bin", "PWD": cwd, "OWN": "yes"}
    enable = replace(undoing(host, "a"), cwd=cwd, environment=environment, changed=("OWN",))
    reload = replace(repeated(host, "reload"), cwd=cwd, environment=environment)
    found, contents = around(host, "os.mkdir('new')", enable, reload)
    assert host.apply(found, contents).error is None
    back = host.roll_back(decide=answers(host))
    first, second = (step for step in back.steps if isinstance(step, plan.CommandStep))
    assert (first.cwd, first.environment, first.changed) == (cwd, environment, ("OWN",))
    assert (second.cwd, second.environment) == ("/", {**environment, "PWD": "/"})


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
    assert set(wanted(host, host.ask())) == {"d/fresh"}
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
