"""What the reviewer asks of the daemon, and hears from it, whatever becomes of the connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from shannotctl import contents
from shannotctl.async_client import AsyncClient
from shannotctl.protocol import CommandPrinted, Output, plan_of
from shannotctl.review import messages as m
from shannotctl.review.state import ACTIVE
from shannotd.wire.errors import BadFrame, InvalidRequest, NotAllowed, NotFound, ShannotError
from shannotd.wire.session import State

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts to connect
_MOST_OVER = 2000  # sessions that are over: the newest of them are in the list


class Connection:
    """One daemon: its events, and calls that may run at once."""

    def __init__(self, path: str | None = None) -> None:
        self._calls = AsyncClient(path)

    async def close(self) -> None:
        """End it."""
        await self._calls.close()

    async def follow(self, tell: Callable[[m.Message], None]) -> None:
        """Tell of the sessions and of all that happens to them, for ever: what is lost is
        connected again."""
        pause = _FIRST_PAUSE
        while True:
            try:
                # First that, so that nothing happens unheard between the list and the events.
                async with self._calls.subscription() as events:
                    await self._tell_all(tell)
                    pause = _FIRST_PAUSE
                    async for event in events:
                        if not isinstance(event, Output | CommandPrinted):
                            tell(m.Happened(event))
            except ShannotError as error:
                tell(m.Lost(str(error), refused=isinstance(error, NotAllowed)))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def follow_one(self, id: str, tell: Callable[[m.Message], None]) -> None:
        """Tell of what one session prints, until it has ended or the daemon is lost: who watches
        all sessions does not hear that."""
        with contextlib.suppress(ShannotError):
            async for event in self._calls.watch(id):
                if isinstance(event, Output | CommandPrinted):
                    tell(m.Happened(event))

    async def _tell_all(self, tell: Callable[[m.Message], None]) -> None:
        status = await self._calls.status()
        found = [session async for session in self._calls.list(states=ACTIVE)]
        older = 0
        over = [state for state in State if state not in ACTIVE]
        async with contextlib.aclosing(self._calls.list(states=over)) as sessions:
            async for session in sessions:
                if older == _MOST_OVER:
                    older += 1
                    break
                found.append(session)
                older += 1
        tell(m.Connected(status.mode, tuple(found), more=older > _MOST_OVER))

    async def perform(self, effect: m.Effect) -> m.Message:
        """Do what is wanted of the daemon; what came of it."""
        try:
            return await self._perform(effect)
        except ShannotError as error:
            return m.Failed(effect, error)

    async def _perform(self, effect: m.Effect) -> m.Message:
        match effect:
            case m.Load(id):
                return await self._load(id)
            case m.Approve(id, digest):
                return m.Approved(await self._calls.approve(id, digest))
            case m.Reject(id, reason):
                session = await self._calls.reject(id, reason)
                return m.Done(f"rejected: {session.name or '(none)'}")
            case m.Cancel(id):
                await self._calls.cancel(id)
                return m.Done("cancelled")
            case m.Amend():
                amended = await self._calls.amend(
                    effect.id,
                    effect.digest,
                    drop=effect.drop,
                    edits=effect.edits,
                    with_dependents=effect.with_dependents,
                )
                return m.Amended(amended)
            case m.Rollback(id, force):
                return m.Reversing(id, await self._calls.rollback(id, force_all=force))
            case m.Fetch():
                data = await self._fetch(effect.session.id, effect.sha256, effect.size)
                return m.Fetched(effect.session.id, effect.step, effect.which, data)
        raise AssertionError(effect)

    async def _load(self, id: str) -> m.Loaded:
        session = await self._calls.get(id)
        plan = plan_of(session)
        found: dict[str, bytes] = {}
        if plan is not None:
            for part in contents.wanted_parts(plan):
                data = await self._fetch(session.id, part.sha256, part.size)
                if data is not None:
                    found[part.sha256] = data
        return m.Loaded(session, plan, found)

    async def written(self, effect: m.Edit) -> bytes:
        """What a step writes, to be edited.

        :raises NotAmendable, EditTooLarge: it cannot be.
        """
        sha256, size = contents.editable(effect.session, effect.plan, effect.step)
        data = await self._fetch(effect.session.id, sha256, size)
        if data is None:
            raise contents.not_kept(effect.session, effect.step)
        return data

    async def _fetch(self, id: str, sha256: str, size: int) -> bytes | None:
        if size == 0:
            return b""
        try:
            data = b"".join([piece async for piece in self._calls.blobs(id, sha256)])
        except (InvalidRequest, NotFound):
            return None
        if not contents.is_content(data, sha256):
            raise BadFrame(reason=f"the content {sha256} is not what the plan of {id} names")
        return data
