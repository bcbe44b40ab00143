"""The runner's checkpoints: listed, looked at, dropped on request or when they are old or large.

A dropped checkpoint means that a session cannot be rolled back any more: it is in the audit log
before, and the session says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from shannotd.config import CheckpointSettings
from shannotd.sessions.access import Caller, Role
from shannotd.sessions.channel import ChannelClosed
from shannotd.sessions.records import Entry
from shannotd.sessions.registry import Registry
from shannotd.sessions.runner import Job, Runner, RunnerGone
from shannotd.wire.checkpoint import Checkpoint, CheckpointContents, SavedStep
from shannotd.wire.decode import decode
from shannotd.wire.errors import (
    CheckpointInUse,
    CheckpointUnknown,
    RunnerUnreachable,
    ShannotError,
    error_from_wire,
)
from shannotd.wire.text import visible

log = logging.getLogger(__name__)

Result = TypeVar("Result")

DROPPED = "dropped"
_SECONDS = 60.0  # what the runner gets to look at a checkpoint
_EVERY_SECONDS = 600.0


@dataclass(frozen=True)
class _Listed:
    checkpoints: tuple[Checkpoint, ...]


@dataclass(frozen=True)
class _Saved:
    saved: tuple[SavedStep, ...]


class Checkpoints:
    """What of sessions is saved, and for how long."""

    def __init__(
        self,
        registry: Registry,
        runner: Runner,
        settings: Callable[[], CheckpointSettings],
        rollback_of: Callable[[str], str | None],
    ) -> None:
        """`settings` says what is kept; `rollback_of` which session is to roll one back."""
        self._registry = registry
        self._runner = runner
        self._settings = settings
        self._rollback_of = rollback_of
        self._store = registry.store
        self._keeping: asyncio.Task[None] | None = None

    # For those who ask

    async def all(self, caller: Caller) -> list[Checkpoint]:
        """All that there are, the oldest first, with the names and states of their sessions.

        :raises NotAllowed: the caller reviews nothing.
        :raises RunnerUnreachable: the runner does not answer.
        """
        caller.require(Role.REVIEW, "list checkpoints")
        return [await self._named(one) for one in await self._listed()]

    async def get(self, caller: Caller, identifier: str) -> CheckpointContents:
        """One of them, with what is saved of each step.

        :raises NotAllowed: the caller reviews nothing.
        :raises CheckpointUnknown: there is none.
        :raises RunnerUnreachable: the runner does not answer.
        """
        caller.require(Role.REVIEW, "look at checkpoints")
        found = [one for one in await self._listed() if one.session == identifier]
        if not found:
            raise CheckpointUnknown(id=identifier)
        saved = await self._reached(self._saved(identifier))
        return CheckpointContents(await self._named(found[0]), saved)

    async def drop(self, caller: Caller, identifier: str) -> None:
        """Drop one of them, which is in the audit log before.

        :raises NotAllowed: the caller is no administrator.
        :raises CheckpointUnknown: there is none.
        :raises CheckpointInUse: its session is being applied, or is to be rolled back.
        :raises StoreFull: it could not be logged.
        :raises RunnerUnreachable: the runner does not answer.
        """
        caller.require(Role.ADMIN, "drop checkpoints")
        found = {one.session: one for one in await self._listed()}
        if identifier not in found:
            raise CheckpointUnknown(id=identifier)
        if not found[identifier].finished or self._is_needed(identifier):
            raise CheckpointInUse(id=identifier)
        await self._drop(identifier, uid=caller.uid, reason="request")

    # For as long as the settings say

    def start(self) -> None:
        """Drop from time to time what the settings say is not kept, beginning now."""
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Stop that."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping

    async def _keep(self) -> None:
        while True:
            try:
                await self.expire()
            except ShannotError as error:
                log.warning("%s", visible(str(error)))
            await asyncio.sleep(_EVERY_SECONDS)

    async def expire(self) -> None:
        """Drop what is too old, and the oldest of what is too much.

        :raises ShannotError: it could not be done, or not be logged.
        """
        found = await self._listed()
        needed = {one.session for one in found if self._is_needed(one.session)}
        for one, reason in superfluous(found, self._settings(), time.time(), needed):
            # What the sessions are may change while others are dropped.
            if not self._is_needed(one.session):
                await self._drop(one.session, uid=None, reason=reason)

    def _is_needed(self, identifier: str) -> bool:
        live = self._registry.current(identifier)
        return live is not None or self._rollback_of(identifier) is not None

    async def _drop(self, identifier: str, *, uid: int | None, reason: str) -> None:
        await self._registry.journal.decide(
            "checkpoint.dropped", uid=uid, session=identifier, reason=reason
        )
        await self._reached(self._runner.drop_checkpoint(identifier))
        stored = await self._store.load(identifier)
        if stored is None:
            return
        session = replace(stored.record.session, checkpoint=DROPPED)
        self._store.defer(Entry(replace(stored.record, session=session)))
        self._registry.events.changed(session)

    # What the runner says

    async def _named(self, one: Checkpoint) -> Checkpoint:
        stored = await self._store.load(one.session)
        if stored is None:
            return one
        session = stored.record.session
        return replace(one, name=session.name, state=session.state)

    async def _listed(self) -> tuple[Checkpoint, ...]:
        told = await self._reached(self._runner.checkpoints())
        try:
            return decode(_Listed, {"checkpoints": told}, "checkpoints").checkpoints
        except ValueError as error:
            raise _strange(error) from error

    async def _saved(self, identifier: str) -> tuple[SavedStep, ...]:
        job = await self._runner.checkpoint_job()
        try:
            async with asyncio.timeout(_SECONDS):
                return await _look(job, identifier)
        except TimeoutError:
            raise RunnerUnreachable(reason=f"it took more than {_SECONDS:g} seconds") from None
        finally:
            job.channel.close()

    async def _reached(self, work: Awaitable[Result]) -> Result:
        try:
            return await work
        except (RunnerGone, ChannelClosed) as error:
            raise RunnerUnreachable(reason=str(error) or "it is gone") from None


async def _look(job: Job, identifier: str) -> tuple[SavedStep, ...]:
    channel = job.channel
    await channel.send({"op": "checkpoint", "session": identifier})
    saved: tuple[SavedStep, ...] = ()
    failure: ShannotError | None = None
    while True:
        frame = await channel.receive()
        for descriptor in frame.descriptors:
            os.close(descriptor)
        event = frame.header.get("event")
        if event == "end":
            break
        if event == "error":
            failure = error_from_wire(frame.header)
        elif event == "saved":
            try:
                saved = decode(_Saved, {"saved": json.loads(frame.payload)}, "saved").saved
            except ValueError as error:
                raise _strange(error) from error
    if failure is not None:
        raise failure
    return saved


def _strange(error: Exception) -> RunnerUnreachable:
    return RunnerUnreachable(reason=f"it sent what cannot be used ({error})")


def superfluous(
    checkpoints: Sequence[Checkpoint],
    settings: CheckpointSettings,
    now: float,
    needed: Collection[str],
) -> list[tuple[Checkpoint, str]]:
    """Which of `checkpoints` (the oldest first) are not kept, and by which setting; pure.

    `needed` are sessions that keep theirs. The newest is never too much.
    """
    dropped: list[tuple[Checkpoint, str]] = []
    size = sum(one.size for one in checkpoints)
    for position, one in enumerate(checkpoints):
        if not one.finished or one.session in needed:
            continue
        if now - one.created_at > settings.max_age_seconds:
            reason = "max_age_seconds"
        elif size > settings.max_bytes and position < len(checkpoints) - 1:
            reason = "max_bytes"
        else:
            continue
        size -= one.size
        dropped.append((one, reason))
    return dropped
