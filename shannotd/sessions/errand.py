"""A job of the runner's that is done within a time of its own: changing a plan, taking one back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shannotd.sessions.channel import Channel, ChannelClosed
from shannotd.sessions.runner import Job, RunnerGone
from shannotd.wire.errors import ShannotError

_ANSWER_SECONDS = 5.0
Made = TypeVar("Made")


async def run(
    begun: Awaitable[Job],
    drive: Callable[[Channel], Awaitable[Made]],
    failed: Callable[[str], ShannotError],
    *,
    seconds: float,
) -> Made:
    """What `drive` makes of the job that has `begun`.

    :raises ShannotError: what the runner or `drive` says, or `failed` with the reason why there
        was no end within `seconds`.
    """
    try:
        job = await begun
    except RunnerGone as error:
        raise failed(f"the runner is gone: {error}") from None
    try:
        async with asyncio.timeout(seconds):
            return await drive(job.channel)
    except ChannelClosed as error:
        # The runner's answer to the hand-over, if it refused it, says more.
        with contextlib.suppress(RunnerGone, TimeoutError):
            await asyncio.wait_for(job.accepted, _ANSWER_SECONDS)
        raise failed(f"the runner ended: {error}") from None
    except TimeoutError:
        raise failed(
            f"it took more than {seconds:g} seconds; maybe a plan is being applied"
        ) from None
    finally:
        job.channel.close()
