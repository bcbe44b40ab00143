"""Calls of programs are turned into those of shims on the oldest kernel that is promised (P1, P2).

See test_limits.py for where these run.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import Outcome, RunnerProcess, observe, review, running_runner, verdict

SHIMS = ("df", "uname", "mount")


@pytest.fixture(scope="module")
def runner() -> Iterator[RunnerProcess]:
    with tempfile.TemporaryDirectory() as state, running_runner(Path(state)) as started:
        yield started


def answer(call: dict[str, Any]) -> dict[str, Any]:
    """df is reviewed, uname observed, mount runs until it is ended; the rest is contained."""
    name = os.path.basename(call["path"])
    if name == "df":
        return review(exit_status=3, stdout="told\n")
    if name == "uname":
        return observe(call)
    if name == "mount":
        return observe(call, program="/bin/sleep", argv=["sleep", "1000"])
    return verdict("contain")


def run(runner: RunnerProcess, kind: str, script: str, *arguments: str) -> Outcome:
    outcome = runner.run(kind, script, *arguments, shims=SHIMS, decide=answer)
    assert outcome.error is None and outcome.stopped is None, outcome
    return outcome


def test_a_shell_calls(runner: RunnerProcess) -> None:
    outcome = run(runner, "shell", "df 'a b'; echo $?; uname -s; env -i df | cat; seq 2")
    assert outcome.stdout == b"told\n3\nLinux\ntold\n1\n2\n"
    assert [step["argv"] for step in outcome.commands()][:2] == [["df", "a b"], ["df"]]


def test_python_calls(runner: RunnerProcess) -> None:
    """By vfork, fork, a thread, and a descriptor."""
    code = (
        "import functools, os, subprocess as s, threading\n"
        "print = functools.partial(print, flush=True)\n"
        "print(s.run(['df'], capture_output=True))\n"
        "print(s.run(['df'], preexec_fn=lambda: None, stdout=s.DEVNULL).returncode)\n"
        "one = s.Popen(['mount']); one.terminate(); print(one.wait())\n"
        "try:\n    s.run(['mount'], timeout=1)\nexcept s.TimeoutExpired:\n    print('late')\n"
        "child = os.fork()\n"
        "if child == 0:\n    os.execve(os.open('/usr/bin/df', os.O_RDONLY), ['df'], {})\n"
        "print(os.waitpid(child, 0)[1] >> 8)\n"
        "threading.Thread(target=os.execv, args=('/usr/bin/df', ['df'])).start()\n"
        "threading.Event().wait()\n"
    )
    outcome = run(runner, "python", code)
    assert outcome.exit_code == 3
    lines = outcome.stdout.decode().splitlines()
    assert "returncode=3, stdout=b'told\\n'" in lines[0]
    assert lines[1:] == ["3", "-15", "late", "told", "3", "told"]


def test_signals_meanwhile(runner: RunnerProcess) -> None:
    script = (
        "df & kill -STOP $!; sleep 0.3; kill -CONT $!; wait $!; echo $?;"
        "mount & sleep 0.5; kill $!; wait $!; echo $?; timeout 1 mount; echo $?"
    )
    outcome = run(runner, "shell", script)
    assert outcome.stdout == b"told\n3\n143\n124\n"


def test_programs_are_themselves(runner: RunnerProcess) -> None:
    outcome = run(runner, "shell", "sha256sum /usr/bin/df; cmp /usr/bin/df /bin/df")
    hashed = hashlib.sha256(Path("/usr/bin/df").read_bytes()).hexdigest()
    assert outcome.stdout.split()[0].decode() == hashed
