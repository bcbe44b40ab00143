"""Fixtures that all tests may use: real daemons."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.accounts import is_root, readable_code, temporary_account
from tests.support.daemon import Daemon, running_daemon, workplace
from tests.support.service import public_directory


def pytest_configure() -> None:
    """Nothing of the host's changes what tests see."""
    # Those that want a bus have one of their own.
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nonexistent"
    os.environ.pop("DBUS_SESSION_BUS_ADDRESS", None)
    if os.path.lexists(os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "bus")):
        del os.environ["XDG_RUNTIME_DIR"]
    # Started in the background we ignore interrupts, and so would all that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long something takes is measured by benchmarks, and tells nothing here.
    settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("untimed")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """An embedded daemon of this account's with its runner: `.socket`, `.process`, `.state`."""
    with running_daemon(tmp_path / "daemon") as running:
        yield running


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a daemon in service mode is reached by everybody."""
    with public_directory() as made:
        yield made


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory for scripts to work in; what they write there is no scratch."""
    with workplace() as directory:
        yield directory


@pytest.fixture(scope="session")
def packages() -> Iterator[Path]:
    """The packages, and what they import, where every account can read them."""
    with readable_code() as directory:
        yield directory


@pytest.fixture
def ordinary_account() -> Iterator[str]:
    """A new ordinary account with a home. Root's privilege."""
    if not is_root():
        pytest.skip("makes an account")
    with temporary_account() as name:
        yield name


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with two megabytes. Root's privilege."""
    if not is_root():
        pytest.skip("mounting needs root")
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        # Lazily: a runner elsewhere that builds a sandbox right now holds every mount for a moment.
        subprocess.run(["umount", "--lazy", directory], check=True)
