"""Processes that hold files open, as services do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = "/usr/bin/python3"
_HOLD = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
held = []
for mode, path in zip(sys.argv[1::2], sys.argv[2::2]):
    if mode in ("shared", "private"):
        flags = mmap.MAP_SHARED if mode == "shared" else mmap.MAP_PRIVATE
        # The mapping alone keeps the file open: mmap.mmap would keep a descriptor too.
        with open(path, "r+b") as file:
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            assert libc.mmap(None, 4096, protection, flags, file.fileno(), 0)
    else:
        held.append(open(path, mode))
print("ready", flush=True)
for line in sys.stdin:
    held[0].write(line)
    held[0].flush()
    print("written", flush=True)
"""


class Holding:
    """A process that holds files open; `write` has it write to the first."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def write(self, line: str) -> None:
        """Write a line; it is written when this returns."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(line + "\n")
        stdin.flush()
        assert stdout.readline() == "written\n"


@contextmanager
def holding(*files: tuple[str, Path], **options: Any) -> Iterator[Holding]:
    """A process that opens each file in its mode, or maps it (`shared`, `private`)."""
    words = [word for mode, path in files for word in (mode, str(path))]
    with subprocess.Popen(
        [PROGRAM, "-c", _HOLD, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Holding(process)
        finally:
            process.kill()
