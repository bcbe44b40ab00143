"""Who runs a file that is no machine code: the interpreter that its first line names."""

from __future__ import annotations

import os
from typing import List, Optional

# As much of a file as the kernel looks at (linux/binfmts.h), and how deep interpreters may be
# scripts themselves (execve(2)).
HEAD_BYTES = 256
MAX_DEPTH = 5


def shebang(source: bytes) -> Optional[List[str]]:
    """The interpreter and its one argument that a `#!` line names, or None."""
    if not source.startswith(b"#!"):
        return None
    line = os.fsdecode(source[2:].split(b"\n", 1)[0][: HEAD_BYTES - 2]).strip(" \t\r")
    words = line.split(None, 1)
    return [word.strip() for word in words] if words else None
