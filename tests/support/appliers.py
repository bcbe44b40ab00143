"""As whom plans are applied in tests, by whom, and where."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shannotd.runner.plan import Identity
from tests.support.applying import Applying, applying


@dataclass(frozen=True)
class Applier:
    """The identity of a plan, who applies it, and a directory of the identity's."""

    who: Identity
    become: Identity | None
    place: Path

    def __call__(self, *steps: Any, **more: Any) -> AbstractContextManager[Applying]:
        return applying(steps, self.who, become=self.become, **more)

    def run(self, *steps: Any, **more: Any) -> Applying:
        """Apply to the end."""
        with self(*steps, **more) as applied:
            return applied.finish()


def fifo(applier: Applier, name: str) -> Path:
    """A FIFO of the identity's."""
    path = applier.place / name
    os.mkfifo(path)
    os.chown(path, applier.who.uid, applier.who.gid)
    return path


def tool(applier: Applier, text: str) -> Path:
    """An executable file of the identity's."""
    path = applier.place / "tool"
    path.write_text(text)
    path.chmod(0o755)
    os.chown(path, applier.who.uid, applier.who.gid)
    return path
