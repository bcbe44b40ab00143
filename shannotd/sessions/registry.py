"""The sessions that are not over, in memory, and the one way in which they change.

Whatever changes a session calls `adopt` with what `machine.transition` gave; whatever
looks at one calls `current` or `settle_all` first, where the expiry is enforced. A timer does
the same for those that nobody looks at.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from shannotd.sessions.events import Events
from shannotd.sessions.journal import Journal
from shannotd.sessions.machine import is_due, transition
from shannotd.sessions.records import SCRIPT, STDERR, STDOUT, Entry, Record, Stored
from shannotd.sessions.store import Store
from shannotd.wire.session import FINAL_STATES, Session, State

_TIMER_SECONDS = 3600.0  # the longest sleep of the timer: the wall clock may be set meanwhile


class Job(Protocol):
    """What the runner does for a session: its dry run or its apply."""

    def cancel(self) -> None:
        """Have it end soon."""


class Live:
    """One session that is not over. Contents are here only while the dry run goes on."""

    def __init__(self, record: Record, script: bytes = b"") -> None:
        self.record = record
        self.script = script
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.job: Job | None = None
        self.cancel_reason: str | None = None
        self.cancelled_by: int | None = None
        self.deciding = asyncio.Lock()
        # Of the dry run, and of the session as a whole.
        self.ended: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()

    @property
    def session(self) -> Session:
        """The session as it is now, without contents."""
        return self.record.session

    def contents(self) -> dict[str, bytes]:
        """What the dry run has had and said so far."""
        return {SCRIPT: self.script, STDOUT: bytes(self.stdout), STDERR: bytes(self.stderr)}

    def cancel(self, *, uid: int | None, reason: str) -> None:
        """Have the dry run or the apply end; of several reasons the first holds."""
        if self.cancel_reason is None:
            self.cancel_reason, self.cancelled_by = reason, uid
        if self.job is not None:
            self.job.cancel()

    def release(self) -> None:
        """Let go of the contents: the store has them."""
        self.script = b""
        self.stdout.clear()
        self.stderr.clear()
        self.job = None


class Registry:
    """All sessions that are not over."""

    def __init__(self, store: Store, journal: Journal, events: Events) -> None:
        self.store = store
        self.journal = journal
        self.events = events
        self._lives: dict[str, Live] = {}
        self._counts: Counter[tuple[int, State]] = Counter()
        self._due: list[tuple[float, str]] = []  # (monotonic time, id), a heap
        self._timer: asyncio.TimerHandle | None = None

    def add(self, live: Live) -> None:
        """Take in a session, new or found in the store."""
        self._lives[live.session.id] = live
        self._counts[live.session.submitter, live.session.state] += 1
        self._watch_expiry(live.session)

    def admit(self, live: Live, *, uid: int | None) -> None:
        """Take in a session that begins in the state that it has: log it, tell of it.

        :param uid: who caused it, for the log. The store has it already.
        """
        session = live.session
        self.add(live)
        self.journal.note(
            f"session.{session.state.value}", uid=uid, session=session.id, digest=session.digest
        )
        self.events.changed(session)

    def turn(self, record: Record, *, by: str) -> None:
        """Tell, in the log too, that a session that was over is rolled back, or no longer: `by` the
        session that was executed. The store has it already."""
        session = record.session
        event = "rolled_back" if session.state is State.ROLLED_BACK else "restored"
        self.journal.note(f"session.{event}", uid=None, session=session.id, by=by)
        self.events.changed(session)

    def current(self, identifier: str) -> Live | None:
        """The session of that (whole) id as it is now; None when it is over or unknown."""
        live = self._lives.get(identifier)
        if live is None:
            return None
        self.settle(live)
        return self._lives.get(identifier)

    def settle(self, live: Live) -> None:
        """Expire the session if its time is up."""
        now = time.time()
        if is_due(live.session, now):
            self._expire(live, now)

    def settle_all(self) -> None:
        """Expire all sessions whose time is up."""
        now = time.time()
        for live in [live for live in self._lives.values() if is_due(live.session, now)]:
            self._expire(live, now)

    def adopt(self, live: Live, record: Record, *, uid: int | None, stored: bool = False) -> None:
        """Make `record` what the session is: log it, write it, tell of it.

        :param uid: who caused it, for the log.
        :param stored: the store has it already.
        """
        before, after = live.session, record.session
        live.record = record
        if after.state is not before.state:
            self._count(before, -1)
            self._count(after, +1)
            self.journal.note(
                f"session.{after.state.value}",
                uid=uid,
                session=after.id,
                urgent=after.state in (State.REJECTED, State.CANCELLED, State.EXPIRED)
                and before.state is not State.RUNNING,
                digest=after.digest,
                reason=after.reason or None,
                error=None if after.error is None else after.error.code,
            )
            if after.state in FINAL_STATES:
                self._lives.pop(after.id, None)
                live.over.set()
            self._watch_expiry(after)
        if not stored:
            self.store.defer(Entry(record))
        self.events.changed(after)

    def count(self, submitter: int, state: State) -> int:
        """How many sessions of `submitter` are in `state`."""
        return self._counts[submitter, state]

    def total(self, state: State) -> int:
        """How many sessions are in `state`."""
        return sum(count for (_, counted), count in self._counts.items() if counted is state)

    def __iter__(self) -> Iterator[Live]:
        return iter(tuple(self._lives.values()))

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _count(self, session: Session, change: int) -> None:
        if session.state in FINAL_STATES:
            return
        key = (session.submitter, session.state)
        self._counts[key] += change
        if not self._counts[key]:
            del self._counts[key]

    def _expire(self, live: Live, now: float) -> None:
        session = transition(
            live.session,
            State.EXPIRED,
            now=now,
            action="expired",
            reason="nobody decided in time",
        )
        self.adopt(live, replace(live.record, session=session), uid=None)

    # The timer runs on the monotonic clock, so that a clock set back prolongs nothing.

    def _watch_expiry(self, session: Session) -> None:
        if session.state is not State.PENDING or session.expires_at is None:
            return
        left = max(0.0, session.expires_at - time.time())
        heapq.heappush(self._due, (asyncio.get_running_loop().time() + left, session.id))
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            loop = asyncio.get_running_loop()
            at = min(self._due[0][0], loop.time() + _TIMER_SECONDS)
            self._timer = loop.call_at(at, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self.settle_all()
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0][0] <= now:
            _, identifier = heapq.heappop(self._due)
            live = self._lives.get(identifier)
            if live is not None and live.session.state is State.PENDING:
                self._expire(live, max(time.time(), live.session.expires_at or 0.0))
        self._arm()
