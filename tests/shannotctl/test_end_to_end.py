"""The clients with the real daemon, runner and sandbox, as a user has them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pexpect
import pytest

from shannotctl.async_client import AsyncClient
from shannotctl.client import Changed, Client, Output, ScriptKind, State, Submission
from shannotctl.embedded import daemon_environment
from tests.support.embedded import PROGRAM, Home, temporary_home

REPOSITORY = Path(__file__).parents[2]
SCHEMA = json.loads((REPOSITORY / "docs" / "session.schema.json").read_text(encoding="utf-8"))
EDIT = "echo two >> a; echo new > b; rm c; chmod 640 d"


@pytest.fixture(scope="module")
def shared() -> Iterator[Home]:
    """One daemon for the tests of this module."""
    with temporary_home() as made:
        made.run("list")  # starts it: a client that is given a socket starts none
        yield made


@pytest.fixture
def home(shared: Home) -> Home:
    """The shared daemon, with fresh files to work on."""
    for path in shared.work.iterdir():
        path.unlink()
    for name in ("a", "c", "d"):
        (shared.work / name).write_text("one\n")
    return shared


def ended(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus is not None
    return int(child.exitstatus)


def test_a_script_without_effect(home: Home) -> None:
    done = home.run("submit", "-c", "print(1+1)")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"2\n", b"")


def test_every_kind_of_script(home: Home) -> None:
    (home.work / "s.py").write_text("import sys; print(sys.argv[1:], sys.stdin.read())")
    assert home.run("submit", "s.py", "a b", "--x", stdin=b"in").stdout == b"['a b', '--x'] in\n"
    assert home.run("submit", "--sh", "echo $1; pwd", "x").stdout.decode() == f"x\n{home.work}\n"
    assert home.run("submit", "--", "echo", "a  b", "*").stdout == b"a  b *\n"
    assert home.run("submit", "-", "y", stdin=b"#!/bin/sh\necho $1").stdout == b"y\n"


@pytest.mark.P1
@pytest.mark.P2
def test_the_main_job_on_a_terminal(home: Home) -> None:
    child = home.terminal(*PROGRAM, "submit", "--sh", EDIT)
    assert ended(child) == 3
    assert "+two" in child.before and "delete" in child.before and "0644 to 0640" in child.before
    assert (home.work / "a").read_text() == "one\n" and (home.work / "c").exists()
    id = home.json("list", "--json", "--state", "pending")[0]["id"]
    child = home.terminal(*PROGRAM, "approve", id[:8])
    child.expect(r"\[yes/no\] ")
    child.sendline("yes")
    assert ended(child) == 0
    assert (home.work / "a").read_text() == "one\ntwo\n"
    assert (home.work / "b").read_text() == "new\n"
    assert not (home.work / "c").exists()
    assert stat.S_IMODE((home.work / "d").stat().st_mode) == 0o640


@pytest.mark.P2
def test_json_and_a_digest_for_programs(home: Home) -> None:
    submitted = home.run("submit", "--json", "--name", "edit", "--sh", EDIT)
    assert (submitted.returncode, submitted.stderr) == (3, b"")
    session = json.loads(submitted.stdout)
    jsonschema.validate(session, SCHEMA)
    jsonschema.validate(home.json("list", "--json")[0], SCHEMA)
    assert session["name"] == "edit" and session["submitter"] == os.geteuid()
    changes = {step["change"] for step in session["plan"]["steps"]}
    assert changes == {"append", "create", "delete", "metadata"}
    id, digest = session["id"], session["digest"]
    assert home.run("approve", id, "--yes", "--digest", "0" * 64).returncode == 7
    assert home.run("approve", id).returncode == 2
    assert home.run("approve", id, "--yes", "--digest", digest).returncode == 0
    shown = home.json("show", "--json", id)
    jsonschema.validate(shown, SCHEMA)
    assert shown["state"] == "executed" and shown["digest"] == digest
    assert {step["applied"] for step in shown["plan"]["steps"]} == {"done"}
    assert home.run("approve", id, "--yes", "--digest", digest).returncode == 4


@pytest.mark.P2
def test_stale(home: Home) -> None:
    session = home.json("submit", "--json", "--sh", EDIT)
    (home.work / "c").write_text("somebody else\n")
    done = home.run("approve", session["id"], "--yes", "--digest", session["digest"])
    assert done.returncode == 7
    assert str(home.work / "c").encode() in done.stderr
    assert (home.work / "c").read_text() == "somebody else\n"
    assert home.json("show", "--json", session["id"])["state"] == "stale"


def test_reject_and_cancel(home: Home) -> None:
    first = home.json("submit", "--json", "--sh", EDIT)["id"]
    second = home.json("submit", "--json", "--sh", EDIT)["id"]
    assert home.run("reject", first, "--reason", "too much").returncode == 0
    assert home.run("cancel", second).returncode == 0
    rejected = home.json("show", "--json", first)
    assert (rejected["state"], rejected["reason"]) == ("rejected", "too much")
    assert home.run("reject", first).returncode == 4
    assert (home.work / "c").exists()


def test_waiting_for_the_decision(home: Home) -> None:
    command = [*PROGRAM, "submit", "--wait", "--name", "waits", "--sh", EDIT]
    waiting = subprocess.Popen(
        command, cwd=home.work, env=home.environment, stdin=subprocess.DEVNULL, stderr=-1
    )
    assert waiting.stderr is not None
    with waiting.stderr as messages:
        assert any(b"waits for approval" in line for line in iter(messages.readline, b""))
        (session,) = home.json("list", "--json", "--name", "waits", "--state", "pending")
        digest = session["digest"]
        assert home.run("approve", session["id"], "--yes", "--digest", digest).returncode == 0
        assert waiting.wait(60) == 0
        assert b"executed" in messages.read()


def test_an_interrupt_stops_the_dry_run(home: Home) -> None:
    for code in ("print('begun', flush=True); import time; time.sleep(600)",):
        child = home.terminal(*PROGRAM, "submit", "--name", "sleeper", "-c", code)
        child.expect("begun")
        child.sendintr()
        assert ended(child) == 130
    (session,) = home.json("list", "--json", "--name", "sleeper")
    with Client(str(home.socket)) as client:
        assert client.wait(session["id"], timeout=30).state is State.CANCELLED


def test_a_script_that_fails(home: Home) -> None:
    done = home.run("submit", "-c", "raise SystemExit(3)")
    assert done.returncode == 5 and b"exit status 3" in done.stderr
    done = home.run("submit", "-c", "this is no Python")
    assert done.returncode == 5 and b"SyntaxError" in done.stderr


@pytest.mark.P10
def test_errors_of_a_user(home: Home) -> None:
    assert home.run("submit", "--profile", "nonsense", "-c", "1").returncode == 2
    assert home.run("submit", "--cwd", "/nonexistent", "-c", "1").returncode in (2, 5)
    assert home.run("submit", "--", "/nonexistent/program").returncode == 5
    assert home.run("submit", "--timeout", "0.3", "-c", "while True: pass").returncode == 5
    assert home.run("show", "ffffffff").returncode == 10
    for arguments in (["show", "../../etc/passwd"], ["show", ""], ["cancel", "a\nb"]):
        done = home.run(*arguments)
        assert done.returncode in (2, 10) and b"Traceback" not in done.stderr


@pytest.mark.P6
def test_the_audit_log(home: Home) -> None:
    id = home.json("submit", "--json", "--sh", EDIT)["id"]
    home.run("reject", id)
    events = [record["event"] for record in home.json("audit", "tail", "--session", id, "--json")]
    assert events[0] == "session.submitted" and events[-1] == "session.rejected"
    assert home.run("audit", "verify").returncode == 0


def test_status_and_doctor(home: Home) -> None:
    status = home.json("status", "--json")
    assert status["socket"] == str(home.socket)
    assert status["daemon"]["mode"] == "embedded"
    assert home.run("doctor").returncode == 0


def test_the_sdk(home: Home) -> None:
    seen: list[Output] = []
    with Client(str(home.socket)) as client:
        session = client.submit(
            Submission(
                ScriptKind.SHELL, b"printf one; echo x > new", cwd=str(home.work), name="sdk"
            ),
            seen.append,
        )
        assert b"".join(output.data for output in seen) == b"one"
        assert session.state is State.PENDING and session.plan is not None
        (step,) = session.plan.steps
        assert step.after is not None and step.after.sha256 is not None
        assert b"".join(client.blobs(session.id, step.after.sha256)) == b"x\n"
        client.approve(session.id, session.plan.digest)
        assert client.wait(session.id).state is State.EXECUTED
        events = list(client.watch(session.id))
        assert isinstance(events[0], Changed) and len(events) == 1
    assert (home.work / "new").read_text() == "x\n"


def test_the_asyncio_sdk(home: Home) -> None:
    async def work() -> None:
        async with AsyncClient(str(home.socket)) as client:
            submissions = [
                Submission(ScriptKind.PYTHON, b"print(%d)" % number) for number in range(4)
            ]
            sessions = await asyncio.gather(*(client.submit(item) for item in submissions))
            assert [item.stdout for item in sessions] == [b"0\n", b"1\n", b"2\n", b"3\n"]
            pending = await client.submit(
                Submission(ScriptKind.SHELL, b"echo x > new", cwd=str(home.work))
            )
            seen: list[State] = []

            async def follow() -> None:
                async for event in client.watch(pending.id):
                    if isinstance(event, Changed):
                        seen.append(event.session.state)

            following = asyncio.ensure_future(follow())
            await client.reject(pending.id)
            await asyncio.wait_for(following, 60)
            assert seen[-1] is State.REJECTED

    asyncio.run(work())


def test_two_clients_at_once_start_one_daemon() -> None:
    with temporary_home() as home:
        clients = [
            subprocess.Popen(
                [*PROGRAM, "submit", "-c", "print(1)"],
                env=home.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(4)
        ]
        for client in clients:
            out, err = client.communicate(timeout=60)
            assert (client.returncode, out, err) == (0, b"1\n", b"")
        log = (home.state / "shannotd.log").read_text()
        assert log.count("serving on") == 1
        assert stat.S_IMODE(home.socket.parent.stat().st_mode) == 0o700
        assert sorted(path.name for path in home.socket.parent.iterdir()) == [
            "shannotd.sock",
            "shannotd.sock.lock",
        ]


@pytest.mark.P10
def test_a_daemon_that_cannot_start_says_why() -> None:
    with temporary_home() as home:
        config = home.directory / "config" / "shannot" / "shannotd.toml"
        config.parent.mkdir(parents=True)
        config.write_text("[daemon]\nnonsense = 1\n")
        done = home.run("submit", "-c", "print(1)")
        assert done.returncode == 2
        assert b"nonsense" in done.stderr and str(config).encode() in done.stderr
        config.unlink()
        assert home.run("submit", "-c", "print(1)").stdout == b"1\n"


def test_the_daemon_does_not_keep_the_environment_of_its_first_client() -> None:
    environment = {
        "PATH": "/bin",
        "HOME": "/h",
        "LC_ALL": "C",
        "AWS_SECRET": "x",
        "LD_PRELOAD": "y",
    }
    assert daemon_environment(environment) == {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C"}
