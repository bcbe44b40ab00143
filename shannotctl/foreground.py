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
_GRACE_SECONDS = 1.0  # twice


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
    waiting = False

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal waiting
        asked.append(number)
        if waiting:
            waiting = False
            raise _Asked

    # Heard from before it runs: until it ends, nobody else here would act on a signal.
    with _terminal_kept() as restore, _handled(_heeded(), ask):
        program = subprocess.Popen(words, stdin=None if text is None else subprocess.PIPE)
        with _handled([signal.SIGINT], signal.SIG_IGN):  # which the program does not inherit
            try:
                waiting = True
                if asked:
                    raise _Asked
                _feed(program, text)
                program.wait()
                waiting = False
            except _Asked:
                waiting = False
                if program.poll() is None:
                    _end(program.pid, asked[0])
                restore()
    if not asked:
        return program.returncode
    ending()
    signal.raise_signal(asked[0])
    return -asked[0]


@contextlib.contextmanager
def _handled(
    numbers: Sequence[signal.Signals],
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """Meanwhile `handler` gets these signals."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


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
    """Ask a process and its descendants to end, and wait a little until they have.

    Then those are asked that they have started meanwhile, in time to tidy up: a shell that was
    just about to start a program heard of it, and waits for that program.
    """
    left: dict[int, int] = {}  # descriptors of those that were asked
    try:
        for parents in ([process], left):
            for each in [one for parent in parents for one in _family(parent)]:
                if each not in left and (descriptor := _opened(each)) >= 0:
                    left[each] = descriptor
                    _ask(descriptor, number)
            _await(left, _GRACE_SECONDS)
    finally:
        for descriptor in left.values():
            os.close(descriptor)


def _ask(descriptor: int, number: int) -> None:
    for sent in (number, signal.SIGCONT):
        with contextlib.suppress(OSError):  # ended by now, or somebody else's
            signal.pidfd_send_signal(descriptor, sent)


def _await(left: dict[int, int], seconds: float) -> None:
    """Wait so long until all have ended, and be left with those that have not."""
    deadline = time.monotonic() + seconds
    while left and (seconds := deadline - time.monotonic()) > 0:
        ended = select.select(left.values(), [], [], seconds)[0]
        for process in [each for each, descriptor in left.items() if descriptor in ended]:
            os.close(left.pop(process))


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
