"""A directory of the host with a runner's state, in which plans are applied and rolled back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shannotd.runner import plan
from shannotd.runner.batch import Points
from shannotd.runner.identity import machine
from shannotd.runner.plan import Identity, Plan
from tests.runner import overlays
from tests.runner.overlays import Applied, Recording, Snapshot
from tests.scenarios import PRELUDE
from tests.support.rolling import roll_back
from tests.support.runner import Outcome

FIRST = "test-session"
ROOT = overlays.who("root")

# What there is in a directory, and what a session does there that its plan shows well.
LAYOUT = """
os.mkdir('d')
write('d/file', 'old\\n')
write('d/gone', 'gone\\n')
write('d/name', 'name\\n')
write('d/mode', 'mode\\n')
write('d/log', 'first\\n')
"""
SHOWN = """
write('d/file', 'new\\n')
write('d/fresh', 'fresh\\n')
os.unlink('d/gone')
os.rename('d/name', 'd/other')
os.chmod('d/mode', 0o600)
open('d/log', 'a').write('second\\n')
"""
# The same and more, where somebody can come in the way.
PLACES = LAYOUT + "os.mkdir('d/moving')\nwrite('d/moving/inner', 'inner\\n')\nos.mkdir('d/empty')\n"
CHANGE = """
write('d/file', 'new\\n')
write('d/fresh', 'fresh\\n')
os.unlink('d/gone')
os.rename('d/name', 'd/other')
os.chmod('d/mode', 0o600)
os.makedirs('d/new/deeper')
write('d/new/deeper/file', 'x')
os.rename('d/moving', 'd/moved')
write('d/moved/inner', 'changed\\n')
"""


class Host:
    """`top`/host; plans are applied as `who`, by root or by an account's own runner (`own`)."""

    def __init__(self, top: Path, who: Identity, *, own: bool = False) -> None:
        self.top = top
        self.who = who
        self.become = who if own else None
        self.state = top / "state"
        self.state.mkdir(mode=0o700)
        os.chown(top / "host", who.uid, who.gid)
        if own:
            os.chown(self.state, who.uid, who.gid)

    @property
    def directory(self) -> Path:
        """The directory."""
        return self.top / "host"

    def snapshot(self) -> Snapshot:
        """The tree; which names are links to one file does not count: that is not taken back."""
        return self.plain(overlays.snapshot(self.directory))

    @staticmethod
    def plain(found: Snapshot) -> Snapshot:
        """A tree without the links among its names."""
        return {
            path: {name: value for name, value in one.items() if name != "twins"}
            for path, one in found.items()
        }

    def script(self, text: str) -> None:
        """Have somebody (root) do something on the host."""
        overlays.run_script(PRELUDE + text, str(self.directory))

    def lay_out(self, text: str) -> None:
        """Make the start state, in which all times are old."""
        text = PRELUDE + text + "\nos.chdir(directory)\nage('.')\n"
        overlays.run_script(text, str(self.directory), self.who)

    def record(self, text: str) -> Recording:
        """A dry run of a script."""
        return overlays.dry_run(self.top, PRELUDE + text, self.who, builder="privileged")

    def apply(
        self, found: Plan, contents: Mapping[str, bytes], points: Points | None = None
    ) -> Applied:
        """Have a plan applied."""
        return overlays.apply_plan(
            found, contents, state=self.state, become=self.become, points=points
        )

    def do(self, text: str, session: str = FIRST) -> Recording:
        """Dry-run a script and have its plan applied."""
        recording = self.record(text)
        applied = self.apply(overlays.plan_of(recording, self.who, session), recording.contents)
        assert applied.error is None, applied.error
        return recording

    def ask(self, of: str = FIRST, **more: Any) -> Outcome:
        """Have a rollback of the session `of` made."""
        return roll_back(self.state, of, key=overlays.KEY, become=self.become, **more)

    def roll_back(self, of: str = FIRST, session: str = "rollback", **more: Any) -> Plan:
        """The same, and have it applied."""
        outcome = self.ask(of, session=session, **more)
        assert outcome.error is None, outcome.error
        assert outcome.conflicts == []
        found = plan.parse(outcome.canonical)
        assert len(outcome.notes) == len(found.steps)
        applied = self.apply(found, outcome.blobs)
        assert applied.error is None, applied.error
        assert set(applied.steps.values()) == {"done"}
        return found


def conflicts_of(host: Host, outcome: Outcome) -> dict[str, tuple[str, str]]:
    """The conflicts: what was expected and found, by the path below the directory."""
    prefix = f"{host.directory}/"
    return {
        one["path"].removeprefix(prefix): (one["expected"], one["found"])
        for one in outcome.conflicts
    }


def around(host: Host, *parts: Any, on_failure: str = "rollback") -> tuple[plan.Plan, Any]:
    """A plan of scripts and commands, in this order; the scripts know nothing of each other."""
    steps: list[Any] = []
    contents: dict[str, bytes] = {}
    for part in parts:
        if isinstance(part, str):
            recording = host.record(part)
            steps += recording.steps
            contents.update(recording.contents)
        else:
            steps.append(part)
    found = plan.Plan(
        FIRST, {"kind": "local", "host": machine()}, host.who, "1", on_failure, tuple(steps)
    )
    return found, contents
