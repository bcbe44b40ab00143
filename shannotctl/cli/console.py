"""Standard output and standard error of the program: what may go where, and how it looks.

Standard output is the script's, or the answer that was asked for. What shannotctl itself has
to say goes to standard error.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable
from typing import TextIO

from shannotctl.render.style import Style
from shannotd.wire.text import visible

_DEFAULT_WIDTH = 80


class Console:
    """The two streams, each with the style that it can show."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character shows its escape instead.
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")
        self.out_is_terminal = sys.stdout.isatty()
        self.error_is_terminal = sys.stderr.isatty()
        self.in_is_terminal = sys.stdin is not None and sys.stdin.isatty()
        self.out_style = _style(sys.stdout)
        self.error_style = _style(sys.stderr)
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("surrogateescape")
            for name in ("stdout", "stderr")
        }
        self._progress = False

    def print(self, lines: Iterable[str]) -> None:
        """Lines of ours, already safe, to standard output."""
        self.clear_progress()
        for line in lines:
            sys.stdout.write(line + "\n")

    def flush(self) -> None:
        """Let a reader of standard output see what was printed so far."""
        sys.stdout.flush()

    def note(self, lines: Iterable[str]) -> None:
        """Lines of ours, already safe, to standard error."""
        self.clear_progress()
        sys.stdout.flush()
        for line in lines:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def say(self, text: str) -> None:
        """One message to standard error; escapes what could deceive."""
        line = f"shannotctl: {visible(text)}"
        if self.error_style.width is None:
            self.note([line])
            return
        from shannotctl.render.layout import hanging

        self.note(hanging(line, self.error_style))

    def script_output(self, stream: str, data: bytes) -> None:
        """What the script printed: as it is, or escaped where it would reach a terminal (P7)."""
        self.clear_progress()
        target = sys.stdout if stream == "stdout" else sys.stderr
        if target.isatty():
            text = self._decoders["stdout" if stream == "stdout" else "stderr"].decode(data)
            target.write(visible(text, keep="\n\t"))
        else:
            target.flush()
            target.buffer.write(data)
        target.flush()

    def ring(self) -> None:
        """The bell of the terminal, where there is one."""
        if self.error_is_terminal:
            sys.stderr.write("\a")
            sys.stderr.flush()

    def progress(self, text: str) -> None:
        """A line on a terminal that the next output replaces."""
        if self.error_is_terminal:
            columns = self.error_style.width or _DEFAULT_WIDTH
            sys.stderr.write(f"\r\x1b[K{visible(text)[: columns - 1]}")
            sys.stderr.flush()
            self._progress = True

    def clear_progress(self) -> None:
        """Take the line away again."""
        if self._progress:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._progress = False

    def ask(self, question: str) -> str:
        """The line that a person types now; what was typed before the question does not count."""
        import termios

        self.clear_progress()
        sys.stdout.flush()
        sys.stderr.write(question)
        sys.stderr.flush()
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
        return sys.stdin.readline().strip()


def _style(stream: TextIO) -> Style:
    if not stream.isatty():
        return Style()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
    try:
        width = os.get_terminal_size(stream.fileno()).columns or _DEFAULT_WIDTH
    except OSError:
        width = _DEFAULT_WIDTH
    return Style(colour=not plain, width=width)
