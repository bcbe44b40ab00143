"""Having the runner make a plan that takes a session back: what is asked of it, what it answers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from shannotd.sessions import errand
from shannotd.sessions.channel import Channel, Frame
from shannotd.sessions.recorded import Keeper, Recorded, keep_contents, recorded
from shannotd.sessions.runner import Runner
from shannotd.wire.decision import ProgramCall, Verdict
from shannotd.wire.decode import decode, encode
from shannotd.wire.errors import NotReversible, ShannotError, error_from_wire
from shannotd.wire.rollback import Conflict
from shannotd.wire.session import StayingCommand

# What the runner gets for it: it waits for an apply that is under way, and reads many files.
_SECONDS = 300.0


@dataclass(frozen=True)
class Force:
    """Where the changes of others do not count: at these paths, or at all."""

    paths: tuple[str, ...] = ()
    all: bool = False


@dataclass(frozen=True)
class Order:
    """That the session `of` is taken back by the session `session`, under which policy."""

    session: str
    of: str
    policy_version: str
    force: Force


@dataclass(frozen=True)
class Made:
    """A plan, or what is in its way; and the commands that it does not take back."""

    plan: Recorded | None
    conflicts: tuple[Conflict, ...] = ()
    staying: tuple[StayingCommand, ...] = ()


class Sink(Keeper, Protocol):
    """Where contents go, and who says what becomes of commands."""

    async def decide(self, call: ProgramCall) -> Verdict:
        """What policy says of a command that makes up for one of the session's."""


@dataclass(frozen=True)
class _Told:
    conflicts: tuple[Conflict, ...] = ()
    staying: tuple[StayingCommand, ...] = ()


class Reversing:
    """Drives one such job from the request to its end."""

    def __init__(self, runner: Runner, order: Order, sink: Sink) -> None:
        self._runner = runner
        self._order = order
        self._sink = sink

    async def run(self) -> Made:
        """What comes of it.

        :raises ShannotError: the session cannot be taken back, or the runner failed.
        """
        return await errand.run(
            self._runner.rollback_job(), self._drive, self._failed, seconds=_SECONDS
        )

    async def _drive(self, channel: Channel) -> Made:
        order = self._order
        header = {
            "op": "rollback",
            "session": order.session,
            "of": order.of,
            "policy_version": order.policy_version,
            "force_all": order.force.all,
        }
        await channel.send(header, json.dumps(order.force.paths).encode("ascii"))
        plan: Recorded | None = None
        told = _Told()
        failure: ShannotError | None = None
        while True:
            frame = await channel.receive()
            event = frame.header.get("event")
            try:
                if event == "end":
                    break
                if event == "decide":
                    await self._decide(channel, frame.header)
                elif event in ("blobs", "blob"):
                    await keep_contents(frame, self._sink)
                elif event in ("conflicts", "staying"):
                    value = {**vars(told), event: json.loads(frame.payload)}
                    told = decode(_Told, encode(value), event)
                elif event == "plan":
                    plan = recorded(frame)
                elif event == "error":
                    failure = error_from_wire(frame.header)
            except (KeyError, TypeError, ValueError) as error:
                raise self._failed(f"the runner sent what cannot be used ({error})") from error
            finally:
                _close_all(frame)
        if failure is not None:
            raise failure
        if plan is None and not told.conflicts:
            raise self._failed("the runner sent no plan")
        return Made(plan, told.conflicts, told.staying)

    async def _decide(self, channel: Channel, header: Mapping[str, Any]) -> None:
        verdict = await self._sink.decide(decode(ProgramCall, header, "decide"))
        answer = cast(dict[str, Any], encode(verdict))
        await channel.send({"op": "verdict", "call": header.get("call"), **answer})

    def _failed(self, reason: str) -> NotReversible:
        return NotReversible(id=self._order.of, reason=reason)


def _close_all(frame: Frame) -> None:
    while frame.descriptors:
        os.close(frame.descriptors.pop())
