"""One apply: hands an approved plan to the runner and reports what became of each step."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shannotd.sessions.channel import Channel, ChannelClosed
from shannotd.sessions.records import Content
from shannotd.sessions.runner import Job, Runner, RunnerGone
from shannotd.wire.errors import RunnerLost, ShannotError, error_from_wire

_APPLIED = ("done", "failed", "stale", "skipped")

# From SHA-256s to the contents of the first few of them, at least one.
Fetch = Callable[[list[str]], Awaitable[list[Content]]]
OnStep = Callable[[int, str], None]


@dataclass(frozen=True)
class Approved:
    """What the runner gets: the plan as it recorded it, and its own proof of that."""

    session: str
    digest: str
    seal: str
    canonical: bytes


async def apply(
    runner: Runner, plan: Approved, fetch: Fetch, on_step: OnStep
) -> ShannotError | None:
    """Apply `plan`; None when all of it was applied, else what stopped it.

    :param fetch: gets contents of the session.
    :param on_step: is told what became of each step: its index and done, failed, stale or skipped.
    :raises RunnerLost: the runner ended before it said how it went.
    """
    try:
        job = await runner.apply_job()
    except RunnerGone as error:
        raise RunnerLost(id=plan.session, reason=str(error)) from None
    try:
        return await _drive(job.channel, plan, fetch, on_step)
    except ChannelClosed as error:
        await _raise_refusal(job)
        raise RunnerLost(id=plan.session, reason=str(error)) from None
    finally:
        job.channel.close()


async def _drive(
    channel: Channel, plan: Approved, fetch: Fetch, on_step: OnStep
) -> ShannotError | None:
    await channel.send(
        {"op": "apply", "session": plan.session, "digest": plan.digest, "seal": plan.seal},
        plan.canonical,
    )
    failure: ShannotError | None = None
    while True:
        header, _, descriptors = await channel.receive()
        for descriptor in descriptors:
            os.close(descriptor)
        event = header.get("event")
        if event == "need":
            await _send_contents(channel, plan.session, header.get("sha256"), fetch)
        elif event == "step":
            index, applied = header.get("index"), header.get("applied")
            if type(index) is not int or applied not in _APPLIED:
                raise RunnerLost(id=plan.session, reason="it reported a step that is none")
            on_step(index, applied)
        elif event == "error":
            failure = error_from_wire(header)
        elif event == "end":
            return failure


async def _raise_refusal(job: Job) -> None:
    """Raise what the runner answered to the hand-over, if it refused it."""
    if job.accepted.done() and not job.accepted.cancelled():
        error = job.accepted.exception()
        if isinstance(error, ShannotError):
            raise error


async def _send_contents(channel: Channel, session: str, wanted: object, fetch: Fetch) -> None:
    """Send the contents that the runner asks for: small ones in batches, large ones as files."""
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise RunnerLost(id=session, reason="it asked for contents that cannot be named")
    while wanted:
        found = await fetch(wanted)
        if not found:
            raise RunnerLost(
                id=session, reason=f"it needs a content that it never sent ({wanted[0]})"
            )
        names, wanted = wanted[: len(found)], wanted[len(found) :]
        batch: list[tuple[str, bytes]] = []
        for sha256, content in zip(names, found, strict=True):
            if content.data is not None:
                batch.append((sha256, content.data))
        if batch:
            await _send_batch(channel, batch)
        for sha256, content in zip(names, found, strict=True):
            if content.descriptor is not None:
                await _send_file(channel, sha256, content.size, content.descriptor)


async def _send_file(channel: Channel, sha256: str, size: int, descriptor: int) -> None:
    try:
        header = {"op": "blob", "sha256": sha256, "size": size}
        await channel.send(header, descriptors=(descriptor,))
    finally:
        os.close(descriptor)


async def _send_batch(channel: Channel, batch: list[tuple[str, bytes]]) -> None:
    await channel.send(
        {"op": "blobs", "blobs": [[sha256, len(data)] for sha256, data in batch]},
        b"".join(data for _, data in batch),
    )
