"""From a submission to what its dry run made of it.

Looking at sessions is `lookup`, saying no `refusal`, approval and execution `approval`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace

from shannotd.config import Config
from shannotd.policy.commands import deniable
from shannotd.policy.profiles import Profile, policy_version
from shannotd.sessions.access import Caller, Role
from shannotd.sessions.decisions import Decisions
from shannotd.sessions.dryrun import MAX_CALLS, DryRun, Order, Outcome
from shannotd.sessions.machine import transition
from shannotd.sessions.plans import LARGE_BYTES, Judged, judge
from shannotd.sessions.quota import Quota
from shannotd.sessions.recorded import BlobList
from shannotd.sessions.records import NOTES, PLAN, Entry, Record, Stored
from shannotd.sessions.registry import Live, Registry
from shannotd.sessions.runner import Runner
from shannotd.sessions.submission import check_submission, display_name
from shannotd.wire.decision import ProgramCall, Verdict
from shannotd.wire.errors import (
    DaemonStopping,
    LimitExceeded,
    ProfileUnknown,
    RunnerLost,
    ScriptFailed,
    ShannotError,
    StoreFull,
)
from shannotd.wire.session import Failure, Session, State
from shannotd.wire.submission import Submission
from shannotd.wire.text import visible

log = logging.getLogger(__name__)

_LARGE_SCRIPT_BYTES = 256 * 1024  # hashed on the store's thread


@dataclass(frozen=True)
class Policy:
    """A profile with its version and the programs that it may deny, computed once."""

    profile: Profile
    version: str
    deny: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, profile: Profile) -> Policy:
        """That of `profile`."""
        return cls(profile, policy_version(profile), tuple(sorted(deniable(profile).items())))


class Sessions:
    """Takes in scripts, has them dry-run, and keeps what becomes of that."""

    def __init__(self, registry: Registry, runner: Runner, config: Config) -> None:
        self.registry = registry
        self._runner = runner
        self._store = registry.store
        self._journal = registry.journal
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Use `config` for all sessions from now on."""
        self._config = config
        self._quota = Quota(config.daemon)
        self._policies: Mapping[str, Policy] = {
            name: Policy.of(profile) for name, profile in config.profiles.items()
        }

    async def recover(self) -> None:
        """Take up what an earlier daemon left: pending sessions wait on, the rest ends. What it was
        applying is left to `Approvals.recover`.

        :raises StoreFull: the store cannot be read.
        """
        for record in await self._store.unfinished():
            live = Live(record)
            session = record.session
            self.registry.add(live)
            if session.state is State.RUNNING:
                reason = "the daemon ended during the dry run"
                self._change(live, State.CANCELLED, "recovered", uid=None, reason=reason)
            elif session.state is State.APPROVED:
                reason = "the daemon ended before the plan was applied: nothing of it was"
                failure = failure_of(RunnerLost(id=session.id, reason=reason))
                self._change(live, State.FAILED, "recovered", uid=None, error=failure)
        self.registry.settle_all()

    # Submitting

    async def submit(
        self, caller: Caller, submitter_name: str, submission: Submission
    ) -> tuple[Session, asyncio.Future[Stored]]:
        """Begin a dry run. Gives the session as it is, and a future of what it is after that.

        :raises ShannotError: it was not begun; nothing was run.
        """
        caller.require(Role.SUBMIT, "submit scripts")
        settings = self._config.daemon
        if self._stopping:
            raise DaemonStopping()
        if self._store.overloaded or self._journal.overloaded:
            await self._catch_up()
        check_submission(submission, max_script_bytes=settings.max_script_bytes)
        policy = self._policy(submission.profile)
        self.registry.settle_all()
        self._quota.take(caller.uid, self.registry)
        wall_seconds = policy.profile.limits.wall_seconds
        if submission.timeout is not None:
            wall_seconds = min(wall_seconds, submission.timeout)
        session = Session(
            id=secrets.token_hex(16),
            name=display_name(submission),
            state=State.RUNNING,
            profile=policy.profile.name,
            target="local",
            submitter=caller.uid,
            submitter_name=submitter_name,
            identity=policy.profile.run_as or "",
            created_at=time.time(),
            expires_at=None,
            kind=submission.kind,
            arguments=submission.arguments,
            cwd=submission.cwd,
            analysis=submission.analysis,
            approvals=policy.profile.approvals,
        )
        live = Live(Record(session), submission.script)
        order = Order(
            session.id, submission, policy.profile, policy.version, policy.deny, wall_seconds
        )
        live.job = DryRun(self._runner, order, _Sink(self.registry, live, policy.profile))
        self.registry.add(live)
        self._store.defer(Entry(live.record, {"script": submission.script}))
        self.registry.events.changed(session)
        self._start(self._dry_run(live, order, live.job))
        return session, live.ended

    async def _catch_up(self) -> None:
        """Have what waits written before more is taken in.

        :raises StoreFull: it cannot be written.
        """
        await self._journal.flush()
        await self._store.flush()
        if self._store.overloaded:
            raise StoreFull(reason="too much waits to be written", path=self._store.path)

    def profile(self, name: str | None) -> Profile:
        """The profile of that name, or that of sessions which name none.

        :raises ProfileUnknown: there is none.
        """
        return self._policy(name).profile

    def policy(self, name: str) -> Policy:
        """That of the profile of that name; where it is gone, of sessions which name none."""
        return self._policies.get(name) or self._policy(None)

    def ttl_seconds(self, name: str) -> float:
        """How long a plan of a session with the profile of that name waits for a decision.

        :raises ProfileUnknown: there is none.
        """
        return self._ttl_seconds(self._policy(name).profile)

    def _ttl_seconds(self, profile: Profile) -> float:
        return min(profile.ttl_seconds, self._config.daemon.ttl_seconds or profile.ttl_seconds)

    def _policy(self, name: str | None) -> Policy:
        chosen = name or self._config.daemon.default_profile
        policy = self._policies.get(chosen)
        if policy is None:
            raise ProfileUnknown(name=chosen, known=", ".join(sorted(self._policies)))
        return policy

    async def _dry_run(self, live: Live, order: Order, job: DryRun) -> None:
        """Run the script to its end and make of it what it became."""
        try:
            await self._note_submission(live, order.submission)
            outcome = await job.run()
            judged = await self._judge(order, outcome)
            await self._end_dry_run(live, order, outcome, judged)
        except ShannotError as error:
            self._fail(live, error)
        except Exception as error:
            log.exception("session %s", live.session.id)
            self._fail(live, ShannotError(reason=type(error).__name__))
        if live.session.digest is None:
            await self._drop_contents(live)

    async def _note_submission(self, live: Live, submission: Submission) -> None:
        script = submission.script
        if len(script) > _LARGE_SCRIPT_BYTES:
            digest = await self._store.run(lambda: hashlib.sha256(script).hexdigest())
        else:
            digest = hashlib.sha256(script).hexdigest()
        session = live.session
        self._journal.note(
            "session.submitted",
            uid=session.submitter,
            session=session.id,
            name=session.name,
            kind=session.kind.value,
            profile=session.profile,
            cwd=session.cwd,
            script_sha256=digest,
        )

    async def _judge(self, order: Order, outcome: Outcome) -> Judged | None:
        recorded = outcome.plan
        if recorded is None:
            return None

        def work() -> Judged:
            return judge(
                recorded,
                session=order.session,
                policy_version=order.policy_version,
                programs=outcome.programs,
            )

        try:
            if len(recorded.canonical) + len(recorded.notes) < LARGE_BYTES:
                return work()
            return await self._store.run(work)
        except ValueError as error:
            reason = f"it sent a plan that cannot be used ({error})"
            raise RunnerLost(id=order.session, reason=reason) from error

    async def _end_dry_run(
        self, live: Live, order: Order, outcome: Outcome, judged: Judged | None
    ) -> None:
        ended = replace(
            live.session,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            duration=outcome.duration,
            stdout_truncated=outcome.stdout_dropped,
            stderr_truncated=outcome.stderr_dropped,
        )
        live.record = record = replace(live.record, session=ended)
        if live.cancel_reason is not None or outcome.stopped == "cancelled":
            self._end(live, State.CANCELLED, uid=live.cancelled_by, reason=live.cancel_reason or "")
            return
        if outcome.stopped is not None:
            limit = getattr(order.profile.limits, outcome.stopped, None)
            if outcome.stopped == "wall_seconds":
                limit = f"{order.wall_seconds:g}"
            elif outcome.stopped == "calls":
                limit = MAX_CALLS
            self._fail(live, LimitExceeded(name=outcome.stopped, limit=limit))
            return
        if judged is None or outcome.plan is None:
            raise RunnerLost(id=order.session, reason="it sent no plan")
        record = replace(record, seal=outcome.plan.seal, identity_uid=judged.identity_uid)
        shown = {
            "digest": judged.digest,
            "risk": judged.risk,
            "counts": judged.counts,
            "identity": judged.identity_name,
        }
        contents = {PLAN: outcome.plan.canonical, NOTES: judged.notes}
        if not judged.effects:
            live.record = record
            self._end(live, State.EXECUTED, uid=None, contents=contents, **shown)
            return
        ending = _failed_ending(outcome)
        if ending is not None:
            failure = failure_of(ScriptFailed(ending=ending))
            self._end(live, State.FAILED, uid=None, contents=contents, error=failure, **shown)
            return
        await self._announce_pending(live, order, record, contents, shown)

    async def _announce_pending(
        self,
        live: Live,
        order: Order,
        record: Record,
        contents: dict[str, bytes],
        shown: dict[str, object],
    ) -> None:
        """Have a plan on disk, and only then known."""
        now = time.time()
        expires_at = now + self._ttl_seconds(order.profile)
        pending = transition(
            record.session, State.PENDING, now=now, action="planned", expires_at=expires_at, **shown
        )
        record = replace(record, session=pending)
        contents = {**live.contents(), **contents}
        await self._store.commit(Entry(record, contents))
        if live.cancel_reason is not None:
            self._end(live, State.CANCELLED, uid=live.cancelled_by, reason=live.cancel_reason)
            return
        self.registry.adopt(live, record, uid=None, stored=True)
        live.release()
        live.ended.set_result(Stored(record, contents))

    def _fail(self, live: Live, error: ShannotError) -> None:
        if live.cancel_reason is not None:
            self._end(live, State.CANCELLED, uid=live.cancelled_by, reason=live.cancel_reason)
        else:
            self._end(live, State.FAILED, uid=None, error=failure_of(error))

    def _end(
        self,
        live: Live,
        state: State,
        *,
        uid: int | None,
        contents: Mapping[str, bytes] | None = None,
        **changes: object,
    ) -> None:
        """End a dry run in a final state: answered at once, written with the next group."""
        session = transition(live.session, state, now=time.time(), action="ended", **changes)
        record = replace(live.record, session=session)
        kept = {**live.contents(), **(contents or {})}
        live.ended.set_result(Stored(record, kept))
        self._store.defer(Entry(record, kept))
        self.registry.adopt(live, record, uid=uid, stored=True)
        live.release()

    async def _drop_contents(self, live: Live) -> None:
        try:
            await self._store.drop_contents(live.session.id)
        except StoreFull as error:
            log.warning("%s", visible(str(error)))

    def _change(
        self, live: Live, state: State, action: str, *, uid: int | None, **changes: object
    ) -> None:
        session = transition(live.session, state, now=time.time(), action=action, **changes)
        self.registry.adopt(live, replace(live.record, session=session), uid=uid)

    # The end of the daemon

    @property
    def busy(self) -> bool:
        """Whether a dry run goes on."""
        return bool(self._tasks)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Take nothing new, cancel the dry runs, and wait until they have ended."""
        self._stopping = True
        for live in self.registry:
            if live.session.state is State.RUNNING:
                live.cancel(uid=None, reason="the daemon was stopped")
        if self._tasks:
            await asyncio.wait(self._tasks)


class _Sink:
    """Where a dry run's output and contents go."""

    def __init__(self, registry: Registry, live: Live, profile: Profile) -> None:
        self._registry = registry
        self._live = live
        self._decisions = Decisions(registry.journal, registry.events, live.session, profile)

    def output(self, stream: str, data: bytes) -> None:
        live = self._live
        (live.stderr if stream == "stderr" else live.stdout).extend(data)
        self._registry.events.output(live.session, stream, data)

    async def keep_small(self, blobs: BlobList, contents: bytes | bytearray) -> None:
        await self._registry.store.keep_small(self._live.session.id, blobs, contents)

    async def keep_large(self, sha256: str, size: int, descriptor: int) -> None:
        await self._registry.store.keep_large(self._live.session.id, sha256, size, descriptor)

    async def decide(self, call: ProgramCall, *, start: bool) -> Verdict:
        return await self._decisions.decide(call, start=start)


def failure_of(error: ShannotError) -> Failure:
    """The error as a session keeps it."""
    return Failure(code=error.code, message=str(error), details=error.details)


def _failed_ending(outcome: Outcome) -> str | None:
    """How a script that did not succeed ended, in words; None for one that did."""
    if outcome.signal is not None:
        return f"was ended by signal {outcome.signal}"
    if outcome.exit_code:
        return f"ended with exit status {outcome.exit_code}"
    return None
