"""Accounts that reach a daemon in service mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.accounts import temporary_account


@pytest.fixture
def accounts() -> Iterator[list[str]]:
    """Two accounts, each in a group of its own that has its name."""
    with temporary_account() as one, temporary_account() as two:
        yield [one, two]
