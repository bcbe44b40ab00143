"""`shannotctl submit` against a scripted daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pexpect
import pytest

from shannotd.wire.errors import LimitExceeded, NotAllowed, SandboxUnavailable, ShannotError
from shannotd.wire.session import Failure, Session, State
from tests.support.peer import Link, Peer
from tests.support.samples import ABSENT, ID, bare, file_step, session
from tests.support.terminal import on_terminal

Run = Any


def submitted(peer: Peer) -> dict[str, Any]:
    (params,) = peer.asked("sessions.submit")
    return params


def test_a_script_without_effect_is_silent_but_for_its_output(peer: Peer, run: Run) -> None:
    peer.answers("sessions.submit", session(stdout=b"2\n\x1b[31m\xff", stderr=b"warned\n"))
    done = run("submit", "-c", "print(1+1)")
    assert done.returncode == 0
    assert done.stdout == b"2\n\x1b[31m\xff", "not a terminal: bytes as they are"
    assert done.stderr == b"warned\n"


def test_a_shell_script_is_not_given_to_python(peer: Peer, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_bytes(b"set -e\nls\n")
    done = run("submit", "a.sh", cwd=tmp_path)
    assert done.returncode == 2 and b"a.sh has no first line `#!/bin/sh`" in done.stderr
    assert not peer.asked("sessions.submit")


@pytest.mark.parametrize(
    ("words", "kind", "script", "arguments"),
    [
        (["-c", "print(1)", "a", "--b"], "python", b"print(1)", ["a", "--b"]),
        (["--sh", "ls; id", "x"], "shell", b"ls; id", ["x"]),
        (["--", "ls", "-l", "--json"], "command", b"", ["ls", "-l", "--json"]),
        (["script.py", "1", "-2"], "file", b"#!/bin/sh\n", ["1", "-2"]),
        (["--", "printf", ""], "command", b"", ["printf", ""]),
    ],
)
def test_what_is_run(
    peer: Peer, run: Run, tmp_path: Path, words: list[str], kind: str, script: bytes, arguments: Any
) -> None:
    (tmp_path / "script.py").write_bytes(b"#!/bin/sh\n")
    peer.answers("sessions.submit", session())
    assert run("submit", *words, cwd=tmp_path).returncode == 0
    params = submitted(peer)
    assert (params["kind"], params["script"], params["arguments"]) == (kind, script, arguments)
    assert params["cwd"] == str(tmp_path)
    assert params["stdin"] == b""
    if kind == "file":
        assert params["path"] == str(tmp_path / "script.py") and params["name"] == "script.py"


def test_options_reach_the_daemon(peer: Peer, run: Run) -> None:
    peer.answers("sessions.submit", session())
    run(
        *("submit", "--name", "n", "--profile", "p", "--timeout", "2.5", "--analysis", "why"),
        *("--cwd", "/srv", "-c", "1"),
    )
    params = submitted(peer)
    assert params["name"] == "n" and params["profile"] == "p" and params["timeout"] == 2.5
    assert params["analysis"] == "why" and params["cwd"] == "/srv" and params["wait"] is True


def test_a_relative_cwd_is_made_absolute(peer: Peer, run: Run, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    peer.answers("sessions.submit", session())
    run("submit", "--cwd", "sub/../sub", "-c", "1", cwd=tmp_path)
    assert submitted(peer)["cwd"] == str(tmp_path / "sub")


def test_arguments_that_are_not_utf8(peer: Peer, run: Run) -> None:
    peer.answers("sessions.submit", session())
    assert run("submit", "--", "ls", b"a\xff").returncode == 0
    assert submitted(peer)["arguments"] == ["ls", "a\udcff"]


def test_the_script_from_standard_input(peer: Peer, run: Run) -> None:
    peer.answers("sessions.submit", session())
    run("submit", "-", "a", stdin=b"print(1)")
    params = submitted(peer)
    assert params["script"] == b"print(1)" and params["stdin"] == b""
    assert params["arguments"] == ["a"] and params["path"] is None


def test_standard_input_for_the_script(peer: Peer, run: Run, tmp_path: Path) -> None:
    peer.answers("sessions.submit", session())
    (tmp_path / "data").write_bytes(b"from a file")
    run("submit", "-c", "1", stdin=b"from a pipe")
    run("submit", "--stdin", "data", "-c", "1", stdin=b"not this", cwd=tmp_path)
    run("submit", "--stdin", "-", "-c", "1", stdin=b"dash")
    run("submit", "--stdin", "/dev/null", "-c", "1", stdin=b"not this")
    assert [params["stdin"] for params in peer.asked("sessions.submit")] == [
        b"from a pipe",
        b"from a file",
        b"dash",
        b"",
    ]


def test_waiting_for_a_pipe_that_nobody_closes_is_told(peer: Peer) -> None:
    peer.answers("sessions.submit", session())
    process = subprocess.Popen(
        [sys.executable, "-m", "shannotctl", "submit", "-c", "1"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SHANNOT_SOCKET": peer.path},
    )
    assert process.stderr is not None and process.stdin is not None
    assert b"waiting for standard input" in process.stderr.readline()
    process.stdin.close()
    assert process.wait(60) == 0
    process.stderr.close()


def test_a_pending_plan_is_told_on_standard_error(peer: Peer, run: Run) -> None:
    peer.answers("sessions.submit", session(file_step("create", "/etc/x"), stdout=b"out\n"))
    done = run("submit", "-c", "1")
    assert done.returncode == 3
    assert done.stdout == b"out\n"
    assert f"shannotctl approve {ID}".encode() in done.stderr


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (session(), 0),
        (session(exit_code=3), 5),
        (session(exit_code=None, signal=9), 5),
        (session(file_step("create", "/x")), 3),
        (session(state=State.CANCELLED), 4),
        (session(state=State.FAILED), 5),
        (session(state=State.FAILED, error=Failure("sandbox_unavailable", "x")), 9),
        (session(state=State.FAILED, error=Failure("limit_exceeded", "x")), 5),
        (session(state=State.FAILED, error=Failure("of a newer daemon", "x")), 5),
        (session(state=State.STALE), 7),
    ],
)
def test_exit_statuses(peer: Peer, run: Run, made: Session, status: int) -> None:
    peer.answers("sessions.submit", made)
    assert run("submit", "-c", "1").returncode == status
    done = run("submit", "--json", "-c", "1")
    assert done.returncode == status
    assert json.loads(done.stdout)["id"] == ID
    assert done.stderr == b""


@pytest.mark.P10
@pytest.mark.parametrize(
    "error",
    [
        NotAllowed(uid=1000, action="submit scripts", reason="no role"),
        SandboxUnavailable(reason="x", remedy="y"),
        LimitExceeded(name="wall_seconds", limit=3),
        ShannotError(reason="x"),
    ],
)
def test_errors_of_the_daemon(peer: Peer, run: Run, error: ShannotError) -> None:
    peer.answers("sessions.submit", error)
    done = run("submit", "-c", "1")
    assert (done.returncode, done.stdout) == (error.exit_status, b"")
    assert done.stderr.decode() == f"shannotctl: {error}\n"
    done = run("submit", "--json", "-c", "1")
    assert (done.returncode, done.stderr) == (error.exit_status, b"")
    assert json.loads(done.stdout) == {"error": error.to_wire()}


@pytest.mark.P10
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "give a FILE"),
        (["--"], "no command after"),
        (["-c", "1", "--sh", "2"], "one script only"),
        (["-c"], "requires an argument"),
        (["--nonsense", "x"], "--nonsense"),
        (["--timeout", "nan", "-c", "1"], "--timeout"),
        (["--timeout", "inf", "-c", "1"], "--timeout"),
        (["--timeout", "0", "-c", "1"], "--timeout"),
        (["--timeout", "x", "-c", "1"], "--timeout"),
        (["/nonexistent"], "/nonexistent"),
        (["/"], "it is a directory"),
        (["--stdin", "/nonexistent", "-c", "1"], "/nonexistent"),
        (["--stdin", "-", "-"], "cannot be its input too"),
        (["/dev/zero"], "more than the"),
    ],
)
def test_usage_errors(peer: Peer, run: Run, words: list[str], text: str) -> None:
    done = run("submit", *words)
    assert done.returncode == 2
    assert text in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert peer.requests == []
    done = run("submit", "--json", *words)
    assert done.returncode == 2
    assert text in json.loads(done.stdout)["error"]["message"]


@pytest.mark.P10
def test_a_huge_script_is_refused_before_it_is_read(peer: Peer, run: Run, tmp_path: Path) -> None:
    script = tmp_path / "huge"
    with script.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    done = run("submit", str(script))
    assert done.returncode == 2
    assert str(100 * 1024 * 1024) in done.stderr.decode()


@pytest.mark.P10
def test_a_working_directory_that_is_gone(peer: Peer, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["/bin/sh", "-c", f"rmdir {gone}; exec {sys.executable} -m shannotctl submit -c 1"],
        cwd=gone,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "SHANNOT_SOCKET": peer.path},
    )
    assert done.returncode == 2
    assert b"--cwd" in done.stderr


def test_no_daemon(run: Run) -> None:
    done = run("submit", "-c", "1", SHANNOT_SOCKET="/nonexistent")
    assert done.returncode == 8
    assert b"/nonexistent" in done.stderr


def test_waiting_for_the_decision(peer: Peer, run: Run) -> None:
    pending = session(file_step("create", "/etc/x", before=ABSENT))
    executed = session(
        file_step("create", "/etc/x", applied="done"),
        state=State.EXECUTED,
        decided_at=2.0,
        exit_code=1,
    )

    def wait(link: Link, params: dict[str, Any]) -> Any:
        printed = {"id": ID, "index": 0, "stream": "stderr", "data": b"from a command\n"}
        link.notify("session.command_output", printed)
        link.notify("session.step", {"id": ID, "index": 0, "applied": "done"})
        link.notify("session.changed", bare(executed))
        return executed

    peer.answers("sessions.submit", pending)
    peer.answers("sessions.watch", {})
    peer.handlers["sessions.wait"] = wait
    peer.answers("sessions.get", executed)
    done = run("submit", "--wait", "-c", "1")
    assert done.returncode == 0, "what a person approved and was applied is done"
    assert b"executed" in done.stderr
    assert b"  step 1 | from a command\n" in done.stderr and done.stdout == b""
    done = run("submit", "--wait", "--json", "-c", "1")
    assert json.loads(done.stdout)["state"] == "executed"
    assert done.stderr == b""


def test_output_is_printed_while_it_runs_and_only_once(peer: Peer, run: Run) -> None:
    def submit(link: Link, params: dict[str, Any]) -> Any:
        link.notify("session.output", {"id": ID, "stream": "stdout", "data": b"first "})
        return session(stdout=b"first second\n", stdout_truncated=7)

    peer.handlers["sessions.submit"] = submit
    done = run("submit", "-c", "1")
    assert done.stdout == b"first second\n"
    assert b"7 more bytes" in done.stderr


@pytest.mark.P7
def test_on_a_terminal_output_is_escaped_and_the_plan_shown(peer: Peer) -> None:
    def submit(link: Link, params: dict[str, Any]) -> Any:
        for piece in (b"\x1b[2Ja\tb\n", b"\xe6\x97", b"\xa5\n", b"c\rd\n"):
            link.notify("session.output", {"id": ID, "stream": "stdout", "data": piece})
        return session(file_step("create", "/etc/\x1b[2Jx", before=ABSENT))

    peer.handlers["sessions.submit"] = submit
    child = on_terminal(peer, "submit", "-c", "1", colours=True)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3
    shown = child.before
    assert "\\e[2Ja" in shown and "c\\rd" in shown and "日" in shown
    assert "/etc/\\e[2Jx" in shown and "+new" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b[32m+new\x1b[0m" in shown


def test_no_color(peer: Peer) -> None:
    peer.answers("sessions.submit", session(file_step("create", "/etc/x", before=ABSENT)))
    child = on_terminal(peer, "submit", "-c", "1")
    child.expect(pexpect.EOF)
    child.close()
    assert "+new" in child.before
    assert "\x1b" not in child.before


def test_an_interrupt_cancels_what_runs(peer: Peer) -> None:
    cancelled = threading.Event()

    def submit(link: Link, params: dict[str, Any]) -> Any:
        link.notify("session.output", {"id": ID, "stream": "stdout", "data": b"begun\n"})
        assert cancelled.wait(30)
        return session()

    def cancel(link: Link, params: dict[str, Any]) -> Any:
        cancelled.set()
        return session(state=State.CANCELLED)

    peer.handlers["sessions.submit"] = submit
    peer.handlers["sessions.cancel"] = cancel
    child = on_terminal(peer, "submit", "-c", "1", colours=True)
    child.expect("begun")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert "Traceback" not in child.before
    assert peer.asked("sessions.cancel") == [{"id": ID}]


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_cancels_a_session_that_printed_nothing_yet(peer: Peer, as_json: bool) -> None:
    begun, told, cancelled = threading.Event(), threading.Event(), threading.Event()

    def submit(link: Link, params: dict[str, Any]) -> Any:
        begun.set()
        assert told.wait(30)
        link.notify("session.changed", bare(session(), state=State.RUNNING))
        assert cancelled.wait(30)
        return session()

    def cancel(link: Link, params: dict[str, Any]) -> Any:
        cancelled.set()
        return session(state=State.CANCELLED)

    peer.handlers["sessions.submit"] = submit
    peer.handlers["sessions.cancel"] = cancel
    process = subprocess.Popen(
        [sys.executable, "-m", "shannotctl", "submit", *["--json"] * as_json, "-c", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SHANNOT_SOCKET": peer.path},
    )
    assert begun.wait(30)
    process.send_signal(signal.SIGINT)
    told.set()
    output, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert peer.asked("sessions.cancel") == [{"id": ID}]
    if as_json:
        assert json.loads(output)["state"] == "cancelled"
        assert messages == b""
    else:
        assert output == b""
        assert b"cancelled" in messages


def test_a_reader_that_goes_away_is_no_error(peer: Peer) -> None:
    peer.answers("sessions.submit", session(stdout=b"x" * 1_000_000))
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m shannotctl submit -c 1 | head -c 10"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "SHANNOT_SOCKET": peer.path},
    )
    assert done.stdout == b"x" * 10
    assert done.stderr == b""
