"""Applying: exactly the plan, to exactly the state that the dry run saw, or nothing (P2, P4)."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.runner import kernel, plan
from shannotd.runner.batch import Points
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import BlockedStep, FileStep, Identity, Plan
from shannotd.runner.starting import Starting
from shannotd.runner.workspace import Workspace
from tests.runner import overlays
from tests.runner.overlays import Applied, Recording
from tests.scenarios import PRELUDE, SCENARIOS, change_script, layout_script
from tests.support.accounts import is_root

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")
ROOT = overlays.who("root")


def record(top: Path, layout: str, change: str, who: Identity = ROOT) -> Recording:
    """Lay out `top`/host, and what a script would do to it."""
    overlays.run_script(PRELUDE + layout + "\nos.chdir(directory)\nage('.')", f"{top}/host", who)
    return overlays.dry_run(top, PRELUDE + change, who, builder="privileged")


def apply(recording: Recording, who: Identity = ROOT, points: Points | None = None) -> Applied:
    return overlays.apply_plan(overlays.plan_of(recording, who), recording.contents, points=points)


class At(Points):
    """Does something at one point of an apply."""

    def __init__(self, point: str, act: Callable[[], None], index: int | None = None) -> None:
        self.point, self.act, self.index = point, act, index

    def reached(self, point: str, index: int | None = None) -> None:
        if point == self.point and self.index in (None, index):
            self.act()


# What somebody else does to the host between the dry run and the apply.
LAYOUT = """
os.mkdir('d')
write('d/file', 'old\\n')
write('d/gone', 'gone\\n')
os.symlink('file', 'd/link')
os.mkdir('d/tree')
write('d/tree/inner', 'inner\\n')
os.mkdir('d/moving')
write('d/moving/inner', 'inner\\n')
write('d/log', 'first\\n')
"""
CHANGE = """
write('d/file', 'new\\n')
os.unlink('d/gone')
os.unlink('d/link')
os.symlink('other', 'd/link')
shutil.rmtree('d/tree')
os.rename('d/moving', 'd/moved')
open('d/log', 'a').write('second\\n')
write('d/fresh', 'fresh\\n')
os.mkdir('d/new')
write('d/new/file', 'x')
os.chmod('d', 0o700)
"""
INTERFERENCE = {
    "content": "write('d/file', 'xxx\\n')",
    "longer": "write('d/file', 'old\\nmore\\n')",
    "mode": "os.chmod('d/file', 0o600)",
    "owner": "os.chown('d/file', 1, 1)",
    "attribute": "os.setxattr('d/file', 'user.x', b'1')",
    "type": "os.unlink('d/file')\nos.mkdir('d/file')",
    "link_in_its_place": "os.rename('d/file', 'd/f')\nos.symlink('f', 'd/file')",
    "fifo_in_its_place": "os.unlink('d/file')\nos.mkfifo('d/file')",
    "missing": "os.unlink('d/file')",
    "deleted_already": "os.unlink('d/gone')",
    "deleted_is_another": "write('d/gone', 'else\\n')",
    "target": "os.unlink('d/link')\nos.symlink('elsewhere', 'd/link')",
    "tree_grew": "write('d/tree/more', 'x')",
    "tree_inner_changed": "write('d/tree/inner', 'another size\\n')",
    "tree_gone": "shutil.rmtree('d/tree')",
    "moving_grew": "write('d/moving/more', 'x')",
    "moved_is_there": "os.mkdir('d/moved')",
    "log_shorter": "os.truncate('d/log', 2)",
    "log_another": "write('d/log', 'FIRST\\nmore\\n')",
    "fresh_is_there": "write('d/fresh', 'mine')",
    "new_is_there": "os.mkdir('d/new')",
    "directory_mode": "os.chmod('d', 0o711)",
    "directory_by_link": "os.rename('d', 'e')\nos.symlink('e', 'd')",
    "directory_gone": "os.rename('d', 'e')",
}


@pytest.mark.P2
@pytest.mark.parametrize("name", INTERFERENCE)
def test_another_starting_state_is_stale_and_nothing_is_applied(name: str, top: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    overlays.run_script(PRELUDE + INTERFERENCE[name], f"{top}/host")
    before = overlays.snapshot(top / "host")
    applied = apply(recording)
    assert applied.code == "stale"
    assert set(applied.steps.values()) == {"stale", "skipped"}
    assert overlays.snapshot(top / "host") == before


@pytest.mark.P2
@pytest.mark.parametrize("name", INTERFERENCE)
def test_a_change_at_the_last_moment_is_seen_and_everything_put_back(name: str, top: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    meanwhile: dict[str, overlays.Snapshot] = {}
    script = PRELUDE + INTERFERENCE[name]
    overlays.run_script(script, f"{top}/host")
    meanwhile["after"] = overlays.snapshot(top / "host")
    # Back to the start: the interference comes when all is checked and staged.
    overlays.run_script(PRELUDE + "for name in os.listdir('.'):\n    clear(name)", f"{top}/host")
    recording = record(top, LAYOUT, CHANGE)
    points = At("staged", lambda: overlays.run_script(script, f"{top}/host"))
    applied = apply(recording, points=points)
    assert applied.code == "stale", applied
    assert overlays.snapshot(top / "host") == meanwhile["after"]


@pytest.mark.P2
def test_a_swapped_parent_never_leads_elsewhere(top: Path) -> None:
    recording = record(top, "os.mkdir('d')\nwrite('d/file', 'old')", "write('d/file', 'new')")
    victim = top / "victim"
    victim.mkdir()
    (victim / "file").write_text("old")

    def swap() -> None:
        os.rename(top / "host/d", top / "away")
        os.symlink(victim, top / "host/d")

    for point in ("checked", "staged"):
        applied = apply(recording, points=At(point, swap))
        assert applied.code == "stale"
        assert (victim / "file").read_text() == "old"
        assert os.listdir(victim) == ["file"]
        os.unlink(top / "host/d")
        os.rename(top / "away", top / "host/d")
        assert os.listdir(top / "host/d") == ["file"]
        assert (top / "host/d/file").read_text() == "old"


@pytest.mark.P4
@pytest.mark.parametrize(
    "name", [name for name in SCENARIOS if name.startswith(("rename-", "change-", "owner-"))]
)
def test_a_failure_at_any_step_puts_everything_back(name: str) -> None:
    scenario = SCENARIOS[name]
    with overlays.workplace(ROOT) as top:
        overlays.run_script(layout_script(scenario), f"{top}/host")
        before = overlays.snapshot(top / "host")
        recording = overlays.dry_run(top, change_script(scenario), ROOT, builder="privileged")
        steps = len(recording.steps)

        def fail() -> None:
            raise OSError(errno.EIO, "write: Input/output error")

        for index in sorted({0, 1, steps // 2, steps - 1} & set(range(steps))):
            for point in ("changing", "changed"):
                applied = apply(recording, points=At(point, fail, index))
                assert applied.code == "apply_failed"
                assert applied.error is not None
                expected = "not applied" if (index, point) == (0, "changing") else "undone"
                assert applied.error["details"]["before"] == expected
                assert applied.error["details"]["step"] == index
                assert overlays.snapshot(top / "host") == before
        assert apply(recording).error is None


@pytest.mark.P2
def test_wrong_content_changes_nothing(top: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    before = overlays.snapshot(top / "host")
    for descriptors in (False, True):
        applied = overlays.apply_plan(
            overlays.plan_of(recording, ROOT),
            {sha256: b"y" * len(data) for sha256, data in recording.contents.items()},
            descriptors=descriptors,
        )
        assert applied.code == "apply_failed"
        assert overlays.snapshot(top / "host") == before


@pytest.mark.P2
def test_only_what_was_recorded_here_is_applied(top: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    before = overlays.snapshot(top / "host")
    found = overlays.plan_of(recording, ROOT)

    def refused(one: Plan, **more: str) -> str | None:
        applied = overlays.apply_plan(one, recording.contents, **more)  # type: ignore[arg-type]
        assert overlays.snapshot(top / "host") == before
        return applied.code

    digest = plan.digest(plan.canonical(found))
    other_key = plan.seal(b"another key", found.session, digest)
    other_session = plan.seal(overlays.KEY, "another-session", digest)
    assert refused(found, seal=other_key) == "digest_mismatch"
    assert refused(found, seal=other_session) == "digest_mismatch"
    assert refused(found, seal="none") == "digest_mismatch"
    assert refused(found, digest="0" * 64) == "digest_mismatch"
    elsewhere = replace(found, target={"kind": "local", "host": "0" * 64})
    assert refused(elsewhere) == "apply_failed"
    assert refused(replace(found, session="../../etc/cron.d/x")) == "invalid_request"


@pytest.mark.P2
def test_a_session_is_applied_once(top: Path) -> None:
    recording = record(top, "", "write('file', 'x')")
    found = overlays.plan_of(recording, ROOT)
    (top / "state").mkdir()
    state = top / "state"
    assert overlays.apply_plan(found, recording.contents, state=state).error is None
    os.unlink(top / "host/file")
    again = overlays.apply_plan(found, recording.contents, state=state)
    assert again.code == "wrong_state"
    assert not (top / "host/file").exists()


@pytest.mark.P2
def test_an_ordinary_runner_applies_as_itself_only(top: Path, ordinary: Identity) -> None:
    recording = record(top, "", "write('file', 'x')")
    found = overlays.plan_of(recording, ROOT)
    applied = overlays.apply_plan(found, recording.contents, become=ordinary)
    assert applied.code == "identity_refused"
    assert not (top / "host/file").exists()


@pytest.mark.P2
def test_root_applies_as_the_plans_identity(ordinary: Identity) -> None:
    with overlays.workplace(ordinary) as top:
        recording = record(top, "", "write('file', 'x')", ordinary)
        os.chown(top / "host", 0, 0)
        applied = apply(recording, ordinary)
        assert applied.code == "not_permitted"
        assert os.listdir(top / "host") == []


@pytest.mark.P2
def test_what_others_appended_meanwhile_is_kept(top: Path) -> None:
    recording = record(top, "write('log', 'one\\n')", "open('log', 'a').write('three\\n')")
    with open(top / "host/log", "a") as file:
        file.write("two\n")
    assert apply(recording).error is None
    assert (top / "host/log").read_text() == "one\ntwo\nthree\n"


def test_content_comes_in_small_requests(top: Path) -> None:
    change = "for number in range(12):\n    write(f'f{number}', str(number) * 2_000_000)"
    recording = record(top, "", change)
    applied = apply(recording)
    assert applied.error is None
    assert sum(len(need) for need in applied.needs) == 12
    assert all(len(need) <= 4 for need in applied.needs)


def test_equal_content_is_asked_for_once(top: Path) -> None:
    recording = record(top, "", "for number in range(50):\n    write(f'f{number}', 'alike')")
    applied = apply(recording)
    assert applied.error is None
    assert [len(need) for need in applied.needs] == [1]


@pytest.mark.parametrize("descriptors", [False, True])
def test_holes_stay_holes(top: Path, descriptors: bool) -> None:
    change = (
        "with open('sparse', 'wb') as file:\n    file.write(b'begin')\n"
        "    file.seek(20_000_000)\n    file.write(b'end')\n    file.truncate(30_000_000)\n"
        "with open('log', 'a') as file:\n    file.write('x')"
    )
    layout = "write('log', 'x')\nos.truncate('log', 20_000_000)"
    recording = record(top, layout, change)
    found = overlays.plan_of(recording, ROOT)
    applied = overlays.apply_plan(found, recording.contents, descriptors=descriptors)
    assert applied.error is None
    for name, size in (("sparse", 30_000_000), ("log", 20_000_001)):
        status = os.stat(top / "host" / name)
        assert status.st_size == size
        assert status.st_blocks * 512 < 200_000


@pytest.mark.parametrize("flag", ["i", "a"])
@pytest.mark.parametrize("path", ["d/file", "d", "d/gone"])
def test_protected_files_are_refused_before_anything(top: Path, flag: str, path: str) -> None:
    recording = record(top, LAYOUT, CHANGE)
    before = overlays.snapshot(top / "host")
    target = top / "host" / path
    subprocess.run(["chattr", f"+{flag}", target], check=True)
    try:
        applied = apply(recording)
    finally:
        subprocess.run(["chattr", f"-{flag}", target], check=True)
    assert applied.code == "not_permitted"
    assert overlays.snapshot(top / "host") == before


def in_a_namespace(work: Callable[[], None]) -> None:
    def inside() -> None:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        work()

    overlays.in_child(inside)


@pytest.mark.parametrize("path", ["d/file", "d/gone", "d/tree", "d/tree/inner", "d/moving"])
def test_mount_points_are_refused(top: Path, path: str) -> None:
    recording = record(top, LAYOUT, CHANGE)
    target = str(top / "host" / path)

    def work() -> None:
        kernel.mount(target, target, None, kernel.MS_BIND)
        before = overlays.snapshot(top / "host")
        applied = apply(recording)
        assert applied.code == "not_permitted", applied
        assert overlays.snapshot(top / "host") == before

    in_a_namespace(work)


def test_a_read_only_filesystem_is_refused(top: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    host = str(top / "host")

    def work() -> None:
        kernel.mount(host, host, None, kernel.MS_BIND)
        kernel.mount(None, host, None, kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY)
        applied = apply(recording)
        assert applied.code == "not_permitted"
        assert applied.error is not None
        assert "read-only" in applied.error["details"]["reason"]

    in_a_namespace(work)


def test_deleted_files_do_not_wait_where_programs_look(top: Path) -> None:
    recording = record(top, LAYOUT, "os.unlink('d/gone')\nshutil.rmtree('d/tree')")
    seen = top / "seen"
    points = At("done", lambda: seen.write_text("\n".join(sorted(os.listdir(top / "host/d")))))
    assert apply(recording, points=points).error is None
    assert seen.read_text().split() == ["file", "link", "log", "moving"]


def test_scratch_and_blocked_steps_are_skipped(top: Path) -> None:
    overlays.run_script(PRELUDE, f"{top}/host")
    recording = overlays.dry_run(
        top,
        PRELUDE + "os.mkdir('cache')\nwrite('cache/x', 'x')\nwrite('y', 'y')\nos.mkfifo('fifo')",
        ROOT,
        builder="privileged",
        scratch=[f"{top}/host/cache"],
    )
    applied = apply(recording)
    assert applied.error is None
    assert os.listdir(top / "host") == ["y"]
    results = {
        (step.path if isinstance(step, FileStep) else step.target): applied.steps[index]
        for index, step in enumerate(recording.steps)
    }
    base = f"{top}/host"
    assert results == {
        f"{base}/y": "done",
        f"{base}/cache": "skipped",
        f"{base}/cache/x": "skipped",
        f"{base}/fifo": "skipped",
    }
    assert BlockedStep("fifo", f"{base}/fifo", 1) in recording.steps


def test_the_runners_floor_protects_paths(top: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    starting = Starting(Workspace(ROOT), {f"{top}/host/d/file": "is protected"})
    with pytest.raises(RunnerError) as raised:
        for index, step in enumerate(overlays.file_steps(recording)):
            starting.check(index, step)
    assert raised.value.code == "not_permitted"


def test_times_of_new_directories(top: Path) -> None:
    scenario = SCENARIOS["change-times_of_a_new_tree"]
    recording = overlays.dry_run(top, change_script(scenario), ROOT, builder="privileged")
    assert apply(recording).error is None
    for path in ("new", "new/sub", "new/sub/program", "new/kind-x"):
        assert os.stat(top / "host" / path).st_mtime == 1_500_000_000
