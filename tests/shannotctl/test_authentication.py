"""An agent on the terminal, where there is none: the error says what is wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

# Counts how often the daemon is asked.
PROGRAM = """
from shannotctl.authentication import authenticated
from shannotd.wire.errors import AuthenticationNeeded
asked = []
def act():
    asked.append(1)
    if len(asked) < {enough}:
        raise AuthenticationNeeded(action="do it", reason="nobody there")
    return "done"
try:
    print(authenticated(act), len(asked), "times")
except AuthenticationNeeded as error:
    print("needed", len(asked), "times")
"""
AGENT = """#!/bin/sh
while [ "$1" != --notify-fd ]; do shift; done
echo "agent for $PPID"
eval "exec $2>&-"
exec sleep 1000
"""


def on_terminal(program: str, path: str) -> str:
    """What a program prints on a terminal."""
    child = pexpect.spawn(
        sys.executable, ["-c", program], env={**os.environ, "PATH": path}, encoding="utf-8"
    )
    shown: str = child.read()
    child.close()
    assert child.exitstatus == 0
    return shown


@pytest.mark.P5
def test_without_a_terminal_nobody_is_asked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(enough=2)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == b"needed 1 times\n"


@pytest.mark.P5
def test_without_an_agent_the_error_stays() -> None:
    assert "needed 1 times" in on_terminal(PROGRAM.format(enough=2), "/nowhere")


@pytest.mark.P5
def test_the_agent_is_there_for_as_long_as_it_is_needed(tmp_path: Path) -> None:
    agent = tmp_path / "pkttyagent"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    shown = on_terminal(PROGRAM.format(enough=2), path)
    assert "agent for" in shown and "done 2 times" in shown
    assert "needed 2 times" in on_terminal(PROGRAM.format(enough=3), path)
    # Who needs none starts none.
    assert on_terminal(PROGRAM.format(enough=1), path).strip() == "done 1 times"
