"""Limits of a command at apply: of its output and its time, and of what it costs us."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.accounts import is_root
from tests.support.appliers import Applier
from tests.support.applying import Applying, command, shell


def test_more_output_than_is_kept_is_marked(applier: Applier) -> None:
    text = "head -c 30000 /dev/zero; head -c 1000 /dev/zero >&2"
    applied = applier.run(shell(text, output_bytes=1000))
    assert applied.error is None
    assert {key: len(data) for key, data in applied.outputs.items()} == {
        (0, "stdout"): 1000,
        (0, "stderr"): 1000,
    }
    assert applied.commands[0]["truncated"] == ["stdout"]


def test_a_flood_of_output_is_stopped(applier: Applier) -> None:
    applied = applier.run(command("/usr/bin/yes", output_bytes=1000))
    assert applied.code == "command_failed"
    assert applied.commands[0]["stopped"] == "output_bytes"
    assert len(applied.outputs[0, "stdout"]) == 1000


def test_too_long_is_stopped(applier: Applier) -> None:
    applied = applier.run(command("/usr/bin/sleep", "1000", seconds=0.2), shell("true"))
    assert applied.code == "command_failed"
    assert applied.error is not None
    assert "0.2 s" in applied.error["details"]["ending"]
    assert applied.commands[0]["stopped"] == "seconds"
    assert applied.commands[0]["signal"] == signal.SIGTERM
    assert applied.steps == {0: "failed", 1: "skipped"}


@pytest.mark.skipif(not is_root(), reason="looks into a process that is not dumpable")
def test_many_commands_leave_no_descriptor_open(applier: Applier) -> None:
    seen: list[int] = []

    def count(applied: Applying) -> None:
        seen.append(len(os.listdir(f"/proc/{applied.pid}/fd")))
        applied.channel.send({"op": "go"})

    step = shell("cat", stdin=b"x")
    applied = applier.run(*[step] * 20, contents=[b"x"], at_start=count)
    assert applied.error is None
    assert len(seen) == 20
    assert len(set(seen)) == 1
