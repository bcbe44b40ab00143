"""A person's own program (editor, pager) on the terminal, while this process waits for it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS = 2.0


class _Asked(Exception):
    """This process was asked to end."""


def run(
    words: Sequence[str], text: bytes | None = None, *, ending: Callable[[], None] = lambda: None
) -> int:
    """Run a program until it ends; its status, negative for a signal.

    Ctrl-C is the program's. Is this process asked to end meanwhile (SIGTERM, SIGHUP), so are the
    program and all that it has started, since the terminal is about to be somebody else's; one that
    does not end soon is left. Then this process gets the signal once more.

    :param text: its standard input; None: the terminal's.
    :param ending: called before this process gets the signal.
    :raises OSError: it cannot be started.
    """
    asked: list[int] = []
    waiting = True

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal waiting
        asked.append(number)
        if waiting:
            waiting = False
            raise _Asked

    program = subprocess.Popen(words, stdin=None if text is None else subprocess.PIPE)
    with _terminal_kept() as restore:
        before = {number: signal.signal(number, ask) for number in _heeded()}
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            _feed(program, text)
            program.wait()
            waiting = False
        except _Asked:
            _end(program.pid, asked[0])
            restore()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if not asked:
        return program.returncode
    ending()
    signal.raise_signal(asked[0])
    return -asked[0]


def _heeded() -> list[signal.Signals]:
    """The signals that end this process: not those that it was started to ignore (nohup)."""
    return [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def _feed(program: subprocess.Popen[bytes], text: bytes | None) -> None:
    if text is None or program.stdin is None:
        return
    with contextlib.suppress(BrokenPipeError):  # it was left before its end
        program.stdin.write(text)
    with contextlib.suppress(BrokenPipeError):
        program.stdin.close()


@contextlib.contextmanager
def _terminal_kept() -> Iterator[Callable[[], None]]:
    """Gives what puts the terminal's modes back."""
    try:
        modes = termios.tcgetattr(sys.stdin.fileno())
    except (OSError, ValueError, termios.error):  # it is none
        yield lambda: None
        return

    def restore() -> None:
        with contextlib.suppress(OSError, termios.error):  # it is gone
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, modes)

    yield restore


def _end(process: int, number: int) -> None:
    """Ask a process and its descendants to end, and wait a little until they have."""
    descriptors = [descriptor for each in _family(process) if (descriptor := _opened(each)) >= 0]
    poll = select.poll()
    try:
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
            for sent in (number, signal.SIGCONT):
                with contextlib.suppress(OSError):  # ended by now, or somebody else's
                    signal.pidfd_send_signal(descriptor, sent)
        deadline = time.monotonic() + _GRACE_SECONDS
        left = len(descriptors)
        while left and (seconds := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(seconds * 1000):
                poll.unregister(descriptor)
                left -= 1
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _family(process: int) -> Iterator[int]:
    yield process
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # that thread has just ended
            for child in file.read_text().split():
                yield from _family(int(child))


def _opened(process: int) -> int:
    try:
        return os.pidfd_open(process)
    except OSError:
        return -1
