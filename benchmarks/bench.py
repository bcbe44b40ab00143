"""What every measurement works with: a real daemon of its own, and a place to work in."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shannotctl.client import Client, ScriptKind, Session, State, Submission
from shannotd.runner.order import environment as environment_of

ROOT = Path(__file__).resolve().parent.parent
# The interpreter that the sandbox runs scripts with, so that like is compared with like.
PYTHON = "/usr/bin/python3"
# The environment that a script gets: with a locale each program loads that, for one.
_ACCOUNT = pwd.getpwuid(os.geteuid())
ENVIRONMENT = environment_of(
    {"environment": {}, "cwd": os.getcwd(), "session": ""},
    {
        "HOME": _ACCOUNT.pw_dir,
        "USER": _ACCOUNT.pw_name,
        "LOGNAME": _ACCOUNT.pw_name,
        "SHELL": _ACCOUNT.pw_shell,
    },
)
_START_SECONDS = 60.0
_POOL_SECONDS = 30.0
_DISK_BYTES = 2 << 30


@dataclass(frozen=True)
class Bench:
    """A daemon, a connection to it, and a directory in which scripts work.

    The directory is not below /tmp: that would be scratch, and not applied.
    """

    client: Client
    directory: Path
    state: Path
    environment: dict[str, str]

    def await_warm(self) -> None:
        """Return when the pool of sandboxes is full.

        :raises RuntimeError: it did not fill.
        """
        deadline = time.monotonic() + _POOL_SECONDS
        while self.client.status().pool_ready < 2:
            if time.monotonic() > deadline:
                raise RuntimeError("the pool of sandboxes does not fill: see shannotctl doctor")

    def dry_run(self, submission: Submission) -> tuple[float, Session]:
        """Submit to a warm sandbox: the seconds from request to result, and the session."""
        self.await_warm()
        started = time.perf_counter()
        session = self.client.submit(submission)
        seconds = time.perf_counter() - started
        if session.error is not None or session.exit_code != 0:
            raise RuntimeError(f"the dry run failed: {session.error or session.stderr!r}")
        return seconds, session

    def settle(self) -> None:
        """Have all that was written on disk, so that no run pays for the one before it."""
        subprocess.run(["sync", "-f", str(self.directory)], check=True)

    def reject(self, session: Session) -> None:
        """Be rid of a pending plan, so that the next one meets the same daemon."""
        if session.state is State.PENDING:
            self.client.reject(session.id)


@contextlib.contextmanager
def open_bench(*, journalled: bool = False) -> Iterator[Bench]:
    """Start an embedded daemon in directories of its own, and remove all of it at the end.

    They are on a `journalled` filesystem of their own where this account may mount one: see
    `spread`.

    :raises RuntimeError: the daemon did not start.
    """
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_directory(_unscratched()))
        # A socket's path may have 107 bytes at most, and the repository may lie deep.
        run = stack.enter_context(_directory(None))
        if journalled and os.geteuid() == 0:
            place = stack.enter_context(_disk(place))
        work = place / "work"
        work.mkdir()
        environment = {
            **os.environ,
            "SHANNOT_SOCKET": str(run / "socket"),
            "XDG_CONFIG_HOME": str(place / "config"),
            "XDG_STATE_HOME": str(place / "state"),
        }
        state = place / "state" / "shannot"
        checkpoints = state / "runner" / "checkpoints"
        for directory in (state.parent, state, checkpoints.parent, checkpoints):
            directory.mkdir(0o700)
        spread(checkpoints)
        with _daemon(run, state, environment), Client(str(run / "socket")) as client:
            yield Bench(client, work, state, environment)


@contextlib.contextmanager
def _directory(parent: Path | None) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="shannot-bench-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[Path]:
    """A new filesystem (ext4 with a journal, mke2fs(8)) in a file, mounted below `place`."""
    image, mounted = place / "image", place / "disk"
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def spread(directory: Path) -> None:
    """Have directories that are made in `directory` be far from each other on the disk (the `T` of
    chattr(1)).

    Ext4 without a journal looks at all inodes that were freed in the last minutes near by before it
    gives out another one, so that each run would be slower than the one before it.
    """
    # Of no use on other filesystems, and not there.
    subprocess.run(["chattr", "+T", directory], stderr=subprocess.DEVNULL, check=False)


def _unscratched() -> Path:
    """Where what a script writes counts: in the repository, or at home if that is in /tmp."""
    if any(ROOT.is_relative_to(scratch) for scratch in ("/tmp", "/var/tmp")):
        return Path.home()
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    return build


@contextlib.contextmanager
def _daemon(run: Path, state: Path, environment: dict[str, str]) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(run / "ready"))
        with (run / "log").open("w+") as log:
            options = ["--log-level", "warning", "--socket", str(run / "socket")]
            options += ["--state", str(state)]
            process = subprocess.Popen(
                [sys.executable, "-m", "shannotd", "--embedded", *options],
                cwd=ROOT,
                env={**environment, "NOTIFY_SOCKET": str(run / "ready")},
                stdout=log,
                stderr=log,
            )
            try:
                _await_ready(process, ready)
                yield
            except BaseException:
                log.seek(0)
                sys.stderr.write(log.read())
                raise
            finally:
                process.terminate()
                process.wait(_START_SECONDS)


def _await_ready(process: subprocess.Popen[bytes], ready: socket.socket) -> None:
    death = os.pidfd_open(process.pid)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([ready.fileno(), death], [], [], left)
            if ready.fileno() in readable:
                if b"READY=1" in ready.recv(4096).splitlines():
                    return
            elif readable:
                raise RuntimeError("the daemon ended while it started")
        raise RuntimeError("the daemon does not start")
    finally:
        os.close(death)


def python(script: str, *arguments: str) -> Submission:
    """A submission of Python source."""
    return Submission(ScriptKind.PYTHON, script.encode(), arguments=arguments)


def timed_command(*command: str, environment: dict[str, str] | None = None) -> float:
    """The seconds that a program takes from its start to its end, in the environment of scripts
    if none is given.

    :raises subprocess.CalledProcessError: it failed.
    """
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment or ENVIRONMENT)
    return time.perf_counter() - started


def output_of(*command: str) -> str:
    """What a program prints, without its last newline.

    :raises subprocess.CalledProcessError: it failed.
    """
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def bubblewrap(writable: Path | None = None) -> tuple[str, ...] | None:
    """The words that run a command under bubblewrap, with one writable directory if given;
    None where bubblewrap is not installed."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    bound = () if writable is None else ("--bind", str(writable), str(writable))
    return (program, "--ro-bind", "/", "/", *bound, "--unshare-all")
