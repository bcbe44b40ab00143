"""A step fails, and meanwhile somebody has changed what was done already: what is theirs stays,
is named, and all else is taken back (P9)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import pytest

from shannotd.runner import kernel
from tests.runner import overlays
from tests.runner.overlays import Applied, Snapshot
from tests.runner.test_apply import At, apply, in_a_namespace, record
from tests.scenarios import PRELUDE
from tests.support.accounts import is_root

pytestmark = [
    pytest.mark.P9,
    pytest.mark.skipif(not is_root(), reason="makes mounts and owners"),
]

REPLACED = "somebody replaced it meanwhile"
CHANGED = "somebody changed it meanwhile"
MOVED = "somebody moved its directory meanwhile"
FOREIGN = "somebody put something in it meanwhile"


@dataclass(frozen=True)
class Undone:
    """What was told of it, and what is there then."""

    applied: Applied
    host: Path
    before: Snapshot

    @property
    def told(self) -> str:
        """What is said to be taken back."""
        assert self.applied.error is not None
        assert self.applied.error["code"] == "apply_failed"
        assert "done" not in self.applied.steps.values()
        return str(self.applied.error["details"]["before"])

    def but(self, name: str, reason: str) -> str:
        """What is told when all is taken back but what is at `name`."""
        return f"undone, except for {self.host}/{name} ({reason})"


def undo(top: Path, layout: str, change: str, theirs: str) -> Undone:
    """Apply a change of which the last step fails when somebody has done `theirs`."""
    recording = record(top, layout, change)
    host = top / "host"
    before = overlays.snapshot(host)

    def interfere() -> None:
        overlays.run_script(PRELUDE + theirs, str(host))
        raise OSError(errno.EIO, "write: Input/output error")

    points = At("changed", interfere, len(recording.steps) - 1)
    return Undone(apply(recording, points=points), host, before)


# In a directory that was new.

TREE = """
os.mkdir('new')
write('new/file', 'ours')
os.mkdir('new/sub')
write('new/sub/deep', 'ours')
os.symlink('file', 'new/link')
"""


def names(directory: Path) -> list[str]:
    """All that is below."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.mark.parametrize(
    ("theirs", "left"),
    [
        ("write('new/theirs', 'x')", ["new", "new/theirs"]),
        ("write('new/sub/theirs', 'x')", ["new", "new/sub", "new/sub/theirs"]),
        ("os.mkdir('new/other')", ["new", "new/other"]),
        ("write('new/file', 'ours, and theirs')", ["new", "new/file"]),
        ("os.chmod('new/sub/deep', 0o600)", ["new", "new/sub", "new/sub/deep"]),
        ("os.unlink('new/link')\nos.symlink('x', 'new/link')", ["new", "new/link"]),
        ("os.rename('new/sub', 'new/other')", ["new", "new/other", "new/other/deep"]),
    ],
)
def test_what_others_put_into_a_new_directory_stays_and_what_was_made_goes(
    theirs: str, left: list[str], top: Path
) -> None:
    undone = undo(top, "", TREE, theirs)
    assert undone.told == undone.but("new", FOREIGN)
    assert names(undone.host) == left


def test_what_others_took_from_a_new_directory_is_not_missed(top: Path) -> None:
    undone = undo(top, "", TREE, "os.rename('new/file', 'kept')")
    assert undone.told == "undone"
    assert names(undone.host) == ["kept"]


# What was made.


@pytest.mark.parametrize(
    "theirs",
    [
        "write('fresh', 'more than was there')",
        "os.chmod('fresh', 0o640)",
        "os.chown('fresh', 1, 1)",
        "os.setxattr('fresh', 'user.theirs', b'1')",
        "os.utime('fresh', (5, 5))",
        # With its time as it was: only the content tells.
        "s = os.stat('fresh')\nwrite('fresh', 'THEM')\nos.utime('fresh', ns=(s.st_atime_ns, "
        "s.st_mtime_ns))",
    ],
)
@pytest.mark.parametrize("layout", ["", "write('fresh', 'before')"], ids=["new", "modified"])
def test_what_others_changed_of_what_was_made_is_not_taken_away(
    theirs: str, layout: str, top: Path
) -> None:
    undone = undo(top, layout, "write('fresh', 'ours')", theirs)
    assert undone.told == undone.but("fresh", CHANGED)
    overlays.run_script(PRELUDE + "os.rename('fresh', 'seen')", str(undone.host))
    seen = overlays.snapshot(undone.host)["seen"]
    overlays.run_script(PRELUDE + "write('fresh', 'ours')\n" + theirs, str(undone.host))
    expected = overlays.snapshot(undone.host)["fresh"]
    for told in (seen, expected):
        told.pop("mtime", None)
    assert seen == expected


@pytest.mark.parametrize("change", ["write('d/file', 'new')", "write('d/fresh', 'new')"])
def test_in_a_directory_that_others_moved_nothing_is_touched(change: str, top: Path) -> None:
    layout = "os.mkdir('d')\nwrite('d/file', 'old')"
    undone = undo(top, layout, change, "os.rename('d', 'e')")
    name = change.split("'")[1]
    assert undone.told == undone.but(name, MOVED)
    assert (undone.host / "e" / name[2:]).read_text() == "new"
    assert not (undone.host / "d").exists()


# What was renamed, or got other metadata.

MOVING = "os.mkdir('moving')\nwrite('moving/inner', 'x')"


def test_what_others_put_in_the_place_of_what_was_renamed_stays(top: Path) -> None:
    theirs = "os.rename('moved', 'elsewhere')\nos.mkdir('moved')"
    undone = undo(top, MOVING, "os.rename('moving', 'moved')", theirs)
    assert undone.told == undone.but("moved", REPLACED)
    assert names(undone.host) == ["elsewhere", "elsewhere/inner", "moved"]


def test_what_others_have_renamed_back_is_as_it_was(top: Path) -> None:
    theirs = "os.rename('moved', 'moving')\nos.mkdir('moved')"
    undone = undo(top, MOVING, "os.rename('moving', 'moved')", theirs)
    assert undone.told == "undone"
    assert names(undone.host) == ["moved", "moving", "moving/inner"]


@pytest.mark.parametrize(
    "theirs",
    [
        "os.unlink('file')",
        "write('file', 'longer than it was')",
        "s = os.stat('file')\nwrite('file', 'OLD')",
        "os.chown('file', 1, 1)",
        "os.chmod('file', 0o444)",
        "os.setxattr('file', 'user.theirs', b'1')",
        "os.unlink('file')\nos.symlink('x', 'file')",
    ],
)
def test_what_others_changed_keeps_the_mode_that_it_has(theirs: str, top: Path) -> None:
    undone = undo(top, "write('file', 'old')", "os.chmod('file', 0o600)", theirs)
    assert undone.told == undone.but("file", REPLACED)
    found = overlays.snapshot(undone.host)
    overlays.run_script(
        PRELUDE + "if os.path.lexists('file'): os.unlink('file')\n"
        "write('file', 'old')\nos.chmod('file', 0o600)\n" + theirs,
        str(undone.host),
    )
    expected = overlays.snapshot(undone.host)
    assert found.keys() == expected.keys()
    for name in found.keys() - {""}:
        for told in (found[name], expected[name]):
            told.pop("mtime", None)
        assert found[name] == expected[name]


def test_what_was_deleted_does_not_take_the_place_of_something_new(top: Path) -> None:
    host = str(top / "host")

    def work() -> None:
        kernel.mount(host, host, None, kernel.MS_BIND)  # what is deleted waits in it
        undone = undo(top, "write('gone', 'old')", "os.unlink('gone')", "write('gone', 'theirs')")
        assert undone.told == undone.but("gone", "renameat2: File exists")
        assert (undone.host / "gone").read_text() == "theirs"
        assert undone.applied.error is not None
        words = undone.applied.error["details"]["left"].split(", ")
        left = [Path(word.partition(" (")[0]) for word in words]
        assert all(path.exists() for path in left), left
        assert [path.read_text() for path in left if path.is_file()] == ["old"]

    in_a_namespace(work)


def test_what_nobody_touched_is_as_before(top: Path) -> None:
    layout = MOVING + "\nwrite('file', 'old')\nwrite('gone', 'old')"
    change = (
        TREE + "os.rename('moving', 'moved')\nwrite('file', 'new')\n"
        "os.unlink('gone')\nos.chmod('moved', 0o700)"
    )
    undone = undo(top, layout, change, "pass")
    assert undone.told == "undone"
    assert overlays.snapshot(undone.host) == undone.before
