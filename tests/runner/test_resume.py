"""How the daemon asks what became of an apply that was cut short, and why it may not be told (P4,
P10)."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from shannotd.runner import checkpoints, plan, resume
from shannotd.runner.frames import Channel, RunnerError
from tests.runner import overlays
from tests.support.applying import created

SESSION = "one-session"


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A runner's directory with an apply in it that was cut short when it had begun."""
    who = overlays.ourselves()
    target = {"kind": "local", "host": "x"}
    step = created(tmp_path / "host" / "new", b"x", who)
    encoded = plan.canonical(plan.Plan(SESSION, target, who, "1", "rollback", (step,)))
    state = tmp_path / "state"
    state.mkdir()
    digest = plan.digest(encoded)
    with checkpoints.create(str(state), SESSION, encoded, digest):
        pass
    return state


def ask(state: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """All that is told, to the end; a descriptor that nobody wants is sent with the question."""
    ours, theirs = socket.socketpair()
    told: list[dict[str, Any]] = []
    with Channel(ours) as asking, open(os.devnull) as null:
        asking.send(header, descriptors=(null.fileno(),))
        with Channel(theirs) as answering:
            resume.serve(answering, state=str(state))
        while not told or told[-1]["event"] != "end":
            told.append(asking.receive()[0])
    return told


@pytest.mark.P10
@pytest.mark.parametrize(
    "header",
    [
        {"op": "resume", "session": ""},
        {"op": "resume", "session": "../x"},
        {"op": "apply", "session": SESSION},
    ],
)
def test_what_is_no_question_has_an_error_and_an_end(begun: Path, header: dict[str, Any]) -> None:
    error, end = ask(begun, header)
    assert (error["code"], error["details"]["method"]) == ("invalid_request", "resume")
    assert end["event"] == "end"
    assert checkpoints.unfinished(str(begun)) == [SESSION], "nothing was touched"


@pytest.mark.P10
def test_who_asks_nothing_and_goes_is_let_go(begun: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with Channel(theirs) as answering:
        resume.serve(answering, state=str(begun))
    assert checkpoints.unfinished(str(begun)) == [SESSION]


@pytest.mark.P4
def test_what_never_began_was_not_applied(begun: Path) -> None:
    error, end = ask(begun, {"op": "resume", "session": "another"})
    assert (error["code"], error["details"]["before"]) == ("apply_interrupted", "not applied")
    assert end["event"] == "end"


@pytest.mark.P4
def test_what_had_begun_is_brought_to_an_end_once(begun: Path) -> None:
    first = ask(begun, {"op": "resume", "session": SESSION})
    assert [one["event"] for one in first] == ["steps", "error", "end"]
    assert (first[0]["applied"], first[1]["code"]) == ("skipped", "apply_interrupted")
    assert checkpoints.unfinished(str(begun)) == []
    assert ask(begun, {"op": "resume", "session": SESSION}) == first


@pytest.mark.P4
def test_an_apply_without_a_runners_directory_is_told_of_in_words(tmp_path: Path) -> None:
    error, end = ask(tmp_path / "none", {"op": "resume", "session": SESSION})
    assert (error["event"], end["event"]) == ("error", "end")
    assert "No such file" in error["details"]["reason"]


@pytest.mark.P4
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("plan", b"{}", "KeyError"),
        ("plan", b"no plan", "Error"),
        ("journal", b"no line\n" * 3, "Damaged: line 1 cannot be read"),
        ("journal", b'8fc5991b {"point":"other"}\n', "Damaged: line 1: ValueError"),
        ("journal", b'b69e8c3a {"point":"done"}\n', "Damaged: line 1: IndexError"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_kept_and_says_why(
    begun: Path, name: str, content: bytes, reason: str
) -> None:
    """Nothing else is applied meanwhile: it would build on what nobody knows."""
    directory = begun / "checkpoints" / SESSION
    good = (directory / name).read_bytes()
    (directory / name).write_bytes(content)
    with pytest.raises(RunnerError) as caught:
        resume.settle_all(str(begun))
    assert (caught.value.code, caught.value.details["id"]) == ("recovery_failed", SESSION)
    assert reason in str(caught.value.details["reason"]), caught.value.details
    assert (directory / name).read_bytes() == content
    (directory / name).write_bytes(good)
    resume.settle_all(str(begun))
    assert checkpoints.unfinished(str(begun)) == []


@pytest.mark.P4
def test_a_plan_that_is_gone_is_told_by_its_name(begun: Path) -> None:
    (begun / "checkpoints" / SESSION / "plan").unlink()
    with pytest.raises(RunnerError) as caught:
        resume.settle(str(begun), SESSION)
    assert "No such file" in json.dumps(caught.value.details)
    shutil.rmtree(begun / "checkpoints" / SESSION)
    resume.settle_all(str(begun))
