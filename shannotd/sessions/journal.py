"""The way to the audit log: what must be logged before it takes effect, and what must not wait.

`decide` returns when the record is on disk. `note` returns at once: the record is written
soon, in order, and again and again while the log cannot be written; what stops something
is never held up by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from shannotd.audit.log import AuditLog
from shannotd.sessions.store import Store
from shannotd.wire.errors import ShannotError
from shannotd.wire.text import visible

log = logging.getLogger(__name__)

_GROUP_SECONDS = 0.05
_RETRY_SECONDS = 1.0
MAX_WAITING = 10_000  # records that wait for a full disk, before new sessions are refused

Details = Mapping[str, str | int | float | bool | None]


class _Record(NamedTuple):
    event: str
    uid: int | None
    session: str | None
    details: Details


class Journal:
    """Writes to one audit log, on the store's thread, in the order of the calls."""

    def __init__(self, store: Store, audit: AuditLog) -> None:
        self._store = store
        self._audit = audit
        self._waiting: deque[_Record] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._draining: asyncio.Task[None] | None = None
        self._again = False
        self._sync = False

    @property
    def overloaded(self) -> bool:
        """Whether so much waits for a full disk that nothing new should be taken in."""
        return len(self._waiting) >= MAX_WAITING

    def note(
        self,
        event: str,
        *,
        uid: int | None,
        session: str | None,
        urgent: bool = False,
        **details: str | int | float | bool | None,
    ) -> None:
        """Log `event` soon; `urgent`: at once and with a disk sync of its own."""
        self._waiting.append(_Record(event, uid, session, details))
        if urgent:
            self._sync = True
            self._drain_now()
        elif self._timer is None:
            self._schedule(_GROUP_SECONDS)

    async def decide(
        self,
        event: str,
        *,
        uid: int | None,
        session: str | None,
        **details: str | int | float | bool | None,
    ) -> None:
        """Log `event` and all before it; on disk when this returns.

        :raises StoreFull: it is not, and nothing may be done in its name.
        """
        record = _Record(event, uid, session, details)

        def write() -> None:
            self._write_waiting()
            self._append(record)
            self._audit.sync()

        await self._store.run(write)

    async def flush(self) -> None:
        """Have all that was noted before in the log; no disk sync.

        :raises StoreFull: the log cannot be written.
        """
        await self._store.run(self._write_waiting)

    async def close(self) -> None:
        """Write what waits. What cannot be written is reported and lost."""
        if self._timer is not None:
            self._timer.cancel()
        if self._draining is not None:
            await asyncio.wait([self._draining])
        self._sync = True
        await self._drain()
        if self._waiting:
            log.error("%d audit records could not be written", len(self._waiting))
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self, delay: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._drain_now()

    def _drain_now(self) -> None:
        if self._draining is not None:
            self._again = True
            return
        self._draining = asyncio.get_running_loop().create_task(self._drain())
        self._draining.add_done_callback(self._drained)

    def _drained(self, _: asyncio.Task[None]) -> None:
        self._draining = None
        if self._again:
            self._again = False
            self._drain_now()

    async def _drain(self) -> None:
        sync, self._sync = self._sync, False

        def write() -> None:
            self._write_waiting()
            if sync:
                self._audit.sync()

        try:
            await self._store.run(write)
        except ShannotError as error:
            log.error("%s", visible(str(error)))
            self._sync = self._sync or sync
            if self._timer is None:
                self._schedule(_RETRY_SECONDS)

    # On the store's thread

    def _write_waiting(self) -> None:
        while self._waiting:
            self._append(self._waiting[0])
            self._waiting.popleft()

    def _append(self, record: _Record) -> None:
        try:
            self._audit.append(
                record.event, uid=record.uid, session=record.session, details=record.details
            )
        except ValueError as error:  # too large to be one line: the event itself must not be lost
            self._audit.append(
                record.event,
                uid=record.uid,
                session=record.session,
                details={"details_left_out": str(error)},
            )
