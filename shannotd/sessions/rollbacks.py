"""Rollbacks: a new session, whose plan the runner makes, takes back what another one did.

It is reviewed, approved and applied like any other; who submitted the other counts as its
submitter. Being asked for is in the audit log before anything is done.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from shannotd.sessions.access import Caller, require_reverser
from shannotd.sessions.decisions import Decisions
from shannotd.sessions.manager import Policy
from shannotd.sessions.plans import WireSession, judge, whole_session
from shannotd.sessions.recorded import BlobList
from shannotd.sessions.records import NOTES, PLAN, Entry, Record, Stored
from shannotd.sessions.registry import Live, Registry
from shannotd.sessions.reversing import Force, Made, Order, Reversing
from shannotd.sessions.runner import Runner
from shannotd.wire.decision import ProgramCall, Verdict
from shannotd.wire.errors import (
    CheckpointInUse,
    NotFound,
    NotReversible,
    RollbackConflict,
    RollbackPending,
    StoreFull,
    WrongState,
)
from shannotd.wire.rollback import Conflict
from shannotd.wire.session import Session, State
from shannotd.wire.submission import ScriptKind

_REVERSIBLE = (State.EXECUTED, State.FAILED, State.STALE)
_SHOWN_CONFLICTS = 3  # in the message of an error; its details have all


@dataclass(frozen=True)
class Wanted:
    """What a reviewer wants: see `sessions.rollback`."""

    force: Force = field(default_factory=Force)
    dry_run: bool = False


@dataclass(frozen=True)
class Answer:
    """The session of the rollback, as it travels, or what is in its way."""

    session: WireSession | None
    conflicts: tuple[Conflict, ...] = ()


class Rollbacks:
    """Has sessions rolled back."""

    def __init__(
        self,
        registry: Registry,
        runner: Runner,
        policy: Callable[[str], Policy],
        ttl_seconds: Callable[[str], float],
    ) -> None:
        """`policy` gives that of a session with a profile of that name, also where there is none
        any more; `ttl_seconds` says how long a plan waits under it."""
        self._registry = registry
        self._runner = runner
        self._policy = policy
        self._ttl_seconds = ttl_seconds
        self._store = registry.store
        self._journal = registry.journal
        self._asked: dict[str, str] = {}  # sessions whose rollback is being made, and by which

    async def roll_back(self, caller: Caller, identifier: str, wanted: Wanted) -> Answer:
        """Make a session that takes back the one with that id; with `dry_run` nothing is kept.

        :raises NotAllowed: the caller reviews no plans.
        :raises RollbackConflict: somebody has changed something since, which is not forced; a
            `dry_run` answers with it.
        :raises NotReversible, CheckpointUnknown, CheckpointInUse, WrongState, RollbackPending,
            NotPermitted, IdentityRefused: it cannot be rolled back, or not now.
        :raises StoreFull: it could not be logged or stored.
        """
        require_reverser(caller, identifier)
        old = (await self._old(identifier)).session
        new = secrets.token_hex(16)
        if wanted.dry_run:
            return await self._make(caller, old, new, wanted)
        pending = self.pending_of(identifier)
        if pending is not None:
            raise RollbackPending(id=identifier, by=pending)
        self._asked[identifier] = new
        try:
            return await self._make(caller, old, new, wanted)
        finally:
            del self._asked[identifier]

    def pending_of(self, identifier: str) -> str | None:
        """The session that is to roll that one back, as far as there is one."""
        for live in self._registry:
            if live.session.rollback_of == identifier:
                return live.session.id
        return self._asked.get(identifier)

    async def _old(self, identifier: str) -> Record:
        """The session that is to be rolled back."""
        live = self._registry.current(identifier)
        if live is None:
            stored = await self._store.load(identifier)
            if stored is None:
                raise NotFound(id=identifier)
            record = stored.record
        else:
            record = live.record
        state = record.session.state
        if state in (State.APPROVED, State.EXECUTING):
            raise CheckpointInUse(id=identifier)
        if state is State.ROLLED_BACK:
            raise WrongState(id=identifier, state=state.value, action="rolled back")
        if state not in _REVERSIBLE:
            reason = f"it is {state.value}, nothing of it was applied"
            raise NotReversible(id=identifier, reason=reason)
        return record

    async def _make(self, caller: Caller, old: Session, new: str, wanted: Wanted) -> Answer:
        force = wanted.force
        await self._journal.decide(
            "session.rollback_requested",
            uid=caller.uid,
            session=old.id,
            by=None if wanted.dry_run else new,
            dry_run=wanted.dry_run,
            forced="all" if force.all else len(force.paths),
        )
        policy = self._policy(old.profile)
        session = _beginning(old, new)
        decisions = Decisions(self._journal, self._registry.events, session, policy.profile)
        sink = _Sink(self._registry, new, decisions, keep=not wanted.dry_run)
        order = Order(new, old.id, policy.version, force)
        kept = False
        try:
            made = await Reversing(self._runner, order, sink).run()
            if made.conflicts or made.plan is None:
                if wanted.dry_run:
                    return Answer(None, made.conflicts)
                raise conflict_error(old.id, made.conflicts)
            stored = await self._judged(session, policy, made)
            if not wanted.dry_run:
                await self._keep(caller, stored)
                kept = True
            return Answer(whole_session(stored))
        finally:
            if not kept and not wanted.dry_run:
                with contextlib.suppress(StoreFull):
                    await self._store.drop_contents(new)

    async def _judged(self, session: Session, policy: Policy, made: Made) -> Stored:
        """The session as it begins to wait, with its plan."""
        plan = made.plan
        assert plan is not None
        try:
            judged = await self._store.run(
                lambda: judge(
                    plan,
                    session=session.id,
                    policy_version=policy.version,
                    staying=made.staying,
                )
            )
        except ValueError as error:
            reason = f"the runner sent what cannot be used ({error})"
            raise NotReversible(id=session.rollback_of, reason=reason) from error
        pending = replace(
            session,
            expires_at=session.created_at + self._ttl_seconds(policy.profile.name),
            approvals=max(session.approvals, policy.profile.approvals),
            digest=judged.digest,
            risk=judged.risk,
            counts=judged.counts,
            identity=judged.identity_name,
        )
        contents = {PLAN: plan.canonical, NOTES: judged.notes}
        return Stored(Record(pending, plan.seal, judged.identity_uid), contents)

    async def _keep(self, caller: Caller, stored: Stored) -> None:
        """Have the session wait for its approval.

        :raises StoreFull: it could not be stored.
        """
        await self._store.commit(Entry(stored.record, stored.contents))
        self._registry.admit(Live(stored.record), uid=caller.uid)


def _beginning(old: Session, new: str) -> Session:
    """The new session, of which the plan is not known yet."""
    return Session(
        id=new,
        name=f"rollback of {old.name}",
        state=State.PENDING,
        profile=old.profile,
        target=old.target,
        submitter=old.submitter,
        submitter_name=old.submitter_name,
        identity=old.identity,
        created_at=time.time(),
        expires_at=None,
        kind=ScriptKind.ROLLBACK,
        approvals=old.approvals,
        editors=old.editors,
        rollback_of=old.id,
    )


def conflict_error(identifier: str, conflicts: Sequence[Conflict]) -> RollbackConflict:
    """The error for what is in the way: all of it in its details, the first of it in words."""
    first = conflicts[0]
    shown = "; ".join(
        f"{one.path} (expected {one.expected}, found {one.found})"
        for one in conflicts[:_SHOWN_CONFLICTS]
    )
    left = len(conflicts) - _SHOWN_CONFLICTS
    if left > 0:
        shown += f"; and {left} more"
    remedies = []
    if any(one.forcible for one in conflicts):
        remedies.append("`--force PATH` takes a path back all the same.")
    if not all(one.forcible for one in conflicts):
        paths = [one.path for one in conflicts if not one.forcible]
        remedies.append(f"That cannot be forced at {paths[0]}: put it back by hand first.")
    return RollbackConflict(
        id=identifier,
        shown=shown,
        remedy=" ".join(remedies),
        path=first.path,
        expected=first.expected,
        found=first.found,
        count=len(conflicts),
        conflicts=json.dumps([vars(one) for one in conflicts]),
    )


class _Sink:
    """Where the contents of a rollback go, and its commands are judged."""

    def __init__(
        self, registry: Registry, session: str, decisions: Decisions, *, keep: bool
    ) -> None:
        self._store = registry.store
        self._session = session
        self._decisions = decisions
        self._keep = keep

    async def keep_small(self, blobs: BlobList, contents: bytes | bytearray) -> None:
        if self._keep:
            await self._store.keep_small(self._session, blobs, contents)

    async def keep_large(self, sha256: str, size: int, descriptor: int) -> None:
        if self._keep:
            await self._store.keep_large(self._session, sha256, size, descriptor)

    async def decide(self, call: ProgramCall) -> Verdict:
        return await self._decisions.decide(call, start=False)
