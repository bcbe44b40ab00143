"""`shannotctl` on a terminal, with a daemon of the test's."""

from __future__ import annotations

import os
import sys
from typing import Any

import pexpect

from tests.support.peer import Peer


def on_terminal(peer: Peer, *words: str, colours: bool = False, **environment: str) -> Any:
    """The program on a terminal of its own."""
    variables = {**os.environ, "SHANNOT_SOCKET": peer.path, "TERM": "xterm"}
    if not colours:
        variables["NO_COLOR"] = "1"
    return pexpect.spawn(
        sys.executable,
        ["-m", "shannotctl", *words],
        env={**variables, **environment},
        encoding="utf-8",
        dimensions=(50, 100),
        timeout=60,
    )


def finish(child: Any) -> tuple[str, int]:
    """What it shows from now on until it ends, and its exit status."""
    child.expect(pexpect.EOF)
    child.close()
    return child.before, child.exitstatus
