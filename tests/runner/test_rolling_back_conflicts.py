"""Rolling back what somebody changed since: it is named and stays, unless it is forced (P9)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shannotd.runner import plan
from tests.support.accounts import is_root
from tests.support.applying import shell
from tests.support.rolled import CHANGE, PLACES, Host, around, conflicts_of

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")

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
    found = conflicts_of(host, outcome)
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
    assert set(conflicts_of(host, outcome)) == {"d/fresh"}


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
    assert conflicts_of(host, outcome) == {"e": ("directory", "no directory")}


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
