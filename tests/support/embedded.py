"""A daemon of one's own, started by `shannotctl` as for any user, in directories of its own."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect

from shannotctl.location import SERVICE_SOCKET

PROGRAM = [sys.executable, "-m", "shannotctl"]
_SECONDS = 60


class Home:
    """The directories of an account, and `shannotctl` run in them.

    `work` is not below /tmp: what a script does there is scratch.
    """

    program = PROGRAM

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.work = directory / "work"
        self.work.mkdir()
        runtime = directory / "r"
        runtime.mkdir(mode=0o700)
        self.socket = runtime / "shannot" / "shannotd.sock"
        self.state = directory / "state" / "shannot"
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "SHANNOT_SOCKET"},
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_STATE_HOME": str(directory / "state"),
            "XDG_CONFIG_HOME": str(directory / "config"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "TERM": "xterm",
        }

    def run(
        self, *arguments: str, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """`shannotctl` without a terminal, in `work`."""
        return subprocess.run(
            [*PROGRAM, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            cwd=self.work,
            env=self.environment,
            timeout=_SECONDS,
        )

    def json(self, *arguments: str) -> Any:
        """What a command prints with `--json`."""
        return json.loads(self.run(*arguments).stdout)

    def terminal(self, *command: str) -> Any:
        """A command on a terminal, in `work`."""
        return pexpect.spawn(
            command[0],
            list(command[1:]),
            cwd=str(self.work),
            env={**self.environment, "NO_COLOR": "1"},
            encoding="utf-8",
            dimensions=(50, 100),
            timeout=_SECONDS,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon by a signal, if one runs, and wait until it is gone."""
        status = self.run("status", "--json")
        if status.returncode != 0:
            return
        pid = json.loads(status.stdout)["daemon"]["pid"]
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, number)
            waiting = select.poll()
            waiting.register(process, select.POLLIN)
            assert waiting.poll(_SECONDS * 1000), "the daemon did not end"
        finally:
            os.close(process)


@contextmanager
def temporary_home() -> Iterator[Home]:
    """A `Home` that leaves nothing behind, daemons neither."""
    assert not os.path.lexists(SERVICE_SOCKET), "a shannot service runs here: it would be used"
    directory = Path(tempfile.mkdtemp(prefix="shannot-test-", dir=Path.home()))
    home = Home(directory)
    try:
        yield home
    finally:
        home.stop()
        shutil.rmtree(directory)
