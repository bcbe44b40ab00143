"""How far the apply of a session is: what became of its steps, and what its commands did.

That a command starts is in the audit log, on disk, before the runner may start it (P6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shannotd.policy.held import Holder
from shannotd.sessions.decisions import shown
from shannotd.sessions.execute import Approved
from shannotd.sessions.plans import LARGE_BYTES
from shannotd.sessions.records import Content
from shannotd.sessions.registry import Live, Registry
from shannotd.wire.decode import decode
from shannotd.wire.errors import RunnerLost
from shannotd.wire.plan import Plan
from shannotd.wire.step import CommandResult, Step

# What is kept of the outputs of a command, and of all commands of a session.
KEPT_BYTES = 256 * 1024
KEPT_IN_ALL_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class _Ending:
    """The end of a command, as the runner tells it; `duration` in seconds."""

    duration: float
    exit_status: int | None = None
    signal: int | None = None
    stopped: str | None = None
    truncated: tuple[str, ...] = ()
    left: int = 0


@dataclass(frozen=True)
class _Held:
    holders: tuple[Holder, ...]


class _Outputs:
    """What a command that runs has printed so far, as far as it is kept."""

    def __init__(self) -> None:
        self.kept = {"stdout": bytearray(), "stderr": bytearray()}
        self.truncated: set[str] = set()

    def add(self, stream: str, data: bytes, room: int) -> int:
        """Keep as much of `data` as there is `room`; how much that is, in bytes."""
        kept = self.kept[stream]
        part = data[: max(0, min(room, KEPT_BYTES - len(kept)))]
        kept += part
        if len(part) < len(data):
            self.truncated.add(stream)
        return len(part)

    def result(self, ending: _Ending) -> CommandResult:
        """All that is known of the command."""
        return CommandResult(
            exit_status=ending.exit_status,
            stdout=self.kept["stdout"].decode("utf-8", "surrogateescape"),
            stderr=self.kept["stderr"].decode("utf-8", "surrogateescape"),
            duration=ending.duration,
            signal=ending.signal,
            stopped=ending.stopped,
            truncated=tuple(sorted(self.truncated.union(ending.truncated))),
        )


class Progress:
    """The progress of one apply: kept, logged, and told to whoever listens."""

    def __init__(self, registry: Registry, live: Live, plan: Approved) -> None:
        self.applied: dict[int, str] = {}
        self.results: dict[int, CommandResult] = {}
        self.holders: dict[int, tuple[Holder, ...]] = {}
        self._registry = registry
        self._live = live
        self._plan = plan
        self._steps: tuple[Step, ...] | None = None
        self._running: dict[int, _Outputs] = {}
        self._room = KEPT_IN_ALL_BYTES

    async def contents(self, wanted: list[str]) -> list[Content]:
        """The contents of the first few of these SHA-256s."""
        return await self._registry.store.contents(self._plan.session, wanted)

    async def starting(self, index: int) -> None:
        """Log that the command of step `index` starts; on disk when this returns.

        :raises StoreFull: it is not: the command must not run.
        :raises RunnerLost: that step is no command which anybody approved.
        """
        step = await self._command(index)
        await self._registry.journal.decide(
            "command.started",
            uid=None,
            session=self._plan.session,
            step=index,
            program=step.program,
            command=shown(step.argv),
            digest=self._plan.digest,
        )
        self._running[index] = _Outputs()

    async def _command(self, index: int) -> Step:
        if self._steps is None:
            canonical = self._plan.canonical
            if len(canonical) < LARGE_BYTES:
                self._steps = Plan.parse(canonical).steps
            else:
                plan = await self._registry.store.run(lambda: Plan.parse(canonical))
                self._steps = plan.steps
        step = self._steps[index] if 0 <= index < len(self._steps) else None
        if step is None or step.kind != "command" or step.decision != "review":
            reason = "it wanted to run a command that is not in the plan"
            raise RunnerLost(id=self._plan.session, reason=reason)
        return step

    def output(self, index: int, stream: str, data: bytes) -> None:
        """A command wrote `data` to `stream`."""
        self._registry.events.command_output(self._live.session, index, stream, data)
        self._room -= self._running[index].add(stream, data, self._room)

    def ended(self, index: int, ending: Mapping[str, Any]) -> None:
        """A command has ended.

        :raises ValueError: not as a command ends.
        """
        self._end(index, decode(_Ending, ending, "ending"))

    def stepped(self, index: int, outcome: str) -> None:
        """What became of a step."""
        self.applied[index] = outcome
        self._registry.events.stepped(self._live.session, index, outcome)

    def held(self, index: int, holders: object) -> None:
        """Who holds open for writing what a step displaces.

        :raises ValueError: it is not told as it should be.
        """
        self.holders[index] = decode(_Held, {"holders": holders}, "held").holders

    def close(self) -> None:
        """The apply is over: of a command that still ran nothing more will be known."""
        for index in tuple(self._running):
            self._end(index, _Ending(duration=0.0, stopped="lost"))

    def _end(self, index: int, ending: _Ending) -> None:
        self.results[index] = self._running.pop(index).result(ending)
        self._registry.journal.note(
            "command.ended",
            uid=None,
            session=self._plan.session,
            step=index,
            exit_status=ending.exit_status,
            signal=ending.signal,
            stopped=ending.stopped,
            duration=ending.duration,
            left=ending.left,
        )
