"""The pool of warm sandboxes when its processes end, or cannot be started (P8, P10)."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shannotd.runner import kernel
from shannotd.runner import pool as pool_module
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import Identity
from shannotd.runner.pool import INTERPRETER, Pool
from tests.runner import overlays
from tests.support.accounts import is_root
from tests.support.runner import running_runner

pytestmark = pytest.mark.skipif(not is_root(), reason="makes namespaces")


@contextmanager
def started(state: Path, size: int) -> Iterator[Pool]:
    pool = Pool(str(state), size)
    pool.start()
    try:
        yield pool
    finally:
        pool.close()


def serve_until(pool: Pool, done: Callable[[], bool]) -> None:
    """Let the pool hear of its supervisors until `done`."""
    while not done():
        poll = select.poll()
        for descriptor in pool.descriptors():
            poll.register(descriptor, select.POLLIN)
        found = poll.poll(10_000)
        assert found, f"no supervisor says anything: {pool.failure}"
        for descriptor, _ in found:
            pool.serve(descriptor)


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def zygote() -> int:
    (pid,) = (
        pid
        for pid in children(os.getpid())
        if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return pid


def refused(pool: Pool) -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(RunnerError) as raised:
        pool.hand_out(theirs.fileno())
    assert raised.value.code == "sandbox_unavailable"
    return str(raised.value.details["reason"])


def test_it_grows_and_shrinks(tmp_path: Path) -> None:
    with started(tmp_path, 1) as pool:
        serve_until(pool, lambda: pool.ready == 1)
        pool.resize(3)
        serve_until(pool, lambda: pool.ready == 3)
        pool.resize(1)
        assert (pool.ready, len(pool.descriptors())) == (1, 1)
        pool.resize(0)
        assert (pool.ready, pool.descriptors()) == (0, [])
        pool.resize(1)
        pool.resize(0)  # one that is not ready yet


def test_a_supervisor_that_ended_is_replaced(tmp_path: Path) -> None:
    with started(tmp_path, 1) as pool:
        serve_until(pool, lambda: pool.ready == 1)
        (supervisor,) = children(zygote())
        os.kill(supervisor, signal.SIGKILL)
        serve_until(pool, lambda: not pool.descriptors())
        assert pool.ready == 0
        pool.resize(1)
        serve_until(pool, lambda: pool.ready == 1)


@pytest.mark.P10
def test_a_job_goes_to_a_supervisor_that_lives(tmp_path: Path) -> None:
    with started(tmp_path, 2) as pool:
        serve_until(pool, lambda: pool.ready == 2)
        first, _ = children(zygote())
        ended = os.pidfd_open(first)
        os.kill(first, signal.SIGKILL)
        assert select.select([ended], [], [], 30)[0]  # and nobody has read of it
        os.close(ended)
        ours, theirs = socket.socketpair()
        with ours, theirs, pool.hand_out(theirs.fileno()) as control:
            assert control.fileno() not in pool.descriptors()
            assert not select.select([control.fileno()], [], [], 0)[0]  # it has not ended


@pytest.mark.P8
def test_without_its_zygote_nothing_runs(tmp_path: Path) -> None:
    pool = Pool(str(tmp_path), 0)
    assert refused(pool) == "the zygote is not running"
    with started(tmp_path, 1) as pool:
        serve_until(pool, lambda: pool.ready == 1)
        pid = zygote()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        pool.resize(0)
        assert refused(pool).startswith("the zygote ended")
        with pytest.raises(RunnerError):
            pool.resize(1)


@pytest.mark.P8
def test_without_the_hosts_interpreter_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "no-program").touch()

    def work() -> object:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(tmp_path / "no-program", INTERPRETER, None, kernel.MS_BIND)
        with pytest.raises(RunnerError) as raised:
            Pool(str(tmp_path), 1).start()
        return raised.value.details

    assert overlays.in_child(work) == {
        "reason": f"{INTERPRETER}: Permission denied",
        "remedy": "Install the package python3.",
    }


@pytest.mark.P8
def test_why_no_sandbox_can_be_built_is_told(
    ordinary: Identity, top: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on namespaces, as an administrator may set it."""

    def work() -> tuple[object, int]:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        kernel.unshare(kernel.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{ordinary.uid} {ordinary.uid} 1")
        Path("/proc/self/gid_map").write_text(f"{ordinary.gid} {ordinary.gid} 1")
        Path("/proc/sys/user/max_uts_namespaces").write_text("0")
        with started(top / "host", 1) as pool:
            serve_until(pool, lambda: pool.failure is not None)
            return pool.failure, pool.ready

    # The account may not be able to read the checkout.
    monkeypatch.setattr(pool_module, "_ZYGOTE", str(packages / "shannotd/runner/zygote.py"))
    failure, ready = overlays.in_child(work, ordinary)
    assert isinstance(failure, dict)
    assert failure["code"] == "sandbox_unavailable"
    assert failure["details"]["reason"] == "namespaces: clone3: No space left on device"
    assert ready == 0


@pytest.mark.P8
def test_a_broken_floor_is_told_to_every_job_until_it_is_corrected(top: Path) -> None:
    def work() -> tuple[object, list[object]]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        overlays.over_etc(top / "layers", {"shannot/runner.conf": "[identities]\nallow = root\n"})
        with running_runner(top / "host") as runner:
            broken = runner.run("shell", "echo on", run_as="root")
            errors: list[object] = [broken.error, broken.stdout]
            Path("/etc/shannot/runner.conf").write_text("[identities]\nallowed = daemon\n")
            errors.append(runner.run("shell", "true", run_as="root").error)
            return errors, [runner.run("shell", "id -un", run_as="daemon").stdout]

    (error, output, refused), outputs = overlays.in_child(work)  # type: ignore[misc]
    assert output == b""
    assert error == {
        "event": "error",
        "code": "config",
        "details": {
            "path": "/etc/shannot/runner.conf",
            "reason": "unknown key [identities] allow",
        },
    }
    assert refused["code"] == "identity_refused"
    assert outputs == [b"daemon\n"]
