"""Accounts that reach a daemon in service mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.accounts import temporary_account
from tests.support.service import public_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a daemon in service mode is reached by everybody."""
    with public_directory() as made:
        yield made


@pytest.fixture
def accounts() -> Iterator[list[str]]:
    """Two accounts, each in a group of its own that has its name."""
    with temporary_account() as one, temporary_account() as two:
        yield [one, two]
