"""Where a script and its standard input come from."""

# pathlib would cost every start of the program several milliseconds.
# ruff: noqa: PTH112, PTH119, PTH123, PTH100
from __future__ import annotations

import os
import select
import stat
import sys
from typing import BinaryIO, NamedTuple

from shannotctl.cli.commandline import SubmitLine
from shannotctl.cli.console import Console
from shannotd.wire.errors import FileUnreadable, ScriptTooLarge, UsageError
from shannotd.wire.rpc import MAX_REQUEST_BYTES
from shannotd.wire.submission import ScriptKind

# What a request may hold, less the room that its other fields need.
MAX_CONTENT_BYTES = MAX_REQUEST_BYTES - 512 * 1024

_PATIENCE_SECONDS = 1.0
_SHELL_ENDINGS = (".sh", ".bash", ".dash", ".ksh", ".zsh")


class Script(NamedTuple):
    """What is to be run. `is_stdin`: it was read from our standard input."""

    kind: ScriptKind
    content: bytes = b""
    arguments: tuple[str, ...] = ()
    name: str = ""
    path: str | None = None
    is_stdin: bool = False


def read_script(line: SubmitLine, code: str | None, shell: str | None) -> Script:
    """The one script that the command line names.

    :raises UsageError: it names none, or two.
    :raises FileUnreadable: the file cannot be read.
    :raises ScriptTooLarge: no request can hold it.
    """
    given = [
        word
        for word, there in (
            ("-c", code is not None),
            ("--sh", shell is not None),
            ("a file", line.file is not None),
            ("a command", line.command is not None),
        )
        if there
    ]
    if len(given) > 1:
        raise UsageError(reason=f"give one script only, not {' and '.join(given)}")
    if code is not None:
        content = _bounded(os.fsencode(code))
        return Script(ScriptKind.PYTHON, content, line.arguments, "python -c")
    if shell is not None:
        content = _bounded(os.fsencode(shell))
        return Script(ScriptKind.SHELL, content, line.arguments, "sh -c")
    if line.command:
        name = os.path.basename(line.command[0])
        return Script(ScriptKind.COMMAND, b"", line.command, name)
    if line.command is not None:
        raise UsageError(reason="there is no command after `--`")
    if line.file is None:
        raise UsageError(reason="give a FILE, - (standard input), -c, --sh, or -- COMMAND")
    if line.file == "-":
        content = _bounded(sys.stdin.buffer.read(MAX_CONTENT_BYTES + 1))
        return Script(ScriptKind.FILE, content, line.arguments, "standard input", is_stdin=True)
    content = _bounded(_read_file(line.file), path=line.file)
    if line.file.endswith(_SHELL_ENDINGS) and not content.startswith(b"#!"):
        raise UsageError(
            reason=f"{line.file} has no first line `#!/bin/sh` or the like: python3 would run it"
        )
    return Script(
        ScriptKind.FILE,
        content,
        line.arguments,
        os.path.basename(line.file),
        os.path.abspath(line.file),
    )


def read_stdin(console: Console, chosen: str | None, *, taken: bool) -> bytes:
    """What the script gets as standard input.

    Our own, where it is a file, a pipe or a socket: so `shannotctl submit` stands in a pipeline
    where the script did. Nothing where it is a terminal, or held the script itself.

    :raises FileUnreadable: the file cannot be read.
    :raises UsageError: there is more than a request can hold.
    """
    if chosen is not None and chosen != "-":
        content = _read_file(chosen)
    elif taken:
        if chosen == "-":
            raise UsageError(reason="standard input holds the script: it cannot be its input too")
        return b""
    elif chosen is None and not _is_data(sys.stdin):
        return b""
    else:
        content = _read_patiently(console, sys.stdin.buffer)
    if len(content) > MAX_CONTENT_BYTES:
        raise UsageError(
            reason=f"standard input has more than {MAX_CONTENT_BYTES} bytes; put the data into a"
            " file and let the script read that"
        )
    return content


def _is_data(stream: object) -> bool:
    if stream is None:
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _read_patiently(console: Console, stream: BinaryIO) -> bytes:
    # A pipe that nobody ever closes looks like a hang: say what we wait for.
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        readable, _, _ = select.select([stream], [], [], _PATIENCE_SECONDS)
        if not readable:
            console.say(
                "waiting for standard input, which goes to the script"
                " (--stdin /dev/null if it needs none)"
            )
    return stream.read(MAX_CONTENT_BYTES + 1)


def _read_file(path: str) -> bytes:
    if os.path.isdir(path):
        raise FileUnreadable(path=path, reason="it is a directory")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_CONTENT_BYTES:
                raise ScriptTooLarge(size=size, limit=MAX_CONTENT_BYTES)
            return file.read(MAX_CONTENT_BYTES + 1)
    except OSError as error:
        raise FileUnreadable(path=path, reason=error.strerror or str(error)) from None
    except ValueError as error:
        raise FileUnreadable(path=path, reason=str(error)) from None


def _bounded(content: bytes, path: str | None = None) -> bytes:
    if len(content) > MAX_CONTENT_BYTES:
        raise ScriptTooLarge(size=len(content), limit=MAX_CONTENT_BYTES)
    return content
