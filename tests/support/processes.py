"""Processes that are no children of the tests."""

from __future__ import annotations

import errno
import os
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path

SECONDS = 30.0  # what a process gets to end before a test fails


def wait_until_gone(pids: Sequence[int], seconds: float = SECONDS) -> None:
    """Wait until processes have ended."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.EINVAL):  # the latter: just being released
                raise
            continue
        try:
            ready, _, _ = select.select([descriptor], [], [], seconds)
            assert ready, f"process {pid} does not end"
        finally:
            os.close(descriptor)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`."""
    table = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True
    ).stdout
    children: dict[int, list[int]] = {}
    for line in table.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def inner_pid(pid: int) -> int:
    """The number of a process in its innermost pid namespace, 0 if it is in ours (or gone)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
    return int(numbers[-1]) if len(numbers) > 1 else 0


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
