"""May the identity do what the plan says? Asked before the review, as the identity."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.runner import kernel, permission, tree
from shannotd.runner.batch import Points
from shannotd.runner.contents import EMPTY
from shannotd.runner.identity import machine
from shannotd.runner.plan import ABSENT, BlockedStep, FileState, FileStep, Identity, Plan
from tests.runner import overlays
from tests.scenarios import SCENARIOS, change_script, layout_script
from tests.support.accounts import is_root
from tests.support.applying import command

pytestmark = pytest.mark.skipif(not is_root(), reason="makes accounts")


@pytest.fixture
def place(ordinary: Identity) -> Iterator[Path]:
    with overlays.workplace(ordinary) as top:
        yield top / "host"


def new(path: Path, who: Identity, **more: object) -> FileStep:
    after = {"mode": 0o644, "uid": who.uid, "gid": who.gid, "size": 0, "sha256": "", **more}
    return FileStep("create", str(path), ABSENT, FileState("file", **after))  # type: ignore[arg-type]


def change(kind: str, path: Path, **more: object) -> FileStep:
    before = tree.state(str(path))
    after = FileState(**{**vars(before), **more}) if kind != "delete" else ABSENT  # type: ignore[arg-type]
    return FileStep(kind, str(path), before, after)


def refused(who: Identity, *steps: FileStep | BlockedStep) -> str | None:
    found = permission.first_refusal(steps, who)
    return None if found is None else f"{found[0]}: {found[2]}"


def owned(path: Path, who: Identity | None, mode: int = 0o644) -> Path:
    path.write_bytes(b"content")
    os.chmod(path, mode)
    if who is not None:
        os.chown(path, who.uid, who.gid)
    return path


@pytest.mark.parametrize(
    "name", [name for name in SCENARIOS if name.startswith(("rename-", "change-", "pair-file"))]
)
@pytest.mark.parametrize("builder", ["privileged", "one-uid"])
def test_what_scripts_could_do_may_be_applied(
    name: str, builder: str, place: Path, ordinary: Identity
) -> None:
    overlays.run_script(layout_script(SCENARIOS[name]), str(place), ordinary)
    script = change_script(SCENARIOS[name])
    recording = overlays.dry_run(place.parent, script, ordinary, builder=builder)
    assert permission.first_refusal(recording.steps, ordinary) is None


def test_a_directory_of_others(place: Path, ordinary: Identity) -> None:
    (place / "closed").mkdir()
    victim = owned(place / "closed/file", ordinary)
    assert "not writable" in str(refused(ordinary, new(place / "closed/new", ordinary)))
    assert "not writable" in str(refused(ordinary, change("delete", victim)))
    assert "not writable" in str(refused(ordinary, change("modify", victim, sha256="0")))
    assert refused(overlays.who(None), change("delete", victim)) is None
    mode = change("metadata", victim, mode=0o600)
    assert refused(ordinary, mode) is None
    assert "not its own" in str(refused(ordinary, change("metadata", place / "closed", mode=0o700)))


def test_a_sticky_directory(place: Path, ordinary: Identity) -> None:
    (place / "shared").mkdir()
    os.chmod(place / "shared", 0o1777)
    theirs = owned(place / "shared/theirs", None, 0o666)
    mine = owned(place / "shared/mine", ordinary)
    assert "sticky" in str(refused(ordinary, change("delete", theirs)))
    assert refused(ordinary, change("delete", mine)) is None
    step = FileStep("rename", f"{place}/x", tree.state(str(theirs)), ABSENT, str(theirs))
    assert "sticky" in str(refused(ordinary, step))


def test_owners(place: Path, ordinary: Identity) -> None:
    mine = owned(place / "mine", ordinary)
    group = owned(place / "group", None, 0o666)
    assert "owner" in str(refused(ordinary, change("metadata", mine, uid=0)))
    assert "group" in str(refused(ordinary, change("metadata", mine, gid=0)))
    assert "belong to uid 0" in str(refused(ordinary, change("modify", group, sha256="0")))
    assert "belong to group 0" in str(refused(ordinary, new(place / "x", ordinary, gid=0)))
    capability = {"security.capability": "00"}
    assert "root" in str(refused(ordinary, change("metadata", mine, xattrs=capability)))
    os.chown(place, ordinary.uid, 0)
    os.chmod(place, 0o2755)
    assert refused(ordinary, new(place / "x", ordinary, gid=0)) is None


@pytest.mark.parametrize("flag", ["i", "a"])
def test_what_nobody_may(flag: str, place: Path) -> None:
    root = overlays.who(None)
    file = owned(place / "file", None)
    steps = [change("delete", file), change("metadata", file, mode=0o600)]
    subprocess.run(["chattr", f"+{flag}", file], check=True)
    try:
        for step in steps:
            assert f"chattr +{flag}" in str(refused(root, step))
    finally:
        subprocess.run(["chattr", f"-{flag}", file], check=True)
    subprocess.run(["chattr", "+i", place], check=True)
    try:
        reason = str(refused(root, new(place / "x", root)))
        assert reason == f"create: the directory {place} is immutable (chattr +i)"
    finally:
        subprocess.run(["chattr", "-i", place], check=True)
    mounted = FileStep("delete", "/proc", tree.state("/proc"), ABSENT)
    assert "mount point" in str(refused(root, mounted))


def test_steps_that_depend_on_others(place: Path, ordinary: Identity) -> None:
    directory = FileState("directory", 0o755, ordinary.uid, ordinary.gid)
    steps = (
        FileStep("create", f"{place}/d", ABSENT, directory),
        new(place / "d/file", ordinary),
        BlockedStep("fifo", f"{place}/fifo", 1),
    )
    assert refused(ordinary, *steps) is None
    assert "No such file" in str(refused(ordinary, steps[1]))
    # What the plan itself makes is judged where it is made, by its group too (setgid).
    theirs = new(place / "d/theirs", ordinary, gid=0)
    assert refused(ordinary, *steps, theirs) is None
    removed = FileStep("delete", f"{place}/d/file", steps[1].after, ABSENT)
    assert refused(ordinary, *steps, removed) is None


def test_it_is_asked_as_the_identity_and_root_stays_root(place: Path, ordinary: Identity) -> None:
    os.chown(place, 0, 0)
    assert "not writable" in str(refused(ordinary, new(place / "x", ordinary)))
    assert os.geteuid() == 0
    step = new(place / "x", overlays.who(None))
    assert refused(overlays.who(None), step) is None


def test_a_filesystem_that_is_mounted_read_only(place: Path, ordinary: Identity) -> None:
    def work() -> str:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(place, place, None, kernel.MS_BIND)
        flags = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY
        kernel.mount(None, place, None, flags)
        return str(refused(ordinary, new(place / "x", ordinary)))

    assert overlays.in_child(work) == (
        f"create: the directory {place} is on a filesystem that is mounted read-only"
    )


def test_a_directory_with_something_mounted_in_it(place: Path) -> None:
    (place / "d/below").mkdir(parents=True)

    def work() -> str:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", place / "d/below", "tmpfs")
        return str(refused(overlays.who(None), change("delete", place / "d")))

    assert overlays.in_child(work) == (
        f"delete: it has something mounted in it, at {place}/d/below"
    )


def test_moving_a_directory_changes_it(place: Path, ordinary: Identity) -> None:
    """Its `..` is another one then, which needs write permission on it (rename(2))."""
    for name in ("closed", "to"):
        (place / name).mkdir()
        os.chown(place / name, ordinary.uid, ordinary.gid)
    os.chmod(place / "closed", 0o555)
    moved = FileStep(
        "rename", f"{place}/to/closed", tree.state(f"{place}/closed"), ABSENT, f"{place}/closed"
    )
    beside = replace(moved, path=f"{place}/beside")
    opened = change("metadata", place / "closed", mode=0o755)
    assert "cannot change its place" in str(refused(ordinary, moved))
    assert refused(ordinary, beside) is None
    assert refused(ordinary, opened, moved) is None


def test_what_only_root_may_give(place: Path, ordinary: Identity) -> None:
    capability = {"security.capability": "00"}
    step = new(place / "x", ordinary, xattrs=capability)
    assert refused(ordinary, step) == "give capabilities to: only root may"
    mine = owned(place / "mine", ordinary)
    theirs = owned(place / "theirs", None)
    foreign = ordinary.gid + 1
    assert "not its own" in str(refused(ordinary, change("metadata", theirs, mode=0o600)))
    assert f"not in group {foreign}" in str(
        refused(ordinary, change("metadata", mine, gid=foreign))
    )
    assert refused(overlays.who(None), change("metadata", mine, uid=0, gid=0)) is None


def test_what_is_no_longer_there_is_not_judged(place: Path, ordinary: Identity) -> None:
    """That its state is another one is for the check of states to say."""
    mine = owned(place / "mine", ordinary)
    step = change("metadata", mine, mode=0o600)
    mine.unlink()
    assert refused(ordinary, step) is None
    (place / "d").mkdir()
    moved = FileStep("rename", f"{place}/e", tree.state(f"{place}/d"), ABSENT, f"{place}/d")
    (place / "d").rmdir()
    assert refused(ordinary, moved) is None


def test_an_identity_that_cannot_be_taken_on_is_no_permission(
    place: Path, ordinary: Identity
) -> None:
    impossible = replace(ordinary, gid=1 << 40)
    with pytest.raises(OSError, match="could not be checked"):
        permission.first_refusal([new(place / "x", ordinary)], impossible)


@pytest.mark.P10
def test_other_processes_of_the_account_cannot_stop_who_acts_for_it(ordinary: Identity) -> None:
    """Such a process could have every other plan wait for it."""

    def work() -> str:
        acting = os.getpid()
        ids, rights = os.getresuid(), os.getresgid()

        def attack() -> list[str]:
            permission.become_wholly()
            assert os.getresuid() == (ordinary.uid,) * 3
            refused = []
            for number in (0, signal.SIGSTOP, signal.SIGKILL):
                try:
                    os.kill(acting, number)
                except PermissionError:
                    refused.append(str(int(number)))
            return refused

        return json.dumps([ids[1], ids[0] == ids[2], rights, overlays.in_child(attack)])

    found = json.loads(permission.as_identity(ordinary, work))
    expected = [str(int(number)) for number in (0, signal.SIGSTOP, signal.SIGKILL)]
    assert found == [ordinary.uid, True, [ordinary.gid] * 3, expected]


@pytest.mark.P10
def test_other_processes_of_the_account_cannot_stop_an_apply(
    place: Path, ordinary: Identity
) -> None:
    class Attack(Points):
        def reached(self, point: str, index: int | None = None) -> None:
            acting = os.getpid()

            def attack() -> None:
                permission.become_wholly()
                with pytest.raises(PermissionError):
                    os.kill(acting, 0)

            overlays.in_child(attack)

    ids = (f"import os, sys; sys.exit(os.getresuid() != ({ordinary.uid},) * 3)",)
    steps = (new(place / "new", ordinary, sha256=EMPTY), command("/usr/bin/python3", "-c", *ids))
    found = Plan(
        "test-session", {"kind": "local", "host": machine()}, ordinary, "1", "rollback", steps
    )
    assert overlays.apply_plan(found, {}, points=Attack()).error is None
