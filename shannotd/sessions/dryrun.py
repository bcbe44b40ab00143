"""One dry run: hands a script to a sandbox and collects what became of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from shannotd.policy.profiles import Profile
from shannotd.sessions.channel import Channel, ChannelClosed, Frame
from shannotd.sessions.recorded import Keeper, Recorded, keep_contents, recorded
from shannotd.sessions.runner import Job, Runner, RunnerGone
from shannotd.wire.decision import ProgramCall, Verdict
from shannotd.wire.decode import decode, encode
from shannotd.wire.errors import RunnerLost, ShannotError, error_from_wire
from shannotd.wire.submission import Submission

CANCEL_SECONDS = 5.0  # what a cancelled sandbox gets to end before its channel is closed
MAX_CALLS = 10_000  # of programs that policy is asked about, in one session
_OVERTIME_SECONDS = 30.0  # after the wall time, before a silent sandbox counts as lost
_OUTPUT_SLACK_BYTES = 65536


@dataclass(frozen=True)
class Order:
    """What is to be run and under which rules; `deny` names programs that may be denied."""

    session: str
    submission: Submission
    profile: Profile
    policy_version: str
    deny: tuple[tuple[str, str], ...]
    wall_seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a script ended. `stopped` names the limit that ended it, or is `cancelled`; `programs`
    are those that it started, as the runner told them."""

    exit_code: int | None = None
    signal: int | None = None
    stopped: str | None = None
    duration: float | None = None
    stdout_dropped: int = 0
    stderr_dropped: int = 0
    plan: Recorded | None = None
    programs: object = ()


class Sink(Keeper, Protocol):
    """Where output and contents of a dry run go."""

    def output(self, stream: str, data: bytes) -> None:
        """The script wrote `data` to `stream` (stdout or stderr)."""

    async def decide(self, call: ProgramCall, *, start: bool) -> Verdict:
        """What becomes of a call of a program; `start`: inside, unless it is denied."""


class DryRun:
    """Drives one job channel from the request to its end."""

    def __init__(self, runner: Runner, order: Order, sink: Sink) -> None:
        self._runner = runner
        self._order = order
        self._sink = sink
        self._channel: Channel | None = None
        self._cancelled = False
        self._cancelling: asyncio.Task[None] | None = None
        self._exited: Mapping[str, Any] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._received = {"stdout": 0, "stderr": 0}
        self._programs: object = ()

    async def run(self) -> Outcome:
        """Run it to its end.

        :raises ShannotError: the sandbox, the runner or the capture failed.
        """
        try:
            job = await self._runner.run_job()
        except RunnerGone as error:
            raise self._lost(str(error)) from None
        self._channel = job.channel
        try:
            return await self._drive(job)
        except ChannelClosed as error:
            if self._cancelled:
                return self._outcome(stopped="cancelled", plan=None)
            await self._raise_refusal(job)
            raise self._lost(str(error)) from None
        finally:
            for timer in self._timers:
                timer.cancel()
            job.channel.close()

    def cancel(self) -> None:
        """Have the script and all that it started killed; `run` then ends as cancelled."""
        if self._cancelled:
            return
        self._cancelled = True
        channel = self._channel
        if channel is not None:
            loop = asyncio.get_running_loop()
            self._cancelling = loop.create_task(_send_cancel(channel))
            self._timers.append(loop.call_later(CANCEL_SECONDS, channel.close))

    async def _drive(self, job: Job) -> Outcome:
        channel = job.channel
        if self._cancelled:
            return self._outcome(stopped="cancelled", plan=None)
        submission = self._order.submission
        header = {**_run_header(self._order), **self._own()}
        await channel.send(header, submission.script + submission.stdin)
        overtime = self._order.wall_seconds + _OVERTIME_SECONDS
        silence = asyncio.get_running_loop().call_later(overtime, channel.close)
        self._timers.append(silence)
        plan: Recorded | None = None
        failure: ShannotError | None = None
        while True:
            frame = await channel.receive()
            event = frame.header.get("event")
            if event == "output":
                self._take_output(frame)
            elif event == "decide":
                await self._decide(channel, frame.header)
            elif event == "programs":
                self._programs = frame.header.get("programs", ())
            elif event == "exited":
                self._exited = frame.header
                silence.cancel()
            elif event in ("blobs", "blob"):
                await self._take_contents(frame)
            elif event == "plan":
                plan = self._plan_of(frame)
            elif event == "error":
                failure = error_from_wire(frame.header)
            elif event == "end":
                break
            _close_all(frame)
        stopped = "cancelled" if self._cancelled else self._exited_value("stopped")
        if stopped is None and failure is not None:
            raise failure
        if stopped is None and self._exited is None:
            raise self._lost("it ended the session without an exit status")
        return self._outcome(stopped=stopped, plan=plan if stopped is None else None)

    def _own(self) -> dict[str, object]:
        """What the runner has to be told beyond what is usual."""
        order, usual = self._order, self._runner.usual
        wanted = {
            "hide": order.profile.hide,
            "scratch": order.profile.folded,
            "deny": order.deny,
        }
        return {name: value for name, value in wanted.items() if value != getattr(usual, name)}

    def _take_output(self, frame: Frame) -> None:
        stream = "stderr" if frame.header.get("stream") == "stderr" else "stdout"
        self._received[stream] += len(frame.payload)
        limit = self._order.profile.limits.output_bytes + _OUTPUT_SLACK_BYTES
        if self._received[stream] > limit:
            raise self._lost(f"it sent more than the {limit} bytes of output that it may")
        self._sink.output(stream, bytes(frame.payload))

    async def _decide(self, channel: Channel, header: Mapping[str, Any]) -> None:
        """Answer what becomes of a call of a program."""
        try:
            call = decode(ProgramCall, header, "decide")
        except ValueError as error:
            raise self._lost(f"it asked about a call that is none ({error})") from error
        verdict = await self._sink.decide(call, start=header.get("start") is True)
        answer = cast(dict[str, Any], encode(verdict))
        await channel.send({"op": "verdict", "call": header.get("call"), **answer})

    async def _take_contents(self, frame: Frame) -> None:
        try:
            await keep_contents(frame, self._sink)
        except (KeyError, TypeError, ValueError) as error:
            raise self._lost(f"it sent contents that cannot be used ({error})") from error

    def _plan_of(self, frame: Frame) -> Recorded:
        try:
            return recorded(frame)
        except (KeyError, TypeError, ValueError) as error:
            raise self._lost(f"it sent a plan that cannot be used ({error})") from error

    async def _raise_refusal(self, job: Job) -> None:
        """Raise what the runner answered to the hand-over, if it refused it."""
        try:
            await asyncio.wait_for(job.accepted, CANCEL_SECONDS)
        except (RunnerGone, TimeoutError):
            return

    def _outcome(self, *, stopped: str | None, plan: Recorded | None) -> Outcome:
        duration = self._exited_value("duration")
        return Outcome(
            exit_code=_number(self._exited_value("exit_code")),
            signal=_number(self._exited_value("signal")),
            stopped=stopped,
            duration=float(duration) if isinstance(duration, int | float) else None,
            stdout_dropped=_number(self._exited_value("stdout_dropped")) or 0,
            stderr_dropped=_number(self._exited_value("stderr_dropped")) or 0,
            plan=plan,
            programs=self._programs,
        )

    def _exited_value(self, name: str) -> Any:
        return None if self._exited is None else self._exited.get(name)

    def _lost(self, reason: str) -> RunnerLost:
        return RunnerLost(id=self._order.session, reason=reason)


async def _send_cancel(channel: Channel) -> None:
    try:
        await channel.send({"op": "cancel"})
    except ChannelClosed:
        pass


def _run_header(order: Order) -> dict[str, object]:
    submission, profile = order.submission, order.profile
    limits = profile.limits
    return {
        "op": "run",
        "session": order.session,
        "kind": submission.kind.value,
        "name": submission.name,
        "path": submission.path,
        "arguments": list(submission.arguments),
        "script_size": len(submission.script),
        "stdin_size": len(submission.stdin),
        "cwd": submission.cwd,
        "run_as": profile.run_as,
        "environment": dict(profile.environment),
        "limits": {
            "wall_seconds": order.wall_seconds,
            "output_bytes": limits.output_bytes,
            "written_bytes": limits.written_bytes,
            "processes": limits.processes,
            "memory_bytes": limits.memory_bytes,
            "open_files": limits.open_files,
            "steps": limits.steps,
            "command_memory_bytes": limits.command_memory_bytes,
            "command_processes": limits.command_processes,
            "calls": MAX_CALLS,
        },
        "policy_version": order.policy_version,
        "on_failure": profile.on_failure,
    }


def _close_all(frame: Frame) -> None:
    while frame.descriptors:
        os.close(frame.descriptors.pop())


def _number(value: object) -> int | None:
    return value if type(value) is int else None
