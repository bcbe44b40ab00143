"""Decisions over plans, and what follows: who approves, when it counts, and the apply.

An approval is in the audit log, on disk, before it counts; the session is `approved` on
disk before the runner is asked for anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace

from shannotd.sessions.access import Caller, require_approver
from shannotd.sessions.execute import Approved, Execution
from shannotd.sessions.machine import transition
from shannotd.sessions.manager import failure_of
from shannotd.sessions.plans import mark_applied
from shannotd.sessions.progress import Progress
from shannotd.sessions.records import NOTES, PLAN, Entry, Record
from shannotd.sessions.registry import Live, Registry
from shannotd.sessions.runner import Runner
from shannotd.sessions.turning import turned
from shannotd.wire.errors import (
    DigestMismatch,
    NotFound,
    ShannotError,
    Stale,
    StoreFull,
    WrongState,
)
from shannotd.wire.session import Session, State
from shannotd.wire.text import visible

log = logging.getLogger(__name__)

# What became of steps that say that something was changed, and so saved first.
CHANGED = frozenset({"done", "undone", "in_doubt"})
KEPT = "kept"


class Approvals:
    """Takes approvals and has approved plans applied, one at a time."""

    def __init__(self, registry: Registry, runner: Runner) -> None:
        self._registry = registry
        self._runner = runner
        self._store = registry.store
        self._journal = registry.journal
        self._applying = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._daemon_uid = os.getuid()

    async def approve(self, caller: Caller, identifier: str, digest: str, comment: str) -> None:
        """Count the caller's approval of the plan with `digest`; when it is the last that is
        needed, the session is approved and its plan is applied from now on.

        :raises NotAllowed: the caller never approves this session.
        :raises DigestMismatch: the plan is another one.
        :raises WrongState: nobody can approve it any more.
        :raises StoreFull: the approval could not be logged or stored, and does not count.
        """
        live = self._registry.current(identifier)
        if live is None:
            await self._raise_over(caller, identifier)
            return
        async with live.deciding:
            self._registry.settle(live)
            before = live.record
            record = self._approved(caller, before, digest, comment)
            if record is None:
                return
            try:
                await self._journal.decide(
                    "session.approval",
                    uid=caller.uid,
                    session=identifier,
                    digest=digest,
                    comment=comment or None,
                    approval=len(record.session.decided_by),
                    needed=record.session.approvals,
                    proven=caller.proven or None,
                )
                self._check_unchanged(live, before)
                await self._store.commit(Entry(record))
            except StoreFull:
                self._void(identifier)  # a record that could not be synced may be in the log
                raise
            self._check_unchanged(live, before)
            self._registry.adopt(live, record, uid=caller.uid, stored=True)
        if record.session.state is State.APPROVED:
            self._start(self._execute(live))

    def check(self, caller: Caller, identifier: str, digest: str) -> Session | None:
        """The session, if the caller may approve it as it is now; None where it is over.

        :raises NotAllowed, DigestMismatch, WrongState: as `approve` does.
        """
        live = self._registry.current(identifier)
        if live is None:
            return None
        self._approved(caller, live.record, digest, "")
        return live.session

    def _approved(self, caller: Caller, record: Record, digest: str, comment: str) -> Record | None:
        """`record` with the caller's approval; None when it has it already."""
        session = record.session
        require_approver(
            caller, session, identity_uid=record.identity_uid, daemon_uid=self._daemon_uid
        )
        if session.state is not State.PENDING:
            raise WrongState(id=session.id, state=session.state.value, action="approved")
        if session.digest is None or digest != session.digest:
            raise DigestMismatch(id=session.id, digest=session.digest)
        if caller.uid in session.decided_by:
            return None
        now = time.time()
        changes = {
            "decided_by": (*session.decided_by, caller.uid),
            "decided_at": now,
            "reason": comment,
        }
        approved = transition(session, State.APPROVED, now=now, action="approved", **changes)
        if len(approved.decided_by) < session.approvals:
            approved = replace(approved, state=State.PENDING)
        return replace(record, session=approved)

    def _check_unchanged(self, live: Live, before: Record) -> None:
        """Refuse to go on when the session was stopped while the log was being written."""
        self._registry.settle(live)
        if live.record is not before:
            session = live.session
            self._void(session.id)
            raise WrongState(id=session.id, state=session.state.value, action="approved")

    def _void(self, identifier: str) -> None:
        """Have in the log that the approval of which it tells last came to nothing."""
        self._journal.note("session.approval_void", uid=None, session=identifier)

    async def _raise_over(self, caller: Caller, identifier: str) -> None:
        stored = await self._store.load(identifier)
        if stored is None:
            raise NotFound(id=identifier)
        session = stored.record.session
        require_approver(
            caller, session, identity_uid=stored.record.identity_uid, daemon_uid=self._daemon_uid
        )
        raise WrongState(id=identifier, state=session.state.value, action="approved")

    # Execution

    def recover(self) -> None:
        """Find out what became of the plans that an earlier daemon was having applied."""
        for live in self._registry:
            if live.session.state is State.EXECUTING:
                self._start(self._execute(live))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, live: Live) -> None:
        async with self._applying:
            if live.session.state not in (State.APPROVED, State.EXECUTING):
                return  # cancelled while it waited for its turn
            progress: Progress | None = None
            notes = b""
            error: ShannotError | None
            try:
                plan, notes = await self._load(live)
                progress = Progress(self._registry, live, plan)
                execution = Execution(self._runner, plan, progress)
                live.job = execution
                if live.session.state is State.EXECUTING:
                    error = await execution.resume()
                else:
                    await self._check_reversed(live.session)
                    await self._begin(live)
                    error = await execution.run()
            except ShannotError as failure:
                error = failure
            except Exception as failure:
                log.exception("session %s", live.session.id)
                error = ShannotError(reason=type(failure).__name__)
            if live.session.state in (State.APPROVED, State.EXECUTING):
                await self._end(live, error, notes, progress)

    async def _load(self, live: Live) -> tuple[Approved, bytes]:
        """The plan as it was stored, if that is still what was approved."""
        session = live.session
        stored = await self._store.load(session.id)
        canonical = b"" if stored is None else stored.contents.get(PLAN, b"")
        digest = await self._store.run(lambda: hashlib.sha256(canonical).hexdigest())
        if stored is None or digest != session.digest:
            raise DigestMismatch(id=session.id, digest=digest)
        plan = Approved(session.id, digest, live.record.seal, canonical)
        return plan, stored.contents.get(NOTES, b"")

    async def _check_reversed(self, session: Session) -> None:
        """See that what a rollback takes back has not been taken back by another.

        :raises WrongState: it has.
        """
        if session.rollback_of is None:
            return
        record = await self._record(session.rollback_of)
        if record is not None and record.session.state is State.ROLLED_BACK:
            old = record.session
            raise WrongState(id=old.id, state=old.state.value, action="rolled back")

    async def _record(self, identifier: str) -> Record | None:
        stored = await self._store.load(identifier)
        return None if stored is None else stored.record

    async def _begin(self, live: Live) -> None:
        session = transition(live.session, State.EXECUTING, now=time.time(), action="executed")
        self._registry.adopt(live, replace(live.record, session=session), uid=None, stored=True)
        await self._store.commit(Entry(live.record))

    async def _end(
        self, live: Live, error: ShannotError | None, notes: bytes, progress: Progress | None
    ) -> None:
        contents: dict[str, bytes] = {}
        applied: Mapping[int, str] = {}
        if progress is not None:
            progress.close()
            applied, results, held = progress.applied, progress.results, progress.holders
            if notes and (applied or results):
                contents[NOTES] = await self._store.run(
                    lambda: mark_applied(notes, applied, results, held)
                )
        if error is None:
            state = State.EXECUTED
        else:
            state = State.STALE if isinstance(error, Stale) else State.FAILED
            if live.session.state is State.APPROVED:
                state = State.FAILED
        session = transition(
            live.session,
            state,
            now=time.time(),
            action="ended",
            error=None if error is None else failure_of(error),
            checkpoint=KEPT if CHANGED.intersection(applied.values()) else None,
        )
        record = replace(live.record, session=session)
        # What was all done, and not just cleaned up after, has been done.
        done = error is None or set(applied.values()) == {"done"}
        others = await self._turned(session) if done else []
        entries = [Entry(record, contents), *map(Entry, others)]
        try:
            await self._store.commit(*entries)
        except StoreFull:
            for entry in entries:
                self._store.defer(entry)  # it happened, whether the disk takes it or not
        self._registry.adopt(live, record, uid=None, stored=True)
        for other in others:
            self._registry.turn(other, by=session.id)

    async def _turned(self, session: Session) -> list[Record]:
        """The sessions that are rolled back by this one, or no longer."""
        try:
            return await turned(self._record, session)
        except StoreFull as error:
            log.error("%s", visible(str(error)))
            return []

    @property
    def busy(self) -> bool:
        """Whether a plan is being applied or waits for its turn."""
        return bool(self._tasks)

    async def drain(self, seconds: float) -> None:
        """Wait until every approved plan is applied, `seconds` at most."""
        if self._tasks:
            _, unfinished = await asyncio.wait(self._tasks, timeout=seconds)
            for task in unfinished:
                task.cancel()
            if unfinished:
                await asyncio.wait(unfinished)
