"""Real daemon processes with real runners, in directories of their own."""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shannotctl.client import Client

SECONDS = 30.0


@dataclass
class Daemon:
    """A running daemon."""

    socket: Path
    state: Path
    config: Path
    process: subprocess.Popen[bytes]
    notifications: socket.socket

    def client(self) -> Client:
        """A client of it; to be used as a context manager."""
        return Client(str(self.socket), start=False)

    def wait_for(self, notification: str) -> None:
        """Wait until it tells the service manager `notification` (`READY=1`, ...)."""
        while True:
            ready, _, _ = select.select([self.notifications], [], [], SECONDS)
            assert ready, f"no {notification}"
            if notification in self.notifications.recv(4096).decode().splitlines():
                return

    def log(self) -> str:
        """What it logged so far."""
        return self.state.with_name("log").read_text(errors="surrogateescape")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.send(number)
        return self.process.wait(SECONDS)

    def children(self) -> list[int]:
        """The processes that it started itself: its runner."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


@contextmanager
def running_daemon(
    directory: Path,
    *,
    config: str = "",
    embedded: bool = True,
    account: str | None = None,
    code: Path | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[Daemon]:
    """A daemon that keeps all below `directory` (its runtime, state and configuration).

    :param account: under which it runs; root's privilege. Then `directory` is that account's and
        `code` a directory of packages that it can read.
    :param prefix: a command that executes the daemon's, in the same process.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / "shannotd.toml"
    if config or not file.exists():
        file.write_text(config)
    command = [*prefix, sys.executable if account is None else "/usr/bin/python3", "-m", "shannotd"]
    command += ["--embedded"] if embedded else []
    command += ["--socket", str(directory / "run" / "shannotd.sock")]
    command += ["--state", str(directory / "state"), "--config", str(file)]
    address = directory / "notify"
    address.unlink(missing_ok=True)
    options: dict[str, Any] = {}
    environment = {**os.environ, "NOTIFY_SOCKET": str(address)}
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications,
        (directory / "log").open("ab") as log,
    ):
        notifications.bind(str(address))
        if account is not None:
            entry = pwd.getpwnam(account)
            for path in (directory, file, address):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            groups = os.getgrouplist(account, entry.pw_gid)
            options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
            environment = {
                "HOME": entry.pw_dir,
                "PATH": os.environ["PATH"],
                "NOTIFY_SOCKET": str(address),
                "PYTHONPATH": str(code),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
        process = subprocess.Popen(command, cwd="/", env=environment, stderr=log, **options)
        daemon = Daemon(
            directory / "run" / "shannotd.sock", directory / "state", file, process, notifications
        )
        try:
            _await_ready(daemon)
            yield daemon
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def _await_ready(daemon: Daemon) -> None:
    descriptor = os.pidfd_open(daemon.process.pid)
    try:
        while True:
            ready, _, _ = select.select([daemon.notifications, descriptor], [], [], SECONDS)
            if daemon.notifications in ready:
                if b"READY=1" in daemon.notifications.recv(4096).splitlines():
                    return
            else:
                raise AssertionError(f"the daemon did not start: {daemon.log()}")
    finally:
        os.close(descriptor)


@contextmanager
def workplace(account: str | None = None) -> Iterator[Path]:
    """A directory in a home, where what a script writes is no scratch."""
    home = Path.home() if account is None else Path(pwd.getpwnam(account).pw_dir)
    directory = Path(tempfile.mkdtemp(prefix="shannot-test-", dir=home))
    try:
        if account is not None:
            entry = pwd.getpwnam(account)
            os.chown(directory, entry.pw_uid, entry.pw_gid)
        yield directory
    finally:
        shutil.rmtree(directory)
