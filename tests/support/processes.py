"""Processes that are no children of the tests."""

from __future__ import annotations

import os
import select
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
