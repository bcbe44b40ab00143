"""Control groups of a test's own, on whatever hierarchy this machine lets it write."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shannotd.runner import cgroups
from shannotd.runner.cgroups import Base


def available() -> Base:
    """What a runner started now would use; skips the test where it would have none."""
    base = cgroups.arrange()
    if base is None:
        pytest.skip("no cgroup2 that this account may write (make test-machine has one)")
    return base


@contextmanager
def own_base() -> Iterator[Base]:
    """A base that no runner uses."""
    base = available()
    path = Path(base.path) / f"shannot-test-{os.urandom(8).hex()}"
    path.mkdir()
    for name in base.controllers:
        (path / "cgroup.subtree_control").write_text(f"+{name}")
    try:
        yield Base(str(path), base.controllers)
    finally:
        deadline = time.monotonic() + 10
        while path.exists():  # who dies leaves a group a moment later
            cgroups.sweep(Base(str(path), base.controllers))
            try:
                path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                os.sched_yield()


def cgroup_of(pid: int) -> str:
    """The path of a process's cgroup below the root of the hierarchy."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))
