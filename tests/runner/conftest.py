"""Real runners, of root and of an ordinary account, for the tests of the runner."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shannotd.runner import command_process
from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.support.accounts import is_root, temporary_account
from tests.support.appliers import Applier, fifo
from tests.support.observing import ObserverProcess, running_observer
from tests.support.processes import alive, wait_until_gone
from tests.support.rolled import ROOT, Host
from tests.support.runner import Outcome, RunnerProcess, running_runner

# What these tests can drive: root both builders, an ordinary user his own.
BUILDERS = ["privileged", "one-uid"] if os.geteuid() == 0 else ["one-uid"]

# As whom programs are observed: as an account and as root by root, as oneself by anybody else.
OBSERVERS = ["account", "root", "one-uid"] if os.geteuid() == 0 else ["one-uid"]

# As whom plans are applied: as root and as an account by root, as oneself by anybody else.
APPLIERS = ["root", "account", "own"] if is_root() else ["own"]


@dataclass(frozen=True)
class Bench:
    """A runner, the identity it works as, and a directory of that identity to work in."""

    runner: RunnerProcess
    builder: str
    uid: int
    home: Path
    account: str | None

    def run(self, kind: str, script: str | bytes = b"", *arguments: str, **more: object) -> Outcome:
        """A dry run; see RunnerProcess.run."""
        return self.runner.run(kind, script, *arguments, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def account() -> Iterator[str]:
    """An ordinary account of this test process's own."""
    if not is_root():
        pytest.skip("makes an account")
    with temporary_account() as name:
        yield name


@pytest.fixture(scope="session")
def ordinary(account: str) -> Identity:
    """The identity of that account."""
    return overlays.who(account)


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory on the disk's filesystem, with `host`, `copy` and `layers` of our own in it."""
    with overlays.workplace(overlays.ourselves()) as directory:
        yield directory


@pytest.fixture(scope="session", params=BUILDERS)
def builder(request: pytest.FixtureRequest) -> str:
    """The name of the builder that a test runs under."""
    return str(request.param)


@pytest.fixture(scope="session")
def bench(builder: str, packages: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """One runner for many tests."""
    state = Path(tempfile.mkdtemp(prefix="shannot-test-"))
    try:
        if builder == "privileged" or os.geteuid() != 0:
            name, uid, home = None, os.geteuid(), Path.home()
        else:
            name = request.getfixturevalue("account")
            status = os.stat(f"/home/{name}")
            uid, home = status.st_uid, Path(f"/home/{name}")
            os.chown(state, status.st_uid, status.st_gid)
        with running_runner(state, account=name, code=packages) as runner:
            yield Bench(runner, builder, uid, home, name)
    finally:
        shutil.rmtree(state)


@pytest.fixture
def fresh(
    bench: Bench, packages: Path
) -> Iterator[Callable[..., AbstractContextManager[RunnerProcess]]]:
    """Makes further runners like the bench's, each test's own to kill."""
    with tempfile.TemporaryDirectory(prefix="shannot-test-") as directory:
        state = Path(directory) / "state"
        state.mkdir()
        os.chmod(directory, 0o755)
        status = os.stat(bench.home)
        os.chown(state, status.st_uid, status.st_gid)

        def start(**more: int) -> AbstractContextManager[RunnerProcess]:
            return running_runner(state, account=bench.account, code=packages, **more)

        yield start


@pytest.fixture
def place(bench: Bench) -> Iterator[Path]:
    """An empty directory of the identity's, outside of scratch."""
    directory = Path(tempfile.mkdtemp(prefix="shannot-place-", dir=bench.home))
    status = os.stat(bench.home)
    os.chown(directory, status.st_uid, status.st_gid)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session", params=OBSERVERS)
def observer(packages: Path, request: pytest.FixtureRequest) -> Iterator[ObserverProcess]:
    """A process that observes programs."""
    account = request.getfixturevalue("account") if os.geteuid() == 0 else None
    if request.param == "one-uid":
        running = running_observer(packages, account=account)
    elif request.param == "account":
        running = running_observer(packages, account=None, run_as=account)
    else:
        running = running_observer(packages, account=None, as_root=True)
    with running as process:
        yield process


@pytest.fixture
def shelf(observer: ObserverProcess) -> Iterator[Path]:
    """A directory of the host that the observed identity owns and everybody can look into."""
    directory = Path(tempfile.mkdtemp(prefix="shannot-observe-", dir="/var/tmp"))
    os.chmod(directory, 0o755)
    os.chown(directory, observer.uid, -1)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def servers(observer: ObserverProcess, shelf: Path) -> Iterator[list[str]]:
    """Addresses of the host's: a stream and a datagram socket in its tree, an abstract one."""
    abstract = f"@shannot-{shelf.name}"
    stream, datagram, other = (socket.socket(socket.AF_UNIX, kind) for kind in (1, 2, 2))
    with stream, datagram, other:
        stream.bind(str(shelf / "stream"))
        stream.listen(64)
        datagram.bind(str(shelf / "datagram"))
        other.bind("\0" + abstract[1:])
        for name in ("stream", "datagram"):
            os.chmod(shelf / name, 0o666)
        yield [str(shelf / "stream"), str(shelf / "datagram"), abstract]


@pytest.fixture(params=APPLIERS)
def applier(request: pytest.FixtureRequest, top: Path) -> Applier:
    """Applies plans as each of them, in a directory of its own."""
    who = overlays.ourselves()
    if is_root() and request.param != "root":
        who = request.getfixturevalue("ordinary")
    place = top / "host"
    os.chown(place, who.uid, who.gid)
    return Applier(who, who if request.param == "own" else None, place)


@pytest.fixture
def gate(applier: Applier) -> Path:
    """A FIFO of the identity's."""
    return fifo(applier, "gate")


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ignores SIGTERM is killed at once: the apply is forked from here."""
    monkeypatch.setattr(command_process, "GRACE_SECONDS", 0.1)


@pytest.fixture
def left() -> Iterator[list[int]]:
    """Processes that a test leaves behind; they are ended after it."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    wait_until_gone(pids)


@pytest.fixture
def host(top: Path) -> Host:
    """A directory in which root's plans are applied and rolled back."""
    return Host(top, ROOT)
