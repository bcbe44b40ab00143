"""Limits of a session as a whole, by control groups with their controllers (P10).

`make test-machine` runs these in an emulated machine; so does `pytest tests/machine` in a unit with
Delegate=yes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner import cgroups
from shannotd.runner.cgroups import Base
from shannotd.runner.frames import Channel
from shannotd.wire.submission import ScriptKind, Submission
from tests.support.cgroups import available, cgroup_of
from tests.support.daemon import running_daemon
from tests.support.processes import descendants, wait_until_gone
from tests.support.runner import RunnerProcess, collect, running_runner

pytestmark = pytest.mark.P10

MIB = 1 << 20


@pytest.fixture(scope="module")
def base() -> Base:
    found = available()
    missing = {"memory", "pids", "cpu"} - found.controllers
    if missing:
        pytest.skip(f"no controllers {sorted(missing)} here (make test-machine has them)")
    return found


@pytest.fixture(scope="module")
def runner(base: Base) -> Iterator[RunnerProcess]:
    with tempfile.TemporaryDirectory() as state, running_runner(Path(state)) as started:
        yield started


MEMFD = """
import os
for number in range(12):
    descriptor = os.memfd_create(str(number))
    for _ in range({mib} // 12): os.write(descriptor, b'x' * (1 << 20))
print('ok')
"""
TMPFS = """
for number in range(12):
    with open(f'/dev/shm/{{number}}', 'wb', buffering=0) as file:
        for _ in range({mib} // 12): file.write(b'x' * (1 << 20))
print('ok')
"""
LAYER = """
for number in range(12):
    with open(f'/var/tmp/{{number}}', 'wb', buffering=0) as file:
        for _ in range({mib} // 12): file.write(b'x' * (1 << 20))
print('ok')
"""
SHARED = """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for number in range(12):
    size = {mib} // 12 << 20
    segment = libc.shmget(0, ctypes.c_size_t(size), 0o1600)
    assert segment >= 0
    place = libc.shmat(segment, None, 0)
    ctypes.memset(ctypes.c_void_p(place), 1, size)
    assert libc.shmdt(ctypes.c_void_p(place)) == 0
print('ok')
"""
PROCESSES = """
import os, signal
for number in range(12):
    if os.fork() == 0:
        block = bytearray(b'x') * ({mib} // 12 << 20)
        signal.pause()
os.wait()
print('ok')
"""


@pytest.mark.parametrize(
    ("script", "mib", "limit"),
    [
        (MEMFD, 360, 120),
        (TMPFS, 60, 44),  # /dev/shm has 64 MiB
        (LAYER, 240, 120),
        (SHARED, 360, 120),
        (PROCESSES, 360, 120),
    ],
    ids=["memfd", "tmpfs", "layer", "system-v", "processes"],
)
def test_memory_of_every_kind_counts(
    runner: RunnerProcess, script: str, mib: int, limit: int
) -> None:
    outcome = runner.run("python", script.format(mib=mib), limits={"memory_bytes": limit * MIB})
    assert outcome.stopped == "memory_bytes", outcome
    assert outcome.steps == []
    assert b"ok" not in outcome.stdout
    assert runner.run("shell", "echo next").stdout == b"next\n"


@pytest.mark.parametrize("script", [MEMFD, TMPFS, LAYER, SHARED], ids=["m", "t", "l", "s"])
def test_memory_within_the_limit_is_there(runner: RunnerProcess, script: str) -> None:
    outcome = runner.run("python", script.format(mib=60), limits={"memory_bytes": 240 * MIB})
    assert (outcome.stopped, outcome.stdout) == (None, b"ok\n"), outcome


def test_what_was_taken_is_given_back(runner: RunnerProcess) -> None:
    before = shared_memory()
    for script in (MEMFD, SHARED, LAYER):
        runner.run("python", script.format(mib=240), limits={"memory_bytes": 120 * MIB})
    assert shared_memory() < before + 60 * MIB


def shared_memory() -> int:
    """Bytes of memory filesystems, memfds and segments on this machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Shmem:"))


def test_processes_are_limited_for_every_identity(runner: RunnerProcess) -> None:
    script = (
        "import os, signal\n"
        "for number in range(200):\n"
        "    if os.fork() == 0: signal.pause()\n"
        "    os.write(1, b'%d\\n' % number)\n"
    )
    outcome = runner.run("python", script, limits={"processes": 30, "wall_seconds": 60})
    started = outcome.stdout.count(b"\n")
    assert started < 30
    # An ordinary identity has RLIMIT_NPROC as well, and is told EAGAIN by that.
    assert outcome.stopped == "processes" or b"BlockingIOError" in outcome.stderr, outcome
    if os.geteuid() == 0:
        assert outcome.stopped == "processes"


def test_limits_are_those_of_the_session(runner: RunnerProcess, base: Base) -> None:
    limits = {"memory_bytes": 300 * MIB, "processes": 50}
    session, job = runner.start("shell", "echo on; exec sleep 1000", limits=limits)
    with job:
        wait_for_output(job)
        sleeper = next(
            pid
            for pid in descendants(runner.process.pid)
            if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
        )
        path = Path(base.path) / Path(cgroup_of(sleeper)).name
        found = {
            name: (path / name).read_text().strip()
            for name in ("memory.max", "memory.oom.group", "pids.max", "cpu.weight")
        }
        job.send({"op": "cancel"})
        collect(session, job)
    assert found == {
        "memory.max": str(300 * MIB),
        "memory.oom.group": "1",
        "pids.max": "51",
        "cpu.weight": "100",
    }


def wait_for_output(job: Channel) -> None:
    while job.receive()[0]["event"] != "output":
        pass


def test_no_cgroup_is_left(base: Base) -> None:
    with tempfile.TemporaryDirectory() as state, running_runner(Path(state), pool=2) as runner:
        for number in range(20):
            session, job = runner.start("shell", "echo on; sleep 0.01")
            with job:
                if number % 3:
                    assert collect(session, job).error is None
                else:
                    job.send({"op": "cancel"})
                    collect(session, job)
        everything = descendants(runner.process.pid)
        names = {Path(cgroup_of(pid)).name for pid in everything}
    wait_until_gone(everything)
    assert {cgroups.RUNNER, *names} > {cgroups.RUNNER}
    left = {name for name in os.listdir(base.path) if name.startswith(cgroups.SESSION)}
    assert not left & names


@pytest.mark.skipif(os.geteuid() != 0, reason="root asks systemd for a scope")
def test_a_daemon_in_a_scope_of_its_own(base: Base, tmp_path: Path) -> None:
    """It and its runner find out by themselves what they were given."""
    unit = "shannot-test.scope"
    prefix = ["systemd-run", "--scope", "--quiet", f"--unit={unit}", "-p", "Delegate=yes"]
    cgroup = Path("/sys/fs/cgroup/system.slice") / unit
    config = f"[profiles.default.limits]\nmemory_bytes = {120 * MIB}\n"
    with running_daemon(tmp_path / "daemon", config=config, prefix=prefix) as daemon:
        with daemon.client() as client:
            source = MEMFD.format(mib=360).encode()
            session = client.submit(Submission(ScriptKind.PYTHON, source))
            assert session.error is not None
            assert session.error.code == "limit_exceeded"
            assert "memory_bytes" in session.error.message
            fine = client.submit(Submission(ScriptKind.PYTHON, b"print(1 + 1)"))
            assert fine.stdout == b"2\n"
        assert cgroup_of(daemon.process.pid).endswith(f"{unit}/{cgroups.RUNNER}")
        assert "memory" in (cgroup / "cgroup.subtree_control").read_text()
        daemon.stop()
    deadline = time.monotonic() + 60
    while cgroup.exists():  # systemd hears of its last process, and removes it then
        assert time.monotonic() < deadline
        os.sched_yield()
