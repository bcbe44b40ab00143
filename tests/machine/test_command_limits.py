"""Limits of a command at apply, by a control group with its controllers (P10).

See test_limits.py for where these run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner import cgroups
from shannotd.runner.cgroups import Base
from shannotd.runner.plan import CommandStep
from tests.runner import overlays
from tests.support.applying import Applying, applying, command, shell
from tests.support.cgroups import available, cgroup_of, own_base
from tests.support.processes import wait_until_gone

pytestmark = pytest.mark.P10

MIB = 1 << 20


@pytest.fixture
def base() -> Iterator[Base]:
    missing = {"memory", "pids"} - available().controllers
    if missing:
        pytest.skip(f"no controllers {sorted(missing)} here (make test-machine has them)")
    with own_base() as own:
        yield own


def run(base: Base, *steps: CommandStep) -> Applying:
    """Apply commands as oneself, to the end."""
    with applying(steps, overlays.ourselves(), base=base) as applied:
        return applied.finish()


FAMILY = """
import os, sys, time
for number in range({count}):
    if os.fork() == 0:
        block = bytearray(b"x") * ({mib} << 20)
        time.sleep({seconds})
        os._exit(0)
try:
    while True: os.wait()
except ChildProcessError:
    print("ok")
"""


def family(count: int, mib: int, seconds: float = 0.5, **more: int) -> CommandStep:
    """A command with children, each of which uses so much memory."""
    code = FAMILY.format(count=count, mib=mib, seconds=seconds)
    return command("/usr/bin/python3", "-c", code, **more)


def test_memory_is_that_of_all_together(base: Base) -> None:
    applied = run(base, family(8, 40, seconds=60, memory_bytes=150 * MIB), shell("true"))
    assert applied.commands[0]["stopped"] == "memory_bytes"
    assert applied.commands[0]["left"] == 0
    assert applied.error is not None
    assert applied.error["details"]["ending"].startswith(f"used more than {150 * MIB} bytes")
    assert 1 not in applied.commands


def test_each_command_has_its_own_limits(base: Base) -> None:
    """And none where its step has none, whatever the one before it had."""
    applied = run(base, family(1, 20, memory_bytes=150 * MIB, processes=50), family(8, 40))
    assert applied.error is None
    assert applied.outputs[1, "stdout"] == b"ok\n"


def test_processes_are_those_of_all_together(base: Base) -> None:
    forks = shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait", processes=6)
    applied = run(base, forks)
    assert applied.error is not None
    assert "could start no more than 6 processes at a time" in applied.error["details"]["ending"]
    assert applied.commands[0]["hindered"] is True
    assert run(base, shell("sleep 0 & sleep 0 & wait", processes=6)).error is None


def test_what_is_left_running_is_not_limited(base: Base) -> None:
    """A daemon that a limited command started lives by no limit of that command."""
    step = shell(
        "setsid sleep 1000 > /dev/null 2>&1 & echo $!", memory_bytes=150 * MIB, processes=5
    )
    applied = run(base, step)
    assert applied.error is None and applied.commands[0]["left"] == 1
    daemon = int(applied.outputs[0, "stdout"])
    group = Path("/sys/fs/cgroup" + cgroup_of(daemon))
    assert group.name == cgroups.LEFT
    assert (group / "memory.max").read_text() == (group / "pids.max").read_text() == "max\n"
    cgroups.sweep(base)
    os.kill(daemon, 0)
    os.kill(daemon, signal.SIGKILL)
    wait_until_gone([daemon])
