"""An apply that is killed: what it did is told, and the rest is taken back (P4)."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.runner import apply as applying
from shannotd.runner import checkpoints, plan, resume
from shannotd.runner.batch import Points
from shannotd.runner.frames import Channel, Closed
from shannotd.runner.plan import CommandStep, FileStep, Identity, Plan
from shannotd.runner.turn import Turn
from tests.runner import overlays
from tests.runner.overlays import Applied, Recording
from tests.runner.test_any_script import one_name_each
from tests.runner.test_apply import CHANGE, LAYOUT, ROOT, record
from tests.support import mixed
from tests.support.accounts import is_root
from tests.support.applying import shell
from tests.support.operations import Phase

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")

POINTS = ("checked", "staged", "changing", "changed", "done", "cleaned", "synced")


class Kill(Points):
    """Kills the process at a point, the first time or in a later batch."""

    def __init__(self, point: str, index: int | None = None, batch: int = 0) -> None:
        self.point, self.index, self.batch = point, index, batch
        self.batches = 0

    def reached(self, point: str, index: int | None = None) -> None:
        if point == self.point and self.index in (None, index) and self.batches == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)
        self.batches += point == "synced"


def killed_apply(found: Plan, recording: Recording, state: Path, points: Points) -> None:
    """Apply in a process of its own that is killed on its way."""
    encoded = plan.canonical(found)
    digest = plan.digest(encoded)
    seal = plan.seal(overlays.KEY, found.session, digest)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        applying.serve(Channel(theirs), key=overlays.KEY, state=str(state), points=points)
        os._exit(0)
    theirs.close()
    with Channel(ours) as channel:
        header = {"op": "apply", "session": found.session, "digest": digest, "seal": seal}
        channel.send(header, encoded)
        try:
            while True:
                event, _, _ = channel.receive()
                if event["event"] == "need":
                    names = event["sha256"]
                    blobs = [[name, len(recording.contents[name])] for name in names]
                    data = b"".join(recording.contents[name] for name in names)
                    channel.send({"op": "blobs", "blobs": blobs}, data)
                elif event["event"] == "command_starting":
                    channel.send({"op": "go"})
        except Closed:
            pass
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def resumed(state: Path, session: str) -> Applied:
    """What the runner tells of it afterwards."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        resume.serve(Channel(theirs), state=str(state))
        os._exit(0)
    theirs.close()
    applied = Applied()
    with Channel(ours) as channel:
        channel.send({"op": "resume", "session": session})
        while True:
            event, _, _ = channel.receive()
            if event["event"] == "end":
                break
            if event["event"] == "steps":
                for index in range(event["first"], event["last"] + 1):
                    applied.steps[index] = event["applied"]
            else:
                applied.error = event
    os.waitpid(child, 0)
    return applied


def with_command(recording: Recording, who: Identity, on_failure: str = "rollback") -> Plan:
    """The recorded changes, with a command after the first half of them."""
    steps = list(recording.steps)
    command = shell("true")
    assert isinstance(command, CommandStep)
    steps.insert(len(steps) // 2, command)
    return replace(
        overlays.plan_of(replace(recording, steps=tuple(steps)), who), on_failure=on_failure
    )


@pytest.fixture
def state(top: Path) -> Path:
    path = top / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.mark.P4
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("point", POINTS)
def test_what_was_killed_is_taken_back(point: str, batch: int, top: Path, state: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    before = overlays.snapshot(top / "host")
    found = with_command(recording, ROOT)
    index = None
    if point.startswith("chang"):
        half = len(recording.steps) // 2
        index = half // 2 if batch == 0 else half + 3
    killed_apply(found, recording, state, Kill(point, index, batch))
    assert checkpoints.unfinished(str(state)) == [found.session]
    applied = resumed(state, found.session)
    assert checkpoints.unfinished(str(state)) == []
    if (point, batch) in {("done", 1), ("cleaned", 1), ("synced", 1)}:
        assert applied.error is None
        assert set(applied.steps.values()) == {"done"}
        return
    assert applied.code == "apply_interrupted"
    assert overlays.snapshot(top / "host") == before
    assert "done" not in {
        applied.steps[index]
        for index, step in enumerate(found.steps)
        if not isinstance(step, CommandStep)
    }
    # Whoever asks again is told the same.
    assert resumed(state, found.session) == applied


@pytest.mark.P4
@pytest.mark.parametrize("point", POINTS)
def test_what_was_killed_while_it_was_taken_back(point: str, top: Path, state: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    before = overlays.snapshot(top / "host")
    failing = replace(recording, steps=(*recording.steps, shell("exit 1")))
    found = overlays.plan_of(failing, ROOT)
    index = len(recording.steps) // 2 if point.startswith("chang") else None
    killed_apply(found, failing, state, Kill(point, index, 1))
    applied = resumed(state, found.session)
    assert applied.code == "command_failed"
    assert overlays.snapshot(top / "host") == before
    files = range(len(recording.steps))
    assert {applied.steps[number] for number in files} == {"undone"}
    assert applied.steps[len(recording.steps)] == "failed"


# What the second phase removes is made anew when it is taken back, and then changed and moved.
TWICE: list[Phase] = [
    [
        ("chmod", "d/mode", 0o600),
        ("age", "d/file"),
        ("chmod", "d/tree/inner", 0o640),
        ("rename", "name", "renamed"),
        ("chmod", "d/brother", 0o600),
        ("own", "d/brother", 1, 2),
    ],
    [("chmod", "d/file", 0o600)],
    [
        ("remove", "d/mode"),
        ("remove", "d/file"),
        ("remove", "d/tree"),
        ("remove", "renamed"),
        ("chmod", "brother", 0o640),
    ],
]


@pytest.mark.P4
@pytest.mark.parametrize("point", ["changing", "changed"])
def test_what_was_killed_while_it_made_anew_what_it_then_changes(point: str, top: Path) -> None:
    with mixed.bed(top, TWICE) as bed:
        steps = (*bed.steps, shell("exit 1"))
        recording = Recording(steps, (), dict(bed.contents))
        found = overlays.plan_of(recording, ROOT)
        for index, step in enumerate(steps):
            if isinstance(step, CommandStep):
                continue
            bed.lay_out()
            killed_apply(found, recording, bed.state, Kill(point, index, len(TWICE)))
            applied = resumed(bed.state, found.session)
            assert applied.code == "command_failed"
            told = {applied.steps[i] for i, one in enumerate(steps) if isinstance(one, FileStep)}
            assert told == {"undone"}
            assert one_name_each(overlays.snapshot(bed.host)) == one_name_each(bed.states[0])


@pytest.mark.P4
def test_what_is_to_be_kept_is_kept_and_told(top: Path, state: Path) -> None:
    recording = record(top, LAYOUT, CHANGE)
    found = with_command(recording, ROOT, "keep")
    half = len(recording.steps) // 2
    killed_apply(found, recording, state, Kill("changed", half + 2, 1))
    applied = resumed(state, found.session)
    assert applied.code == "apply_interrupted"
    assert applied.error is not None
    expected = f"applied (steps 1-{half}); what the commands of step {half + 1} did stays"
    assert applied.error["details"]["before"] == expected
    assert [applied.steps[index] for index in range(half + 1)] == ["done"] * (half + 1)
    assert {applied.steps[index] for index in range(half + 1, len(found.steps))} == {"skipped"}


@pytest.mark.P4
def test_an_apply_that_still_goes_on_is_waited_for_whatever_is_asked(
    top: Path, state: Path
) -> None:
    recording = record(top, LAYOUT, "write('d/file', 'new')")
    found = overlays.plan_of(recording, ROOT)
    killed_apply(found, recording, state, Kill("changed"))
    held = overlays.snapshot(top / "host")
    ours, theirs = socket.socketpair()
    with Turn(str(state)) as turn:
        assert turn.wait()
        child = os.fork()
        if child == 0:
            os.close(turn.descriptor)
            ours.close()
            resume.serve(Channel(theirs), state=str(state))
            os._exit(0)
        theirs.close()
        with Channel(ours) as channel:
            channel.send({"op": "resume", "session": found.session})
            poll = select.poll()
            poll.register(ours, select.POLLIN)
            assert poll.poll(300) == []
            channel.send({"op": "cancel"})
            assert poll.poll(1000) == []
            assert overlays.snapshot(top / "host") == held
            fcntl.flock(turn.descriptor, fcntl.LOCK_UN)
            events = [channel.receive()[0]["event"] for _ in range(3)]
    os.waitpid(child, 0)
    assert events == ["steps", "error", "end"]


@pytest.mark.P4
def test_nothing_else_is_applied_before_what_was_killed_is_over(top: Path, state: Path) -> None:
    recording = record(top, LAYOUT, "write('d/file', 'new')")
    before = overlays.snapshot(top / "host")
    found = overlays.plan_of(recording, ROOT)
    killed_apply(found, recording, state, Kill("changed"))
    assert overlays.snapshot(top / "host") != before
    again = replace(found, session="another")
    applied = overlays.apply_plan(again, recording.contents, state=state)
    assert applied.error is None
    assert checkpoints.unfinished(str(state)) == []
    assert (top / "host/d/file").read_text() == "new"
    assert resumed(state, found.session).code == "apply_interrupted"
