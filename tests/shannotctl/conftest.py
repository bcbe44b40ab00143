"""Fixtures for the clients' tests: a scripted peer, and the program itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.peer import Peer

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """A scripted daemon."""
    made = Peer(tmp_path / "s")
    yield made
    made.stop()


@pytest.fixture
def run(peer: Peer) -> Run:
    """Runs `shannotctl` against the scripted daemon, without a terminal."""

    def call(
        *arguments: str, stdin: bytes | None = None, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "shannotctl", *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            cwd=cwd,
            timeout=60,
            env={**os.environ, "SHANNOT_SOCKET": peer.path, **environment},
        )

    return call
