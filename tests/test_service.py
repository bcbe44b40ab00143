"""The daemon as a process, with the real runner."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shannotctl.client import Client
from shannotd.wire.errors import NotFound, ShannotError
from shannotd.wire.session import State
from shannotd.wire.submission import ScriptKind, Submission
from tests.support.accounts import is_root
from tests.support.daemon import Daemon, running_daemon, workplace
from tests.support.processes import wait_until_gone

WRITES = b'open("new", "w").write("content\\n")'
SLEEPS = b"import time; time.sleep(1000)"


def submission(script: bytes, cwd: Path, *, wait: bool = True) -> Submission:
    """A Python script to be run in `cwd`."""
    return Submission(ScriptKind.PYTHON, script, cwd=str(cwd), wait=wait)


def run_shannotd(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A daemon that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "shannotd", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.P1
def test_no_script_sees_the_daemons_state(daemon: Daemon, work: Path) -> None:
    """Other sessions' scripts, outputs and plans, the audit log and the runner's key."""
    walk = f"import os; print([files for _, _, files in os.walk({str(daemon.state)!r}) if files])"
    with daemon.client() as client:
        session = client.submit(submission(walk.encode(), work))
    assert session.stdout == b"[]\n"
    assert any(files for _, _, files in os.walk(daemon.state) if files)


@pytest.mark.P1
@pytest.mark.P2
def test_the_main_job(daemon: Daemon, work: Path) -> None:
    with daemon.client() as client:
        session = client.submit(submission(WRITES, work))
        assert session.state is State.PENDING
        assert not (work / "new").exists()
        assert session.digest is not None
        client.approve(session.id, session.digest)
        ended = client.wait(session.id)
        assert ended.state is State.EXECUTED
        assert (work / "new").read_text() == "content\n"
        assert client.audit_verify().records > 0


def test_what_is_ours_is_private(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(daemon.socket.parent.stat().st_mode) == 0o700
    for path in (daemon.state, *daemon.state.rglob("*")):
        assert path.is_symlink() or not stat.S_IMODE(path.lstat().st_mode) & 0o077, path


def test_stopping_ends_dry_runs_and_keeps_what_is_pending(tmp_path: Path, work: Path) -> None:
    with running_daemon(tmp_path / "daemon") as daemon, daemon.client() as client:
        pending = client.submit(submission(WRITES, work))
        running = client.submit(submission(SLEEPS, work, wait=False))
        runner = daemon.children()
        assert daemon.stop() == 0
        assert not daemon.socket.exists()
        wait_until_gone(runner)
    with running_daemon(tmp_path / "daemon") as daemon, daemon.client() as client:
        assert client.get(pending.id) == pending
        assert client.get(running.id).state is State.CANCELLED
        assert pending.digest is not None
        client.approve(pending.id, pending.digest)
        assert client.wait(pending.id).state is State.EXECUTED
    assert (work / "new").read_text() == "content\n"


@pytest.mark.P4
def test_a_killed_daemon_takes_its_runner_with_it_and_loses_no_plan(
    tmp_path: Path, work: Path
) -> None:
    with running_daemon(tmp_path / "daemon") as daemon, daemon.client() as client:
        pending = client.submit(submission(WRITES, work))
        running = client.submit(submission(SLEEPS, work, wait=False))
        list(client.list())  # so that the running one is written
        runner = daemon.children()
        assert runner
        assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until_gone(runner)
    with running_daemon(tmp_path / "daemon") as daemon, daemon.client() as client:
        assert client.get(pending.id).state is State.PENDING
        assert client.get(running.id).state is State.CANCELLED


def test_a_killed_runner_is_replaced(daemon: Daemon, work: Path) -> None:
    with daemon.client() as client:
        client.submit(submission(b"print(1)", work))  # so that there is a runner
        running = client.submit(submission(SLEEPS, work, wait=False))
        (runner,) = daemon.children()
        os.kill(runner, signal.SIGKILL)
        lost = client.wait(running.id)
        assert lost.state is State.FAILED
        assert lost.error is not None
        assert lost.error.code == "runner_lost"
        assert client.submit(submission(b"print(1)", work)).stdout == b"1\n"


def test_an_idle_daemon_ends(tmp_path: Path) -> None:
    config = "[daemon]\nidle_seconds = 1\n"
    with running_daemon(tmp_path / "daemon", config=config) as daemon:
        with daemon.client() as client:
            client.status()
        assert daemon.process.wait(30) == 0
        assert not daemon.socket.exists()


def test_the_configuration_is_read_again(daemon: Daemon, work: Path) -> None:
    daemon.config.write_text("[daemon]\nmax_script_bytes = 5\n")
    daemon.send(signal.SIGHUP)
    daemon.wait_for("READY=1")
    with daemon.client() as client:
        with pytest.raises(ShannotError, match="max_script_bytes"):
            client.submit(submission(b"print(1)", work))
        daemon.config.write_text("[daemon]\nnonsense = 5\n")
        daemon.send(signal.SIGHUP)
        daemon.wait_for("READY=1")
        assert "daemon.nonsense" in daemon.log()
        with pytest.raises(ShannotError, match="max_script_bytes"):
            client.submit(submission(b"print(1)", work))


def test_one_daemon_for_a_state_directory(daemon: Daemon) -> None:
    second = run_shannotd(
        "--embedded", "--socket", str(daemon.socket), "--state", str(daemon.state)
    )
    assert second.returncode == 2
    assert "another daemon serves" in second.stderr
    other_state = daemon.state.with_name("other")
    third = run_shannotd("--embedded", "--socket", str(daemon.socket), "--state", str(other_state))
    assert third.returncode == 2
    assert "another daemon serves" in third.stderr
    with daemon.client() as client:
        assert client.status().pid == daemon.process.pid


@pytest.mark.P10
def test_what_keeps_it_from_starting_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[daemon]\nmax_runing = 1\n")
    file = tmp_path / "file"
    file.write_text("")
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o777)
    own = ("--embedded", "--state", str(tmp_path / "state"))
    sock = ("--socket", str(tmp_path / "run" / "s"))
    for arguments, said in (
        ((*own, *sock, "--config", str(broken)), "max_runing"),
        ((*own, *sock, "--config", str(tmp_path / "missing.toml")), "missing.toml"),
        ((*own, "--socket", str(file)), "is no socket"),
        ((*own, "--socket", str(public / "s")), "others may write"),
        (("--embedded", *sock, "--state", str(file)), str(file)),
        ((*own, "--socket", "/" + "x" * 200), "socket"),
    ):
        ended = run_shannotd(*arguments, HOME=str(tmp_path), XDG_CONFIG_HOME="")
        assert ended.returncode == 2, ended.stderr
        assert said in ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("shannotd: ")
        assert "Traceback" not in ended.stderr


def test_a_passed_socket_is_served_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "passed.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        launcher = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3);"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
            "os.execv(sys.executable, [sys.executable, '-m', 'shannotd', *sys.argv[2:]])"
        )
        arguments = ["--embedded", "--state", str(tmp_path / "state"), "--socket", str(path)]
        process = subprocess.Popen(
            [sys.executable, "-c", launcher, str(listening.fileno()), *arguments],
            pass_fds=(listening.fileno(),),
            env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        )
    with Client(str(path), start=False) as client:
        assert client.status().pid == process.pid
    process.terminate()
    assert process.wait(30) == 0
    assert path.exists()


def test_the_watchdog_is_fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with running_daemon(tmp_path / "daemon") as daemon:
        for _ in range(3):
            daemon.wait_for("WATCHDOG=1")
        daemon.send(signal.SIGTERM)
        daemon.wait_for("STOPPING=1")
        assert daemon.process.wait(30) == 0


def test_version() -> None:
    assert run_shannotd("--version").stdout.startswith("shannotd ")


@pytest.mark.P6
def test_a_changed_audit_log_stops_the_start(tmp_path: Path, work: Path) -> None:
    with running_daemon(tmp_path / "daemon") as daemon, daemon.client() as client:
        client.submit(submission(WRITES, work))
    (log,) = (daemon.state / "audit").glob("*.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))
    ended = run_shannotd("--embedded", "--socket", str(daemon.socket), "--state", str(daemon.state))
    assert ended.returncode == 12
    assert "audit log" in ended.stderr


@pytest.mark.skipif(not is_root(), reason="needs root, to make an account")
@pytest.mark.P5
@pytest.mark.parametrize("group", [None, "users"])
def test_the_daemon_of_an_ordinary_account(
    ordinary_account: str, packages: Path, group: str | None
) -> None:
    if group is not None:  # whose number is not the account's
        subprocess.run(["usermod", "-g", group, ordinary_account], check=True)
    with (
        workplace(ordinary_account) as work,
        running_daemon(
            Path(pwd.getpwnam(ordinary_account).pw_dir) / "daemon",
            account=ordinary_account,
            code=packages,
        ) as daemon,
    ):
        with Client(str(daemon.socket), start=False) as client:
            with pytest.raises(ShannotError) as caught:
                client.status()  # root is another account than the daemon's
            assert caught.value.code == "not_allowed"
        program = (
            "import sys; from shannotctl.client import *\n"
            "with Client(sys.argv[1], start=False) as c:\n"
            f"    s = c.submit(Submission(ScriptKind.PYTHON, {WRITES!r}, cwd=sys.argv[2]))\n"
            "    print(s.state, s.identity)\n"
            "    c.approve(s.id, s.digest)\n"
            "    print(c.wait(s.id).state)\n"
        )
        entry = pwd.getpwnam(ordinary_account)
        ended = subprocess.run(
            ["/usr/bin/python3", "-c", program, str(daemon.socket), str(work)],
            env={"PYTHONPATH": str(packages)},
            cwd="/",
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stdout.split() == ["pending", ordinary_account, "executed"]
        assert (work / "new").stat().st_uid == entry.pw_uid


def test_unknown_sessions(daemon: Daemon) -> None:
    with daemon.client() as client, pytest.raises(NotFound):
        client.get("f" * 32)


@pytest.mark.P5
def test_a_state_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o755)
    ended = run_shannotd("--embedded", "--socket", str(tmp_path / "socket"), "--state", str(state))
    assert ended.returncode == 2
    assert "chmod 700" in ended.stderr


@pytest.mark.P5
def test_a_state_directory_that_is_not_ones_own_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(own)
    # What belongs to somebody else: root's for users, the least of accounts' for root.
    foreign = Path("/root") if not is_root() else tmp_path / "foreign"
    if is_root():
        foreign.mkdir(mode=0o700)
        os.chown(foreign, 65534, 65534)
    for state, said in ((link, "symbolic link"), (foreign, "another account")):
        ended = run_shannotd("--embedded", "--socket", str(tmp_path / "s"), "--state", str(state))
        assert ended.returncode == 2
        assert said in ended.stderr and str(state) in ended.stderr
    assert not list(own.iterdir())
