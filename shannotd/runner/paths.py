"""Paths of the host: where they lead, and what leads to them."""

from __future__ import annotations

import os
from typing import List, Optional


def resolved(path: str) -> Optional[str]:
    """`path` with links resolved, by the kernel at once; None if nothing is there for us."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def above(path: str) -> List[str]:
    """The directories that lead to the absolute `path`, the root first."""
    components = path.strip("/").split("/")
    return ["/" + "/".join(components[:depth]) for depth in range(len(components))]
