"""A waiting call is begun again as another one, or stays what it is (P1, P8)."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shannotd.runner import turning
from tests.support.accounts import is_root


@contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for a line, and then prints one."""
    child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_what_is_gone_is_not_turned() -> None:
    with sleeper() as child:
        child.kill()
        child.wait()
        assert turning.turn(child.pid, (0,), (0, 0, 0, 0, 0), lambda _: None) is False


def test_a_call_with_other_registers_stays_what_it_is() -> None:
    answered: list[int] = []
    with sleeper() as child:
        while Path(f"/proc/{child.pid}/wchan").read_text() in ("0", ""):
            os.sched_yield()
        assert not turning.turn(child.pid, (7, 7, 7), (0, 0, 0, 0, 0), answered.append)
        output, _ = child.communicate(b"still there\n")
        assert (output, child.returncode) == (b"still there\n", 0)
    assert answered == [turning.ERESTARTNOINTR]


def test_a_signal_that_comes_first_is_delivered() -> None:
    with sleeper() as child:
        assert not turning.turn(
            child.pid, (7,), (0, 0, 0, 0, 0), lambda _: os.kill(child.pid, signal.SIGTERM)
        )
        assert child.wait() == -signal.SIGTERM


@pytest.mark.P10
@pytest.mark.parametrize("calls", range(2, 5))
def test_a_parent_learns_of_the_end_of_who_is_killed_meanwhile(
    calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before its tracer has (ptrace(2))."""
    left = calls
    trace = turning._ptrace

    def killing(request: int, pid: int, *more: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(pid, signal.SIGKILL)
            while ") Z" not in Path(f"/proc/{pid}/stat").read_text():
                os.sched_yield()
        trace(request, pid, *more)

    command = ["/bin/sh", "-c", "/bin/sleep 1000 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        monkeypatch.setattr(turning, "_ptrace", killing)
        assert not turning.turn(child, (7,), (0, 0, 0, 0, 0), lambda _: None)
        try:
            assert parent.wait(20) == 0
        finally:
            parent.kill()
    assert left <= 0


def test_a_process_that_does_not_stop_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose child has its memory: it goes on when that child does (vfork(2))."""
    monkeypatch.setattr(turning, "PATIENCE_SECONDS", 0.2)
    code = (
        "import ctypes, os, signal\n"
        "if ctypes.PyDLL(None).vfork() == 0:\n"
        "    os.write(1, b'x')\n"
        "    signal.pause()\n"
    )
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout is not None
        assert child.stdout.read(1) == b"x"
        with pytest.raises(TimeoutError):
            turning.turn(child.pid, (7,), (0, 0, 0, 0, 0), lambda _: None)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


@pytest.mark.P8
@pytest.mark.skipif(not is_root(), reason="makes an account")
def test_who_may_not_is_told(account: str, packages: Path) -> None:
    turning.check()
    code = (
        "import os\n"
        "from shannotd.runner import turning\n"
        "try:\n    turning.turn(os.getppid(), (0,), (0,), print)\n"
        "except PermissionError as error:\n    print(error)\n"
    )
    entry = pwd.getpwnam(account)
    told = subprocess.run(
        ["/usr/bin/python3", "-c", code],
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert told.stdout == "[Errno 1] ptrace: Operation not permitted\n"
