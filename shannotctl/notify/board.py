"""Keeps what is shown as it is to be: shows, replaces and withdraws notices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from shannotctl.notify.notices import Notice


class Shower(Protocol):
    """Where notices are shown."""

    async def show(self, notice: Notice) -> None:
        """Show it, in the place of one of the same key."""

    async def withdraw(self, key: str) -> None:
        """Show it no more."""


class Board:
    """The notices that are shown, and those that somebody has put away."""

    def __init__(self, shower: Shower) -> None:
        self._shower = shower
        self._shown: dict[str, Notice] = {}
        self._put_away: dict[str, frozenset[str]] = {}

    async def update(self, wanted: Mapping[str, Notice]) -> None:
        """Show what is `wanted` and nothing else.

        What somebody has put away comes back only when it tells of sessions that it did not.
        """
        for key in self._shown.keys() - wanted.keys():
            del self._shown[key]
            await self._shower.withdraw(key)
        for key in self._put_away.keys() - wanted.keys():
            del self._put_away[key]
        for key, notice in wanted.items():
            if self._shown.get(key) == notice:
                continue
            if key in self._put_away and notice.sessions <= self._put_away[key]:
                continue
            self._put_away.pop(key, None)
            self._shown[key] = notice
            await self._shower.show(notice)

    def offers(self, key: str, action: str) -> bool:
        """Whether the notice of that key is shown and has that action."""
        notice = self._shown.get(key)
        return notice is not None and action in dict(notice.actions)

    def put_away(self, key: str) -> None:
        """Somebody has closed the notice, or it went by itself."""
        notice = self._shown.pop(key, None)
        if notice is not None and notice.sessions:  # else the next is another one
            self._put_away[key] = notice.sessions

    def forget(self) -> None:
        """Nothing is shown any more: whoever showed it has ended."""
        self._shown.clear()
