"""The buses that daemons are tested on, and accounts."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.accounts import is_root, temporary_account
from tests.support.bus import Bus, message_bus
from tests.support.service import public_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a daemon in service mode is reached by everybody."""
    with public_directory() as made:
        yield made


@pytest.fixture
def system_bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """The system bus of whoever looks for it."""
    with message_bus(system=True) as bus:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        yield bus


@pytest.fixture
def people() -> Iterator[tuple[int, int, int]]:
    """The uids of a submitter, a reviewer and a stranger. Root's privilege."""
    if not is_root():
        pytest.skip("takes on other accounts")
    with temporary_account() as one, temporary_account() as two, temporary_account() as three:
        yield tuple(pwd.getpwnam(name).pw_uid for name in (one, two, three))  # type: ignore[misc]
