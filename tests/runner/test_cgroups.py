"""Control groups: one for each sandbox, gone with it (P1, P10)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shannotd.runner import cgroups, kernel
from shannotd.runner.cgroups import Base, Cgroup
from shannotd.runner.frames import Channel
from tests.support.cgroups import available, cgroup_of, own_base
from tests.support.processes import descendants, wait_until_gone
from tests.support.runner import RunnerProcess, collect, running_runner

pytestmark = pytest.mark.P10


@pytest.fixture
def base() -> Iterator[Base]:
    with own_base() as own:
        yield own


@pytest.fixture
def runner() -> Iterator[RunnerProcess]:
    """One of this account's that has a base."""
    available()
    with tempfile.TemporaryDirectory() as state, running_runner(Path(state)) as started:
        yield started


def spawn(cgroup: Cgroup, action: Callable[[], object]) -> int:
    """A process of `cgroup` that does `action` again and again."""
    pid = kernel.clone(0, cgroup.fileno())
    if pid == 0:
        try:
            while True:
                action()
        finally:
            os._exit(1)
    return pid


def events(cgroup: Cgroup) -> str:
    return (Path(cgroup.path) / "cgroup.events").read_text()


def test_a_process_is_born_in_its_cgroup_and_removed_with_it(base: Base) -> None:
    cgroup = cgroups.create(base)
    pid = spawn(cgroup, signal.pause)
    assert cgroup_of(pid).endswith(Path(cgroup.path).name)
    cgroup.remove()
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert not Path(cgroup.path).exists()


def test_a_frozen_process_does_nothing_until_it_is_thawed(base: Base) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    cgroup = cgroups.create(base)
    try:
        pids = [spawn(cgroup, lambda: os.write(writer, b"x")) for _ in range(3)]
        cgroup.freeze()
        assert "frozen 1" in events(cgroup)
        drain(reader)
        subprocess.run(["true"], check=True)  # others get the processors meanwhile
        assert drain(reader) == 0
        cgroup.thaw()
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b"x"
        cgroup.freeze()
        cgroup.kill()  # frozen ones too
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [signal.SIGKILL] * 3
    finally:
        cgroup.remove()
        os.close(reader)
        os.close(writer)


def drain(reader: int) -> int:
    """Read what there is; how many bytes that was."""
    count = 0
    while True:
        try:
            count += len(os.read(reader, 1 << 20))
        except BlockingIOError:
            return count


def test_processes_that_fork_all_the_time_are_frozen_and_killed(base: Base) -> None:
    cgroup = cgroups.create(base)

    def beget() -> None:
        if os.fork() == 0:
            os._exit(0)
        os.wait()

    pid = spawn(cgroup, beget)
    cgroup.freeze()
    frozen = (Path(cgroup.path) / "cgroup.procs").read_text()
    subprocess.run(["true"], check=True)
    assert (Path(cgroup.path) / "cgroup.procs").read_text() == frozen
    cgroup.thaw()
    cgroup.remove()
    os.waitpid(pid, 0)
    assert not Path(cgroup.path).exists()


def test_what_waits_for_an_event_can_be_frozen(base: Base) -> None:
    """It goes on waiting when it is thawed, and gets what came meanwhile."""
    ours, theirs = socket.socketpair()
    cgroup = cgroups.create(base)
    with ours, theirs:
        spawn(cgroup, lambda: theirs.sendall(theirs.recv(1)))
        ours.sendall(b"a")
        assert ours.recv(1) == b"a"
        cgroup.freeze()
        ours.sendall(b"b")
        cgroup.thaw()
        assert ours.recv(1) == b"b"
        cgroup.remove()


OWNER = """
import os, signal, sys
from shannotd.runner import cgroups, kernel
cgroup = cgroups.create(cgroups.Base(sys.argv[1], frozenset()))
pid = kernel.clone(0, cgroup.fileno())
if pid == 0:
    os.closerange(3, 4096)
    print(os.getpid(), cgroup.path, flush=True)
    signal.pause()
sys.stdin.read()
"""


def test_only_what_nobody_owns_is_swept(base: Base) -> None:
    command = [sys.executable, "-c", OWNER, base.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        word, path = owner.stdout.readline().split()
        cgroups.sweep(base)
        assert Path(path.decode()).exists()
        os.kill(int(word), 0)
        owner.kill()
    cgroups.sweep(base)
    wait_until_gone([int(word)])
    assert not Path(path.decode()).exists()


def test_a_sandbox_has_a_cgroup_that_it_cannot_reach(runner: RunnerProcess) -> None:
    script = (
        "cat /proc/self/cgroup; find /sys/fs/cgroup; mount -t cgroup2 none /mnt;"
        "grep cgroup /proc/mounts; echo on; sleep 1000"
    )
    session, job = runner.start("shell", script)
    with job:
        output = b""
        while not output.endswith(b"on\n"):
            event, payload, _ = job.receive()
            output += payload if event.get("stream") == "stdout" else b""
        inside = [
            pid
            for pid in descendants(runner.process.pid)
            if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
        ]
        where = {cgroup_of(pid) for pid in inside}
        assert len(where) == 1
        assert cgroups.SESSION in where.pop()
        assert cgroup_of(runner.process.pid) not in where
        job.send({"op": "cancel"})
        collect(session, job)
    lines = output.decode().splitlines()
    assert "0::/" in lines
    assert not [line for line in lines if "shannot" in line or "cgroup." in line]
    assert not [line for line in lines if line.startswith("cgroup")]


def test_supervisors_that_are_killed_leave_no_cgroup() -> None:
    base = available()
    with tempfile.TemporaryDirectory() as state, running_runner(Path(state)) as runner:
        session, job = runner.start("shell", "echo on; sleep 1000")
        with job:
            wait_for_output(job)
            zygote, *others = descendants(runner.process.pid)
            names = {Path(cgroup_of(pid)).name for pid in others}
            mine = {name for name in names if name.startswith(cgroups.SESSION)}
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            collect(session, job)
        wait_until_gone(others)
        os.kill(zygote, 0)
    assert mine
    assert mine.isdisjoint(os.listdir(base.path))


def wait_for_output(job: Channel) -> None:
    while job.receive()[0]["event"] != "output":
        pass
