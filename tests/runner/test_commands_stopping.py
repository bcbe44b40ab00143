"""Those who stop a command at apply, or go meanwhile: the daemon, the runner, its keeper."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from shannotd.runner import identity, plan
from shannotd.runner.frames import Channel, Closed
from shannotd.runner.plan import Plan
from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.appliers import Applier, fifo
from tests.support.applying import PYTHON, Applying, command, created, shell
from tests.support.processes import alive, wait_until_gone
from tests.support.runner import RunnerProcess

# Three that print their numbers, ignore SIGTERM and are in sessions of their own.
HIDERS = """
import os, signal, sys
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"%d\\n" % os.getpid())
signal.pause()
"""


@pytest.mark.usefixtures("no_grace")
def test_who_is_stopped_is_stopped_with_all_that_it_started(applier: Applier) -> None:
    def stop(applied: Applying) -> None:
        if applied.outputs[0, "stdout"].count(b"\n") == 4:
            applied.channel.send({"op": "cancel"})

    applied = applier.run(command(PYTHON, "-c", HIDERS), at_output=stop)
    pids = [int(pid) for pid in applied.outputs[0, "stdout"].split()]
    assert applied.commands[0]["stopped"] == "cancelled"
    assert applied.commands[0]["signal"] == signal.SIGKILL
    assert applied.commands[0]["left"] == 0
    for pid in pids:
        assert not alive(pid)


# Those who stop it, or go


def test_a_cancel_ends_the_command_and_what_is_after_it(applier: Applier) -> None:
    place = applier.place
    applied = applier.run(
        created(place / "before", b"x", applier.who),
        shell("echo begun; exec sleep 1000"),
        created(place / "after", b"x", applier.who),
        contents=[b"x"],
        at_output=lambda applied: applied.channel.send({"op": "cancel"}),
    )
    assert applied.code == "command_failed"
    assert applied.error is not None
    assert "cancelled" in applied.error["details"]["ending"]
    assert applied.steps == {0: "undone", 1: "failed", 2: "skipped"}
    assert os.listdir(place) == []


@pytest.mark.P6
def test_a_cancel_instead_of_a_go_starts_nothing(applier: Applier) -> None:
    step = shell('touch "$1/ran"', str(applier.place))
    applied = applier.run(
        step, step, at_start=lambda applied: applied.channel.send({"op": "cancel"})
    )
    assert applied.code == "command_failed"
    assert applied.steps == {0: "failed", 1: "skipped"}
    assert os.listdir(applier.place) == []


def test_a_cancel_in_a_batch_stops_before_what_is_next(applier: Applier) -> None:
    place = applier.place
    applied = applier.run(
        created(place / "first", b"x", applier.who),
        shell('touch "$1"', str(place / "never")),
        created(place / "nor_this", b"x", applier.who),
        contents=[b"x"],
        at_need=lambda applied: applied.channel.send({"op": "cancel"}),
    )
    assert applied.code == "apply_failed"
    assert applied.started == []
    assert applied.steps == {0: "undone", 1: "failed", 2: "skipped"}
    assert os.listdir(place) == []


@pytest.mark.P6
def test_without_a_daemon_nothing_is_started(applier: Applier) -> None:
    step = shell('touch "$1/ran"', str(applier.place))
    with (
        applier(step, at_start=lambda applied: applied.channel.close()) as applied,
        pytest.raises((Closed, OSError)),
    ):
        applied.finish()
    assert os.listdir(applier.place) == []


@pytest.mark.P6
def test_a_command_outlives_the_daemon_and_nothing_after_it_is_begun(
    applier: Applier, gate: Path
) -> None:
    place = applier.place
    ended = fifo(applier, "ended")
    text = 'echo begun; read line < "$1"; echo much; touch "$2"; echo over > "$3"'
    steps = [
        shell(text, str(gate), str(place / "first"), str(ended)),
        created(place / "second", b"x", applier.who),
        shell('touch "$1"', str(place / "third")),
    ]
    with (
        applier(
            *steps, contents=[b"x"], at_output=lambda applied: applied.channel.close()
        ) as applied,
        pytest.raises((Closed, OSError)),
    ):
        try:
            applied.finish()
        finally:
            gate.write_text("go\n")
            assert ended.read_text() == "over\n"
    assert sorted(os.listdir(place)) == ["ended", "first", "gate"]


@pytest.mark.usefixtures("no_grace")
def test_a_command_ends_with_the_process_that_applies(applier: Applier) -> None:
    def kill(applied: Applying) -> None:
        if applied.outputs[0, "stdout"].count(b"\n") == 4:
            os.kill(applied.pid, signal.SIGKILL)

    with (
        applier(command(PYTHON, "-c", HIDERS), at_output=kill) as applied,
        pytest.raises(Closed),
    ):
        applied.finish()
    wait_until_gone([int(pid) for pid in applied.outputs[0, "stdout"].split()])


def test_a_command_whose_keeper_was_killed_has_failed(applier: Applier) -> None:
    def kill(applied: Applying) -> None:
        program = int(applied.outputs[0, "stdout"])
        status = Path(f"/proc/{program}/status").read_text()
        keeper = int(status.split("PPid:")[1].split()[0])
        os.kill(keeper, signal.SIGKILL)
        applied.at_output = None

    applied = applier.run(shell("echo $$; exec sleep 1000"), at_output=kill)
    assert applied.code == "command_failed"
    wait_until_gone([int(applied.outputs[0, "stdout"])])


# With a runner around it


def test_a_command_and_what_is_after_it_outlive_the_runner(
    bench: Bench,
    fresh: Callable[..., AbstractContextManager[RunnerProcess]],
    place: Path,
) -> None:
    """The process that applies is nobody's but the daemon's."""
    gate = place / "gate"
    os.mkfifo(gate)
    os.chown(gate, bench.uid, -1)
    who = overlays.who(bench.account) if is_root() else overlays.ourselves()
    steps = (
        shell('echo begun; read line < "$1"; echo "$line"', str(gate)),
        created(place / "after", b"x", who),
    )
    target = {"kind": "local", "host": identity.machine()}
    encoded = plan.canonical(Plan("s", target, who, "1", "rollback", steps))
    digest = plan.digest(encoded)

    def kill(applied: Applying) -> None:
        runner.process.kill()
        runner.process.wait()
        applied.at_output = None
        gate.write_text("go\n")

    with fresh() as runner:
        runner.run("shell", "true")  # makes its key
        seal = plan.seal((runner.state / "runner.key").read_bytes(), "s", digest)
        ours, theirs = socket.socketpair()
        assert runner.ask({"op": "apply"}, (theirs.fileno(),)) == {}
        theirs.close()
        with Channel(ours) as channel:
            header = {"op": "apply", "session": "s", "digest": digest, "seal": seal}
            channel.send(header, encoded)
            contents = {hashlib.sha256(b"x").hexdigest(): b"x"}
            applied = Applying(0, channel, contents, at_output=kill).finish()
        assert runner.process.returncode == -signal.SIGKILL
        runner.process.returncode = 0  # killed on purpose
    assert applied.error is None
    assert applied.outputs == {(0, "stdout"): b"begun\ngo\n"}
    assert applied.steps == {0: "done", 1: "done"}
    assert (place / "after").read_text() == "x"
