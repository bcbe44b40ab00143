"""A real terminal: programs in tmux, keys sent to them, and what they show."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SECONDS = 60.0


class Tmux:
    """One pane of a tmux server of its own."""

    def __init__(self, directory: Path, columns: int, rows: int, environment: Mapping[str, str]):
        self._socket = str(directory / "tmux")
        self._environment = {
            name: value for name, value in environment.items() if not name.startswith("TMUX")
        }
        self._fifo = directory / "pane"
        os.mkfifo(self._fifo)
        self._run(
            "-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows),
            "-c", str(directory), "env PS1='ready$ ' bash --norc --noprofile -i",
        )  # fmt: skip
        # Whatever the pane prints makes the pipe readable: that is when to look at it again.
        self._activity = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK)
        self._run("pipe-pane", "-O", f"exec cat > '{self._fifo}'")

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-S", self._socket, *words],
            env=self._environment,
            capture_output=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def close(self) -> None:
        """End all that runs in it."""
        self._run("kill-server")
        os.close(self._activity)

    def keys(self, *names: str) -> None:
        """Press keys, by tmux's names."""
        self._run("send-keys", *names)

    def text(self, text: str) -> None:
        """Type text, as it is."""
        self._run("send-keys", "-l", text)

    def paste(self, text: str) -> None:
        """Paste text, bracketed where the program asked for that."""
        self._run("set-buffer", text)
        self._run("paste-buffer", "-p")

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def pane(self, *options: str) -> str:
        """What it shows; with `-e`, colours too."""
        return self._run("capture-pane", "-p", *options)

    def variable(self, name: str) -> str:
        """One of tmux's variables, such as `alternate_on`."""
        return self._run("display-message", "-p", f"#{{{name}}}").strip()

    def buffer(self) -> str:
        """What was copied."""
        return self._run("show-buffer")

    def until(self, *wanted: str, without: str = "") -> str:
        """What it shows as soon as all of that is there, and `without` is not."""

        def there(shown: str) -> bool:
            # A line of ours may have been folded between two words.
            unfolded = " ".join(shown.split())
            found = all(text in shown or text in unfolded for text in wanted)
            return found and not (without and without in shown)

        return self.until_it(there)

    def until_it(self, condition: Callable[[str], bool]) -> str:
        """What it shows as soon as that is as wanted."""
        deadline = time.monotonic() + SECONDS
        while True:
            shown = self.pane()
            if condition(shown):
                return shown
            left = deadline - time.monotonic()
            assert left > 0, f"still\n{shown}"
            # tmux writes to the pipe a little before it draws: so look again soon, too.
            ready, _, _ = select.select([self._activity], [], [], min(left, 0.2))
            if ready:
                os.read(self._activity, 1 << 20)


@contextmanager
def terminal(
    directory: Path, environment: Mapping[str, str], *, columns: int = 80, rows: int = 24
) -> Iterator[Tmux]:
    """A shell in tmux, in `directory`."""
    made = Tmux(directory, columns, rows, environment)
    try:
        made.until("ready$")
        yield made
    finally:
        made.close()
