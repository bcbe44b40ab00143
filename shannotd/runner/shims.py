"""Shims: what runs in a sandbox in place of a program whose call is recorded or observed.

The programs themselves stay what they are, to be looked at and copied; only the process that
starts one executes a shim instead (turning.py). It is one small script for all of them, in the
sandbox's own directory (shim_program.py is what it runs).
"""

from __future__ import annotations

import importlib.util
import marshal
import os
from functools import lru_cache
from typing import Iterator, Tuple

from shannotd.runner.mounts import SCRIPT_DIRECTORY
from shannotd.runner.paths import resolved

# The PATH of every script whose profile has none of its own.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INTERPRETER = "/usr/bin/python3"

# Where a sandbox has the shim, and what that imports.
LIBRARY = SCRIPT_DIRECTORY + "/shim"
SHIM = LIBRARY + "/shim"

# What a sandbox makes anew: no program of the host's is there.
_FRESH = ("/proc/", "/sys/", "/dev/", "/run/")
_MODULE = "shim_program"
_UNCHECKED = (1).to_bytes(4, "little")
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{_MODULE}.py")
_TEXT = f"""#!{INTERPRETER} -IS
import sys
sys.path.insert(0, {LIBRARY!r})
import {_MODULE}
{_MODULE}.main()
"""


def directories(path: str) -> Iterator[Tuple[str, str]]:
    """The directories whose programs are the host's to a script with this PATH: its own, and
    those of every script. Each as it is named, and where that is."""
    named = dict.fromkeys(os.path.normpath(each) for each in f"{path}:{PATH}".split(":") if each)
    for each in named:
        place = resolved(each) if os.path.isabs(each) else None
        if place is not None and not f"{place}/".startswith(_FRESH):
            yield each, place


@lru_cache(maxsize=None)
def library() -> Tuple[Tuple[str, bytes, int], ...]:
    """The files that belong into LIBRARY: their names, contents and modes.

    Compiled for this interpreter (PEP 552, unchecked); one of another version takes the source.
    """
    with open(_PROGRAM, "rb") as file:
        source = file.read()
    code = compile(source, f"{LIBRARY}/{_MODULE}.py", "exec", dont_inherit=True)
    header = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source)
    cached = importlib.util.cache_from_source(f"{_MODULE}.py")
    return (
        (os.path.basename(SHIM), _TEXT.encode("ascii"), 0o555),
        (f"{_MODULE}.py", source, 0o444),
        (cached, header + marshal.dumps(code), 0o444),
    )
