"""A daemon that dies while it is asked: what is known is told, and no more (P4, P10)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shannotctl.async_client import AsyncClient
from shannotctl.client import Client
from shannotd.wire.errors import DaemonUnreachable, OutcomeUnknown
from shannotd.wire.session import State
from tests.support.embedded import Home, temporary_home
from tests.support.peer import Link, Peer
from tests.support.samples import ID, bare, file_step, session

Run = Any

PENDING = session(file_step("create", "/etc/x"))
DIGEST = str(PENDING.plan.digest if PENDING.plan else None)
UNKNOWN = 13


@pytest.fixture
def dying(peer: Peer) -> Peer:
    """A daemon that has a plan and is killed by whatever decides over it."""

    def die(link: Link, params: dict[str, Any]) -> Any:
        link.close()

    peer.answers("sessions.get", PENDING)
    peer.answers("sessions.watch", {})
    for method in ("approve", "amend", "rollback", "reject", "cancel", "wait"):
        peer.handlers[f"sessions.{method}"] = die
    return peer


@pytest.fixture
def home() -> Iterator[Home]:
    with temporary_home() as made:
        yield made


@pytest.mark.P4
@pytest.mark.parametrize(
    "words",
    [
        ("approve", ID, "--yes", "--digest", str(PENDING.plan.digest)),
        ("amend", ID, "--drop", "1"),
        ("rollback", ID),
        ("reject", ID),
        ("cancel", ID),
    ],  # type: ignore[union-attr]
    ids=["approve", "amend", "rollback", "reject", "cancel"],
)
def test_a_decision_without_an_answer(dying: Peer, run: Run, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == UNKNOWN
    assert f"shannotctl show {ID}".encode() in done.stderr


@pytest.mark.P4
def test_an_apply_whose_end_nobody_told(dying: Peer, run: Run) -> None:
    dying.answers("sessions.approve", bare(PENDING, state=State.APPROVED))
    done = run("approve", ID, "--yes", "--digest", DIGEST)
    assert done.returncode == UNKNOWN
    assert f"shannotctl show {ID}".encode() in done.stderr


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.approve(ID, "f" * 64),
        lambda client: client.amend(ID, "f" * 64, drop=[0]),
        lambda client: client.rollback(ID),
        lambda client: client.reject(ID),
        lambda client: client.cancel(ID),
        lambda client: client.wait(ID),
    ],
)
def test_both_clients_say_so(dying: Peer, call: Callable[[Any], Any]) -> None:
    with Client(dying.path) as client, pytest.raises(OutcomeUnknown, match=ID):
        call(client)

    async def scenario() -> None:
        async with AsyncClient(dying.path) as client:
            with pytest.raises(OutcomeUnknown, match=ID):
                await call(client)

    asyncio.run(scenario())


def test_what_was_never_sent_has_a_known_outcome(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable):
        Client(str(tmp_path / "nobody")).approve(ID, "f" * 64)


def pending(home: Home) -> Any:
    (home.work / "file").write_text("one\n")
    made = home.json("submit", "--json", "--sh", "echo two > file")
    assert made["state"] == "pending"
    return made


def kill(home: Home) -> None:
    """Kill the daemon as `kill -9` does."""
    home.stop(signal.SIGKILL)


@pytest.mark.P4
def test_a_killed_daemon_under_a_waiting_submitter_and_a_watcher(home: Home) -> None:
    first = pending(home)
    watcher = home.terminal(*home.program, "watch", first["id"])
    watcher.expect("pending")
    waiter = home.terminal(*home.program, "submit", "--wait", "--sh", "echo three > file")
    waiter.expect("waiting for a decision on ([0-9a-f]{32})")
    second = waiter.match.group(1)
    kill(home)
    for child, status, text in (
        (watcher, 8, "closed the connection"),
        (waiter, UNKNOWN, f"shannotctl show {second}"),
    ):
        child.expect(r"shannotctl: ")
        shown = child.read()
        child.close()
        assert child.exitstatus == status
        assert text in " ".join(shown.split())
    for identifier in (first["id"], second):
        assert home.json("show", "--json", identifier)["state"] == "pending"
    assert (home.work / "file").read_text() == "one\n"


@pytest.mark.P4
def test_a_killed_daemon_under_the_question_of_approve(home: Home) -> None:
    made = pending(home)
    child = home.terminal(*home.program, "approve", made["id"])
    child.expect(r"\[yes/no\] ")
    kill(home)
    child.sendline("yes")
    child.read()
    child.close()
    assert child.exitstatus == 8  # the approval was never sent
    assert home.json("show", "--json", made["id"])["state"] == "pending"


@pytest.mark.P6
def test_verify_tells_of_a_log_with_which_no_daemon_starts(home: Home) -> None:
    pending(home)
    home.stop()
    (log,) = (home.state / "audit").glob("*.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))
    done = home.run("audit", "verify")
    assert done.returncode == 12
    assert log.name.encode() in done.stderr
    shown = home.run("audit", "verify", "--json")
    assert shown.returncode == 12
    assert b'"audit_broken"' in shown.stdout
    log.write_bytes(b"".join(lines))
    assert home.run("audit", "verify").returncode == 0


@pytest.mark.P5
def test_a_state_directory_that_is_a_link_is_refused_and_left_alone(home: Home) -> None:
    elsewhere = home.directory / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    home.state.parent.mkdir()
    home.state.symlink_to(elsewhere)
    done = home.run("list")
    assert done.returncode == 8
    assert b"symbolic link" in done.stderr
    assert elsewhere.stat().st_mode & 0o777 == 0o755
    assert not list(elsewhere.iterdir())
