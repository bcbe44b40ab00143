"""Changes of plans by reviewers: a new session takes the place of the one that waited.

Who changed a plan counts as its submitter. The change is in the audit log, on disk, before it
takes effect; both sessions are kept, and change their state together.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from shannotd.sessions.access import Caller, require_editor
from shannotd.sessions.amending import Amending, Changes, Edit, Result, follow
from shannotd.sessions.execute import Approved
from shannotd.sessions.machine import transition
from shannotd.sessions.plans import Judged, judge, unpack_notes
from shannotd.sessions.records import NOTES, PLAN, SCRIPT, STDERR, STDOUT, Entry, Record, Stored
from shannotd.sessions.registry import Live, Registry
from shannotd.sessions.runner import Runner
from shannotd.wire.amendment import Amendment
from shannotd.wire.errors import (
    DigestMismatch,
    EditTooLarge,
    NotAmendable,
    NotFound,
    StoreFull,
    WrongState,
)
from shannotd.wire.plan import Plan
from shannotd.wire.rpc import MAX_EDIT_BYTES
from shannotd.wire.session import Session, State

_CHANGED = "changed"


@dataclass(frozen=True)
class _Made:
    """A changed plan: how the reviewer made it, what of it its session shows, its parts."""

    amendment: Amendment
    judged: Judged
    seal: str
    contents: Mapping[str, bytes]


class Amendments:
    """Has plans changed."""

    def __init__(
        self, registry: Registry, runner: Runner, ttl_seconds: Callable[[str], float]
    ) -> None:
        """`ttl_seconds` says how long a session with a profile of that name waits."""
        self._registry = registry
        self._runner = runner
        self._ttl_seconds = ttl_seconds
        self._store = registry.store
        self._journal = registry.journal

    async def amend(
        self, caller: Caller, name: str, identifier: str, digest: str, changes: Changes
    ) -> str:
        """Make a plan with `changes` of the pending one with `digest`; the id of its session.

        :param name: the caller's.
        :raises NotAllowed: the caller reviews no plans.
        :raises DigestMismatch: the plan is another one.
        :raises WrongState: nobody can change it any more.
        :raises NotAmendable, StepNeeded, Stale, NotPermitted, EditTooLarge: it cannot be changed
            like that.
        :raises StoreFull: the change could not be logged or stored.
        """
        live = self._registry.current(identifier)
        if live is None:
            raise await self._over(caller, identifier)
        require_editor(caller, live.session)
        _check(live.session, digest)
        _check_edits(changes.edits)
        stored = await self._load(live.record)
        new = secrets.token_hex(16)
        replaced = False
        try:
            made = await self._make(stored, new, changes)
            await self._replace(caller, name, live, new, made)
            replaced = True
        finally:
            if not replaced:
                with contextlib.suppress(StoreFull):
                    await self._store.drop_contents(new)
        return new

    async def _load(self, record: Record) -> Stored:
        """The session with the plan that is waiting, as it was stored."""
        session = record.session
        stored = await self._store.load(session.id)
        canonical = b"" if stored is None else stored.contents.get(PLAN, b"")
        digest = await self._store.run(lambda: hashlib.sha256(canonical).hexdigest())
        if stored is None or digest != session.digest:
            raise DigestMismatch(id=session.id, digest=digest)
        return Stored(record, stored.contents)

    async def _make(self, stored: Stored, new: str, changes: Changes) -> _Made:
        """The changed plan for the session `new`, whose contents are in the store then."""
        old = stored.record.session
        for edit in changes.edits:
            blob = (hashlib.sha256(edit.content).hexdigest(), len(edit.content))
            await self._store.keep_small(new, [blob], edit.content)
        await self._store.share(old.id, new)
        plan = Approved(old.id, old.digest or "", stored.record.seal, stored.contents[PLAN])
        result = await Amending(self._runner, self._store, plan, new, changes).run()
        try:
            return await self._store.run(lambda: _made(result, stored, new))
        except ValueError as error:
            reason = f"the runner sent what cannot be used ({error})"
            raise NotAmendable(id=old.id, reason=reason) from error

    async def _replace(self, caller: Caller, name: str, live: Live, new: str, made: _Made) -> None:
        """Have the session `new` wait in the place of the old one.

        :raises WrongState: somebody decided over the old one meanwhile.
        :raises StoreFull: it could not be logged or stored; the old one waits on.
        """
        async with live.deciding:
            self._registry.settle(live)
            before = live.record
            _check(before.session, before.session.digest)
            pending = self._pending(caller, name, before.session, new, made.judged)
            rejected = replace(before, session=_rejected(caller, before.session, pending))
            record = Record(pending, made.seal, made.judged.identity_uid)
            try:
                await self._log(caller, before.session, pending, made.amendment)
                self._check_unchanged(live, before, new)
                await self._store.commit(Entry(rejected), Entry(record, made.contents))
            except StoreFull:
                self._void(new)  # a record that could not be synced may be in the log
                raise
            try:
                self._check_unchanged(live, before, new)
            except WrongState:
                self._store.defer(Entry(replace(record, session=_cancelled(pending))))
                raise
            self._registry.adopt(live, rejected, uid=caller.uid, stored=True)
            self._registry.admit(Live(record), uid=caller.uid)

    def _pending(
        self, caller: Caller, name: str, old: Session, new: str, judged: Judged
    ) -> Session:
        """The new session, as it begins to wait."""
        now = time.time()
        return replace(
            old,
            id=new,
            created_at=now,
            expires_at=now + self._ttl_seconds(old.profile),
            digest=judged.digest,
            risk=judged.risk,
            counts=judged.counts,
            identity=judged.identity_name,
            decided_by=(),
            decided_at=None,
            reason="",
            amends=old.id,
            editors=tuple(dict.fromkeys((*old.editors, caller.uid))),
            editor_name=name,
        )

    async def _log(self, caller: Caller, old: Session, new: Session, amendment: Amendment) -> None:
        await self._journal.decide(
            "session.amended",
            uid=caller.uid,
            session=new.id,
            digest=new.digest,
            amends=old.id,
            amends_digest=old.digest,
            dropped=_ranges(step.index for step in amendment.dropped),
            edited=_ranges(step.origin for step in amendment.edited),
        )

    def _check_unchanged(self, live: Live, before: Record, new: str) -> None:
        """Refuse to go on when the session was stopped while the log was being written."""
        self._registry.settle(live)
        if live.record is not before:
            self._void(new)
            raise _wrong_state(live.session)

    def _void(self, new: str) -> None:
        """Have in the log that the change of which it tells last came to nothing."""
        self._journal.note("session.amendment_void", uid=None, session=new)

    async def _over(self, caller: Caller, identifier: str) -> NotFound | WrongState:
        stored = await self._store.load(identifier)
        if stored is None:
            return NotFound(id=identifier)
        require_editor(caller, stored.record.session)
        return _wrong_state(stored.record.session)


def _check(session: Session, digest: str | None) -> None:
    """See that `session` waits, with the plan that has this digest."""
    if session.state is not State.PENDING:
        raise _wrong_state(session)
    if session.digest is None or digest != session.digest:
        raise DigestMismatch(id=session.id, digest=session.digest)


def _check_edits(edits: Iterable[Edit]) -> None:
    size = sum(len(edit.content) for edit in edits)
    if size > MAX_EDIT_BYTES:
        raise EditTooLarge(size=size, limit=MAX_EDIT_BYTES)


def _wrong_state(session: Session) -> WrongState:
    return WrongState(id=session.id, state=session.state.value, action=_CHANGED)


def _rejected(caller: Caller, old: Session, new: Session) -> Session:
    """The old session, as it ends."""
    now = time.time()
    return transition(
        old,
        State.REJECTED,
        now=now,
        action=_CHANGED,
        decided_by=(caller.uid,),
        decided_at=now,
        reason=f"replaced by session {new.id}, as changed by {new.editor_name}",
        replaced_by=new.id,
    )


def _cancelled(new: Session) -> Session:
    """The new session when the old one was stopped before this one began."""
    reason = "the session that it was to replace was stopped meanwhile"
    return transition(new, State.CANCELLED, now=time.time(), action="cancelled", reason=reason)


def _made(result: Result, stored: Stored, new: str) -> _Made:
    """What becomes of the runner's result; `stored` is the session that it was made of.

    :raises ValueError: what the runner sent does not fit.
    """
    contents = stored.contents
    before, notes = Plan.parse(contents[PLAN]), unpack_notes(contents[NOTES])
    plan, amendment = follow(result, before, notes)
    judged = judge(
        plan,
        session=new,
        policy_version=before.policy_version,
        programs=notes.programs,
        amendment=amendment,
        staying=notes.staying,
    )
    if not judged.effects:
        raise ValueError("a plan without effect")
    kept = {part: contents[part] for part in (SCRIPT, STDOUT, STDERR) if part in contents}
    kept |= {PLAN: plan.canonical, NOTES: judged.notes}
    return _Made(amendment, judged, plan.seal, kept)


def _ranges(indexes: Iterable[int]) -> str | None:
    """Indexes of steps for the log: `0,2-4`; None for none."""
    ranges: list[list[int]] = []
    for index in indexes:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return ",".join(parts) or None
