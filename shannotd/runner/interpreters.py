"""Who runs a file that is no machine code: the interpreter that its first line names (execve(2)).

That one may be a script itself, or `env`, which starts the program that it is told.
"""

from __future__ import annotations

import os
from typing import Callable, List, Optional

from shannotd.runner import filesystem

# As much of a file as the kernel looks at (linux/binfmts.h), and how deep interpreters may be
# scripts themselves.
HEAD_BYTES = 256
MAX_DEPTH = 5

# An O_PATH descriptor, the caller's, of what is at a path; None for nothing.
Look = Callable[[str], Optional[int]]


def shebang(source: bytes) -> Optional[List[str]]:
    """The interpreter and its one argument that a `#!` line names, or None."""
    if not source.startswith(b"#!"):
        return None
    line = os.fsdecode(source[2:].split(b"\n", 1)[0][: HEAD_BYTES - 2]).strip(" \t\r")
    words = line.split(None, 1)
    return [word.strip() for word in words] if words else None


def interpreters(look: Look, program: str, cwd: str, search: str) -> List[str]:
    """The files that run `program` if it is a script, where links lead: its interpreter, that
    one's own, and what `env` among them finds on the PATH `search`.

    Of what is not there, or cannot be read, it says no more.
    """
    found: List[str] = []
    path = program
    for _ in range(2 * MAX_DEPTH):
        line = _first_line(look, path)
        if line is None:
            break
        path = os.path.join(cwd, line[0])
        found.append(_place(look, path))
        if os.path.basename(path) == "env" and len(line) > 1:
            target = _sought(look, _target(line[1]), cwd, search)
            if target is None:
                break
            path = target
            found.append(_place(look, path))
    return found


def on_host(path: str) -> Optional[int]:
    """What is at a path of the host's (see `Look`)."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None


def _first_line(look: Look, path: str) -> Optional[List[str]]:
    looked = look(path)
    if looked is None:
        return None
    try:
        descriptor = filesystem.open_content(looked)
        try:
            return shebang(os.pread(descriptor, HEAD_BYTES, 0))
        finally:
            os.close(descriptor)
    except OSError:
        return None
    finally:
        os.close(looked)


def _place(look: Look, path: str) -> str:
    looked = look(path)
    if looked is None:
        return path
    try:
        return os.readlink(filesystem.by_descriptor(looked))
    finally:
        os.close(looked)


def _target(argument: str) -> str:
    """The program that env(1) is to start, "" for none."""
    for word in argument.split():
        if word.startswith("-S") and len(word) > 2:
            word = word[2:]
        elif word.startswith("--split-string="):
            word = word.partition("=")[2]
        if not word.startswith("-") and "=" not in word:
            return word.strip("'\"")
    return ""


def _sought(look: Look, name: str, cwd: str, search: str) -> Optional[str]:
    """Where a program of that name is on PATH; nobody but the kernel says if it can be executed."""
    if "/" in name:
        return os.path.join(cwd, name)
    for directory in search.split(":") if name else ():
        path = os.path.join(cwd, directory, name)
        looked = look(path)
        if looked is not None:
            os.close(looked)
            return path
    return None
