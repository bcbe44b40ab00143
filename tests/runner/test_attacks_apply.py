"""Attacks on what no plan may touch, and on an apply that is killed (P2, P4)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from shannotd.runner import plan
from shannotd.runner.frames import Channel, Closed, RunnerError
from shannotd.runner.plan import ABSENT, FileState, FileStep
from shannotd.runner.starting import Starting
from shannotd.runner.workspace import Workspace
from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.support.runner import RunnerProcess

Fresh = Callable[..., AbstractContextManager[RunnerProcess]]


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[tuple[Path, Starting]]:
    """A protected file at d/inside/file, and what checks plans against that."""
    inside = tmp_path / "d" / "inside"
    inside.mkdir(parents=True)
    (inside / "file").write_text("protected")
    yield tmp_path, Starting(Workspace(overlays.who(None)), {str(inside / "file"): "is protected"})


def state(path: Path) -> FileState:
    status = os.lstat(path)
    kind = "directory" if path.is_dir() else "file"
    return FileState(kind, status.st_mode & 0o7777, status.st_uid, status.st_gid)


@pytest.mark.P2
@pytest.mark.parametrize("name", ["delete", "rename", "replace", "link"])
def test_what_is_protected_is_not_reached_by_a_step_above_it(
    floor: tuple[Path, Starting], name: str
) -> None:
    """Deleting or moving a directory above it, or giving it another name to be changed by."""
    top, starting = floor
    above = state(top / "d")
    new = FileState("file", 0o644, os.geteuid(), os.getegid(), 0, plan.digest(b""))
    step = {
        "delete": FileStep("delete", f"{top}/d", above, ABSENT),
        "rename": FileStep("rename", f"{top}/e", above, above, f"{top}/d"),
        "replace": FileStep("modify", f"{top}/d", above, new),
        "link": FileStep("create", f"{top}/x", ABSENT, new, link_to=f"{top}/d/inside/file"),
    }[name]
    with pytest.raises(RunnerError) as raised:
        starting.check(0, step)
    assert raised.value.code == "not_permitted"
    assert "is protected" in str(raised.value.details["reason"])


SCRIPT = """
import os
for i in range(40):
    with open(f'f{i}', 'w') as file: file.write('new' * 20000)
for i in range(40, 60): os.unlink(f'f{i}')
for i in range(20): open(f'n{i}', 'w').write('new' * 1000)
"""


OLD, NEW = "old" * 10000, "new" * 20000


def interrupted(
    bench: Bench, runner: RunnerProcess, directory: Path, number: signal.Signals
) -> dict[str, str]:
    """Apply what SCRIPT does in `directory`, and send the process `number` at a random moment.

    What became of the steps, by their paths, as far as it told.
    """
    status = os.stat(bench.home)
    directory.mkdir()
    for i in range(60):
        (directory / f"f{i}").write_text(OLD)
        os.chown(directory / f"f{i}", status.st_uid, status.st_gid)
    os.chown(directory, status.st_uid, status.st_gid)
    outcome = runner.run("python", SCRIPT, cwd=str(directory))
    assert outcome.error is None
    ours, theirs = socket.socketpair()
    before = children(runner.process.pid)
    assert runner.ask({"op": "apply"}, (theirs.fileno(),)) == {}
    theirs.close()
    (applying,) = children(runner.process.pid) - before
    told: dict[str, str] = {}
    with Channel(ours) as job, open_process(applying) as process:
        header = {"op": "apply", "session": outcome.session}
        header.update(digest=outcome.digest, seal=outcome.seal)
        job.send(header, outcome.canonical)
        event, _, _ = job.receive()
        listing = [[name, len(outcome.blobs[name])] for name in event["sha256"]]
        content = b"".join(outcome.blobs[name] for name in event["sha256"])
        job.send({"op": "blobs", "blobs": listing}, content)
        spin(random.randrange(60_000))
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            signal.pidfd_send_signal(process, number)
        with contextlib.suppress(Closed):
            while event["event"] != "end":
                event, _, _ = job.receive()
                if event["event"] == "steps":
                    for index in range(event["first"], event["last"] + 1):
                        told[str(index)] = event["applied"]
        select.select([process], [], [])
    return told


@contextlib.contextmanager
def open_process(pid: int) -> Iterator[int]:
    """A descriptor of a process, readable when it has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def contents(directory: Path) -> dict[str, str]:
    """What each file in `directory` holds, but those that an apply has left."""
    return {
        path.name: path.read_text()
        for path in directory.iterdir()
        if not path.name.startswith(".shannot-")
    }


def leftovers(directory: Path) -> list[Path]:
    """What a killed apply to `directory` left there, and of what it deleted, further up.

    A deletion waits under a name that begins like those in the directory itself; each batch
    has such names there as long as it has a place for deletions.
    """
    here = sorted(directory.glob(".shannot-*"))
    batches = {path.name.rpartition("-")[0] for path in here}
    return here + [
        path
        for above in directory.parents
        for batch in batches
        for path in above.glob(f"{batch}-*")
    ]


@pytest.mark.P4
def test_a_killed_apply_leaves_every_file_old_or_new(
    bench: Bench, fresh: Fresh, place: Path
) -> None:
    """SIGKILL of the applying process at random moments: no file is torn."""
    with fresh() as runner:
        for number in range(12):
            directory = place / str(number)
            interrupted(bench, runner, directory, signal.SIGKILL)
            for name, content in contents(directory).items():
                good = {"f": (OLD, NEW), "n": ("new" * 1000,)}
                assert content in good[name[0]]
            for path in leftovers(directory):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            assert leftovers(directory) == []


@pytest.mark.P4
def test_an_apply_that_is_asked_to_end_leaves_all_old_or_all_new(
    bench: Bench, fresh: Fresh, place: Path
) -> None:
    """SIGTERM of the applying process at random moments: it puts back, or was done."""
    old = {f"f{i}": OLD for i in range(60)}
    new = {f"f{i}": NEW for i in range(40)} | {f"n{i}": "new" * 1000 for i in range(20)}
    with fresh() as runner:
        for number in range(12):
            directory = place / str(number)
            told = interrupted(bench, runner, directory, signal.SIGTERM)
            done = set(told.values()) == {"done"}
            assert contents(directory) == (new if done else old)
            assert list(directory.glob(".shannot-*")) == []
            assert done or "done" not in told.values()


def children(pid: int) -> set[int]:
    """The processes whose parent is `pid`."""
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def spin(rounds: int) -> None:
    """Let a little time pass, never the same."""
    for number in range(rounds):
        json.dumps(number)


@pytest.mark.P2
def test_forged_seals_and_other_digests_are_refused(bench: Bench, place: Path) -> None:
    (place / "f").write_text("old")
    outcome = bench.run("shell", "echo x > g", cwd=str(place))
    real = outcome.seal, outcome.digest, outcome.canonical
    forged = outcome.canonical.replace(b'/g"', b'/h"')
    for seal, digest, canonical in (
        ("0" * 64, real[1], real[2]),
        ("", real[1], real[2]),
        (real[0], "0" * 64, real[2]),
        (real[0], real[1], forged),
        (real[0], plan.digest(forged), forged),
        ("\u00e9" * 64, real[1], real[2]),
    ):
        outcome.seal, outcome.digest, outcome.canonical = seal, digest, canonical
        _, error = bench.runner.apply(outcome)
        assert error is not None
        assert error["code"] == "digest_mismatch"
    outcome.seal, outcome.digest, outcome.canonical = real
    outcome.session, session = "f" * 32, outcome.session
    assert (bench.runner.apply(outcome)[1] or {})["code"] == "digest_mismatch"
    outcome.session = session
    assert sorted(os.listdir(place)) == ["f"]
    assert bench.runner.apply(outcome)[1] is None
    assert (bench.runner.apply(outcome)[1] or {})["code"] == "wrong_state"
