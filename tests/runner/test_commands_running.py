"""How a command of a plan runs: just as it was reviewed (P2), and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.appliers import Applier, fifo, tool
from tests.support.applying import PYTHON, Applying, applying, command, shell
from tests.support.processes import alive

REPORT = """
import json, os, stat
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
descriptors = {}
for name in os.listdir("/proc/self/fd"):
    try:
        descriptors[int(name)] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
print(json.dumps({
    "ids": [os.getresuid(), os.getresgid(), sorted(os.getgroups())],
    "umask": os.umask(0),
    "cwd": os.getcwd(),
    "leader": os.getpid() == os.getsid(0) == os.getpgrp(),
    "blocked": int(status["SigBlk"], 16),
    "ignored": int(status["SigIgn"], 16),
    "descriptors": descriptors,
    "name": status["Name"].strip(),
    "executable": os.readlink("/proc/self/exe"),
}))
"""


@pytest.mark.P2
def test_it_has_the_identity_and_nothing_of_ours(applier: Applier) -> None:
    who = replace(applier.who, umask=0o027)
    step = command(PYTHON, "-S", "-c", REPORT, cwd=str(applier.place))
    with applying([step], who, become=applier.become) as applied:
        applied.finish()
    assert applied.error is None, applied.error
    found = json.loads(applied.outputs[0, "stdout"])
    descriptors = found.pop("descriptors")
    found["ignored"] &= ~(0b11 << 31)  # signals 32 and 33 are the C library's: nptl(7)
    assert found == {
        "ids": [[who.uid] * 3, [who.gid] * 3, sorted(who.groups)],
        "umask": 0o027,
        "cwd": str(applier.place),
        "leader": True,
        "blocked": 0,
        # Python's own.
        "ignored": 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1),
        "name": Path(step.program).name,
        "executable": step.program,
    }
    assert descriptors["0"] == "/dev/null"
    assert set(descriptors) == {"0", "1", "2"}
    assert applied.commands[0]["left"] == 0


@pytest.mark.P2
def test_the_environment_is_exactly_that_of_the_plan(applier: Applier) -> None:
    environment = {"A": "1", "EMPTY": "", "LINES": "a\nb", "BYTES": "\udcff", "LD_LIBRARY_PATH": ""}
    applied = applier.run(command("/usr/bin/env", "-0", environment=environment))
    entries = applied.outputs[0, "stdout"].split(b"\0")
    assert sorted(entries) == sorted(
        [b"", *(os.fsencode(f"{name}={value}") for name, value in environment.items())]
    )


@pytest.mark.P2
def test_a_script_runs_by_its_path(applier: Applier) -> None:
    path = tool(applier, '#!/bin/sh\necho "$0" "$@"\n')
    applied = applier.run(command(str(path), "a b", "*"))
    assert applied.outputs[0, "stdout"].decode() == f"{path} a b *\n"


@pytest.mark.P2
@pytest.mark.parametrize("content", [b"", b"some\n", b"x" * 300_000, b"LARGE" + b"y" * 300_000])
def test_standard_input_is_what_was_reviewed(content: bytes, applier: Applier) -> None:
    look = "test -r /dev/stdin; cat; cat"
    applied = applier.run(shell(look, stdin=content), contents=[content])
    assert applied.error is None
    assert applied.outputs.get((0, "stdout"), b"") == content


@pytest.mark.P2
def test_standard_input_cannot_be_written(applier: Applier) -> None:
    text = "import os\ntry: os.write(0, b'x')\nexcept OSError: pass\nelse: raise SystemExit(1)"
    applied = applier.run(command(PYTHON, "-c", text, stdin=b"x"), contents=[b"x"])
    assert applied.error is None


@pytest.mark.P2
def test_another_standard_input_than_was_reviewed_is_refused(applier: Applier) -> None:
    step = shell('cat > "$1/ran"', str(applier.place), stdin=b"LARGE as reviewed")
    with applier(step, contents=[b"LARGE as reviewed"]) as applied:
        applied.contents = dict.fromkeys(applied.contents, b"LARGE but another")
        applied.finish()
    assert applied.code == "command_failed"
    assert applied.started == []
    assert os.listdir(applier.place) == []


def test_both_outputs_are_told_as_they_come(applier: Applier, gate: Path) -> None:
    def let_it_go(applied: Applying) -> None:
        if applied.outputs.get((0, "stdout")) == b"first\n":
            gate.write_text("go\n")
            applied.at_output = None

    text = 'echo first; read line < "$1"; echo "$line" >&2; echo last'
    applied = applier.run(shell(text, str(gate)), at_output=let_it_go)
    assert applied.outputs == {(0, "stdout"): b"first\nlast\n", (0, "stderr"): b"go\n"}
    ended = applied.commands[0]
    assert (ended["exit_status"], ended["signal"], ended["stopped"]) == (0, None, None)
    assert ended["truncated"] == []
    assert ended["duration"] > 0


def test_a_daemon_may_be_left_behind(applier: Applier, left: list[int]) -> None:
    applied = applier.run(shell("setsid sleep 1000 > /dev/null 2>&1 & echo $!"), shell("exit 1"))
    left.append(int(applied.outputs[0, "stdout"]))
    assert applied.steps == {0: "done", 1: "failed"}
    assert applied.commands[0]["left"] == 1
    assert alive(left[0])


def test_what_is_left_behind_may_go_on_writing(applier: Applier, gate: Path) -> None:
    """Its output is read by somebody after the apply too: else SIGPIPE would end it."""
    said = fifo(applier, "said")
    text = '{ read line < "$1"; echo more && echo wrote > "$2"; } & true'
    applied = applier.run(shell(text, str(gate), str(said)))
    assert applied.error is None
    gate.write_text("go\n")
    assert said.read_text() == "wrote\n"
