"""Which plans wait for this account, from the daemon's events, through its ends and starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Protocol

from shannotctl.async_client import AsyncClient
from shannotctl.notify.notices import Reader
from shannotctl.protocol import Changed
from shannotd.wire.errors import (
    BadFrame,
    DaemonStopping,
    DaemonUnreachable,
    NotAllowed,
    ShannotError,
    TooManyConnections,
)
from shannotd.wire.session import Session, State

_AGAIN_SECONDS = 2.0
_TOGETHER_SECONDS = 0.2  # what arrives within is told at once
_PASSING = (DaemonUnreachable, DaemonStopping, TooManyConnections, BadFrame)


class Output(Protocol):
    """Somewhere that waiting plans are told."""

    async def update(self, waiting: Sequence[Session], reader: Reader) -> None:
        """These plans wait now, and no others: the oldest first."""


class Follower:
    """Keeps outputs up to date with what waits."""

    def __init__(self, client: AsyncClient, outputs: Sequence[Output]) -> None:
        self._client = client
        self._outputs = outputs
        self._waiting: dict[str, Session] = {}
        self._reader = Reader(os.getuid(), embedded=False)
        self._dirty = asyncio.Event()

    def changed(self) -> None:
        """Have the outputs told again soon."""
        self._dirty.set()

    async def run(self) -> None:
        """Follow the daemon for good; while it is not there, nothing waits.

        :raises NotAllowed: this account reviews no plans.
        """
        telling = asyncio.create_task(self._tell())
        following = asyncio.create_task(self._follow())
        try:
            await asyncio.wait([telling, following], return_when=asyncio.FIRST_COMPLETED)
            for task in (telling, following):
                if task.done():
                    await task
        finally:
            for task in (telling, following):
                task.cancel()
            await asyncio.wait([telling, following])

    async def _follow(self) -> None:
        while True:
            try:
                await self._connected()
            except _PASSING:
                pass
            self._waiting.clear()
            self.changed()
            with contextlib.suppress(ShannotError):
                await self._client.close()
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _connected(self) -> None:
        async with self._client.subscription() as events:
            status = await self._client.status()
            self._reader = Reader.of(status, os.getuid())
            if "review" not in status.roles:
                raise NotAllowed(
                    uid=os.getuid(),
                    action="be told of plans that wait",
                    reason="it does not have the role 'review'",
                )
            found = [s async for s in self._client.list(states=[State.PENDING])]
            # Newest first; what the events say of the same ones is newer.
            for session in reversed(found):
                self._take(session)
            self.changed()
            async for event in events:
                if isinstance(event, Changed):
                    self._take(event.session)

    def _take(self, session: Session) -> None:
        if self._reader.is_asked(session):
            self._waiting[session.id] = session
            self.changed()
        elif self._waiting.pop(session.id, None) is not None:
            self.changed()

    async def _tell(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_TOGETHER_SECONDS)
            self._dirty.clear()
            waiting = tuple(self._waiting.values())
            for output in self._outputs:
                await output.update(waiting, self._reader)
