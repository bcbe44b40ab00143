"""Processes that are no children of the tests."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence

SECONDS = 30.0  # what a process gets to end before a test fails


def wait_until_gone(pids: Sequence[int]) -> None:
    """Wait until processes have ended."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([descriptor], [], [], SECONDS)
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
