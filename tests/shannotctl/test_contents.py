"""What commands are given and printed is fetched, and is what the plan names or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shannotctl.client import Client
from shannotctl.contents import MAX_CONTENT_BYTES, command_contents
from shannotd.wire.errors import BadFrame, InvalidRequest
from shannotd.wire.rpc import Request
from shannotd.wire.session import State
from shannotd.wire.step import CommandInput, CommandOutput, Step
from tests.shannotctl.conftest import Run
from tests.support.peer import Link, Peer
from tests.support.samples import ID, bare, file_step, session

pytestmark = pytest.mark.P2

INPUT, PRINTED = b"select 1;\n", b"a\xffb\n"


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


COMMAND = Step(
    "command",
    argv=("psql",),
    program="/usr/bin/psql",
    cwd="/etc",
    decision="review",
    exit_status=0,
    stdin=CommandInput(hash_of(INPUT), len(INPUT)),
)
OBSERVED = replace(
    COMMAND,
    argv=("ps",),
    decision="observe",
    stdin=None,
    stdout=CommandOutput(hash_of(PRINTED), len(PRINTED)),
)
MADE = session(file_step("modify", "/etc/x"), COMMAND, OBSERVED, OBSERVED)


@pytest.fixture
def keeping(peer: Peer) -> Peer:
    """A daemon that has the contents."""
    contents = {hash_of(data): data for data in (INPUT, PRINTED)}

    def blob(link: Link, params: dict[str, Any]) -> Any:
        data = contents.get(params["sha256"])
        if data is None:
            raise InvalidRequest(method="blobs.get", reason="no such content")
        return {"data": data[params["offset"] :], "size": len(data)}

    peer.handlers["blobs.get"] = blob
    peer.answers("sessions.get", MADE)
    return peer


def test_each_content_is_fetched_once(keeping: Peer) -> None:
    with Client(keeping.path) as client:
        found = command_contents(client, MADE)
    assert found == {hash_of(INPUT): INPUT, hash_of(PRINTED): PRINTED}
    assert len(keeping.asked("blobs.get")) == 2


def test_another_content_than_the_plan_names_is_refused(peer: Peer) -> None:
    peer.answers("blobs.get", {"data": b"drop table", "size": 10})
    with Client(peer.path) as client, pytest.raises(BadFrame, match="is not what the plan"):
        command_contents(client, MADE)


def test_what_is_not_kept_or_too_large_is_not_there(keeping: Peer) -> None:
    steps = (
        replace(COMMAND, stdin=CommandInput("0" * 64, 3)),
        replace(COMMAND, stdin=CommandInput("1" * 64, MAX_CONTENT_BYTES + 1)),
        OBSERVED,
    )
    with Client(keeping.path) as client:
        assert command_contents(client, session(*steps)) == {hash_of(PRINTED): PRINTED}
        assert command_contents(client, session()) == {}
    assert "1" * 64 not in [asked["sha256"] for asked in keeping.asked("blobs.get")]


@pytest.mark.P7
def test_show_has_them(keeping: Peer, run: Run) -> None:
    shown = run("show", ID, "--diff").stdout.decode()
    assert "| select 1;" in shown and "| a\\xffb" in shown
    assert "--diff" in run("show", ID).stdout.decode(), "it says what it leaves out"
    steps = json.loads(run("show", ID, "--json").stdout)["plan"]["steps"]
    assert steps[1]["stdin"]["text"] == "select 1;\n"
    assert steps[2]["stdout"]["text"] == "a\udcffb\n"


class Telling(Peer):
    """A daemon that tells how a plan is applied as soon as somebody watches its session."""

    def _answer(self, link: Link, request: Request) -> None:
        super()._answer(link, request)
        if request.method != "sessions.get":
            return
        decided = {"decision": "deny", "rule": "no", "reason": "why", "risk": "danger"}
        link.notify("session.command", {"id": ID, "command": "rm -rf /\x1b[2J", **decided})
        printed = {"stream": "stdout", "data": b"one\n\x1b[2Jtwo"}
        link.notify("session.command_output", {"id": ID, "index": 1, **printed})
        link.notify("session.step", {"id": ID, "index": 1, "applied": "done"})
        link.notify("session.changed", bare(MADE, state=State.EXECUTED))


@pytest.fixture
def telling(tmp_path: Path) -> Iterator[Peer]:
    """Such a daemon."""
    made = Telling(tmp_path / "telling")
    made.answers("sessions.watch", {})
    made.answers("sessions.get", bare(MADE, state=State.EXECUTING))
    yield made
    made.stop()


@pytest.mark.P7
def test_watch_shows_decisions_and_what_commands_print(telling: Peer, run: Run) -> None:
    lines = run("watch", ID, SHANNOT_SOCKET=telling.path).stdout.decode().splitlines()
    assert lines[1:-1] == [
        f"{ID} deny: rm -rf /\\e[2J (rule no)",
        f"{ID} step 2 | one",
        f"{ID} step 2 | \\e[2Jtwo",
        f"{ID} step 2 done",
    ]


def test_watch_has_them_as_json(telling: Peer, run: Run) -> None:
    done = run("watch", ID, "--json", SHANNOT_SOCKET=telling.path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == [
        "changed",
        "command",
        "command_output",
        "step",
        "changed",
    ]
