"""Barriers: the sandbox stands still, and each delta is what the script did since the last (P2)."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runner import overlays
from tests.runner.conftest import BUILDERS
from tests.runner.overlays import file_steps
from tests.support.standing import Standing, run

pytestmark = pytest.mark.P2


@dataclass(frozen=True)
class Bed:
    """Runs scripts with barriers as one identity, which owns `place`."""

    run: Callable[..., Standing]
    account: str
    place: Path


@pytest.fixture(params=BUILDERS)
def bed(packages: Path, request: pytest.FixtureRequest) -> Iterator[Bed]:
    """Under each builder; without a control group unless a test wants one."""
    account = None
    if request.param == "one-uid" and os.geteuid() == 0:
        account = request.getfixturevalue("account")
    entry = pwd.getpwnam(account) if account else pwd.getpwuid(os.geteuid())
    base = f"/home/{account}" if account else Path.home()
    place, state = (Path(tempfile.mkdtemp(prefix="shannot-barrier-", dir=base)) for _ in "ab")
    try:
        for directory in (place, state):
            os.chown(directory, entry.pw_uid, entry.pw_gid)

        def start(script: str, **more: object) -> Standing:
            script = f"PLACE = {str(place)!r}\nos.chdir(PLACE)\n" + script
            return run(packages, state, script, account=account, **more)  # type: ignore[arg-type]

        yield Bed(start, entry.pw_name, place)
    finally:
        shutil.rmtree(place)
        shutil.rmtree(state)


def apply(bed: Bed, found: Standing) -> list[dict[str, bytes]]:
    """Apply the deltas one after the other; all files of the place after each."""
    who = overlays.who(bed.account)
    seen = []
    contents: dict[str, bytes] = {}
    for number, delta in enumerate(found.deltas):
        contents.update(delta.contents)
        plan = overlays.plan_of(delta, who, f"session-{number}")
        applied = overlays.apply_plan(plan, contents, become=who)
        assert applied.error is None, applied.error
        files = [path for path in bed.place.rglob("*") if path.is_file()]
        seen.append({str(path.relative_to(bed.place)): path.read_bytes() for path in files})
    return seen


def test_each_delta_is_what_came_since_the_last(bed: Bed) -> None:
    (bed.place / "log").write_text("begun\n")
    owner = os.stat(bed.place)
    os.chown(bed.place / "log", owner.st_uid, owner.st_gid)
    found = bed.run("""
with open("log", "a") as file: file.write("one\\n")
open("large", "wb").write(bytes(range(256)) * 4096)
barrier()
with open("log", "a") as file: file.write("two\\n")
open("large", "r+b").write(b"changed afterwards")
barrier()
os.unlink("log")
open("last", "w").write("x")
""")
    assert found.exit_code == 0
    assert found.error is None
    first, second, third = apply(bed, found)
    assert first == {"log": b"begun\none\n", "large": bytes(range(256)) * 4096}
    assert second["log"] == b"begun\none\ntwo\n"
    assert second["large"].startswith(b"changed afterwards\x12\x13")
    assert set(third) == {"large", "last"}
    changes = [
        {step.path.rpartition("/")[2]: step.change for step in file_steps(delta)}
        for delta in found.deltas
    ]
    assert changes[1]["log"] == "append"
    assert "+two" in (found.deltas[1].notes[0].diff or "") + (found.deltas[1].notes[1].diff or "")


WRITERS = """
children = []
# It takes a while to come from the one to the other.
for number in range(300):
    with open(f"m{number}", "w") as file: file.write("x" * 5000)
for number in range(4):
    child = os.fork()
    if child == 0:
        # Two files that are always equal, but for the moment between the two.
        count = 0
        while True:
            count += 1
            for name in ("a", "z"):
                with open(f"{name}{number}.new", "w") as file: file.write(str(count) * 50)
                os.rename(f"{name}{number}.new", f"{name}{number}")
            if os.path.exists("stop"): os._exit(0)
    children.append(child)
while not all(os.path.exists(f"z{number}") for number in range(4)): os.sched_yield()
for _ in range(5): barrier()
open("stop", "w").close()
for child in children: os.waitpid(child, 0)
"""


def test_an_old_file_that_got_another_mode_is_not_told_again(bed: Bed) -> None:
    path = bed.place / "old"
    path.write_text("x")
    os.utime(path, (10**9, 10**9))
    owner = os.stat(bed.place)
    os.chown(path, owner.st_uid, owner.st_gid)
    found = bed.run("os.chmod('old', 0o600)\nbarrier()\nopen('new', 'w').close()\n")
    changes = [[(step.change, step.path) for step in file_steps(delta)] for delta in found.deltas]
    assert changes == [[("metadata", str(path))], [("create", str(bed.place / "new"))]]


@pytest.mark.parametrize("cgroup", [False, True], ids=["signals", "cgroup"])
def test_nothing_moves_while_it_is_looked_at(bed: Bed, cgroup: bool) -> None:
    found = bed.run(WRITERS, cgroup=cgroup)
    if cgroup and not found.cgroup:
        pytest.skip("no cgroup2 that this account may write")
    assert found.error is None
    assert found.exit_code == 0
    for seen in apply(bed, found)[:-1]:
        for number in range(4):
            one, two = (seen[f"{name}{number}"] for name in "az")
            ahead = int(one[: len(one) // 50]) - int(two[: len(two) // 50])
            assert ahead in (0, 1), "a moment that never was"


def test_what_the_script_stopped_stays_stopped(bed: Bed) -> None:
    found = bed.run("""
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    open("woken", "w").close()
    os._exit(0)
os.waitpid(child, os.WUNTRACED)
barrier()
status = open(f"/proc/{child}/status").read()
assert "State:\\tT" in status, status
os.kill(child, signal.SIGCONT)
os.waitpid(child, 0)
""")
    assert found.exit_code == 0
    assert [len(file_steps(delta)) for delta in found.deltas] == [0, 1]


def test_a_parent_that_waits_for_its_vforked_child_is_still(bed: Bed) -> None:
    found = bed.run(
        """
import ctypes
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    # posix_spawn waits in vfork until its child has opened what nobody writes to.
    os.mkfifo("/tmp/fifo")
    os.write(writing, b"x")
    actions = [(os.POSIX_SPAWN_OPEN, 0, "/tmp/fifo", os.O_RDONLY, 0)]
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=actions)
    os._exit(0)
os.read(reading, 1)
while not any("D (" in open(f"/proc/{pid}/status").read() for pid in [child]): os.sched_yield()
barrier()
os.close(os.open("/tmp/fifo", os.O_WRONLY))
os.waitpid(child, 0)
""",
        loud=True,
    )
    assert found.error is None
    assert found.exit_code == 0


def test_a_sandbox_that_cannot_be_held_still_is_not_believed(bed: Bed) -> None:
    found = bed.run("barrier()", disturbed=True)
    assert found.error is not None
    assert found.error["code"] == "capture_failed"
    assert "held still" in found.error["reason"]


def test_what_changes_through_a_mapping_is_seen(bed: Bed) -> None:
    """Stores into a shared mapping leave no trace in a file's times."""
    found = bed.run("""
open("mapped", "w").write("a" * 4096)
import mmap
file = open("mapped", "r+b")
memory = mmap.mmap(file.fileno(), 4096)
memory[0] = ord("b")
os.utime("mapped", (1_500_000_000, 1_500_000_000))
# So long that a version of the file would count as settled.
deadline = time.monotonic() + 0.1
while time.monotonic() < deadline: os.sched_yield()
barrier()
memory[1] = ord("c")
barrier()
""")
    assert found.error is None
    first, second, _ = apply(bed, found)
    assert first["mapped"].startswith(b"baa")
    assert second["mapped"].startswith(b"bca")


@pytest.mark.P10
def test_contents_of_all_deltas_are_bounded(bed: Bed) -> None:
    found = bed.run(
        """
for number in range(8):
    open("large", "wb").write(os.urandom(1 << 20))
    barrier()
""",
        limits={"written_bytes": 5 << 20},
    )
    assert found.error == {"code": "limit_exceeded", "name": "written_bytes", "limit": 5 << 20}


@pytest.mark.P10
def test_steps_of_all_deltas_are_bounded(bed: Bed) -> None:
    found = bed.run(
        """
for number in range(8):
    for name in range(3): open(f"{number}.{name}", "w").close()
    barrier()
""",
        limits={"steps": 10},
    )
    assert found.error == {"code": "limit_exceeded", "name": "steps", "limit": 10}
