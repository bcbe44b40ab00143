"""Asks the daemon what becomes of a call; its answers come when they come."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from shannotd.runner.frames import Channel, Header
from shannotd.runner.observe import Observation
from shannotd.runner.plan import Identity


@dataclass(frozen=True)
class Recording:
    """How a command that waits for review is answered and recorded."""

    exit_status: int
    stdout: bytes
    stdin: bool
    undo: Optional[Tuple[str, ...]]
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """What policy says of one call: contain, observe, review or deny, by which rule and why."""

    decision: str
    rule: str
    reason: str
    risk: str
    details: Dict[str, Any] = field(default_factory=dict)

    def observation(self, identity: Identity, hide: Tuple[str, ...]) -> Observation:
        """How it is observed, where that is the decision, but for what its shim tells."""
        how = self.details["observation"]
        return Observation(
            program=how["program"],
            argv=tuple(how["argv"]),
            identity=identity,
            hide=hide,
            net=how["net"],
            sockets=tuple(how["sockets"]),
            as_root=how["as_root"],
            groups=tuple(how["groups"]),
            shows=tuple(how["shows"]),
            owners=how["owners"],
            seconds=how["seconds"],
            output_bytes=how["output_bytes"],
        )

    @property
    def recording(self) -> Recording:
        """How it is recorded, where the decision is review."""
        how = self.details["recording"]
        return Recording(
            exit_status=how["exit_status"],
            stdout=os.fsencode(how["stdout"]),
            stdin=how["stdin"],
            undo=None if how["undo"] is None else tuple(how["undo"]),
            seconds=how["seconds"],
        )


Then = Callable[[Verdict], None]


class Decisions:
    """The questions of one session that the daemon has not answered yet."""

    def __init__(self, job: Channel, *, as_root: bool) -> None:
        self._job = job
        self._as_root = as_root
        self._waiting: Dict[int, Then] = {}
        self._asked = 0

    def ask(
        self, path: str, program: str, argv: Sequence[str], cwd: str, then: Then, *, start: bool
    ) -> None:
        """Ask what becomes of a call; `then` is told. `start`: it can only be denied.

        :raises Closed: the daemon is gone.
        """
        self._asked += 1
        self._waiting[self._asked] = then
        self._job.send(
            {
                "event": "decide",
                "call": self._asked,
                "path": path,
                "program": program,
                "argv": list(argv),
                "cwd": cwd,
                "as_root": self._as_root,
                "start": start,
            }
        )

    def answer(self, header: Header) -> None:
        """Tell who asked."""
        then = self._waiting.pop(header["call"], None)
        if then is not None:
            decision, rule, reason, risk = (
                str(header[name]) for name in ("decision", "rule", "reason", "risk")
            )
            then(Verdict(decision, rule, reason, risk, header))
