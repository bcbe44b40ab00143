"""An apply that the system stops on its way: what is put back, and what is told (P2, P4)."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.runner import apply as applying
from shannotd.runner import checkpoints, kernel, plan
from shannotd.runner.batch import Setting
from shannotd.runner.frames import Channel, RunnerError
from shannotd.runner.identity import Floor
from shannotd.runner.orders import Orders
from shannotd.runner.plan import CommandStep, FileStep, Identity
from shannotd.runner.stop import Stop
from shannotd.runner.turn import Turn
from tests.runner import overlays
from tests.runner.overlays import Applied
from tests.runner.test_apply import CHANGE, LAYOUT, ROOT, At, apply, in_a_namespace, record
from tests.scenarios import PRELUDE
from tests.support.accounts import is_root

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")


def details(applied: Applied) -> dict[str, str]:
    assert applied.error is not None
    found: dict[str, str] = applied.error["details"]
    return found


def failing(act: Callable[[], object]) -> Callable[[], None]:
    """Something else happens, and then the step fails."""

    def work() -> None:
        act()
        raise OSError(errno.EIO, "write: Input/output error")

    return work


def read_only(path: str) -> None:
    kernel.mount(None, path, None, kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY)


@pytest.mark.P4
def test_a_full_disk_while_staging_leaves_nothing(top: Path) -> None:
    recording = record(
        top, "", "os.mkdir('d')\nwrite('d/small', 'x')\nwrite('large', 'y' * 3000000)"
    )
    host = str(top / "host")

    def work() -> None:
        kernel.mount("tmpfs", host, "tmpfs", 0, "size=1m,mode=755")
        applied = apply(recording)
        assert applied.code == "apply_failed"
        assert details(applied)["reason"] == "No space left on device"
        assert details(applied)["before"] == "not applied"
        assert os.listdir(host) == []

    in_a_namespace(work)


@pytest.mark.P4
def test_a_mount_that_becomes_read_only_while_checking(top: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    host = str(top / "host")

    def work() -> None:
        kernel.mount(host, host, None, kernel.MS_BIND)
        before = overlays.snapshot(host)
        applied = apply(recording, points=At("checked", lambda: read_only(host)))
        assert applied.code == "apply_failed"
        assert "Read-only" in details(applied)["reason"]
        assert details(applied)["before"] == "not applied"
        assert overlays.snapshot(host) == before

    in_a_namespace(work)


@pytest.mark.P4
def test_what_cannot_be_put_back_is_named(top: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    host = str(top / "host")
    last = len(recording.steps) - 1

    def work() -> None:
        kernel.mount(host, host, None, kernel.MS_BIND)
        protect = failing(lambda: subprocess.check_call(["chattr", "+i", f"{host}/d"]))
        try:
            applied = apply(recording, points=At("changing", protect, last))
        finally:
            subprocess.run(["chattr", "-i", f"{host}/d"], check=True)
        assert applied.code == "apply_failed"
        told = details(applied)["before"]
        assert told.startswith("undone, except for ")
        for step in overlays.file_steps(recording)[:-1]:
            # What is new in a new directory comes and goes with it.
            assert step.path in told or "/new/" in step.path
        assert "Operation not permitted" in told

    in_a_namespace(work)


REPLACED = {
    "create": "os.unlink('d/fresh')\nwrite('d/fresh', 'theirs')",
    "modify": "os.unlink('d/file')\nwrite('d/file', 'theirs')",
    "metadata": "os.rename('d/gone', 'd/kept')\nwrite('d/gone', 'theirs')",
}


@pytest.mark.P9
@pytest.mark.parametrize("name", REPLACED)
def test_what_somebody_put_in_the_place_of_the_new_is_kept(name: str, top: Path) -> None:
    change = "write('d/file', 'new')\nwrite('d/fresh', 'new')\nos.chmod('d/gone', 0o600)"
    recording = record(top, LAYOUT, change)
    (index,) = (
        index
        for index, step in enumerate(overlays.file_steps(recording))
        if step.change == name and not step.path.endswith("/d")
    )

    def interfere() -> None:
        overlays.run_script(PRELUDE + REPLACED[name], f"{top}/host")

    applied = apply(recording, points=At("changed", failing(interfere), index))
    path = overlays.file_steps(recording)[index].path
    assert applied.code == "apply_failed"
    expected = f"undone, except for {path} (somebody replaced it meanwhile)"
    assert details(applied)["before"] == expected
    assert Path(path).read_text() == "theirs"


@pytest.mark.P2
@pytest.mark.parametrize(
    ("change", "interference"),
    [
        ("os.chmod('d/file', 0o600)", "os.unlink('d/file')"),
        ("write('d/file', 'new')", "os.unlink('d/file')"),
        ("os.unlink('d/gone')", "os.unlink('d/gone')"),
        ("os.rename('d/moving', 'd/moved')", "os.rename('d/moving', 'elsewhere')"),
    ],
)
def test_what_goes_away_at_the_last_moment_is_stale(
    change: str, interference: str, top: Path
) -> None:
    recording = record(top, LAYOUT, change)
    script = PRELUDE + interference
    points = At("changing", lambda: overlays.run_script(script, f"{top}/host"))
    applied = apply(recording, points=points)
    assert applied.code == "stale"
    assert details(applied)["found"] == "nothing"


@pytest.mark.P4
def test_a_temporary_name_that_cannot_be_removed_is_told(top: Path) -> None:
    recording = record(top, LAYOUT, "write('d/file', 'new')")
    directory = top / "host/d"

    def staged() -> Path:
        (name,) = (name for name in os.listdir(directory) if name.startswith(".shannot-"))
        return directory / name

    points = At("staged", failing(lambda: subprocess.check_call(["chattr", "+i", staged()])))
    applied = apply(recording, points=points)
    left = staged()
    subprocess.run(["chattr", "-i", left], check=True)
    assert applied.code == "apply_failed"
    assert details(applied)["left"] == str(left)
    assert (directory / "file").read_text() == "old\n"


@pytest.mark.P4
def test_after_the_last_step_a_failure_says_that_all_is_applied(top: Path) -> None:
    recording = record(top, LAYOUT, "write('d/file', 'new')\nwrite('d/log', 'new')")
    displaced: list[Path] = []

    def protect() -> None:
        for path in sorted((top / "host/d").glob(".shannot-*")):
            subprocess.run(["chattr", "+i", path], check=True)

    applied = apply(recording, points=At("done", protect))
    displaced = sorted((top / "host/d").glob(".shannot-*"))
    subprocess.run(["chattr", "-i", *displaced], check=True)
    assert len(displaced) == 2
    assert applied.code == "clean_up_failed"
    for path in displaced:
        assert f"{path} (Operation not permitted)" in details(applied)["left"]
    assert set(applied.steps.values()) == {"done"}
    assert (top / "host/d/file").read_text() == "new"
    assert (top / "host/d/log").read_text() == "new"


@pytest.mark.P4
def test_what_can_be_removed_is_although_something_cannot(top: Path) -> None:
    layout = "for number in range(100):\n    write(f'f{number:02}', 'old')"
    recording = record(top, layout, layout.replace("'old'", "'new'"))
    host = top / "host"

    def protect_one() -> None:
        subprocess.check_call(["chattr", "+i", next(host.glob(".shannot-*"))])

    applied = apply(recording, points=At("done", protect_one))
    (left,) = host.glob(".shannot-*")
    subprocess.run(["chattr", "-i", left], check=True)
    assert details(applied)["left"] == f"{left} (Operation not permitted)"
    assert set(applied.steps.values()) == {"done"}


@pytest.mark.P4
def test_no_batch_follows_one_that_is_not_cleaned_up(top: Path) -> None:
    recording = record(top, LAYOUT, "os.unlink('d/gone')\nos.chmod('d/file', 0o600)")
    deleting, changing = sorted(overlays.file_steps(recording), key=lambda step: step.change)
    barrier = CommandStep(
        *("review", "/bin/true", "0" * 64, ("true",), "/", {}, (), 0),
        rule="",
        reason="",
        risk="safe",
    )
    found = overlays.plan_of(replace(recording, steps=(deleting, barrier, changing)), ROOT)
    host = top / "host"

    def protect() -> None:
        subprocess.check_call(["chattr", "+i", next(host.glob(".shannot-*/*"))])

    def work() -> None:
        kernel.mount(str(host), str(host), None, kernel.MS_BIND)  # what is deleted waits in it
        ours, theirs = socket.socketpair()
        encoded = plan.canonical(found)
        state = str(top)
        with (
            Channel(ours) as daemon,
            Orders(theirs) as orders,
            Turn(state) as turn,
            checkpoints.create(state, found.session, encoded, "") as checkpoint,
        ):
            setting = Setting(ROOT, checkpoint, At("done", protect), Stop())
            with pytest.raises(RunnerError) as raised:
                applying.run(found, orders, setting, Floor(), turn)
            told = {}
            while len(told) < 3:
                event, _, _ = daemon.receive()
                told.update(
                    dict.fromkeys(range(event["first"], event["last"] + 1), event["applied"])
                )
        (left,) = host.glob(".shannot-*/*")
        subprocess.run(["chattr", "-i", left], check=True)
        assert raised.value.code == "clean_up_failed"
        assert raised.value.details["step"] == 0
        assert told == {0: "done", 1: "skipped", 2: "skipped"}

    in_a_namespace(work)
    assert os.stat(changing.path).st_mode & 0o777 == 0o644


# What asks an apply to end.


@pytest.mark.P4
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("point", ["checked", "staged", "changing", "changed"])
def test_a_signal_ends_it_between_two_steps_and_all_is_put_back(
    number: signal.Signals, point: str, top: Path
) -> None:
    recording = record(top, LAYOUT, CHANGE)
    before = overlays.snapshot(top / "host")
    index = len(recording.steps) // 2 if point.startswith("chang") else None
    applied = apply(recording, points=At(point, lambda: os.kill(os.getpid(), number), index))
    assert applied.code == "apply_failed"
    assert details(applied)["reason"] == f"the apply was asked to end by {number.name}"
    assert overlays.snapshot(top / "host") == before
    assert "done" not in applied.steps.values()


@pytest.mark.P4
def test_a_signal_after_the_last_step_changes_nothing(top: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    points = At("done", lambda: os.kill(os.getpid(), signal.SIGTERM))
    applied = apply(recording, points=points)
    assert applied.error is None
    assert set(applied.steps.values()) == {"done"}


# What has the number of an inode that is gone.


@pytest.mark.P9
@pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="mounts an image")
@pytest.mark.parametrize("name", ["create", "modify", "metadata"])
def test_a_later_file_with_the_same_inode_is_kept(name: str, top: Path) -> None:
    """With a journal ext4 gives the next file the number of the one that was removed last."""
    change = "write('d/file', 'new')\nwrite('d/fresh', 'new')\nos.chmod('d/gone', 0o600)"
    image, host = top / "image", top / "host"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)

    def work() -> None:
        subprocess.run(["mount", "-o", "loop", image, host], check=True)
        recording = record(top, LAYOUT, change)
        (index,) = (
            index
            for index, step in enumerate(overlays.file_steps(recording))
            if step.change == name and not step.path.endswith("/d")
        )
        path = Path(overlays.file_steps(recording)[index].path)

        def interfere() -> None:
            number = path.stat().st_ino
            path.unlink()
            path.write_text("theirs")
            assert path.stat().st_ino == number

        applied = apply(recording, points=At("changed", failing(interfere), index))
        expected = f"undone, except for {path} (somebody replaced it meanwhile)"
        assert details(applied)["before"] == expected
        assert path.read_text() == "theirs"
        assert path.stat().st_mode & 0o777 == 0o644

    in_a_namespace(work)


@pytest.mark.P2
@pytest.mark.parametrize(
    "made", ["os.mkdir('d')", "os.symlink('x', 'link')", "write('file', 'content')"]
)
def test_an_identity_cannot_make_what_belongs_to_another(made: str, ordinary: Identity) -> None:
    with overlays.workplace(ordinary) as top:
        recording = record(top, "", made, ordinary)
        (step,) = overlays.file_steps(recording)
        foreign = replace(recording, steps=(replace(step, after=replace(step.after, uid=0)),))
        applied = apply(foreign, ordinary)
        assert applied.code == "not_permitted"
        assert details(applied)["reason"] == "it would have to belong to uid 0"
        assert os.listdir(top / "host") == []


@pytest.mark.P4
@pytest.mark.parametrize("fails", [False, True])
def test_a_directory_that_cannot_leave_its_parent_waits_there(
    fails: bool, ordinary: Identity
) -> None:
    """The kernel moves no directory elsewhere that its mover may not write (rename(2))."""
    with overlays.workplace(ordinary) as top:
        recording = record(top, "os.mkdir('d')\nos.chmod('d', 0o555)", "os.rmdir('d')", ordinary)
        before = overlays.snapshot(top / "host")
        points = At("changed", failing(lambda: None)) if fails else None
        applied = apply(recording, ordinary, points)
        if fails:
            assert details(applied)["before"] == "undone"
            assert overlays.snapshot(top / "host") == before
        else:
            assert applied.error is None
            assert os.listdir(top / "host") == []


# What is sent to an apply process.


def served(encoded: bytes, session: str, state: Path, *, sealed: bytes | None = None) -> str:
    """The code of the error that such a request is answered with, by a process of its own."""

    def work() -> str:
        digest = plan.digest(encoded)
        seal = plan.seal(overlays.KEY, session, plan.digest(sealed or encoded))
        ours, theirs = socket.socketpair()
        with Channel(ours) as daemon, open(os.devnull) as null:
            header = {"op": "apply", "session": session, "digest": digest, "seal": seal}
            daemon.send(header, encoded, (null.fileno(),))
            with Channel(theirs) as channel:
                applying.serve(channel, key=overlays.KEY, state=str(state))
            answer, _, _ = daemon.receive()
            assert daemon.receive()[0] == {"event": "end"}
        return str(answer["code"])

    return overlays.in_child(work)


@pytest.mark.P10
def test_what_is_no_plan_is_refused(top: Path) -> None:
    recording = record(top, "", "write('file', 'x')")
    encoded = plan.canonical(overlays.plan_of(recording, ROOT, "one"))
    state = top / "state"
    state.mkdir()
    for garbage in (b"", b"{}", b"[]", b"\xff", b'{"version": 1}'):
        assert served(garbage, "one", state) == "invalid_request"
    assert served(encoded, "two", state) == "digest_mismatch"
    assert served(encoded, "one", state, sealed=b"{}") == "digest_mismatch"
    assert served(encoded, "one", top / "missing") == "apply_failed"
    assert os.listdir(top / "host") == []
    assert os.listdir(state) == []


@pytest.mark.P10
def test_a_daemon_that_goes_away_ends_the_apply(top: Path) -> None:
    recording = record(top, "", "write('file', 'x')")
    encoded = plan.canonical(overlays.plan_of(recording, ROOT))

    def work() -> None:
        ours, theirs = socket.socketpair()
        digest = plan.digest(encoded)
        seal = plan.seal(overlays.KEY, "test-session", digest)
        header = {"op": "apply", "session": "test-session", "digest": digest, "seal": seal}
        with Channel(theirs) as channel:
            with Channel(ours) as daemon:
                daemon.send(header, encoded)
            applying.serve(channel, key=overlays.KEY, state=str(top))

    overlays.in_child(work)
    assert os.listdir(top / "host") == []


@pytest.mark.P5
def test_the_floor_holds_at_apply_whatever_was_approved(top: Path, ordinary: Identity) -> None:
    recording = record(top, "", "write('file', 'x')")
    (top / "etc").mkdir()

    def applied_under(floor: str) -> Applied:
        def work() -> Applied:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
            overlays.over_etc(top / "etc", {"shannot/runner.conf": floor})
            return apply(recording)

        return overlays.in_child(work)

    assert applied_under(f"[identities]\nallowed = {ordinary.name}\n").code == "identity_refused"
    assert applied_under(f"[paths]\nprotected = {top}/host\n").code == "not_permitted"
    assert applied_under("[identities]\nallow = root\n").code == "config"
    assert os.listdir(top / "host") == []
    assert applied_under("[identities]\nallowed = root\n").error is None


@pytest.mark.P5
def test_an_ordinary_runner_does_not_change_its_group(ordinary: Identity) -> None:
    with overlays.workplace(ordinary) as top:
        recording = record(top, "", "write('file', 'x')", ordinary)
        found = overlays.plan_of(recording, replace(ordinary, gid=1))
        applied = overlays.apply_plan(found, recording.contents, become=ordinary)
        assert applied.code == "identity_refused"
        assert "cannot become gid 1" in details(applied)["reason"]


def test_steps_of_no_sound_plan_are_refused(top: Path) -> None:
    recording = record(top, "", "write('file', 'x')")
    (step,) = overlays.file_steps(recording)
    for unsound in (
        replace(step, path=f"{top}/host/d/file"),
        replace(step, after=replace(step.after, type="door")),
    ):
        assert isinstance(unsound, FileStep)
        applied = apply(replace(recording, steps=(unsound,)))
        assert applied.code in ("apply_failed", "stale")
        assert os.listdir(top / "host") == []
