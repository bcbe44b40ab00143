"""One apply: hands an approved plan to the runner and reports what became of each step."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shannotd.sessions.channel import Channel, ChannelClosed, Frame
from shannotd.sessions.records import Content
from shannotd.sessions.runner import Job, Runner, RunnerGone
from shannotd.wire.decode import decode
from shannotd.wire.errors import RunnerLost, ShannotError, error_from_wire

log = logging.getLogger(__name__)

_MOST_STEPS = 10_000_000
_APPLIED = ("done", "failed", "stale", "skipped", "undone", "in_doubt")


@dataclass(frozen=True)
class Approved:
    """What the runner gets: the plan as it recorded it, and its own proof of that."""

    session: str
    digest: str
    seal: str
    canonical: bytes


@dataclass(frozen=True)
class _Steps:
    """What became of steps that follow each other."""

    first: int
    last: int
    applied: str


class Progress(Protocol):
    """Where an apply gets its contents from and tells how far it is; steps are by index."""

    async def contents(self, wanted: list[str]) -> list[Content]:
        """The contents of the first few of these SHA-256s, at least one if there is one."""

    async def starting(self, index: int) -> None:
        """A command is about to run; it does not if this raises a ShannotError."""

    def output(self, index: int, stream: str, data: bytes) -> None:
        """A command wrote `data` to `stream` (stdout or stderr)."""

    def ended(self, index: int, ending: Mapping[str, Any]) -> None:
        """A command has ended, or was not started after all.

        :raises ValueError: the runner told something else.
        """

    def stepped(self, index: int, outcome: str) -> None:
        """What became of a step: done, failed, stale, skipped, undone or in_doubt."""

    def held(self, index: int, holders: object) -> None:
        """Who holds open for writing what a step displaces, as the apply begins.

        :raises ValueError: the runner told something else.
        """


class Execution:
    """Drives one apply from the hand-over of the plan to its end."""

    def __init__(self, runner: Runner, plan: Approved, progress: Progress) -> None:
        self._runner = runner
        self._plan = plan
        self._progress = progress
        self._channel: Channel | None = None
        self._cancelled = False
        self._cancelling: asyncio.Task[None] | None = None
        self._command: int | None = None  # the one that runs
        self._failure: ShannotError | None = None

    async def run(self) -> ShannotError | None:
        """Apply the plan; None when all of it was applied, else what stopped it.

        :raises RunnerLost: what became of it cannot be found out.
        """
        plan = self._plan
        request = {"op": "apply", "session": plan.session, "digest": plan.digest, "seal": plan.seal}
        try:
            job = await self._runner.apply_job()
        except RunnerGone as error:
            raise self._lost(str(error)) from None
        try:
            return await self._drive(job.channel, request, plan.canonical)
        except ChannelClosed as error:
            await _raise_refusal(job)
            log.warning("session %s: the apply was cut short (%s)", plan.session, error)
        finally:
            self._channel = None
            job.channel.close()
        return await self.resume()

    async def resume(self) -> ShannotError | None:
        """Find out what became of an apply that was cut short, when it has been brought to an end.

        :raises RunnerLost: that cannot be.
        """
        try:
            job = await self._runner.resume_job()
            try:
                request = {"op": "resume", "session": self._plan.session}
                return await self._drive(job.channel, request, b"")
            finally:
                self._channel = None
                job.channel.close()
        except (RunnerGone, ChannelClosed) as error:
            raise self._lost(str(error)) from None

    def cancel(self) -> None:
        """Have nothing done after the step at hand, and a command that runs ended."""
        if not self._cancelled:
            self._cancelled = True
            if self._channel is not None:
                self._send_cancel(self._channel)

    async def _drive(
        self, channel: Channel, request: Mapping[str, Any], payload: bytes
    ) -> ShannotError | None:
        await channel.send(request, payload)
        self._channel = channel
        if self._cancelled:
            self._send_cancel(channel)
        while True:
            frame = await channel.receive()
            for descriptor in frame.descriptors:
                os.close(descriptor)
            if frame.header.get("event") == "end":
                return self._failure
            await self._take(channel, frame)

    async def _take(self, channel: Channel, frame: Frame) -> None:
        header = frame.header
        event, index = header.get("event"), header.get("index")
        if event == "need":
            await send_contents(
                channel, self._plan.session, header.get("sha256"), self._progress.contents
            )
        elif event == "error":
            self._failure = self._failure or error_from_wire(header)
        elif event == "steps":
            self._checked(lambda: self._take_steps(header))
        elif type(index) is not int:
            raise self._lost("it reported a step that is none")
        elif event == "held":
            self._checked(lambda: self._progress.held(index, header.get("holders")))
        elif event == "command_starting":
            await self._start_command(channel, index)
        elif event == "command_output" and index == self._command:
            stream = "stderr" if header.get("stream") == "stderr" else "stdout"
            self._progress.output(index, stream, bytes(frame.payload))
        elif event == "command" and index == self._command:
            self._end_command(index, header)
        else:
            raise self._lost("it reported what cannot be")

    def _take_steps(self, header: Mapping[str, Any]) -> None:
        told = decode(_Steps, header, "steps")
        if told.applied not in _APPLIED or not 0 <= told.first <= told.last < _MOST_STEPS:
            raise ValueError("steps that are none")
        for index in range(told.first, told.last + 1):
            self._progress.stepped(index, told.applied)

    async def _start_command(self, channel: Channel, index: int) -> None:
        """Let a command run, unless its start cannot be logged, or somebody has said no."""
        try:
            await self._progress.starting(index)
        except ShannotError as error:
            self._failure = error
            self.cancel()
        if not self._cancelled:
            self._command = index
            await channel.send({"op": "go"})

    def _end_command(self, index: int, ending: Mapping[str, Any]) -> None:
        self._checked(lambda: self._progress.ended(index, ending))
        self._command = None

    def _checked(self, take: Callable[[], None]) -> None:
        try:
            take()
        except ValueError as error:
            raise self._lost(f"it reported what cannot be ({error})") from None

    def _send_cancel(self, channel: Channel) -> None:
        async def send() -> None:
            with contextlib.suppress(ChannelClosed):
                await channel.send({"op": "cancel"})

        self._cancelling = asyncio.get_running_loop().create_task(send())

    def _lost(self, reason: str) -> RunnerLost:
        if self._command is not None:
            number = self._command + 1
            reason += f"; the command of step {number} was running, what it did is not known"
        return RunnerLost(id=self._plan.session, reason=reason)


async def _raise_refusal(job: Job) -> None:
    """Raise what the runner answered to the hand-over, if it refused it."""
    if job.accepted.done() and not job.accepted.cancelled():
        error = job.accepted.exception()
        if isinstance(error, ShannotError):
            raise error


async def send_contents(
    channel: Channel,
    session: str,
    wanted: object,
    fetch: Callable[[list[str]], Awaitable[list[Content]]],
) -> None:
    """Send the contents that the runner asks for: small ones in batches, large ones as files.

    :raises RunnerLost: it asks for what cannot be had.
    """
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
