"""What the daemon is told of a checkpoint, and how it asks (P10)."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from shannotd.runner import checkpoint_view, checkpoints, plan
from shannotd.runner.frames import Channel
from tests.runner import overlays
from tests.support.applying import created

pytestmark = pytest.mark.P10

SESSION = "one-session"


def ask(state: Path, header: dict[str, Any]) -> list[tuple[dict[str, Any], bytes]]:
    """All that is told, to the end; a descriptor that nobody wants is sent with the question."""
    ours, theirs = socket.socketpair()
    told = []
    with Channel(ours) as asking, open(os.devnull) as null:
        asking.send(header, descriptors=(null.fileno(),))
        with Channel(theirs) as answering:
            before = len(os.listdir("/proc/self/fd"))
            checkpoint_view.serve(answering, state=str(state))
            assert len(os.listdir("/proc/self/fd")) == before
        while not told or told[-1][0]["event"] != "end":
            event, payload, _ = asking.receive()
            told.append((event, payload))
    return told


def test_a_checkpoint_that_has_saved_nothing(tmp_path: Path) -> None:
    who = overlays.ourselves()
    target = {"kind": "local", "host": "x"}
    made = plan.Plan(SESSION, target, who, "1", "keep", (created(tmp_path / "new", b"x", who),))
    encoded = plan.canonical(made)
    with checkpoints.create(str(tmp_path), SESSION, encoded, plan.digest(encoded)):
        pass
    (saved, payload), (end, _) = ask(tmp_path, {"op": "checkpoint", "session": SESSION})
    assert (saved["event"], json.loads(payload), end["event"]) == ("saved", [], "end")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"op": "checkpoint", "session": ""}, "invalid_request"),
        ({"op": "checkpoint", "session": "../x"}, "invalid_request"),
        ({"op": "resume", "session": SESSION}, "invalid_request"),
        ({"op": "checkpoint", "session": "another"}, "checkpoint_unknown"),
    ],
)
def test_what_is_no_question_has_an_error_and_an_end(
    tmp_path: Path, header: dict[str, Any], code: str
) -> None:
    (error, _), (end, _) = ask(tmp_path, header)
    assert (error["event"], error["code"], end["event"]) == ("error", code, "end")


def test_who_asks_nothing_and_goes_is_let_go(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with Channel(theirs) as answering:
        checkpoint_view.serve(answering, state=str(tmp_path))
    assert os.listdir(tmp_path) == []
