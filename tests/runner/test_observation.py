"""A view that is made while the shim of its call starts: what a shim may do to it meanwhile."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shannotd.runner.observation import MAX_AHEAD

pytestmark = pytest.mark.P1

# Observers are forks: a test process has threads, so they are this one's.
_SERVER = """
import json, os, sys
from shannotd.runner import identity, observation, observe, sandbox
from shannotd.runner.decisions import Verdict
from shannotd.runner.frames import Closed
from shannotd.runner.loop import Loop
from shannotd.runner.warm import Settings

settings = Settings(sandbox.choose_builder(), b"", "/nonexistent", ())
who = identity.resolve(None, identity.Floor())[0]
observe.prepare()
loop = Loop()
observers = observation.Observers(loop, settings, who, tuple(json.loads(sys.argv[1])))

def verdict(argv, decision="observe"):
    how = dict(program=argv[0], argv=argv, net="none", sockets=[], as_root=os.geteuid() == 0)
    how.update(groups=[], shows=[], owners="", seconds=30, output_bytes=1 << 20)
    return Verdict(decision, "", "", "safe", {"observation": how})

def prepare(process, *rest):
    observers.prepare(process, verdict(*rest))

def begin(process, argv, environment, merged):
    observer = observers.begin(process, verdict(argv), environment, merged=merged)
    printed = {"stdout": "", "stderr": ""}
    while True:
        event, payload = observer.receive()
        if event["event"] != "output":
            break
        printed[event["stream"]] += payload.decode()
    observer.close(loop)
    return {**printed, "status": event.get("exit_code")}

def outdate():
    observation.AHEAD_SECONDS = -1.0

def patient():
    observation.AHEAD_SECONDS = 1000.0

def close():
    observers.close()

def children(process=os.getpid()):
    return open(f"/proc/{process}/task/{process}/children").read().split()

def built():
    # The last of three processes, the program's own, is there when what is to be hidden is found.
    waiting = [observer._pid for observer in observers._ahead.values()]
    while waiting:
        waiting = [one for one in waiting if not any(map(children, children(one)))]

def reap(number):
    while len(children()) > number:
        loop.turn(60)
    return children()

for line in sys.stdin:
    name, *arguments = json.loads(line)
    print(json.dumps(globals()[name](*arguments)), flush=True)
"""
_READ = ["/usr/bin/cat"]


class Session:
    """What makes the observers of a session, step by step."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, name: str, *arguments: Any) -> Any:
        """Have one of the functions above called."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def begin(
        self, process: int, argv: list[str], *, merged: bool = False, **environment: str
    ) -> Any:
        """What a call prints."""
        return self.ask("begin", process, argv, environment, merged)


@contextmanager
def _running(packages: Path, secrets: Path) -> Iterator[Session]:
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, json.dumps([f"{secrets}/*.secret"])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"},
    ) as process:
        running = Session(process)
        running.ask("patient")
        yield running


@pytest.fixture
def session(packages: Path, secrets: Path) -> Iterator[Session]:
    """A session that hides what is in `secrets`."""
    with _running(packages, secrets) as running:
        yield running
        running.ask("close")
        assert running.ask("reap", 0) == []
    assert running.process.returncode == 0


@pytest.fixture
def secrets() -> Iterator[Path]:
    """A directory of the host's that everybody can look into."""
    with tempfile.TemporaryDirectory(prefix="shannot-observe-", dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def _await(handle: int) -> None:
    """Wait until a process has ended (pidfd_open(2))."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(20_000)
    os.close(handle)


def test_what_the_shim_tells_reaches_a_program_that_was_prepared(session: Session) -> None:
    argv = ["/usr/bin/sh", "-c", "echo $TZ; echo $PATH $LD_PRELOAD $BASH_ENV; echo wrong >&2"]
    session.ask("prepare", 1, argv)
    seen = session.begin(1, argv, TZ="Europe/Vienna", LD_PRELOAD="/x.so", PATH="/x", BASH_ENV="/x")
    lines = seen["stdout"].splitlines()
    assert lines == ["Europe/Vienna", "/usr/sbin:/usr/bin:/sbin:/bin"]
    assert (seen["stderr"], seen["status"]) == ("wrong\n", 0)
    session.ask("prepare", 2, argv)
    seen = session.begin(2, argv, merged=True)
    assert seen["stdout"].endswith("\nwrong\n") and seen["stderr"] == ""


def test_what_came_to_be_hidden_while_a_shim_was_stopped_is_hidden(
    session: Session, secrets: Path
) -> None:
    """A script can stop its shim for as long as it likes: a view that is old is not used."""
    secret = secrets / "new.secret"
    argv = [*_READ, str(secret)]
    session.ask("prepare", 1, argv)
    session.ask("built")
    secret.write_text("of the host's")
    secret.chmod(0o644)
    # The naive way: the same view, however old it is.
    assert session.begin(1, argv)["stdout"] == "of the host's"
    secret.unlink()
    session.ask("outdate")
    session.ask("prepare", 2, argv)
    session.ask("built")
    secret.write_text("of the host's")
    secret.chmod(0o644)
    seen = session.begin(2, argv)
    assert seen["stdout"] == ""


def test_shims_that_never_call_keep_only_a_few_views(session: Session) -> None:
    for process in range(1, 4 * MAX_AHEAD):
        session.ask("prepare", process, _READ)
    assert len(session.ask("children")) == MAX_AHEAD
    # A call whose view was not prepared is served the same, and so is one of an unlike kind.
    assert session.begin(4 * MAX_AHEAD - 1, ["/usr/bin/echo", "served"])["stdout"] == "served\n"
    session.ask("prepare", 4 * MAX_AHEAD, _READ, "review")
    session.ask("close")


@pytest.mark.P10
def test_a_process_that_calls_over_and_over_has_one_view_made(session: Session) -> None:
    """Its shims do not start, which costs it nothing; what it calls at last is what runs."""
    first, last = (["/usr/bin/echo", word] for word in ("first", "last"))
    session.ask("prepare", 1, first)
    (observer,) = session.ask("children")
    session.ask("prepare", 1, last)
    assert session.ask("children") == [observer]
    assert session.begin(1, last)["stdout"] == "last\n"
    assert session.begin(1, first)["stdout"] == "first\n"


def test_old_views_make_room_for_new_ones(session: Session) -> None:
    session.ask("outdate")
    for process in range(1, 3 * MAX_AHEAD):
        session.ask("prepare", process, _READ)
    assert len(session.ask("reap", 1)) == 1
    session.ask("close")


def test_a_prepared_observer_that_is_killed_is_replaced(session: Session) -> None:
    session.ask("prepare", 1, _READ)
    (observer,) = session.ask("children")
    handle = os.pidfd_open(int(observer))
    os.kill(int(observer), signal.SIGKILL)
    _await(handle)
    assert session.begin(1, ["/usr/bin/echo", "served"])["stdout"] == "served\n"


def test_a_view_goes_with_who_prepared_it(packages: Path, secrets: Path) -> None:
    """Nothing waits for the shim of a session whose supervisor was killed."""
    with _running(packages, secrets) as session:
        session.ask("prepare", 1, _READ)
        (observer,) = session.ask("children")
        handle = os.pidfd_open(int(observer))
        session.process.kill()
        _await(handle)
