"""A plan with file steps of every kind and commands, and the states between its parts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shannotd.runner.plan import CommandStep, FileStep
from shannotd.runner.workspace import TEMPORARY
from tests.runner import overlays
from tests.runner.overlays import Snapshot
from tests.support.applying import shell
from tests.support.operations import Phase, perform
from tests.support.phases import record_phases

LAYOUT: Phase = [
    ("mkdir", "d"),
    ("write", "d/file", "old\n"),
    ("write", "d/gone", "gone\n"),
    ("write", "d/log", "first\n"),
    ("write", "d/mode", "mode\n"),
    ("write", "d/owner", "owner\n"),
    ("write", "d/attribute", "attribute\n"),
    ("attribute", "d/attribute", "old"),
    ("write", "d/acl", "acl\n"),
    ("symlink", "d/link", "file"),
    ("mkdir", "d/tree"),
    ("write", "d/tree/inner", "inner\n"),
    ("mkdir", "d/tree/sub"),
    ("write", "d/tree/sub/deep", "deep\n"),
    ("symlink", "d/tree/link", "inner"),
    ("write", "name", "name\n"),
    ("mkdir", "moving"),
    ("write", "moving/inner", "inner\n"),
    ("mkdir", "opaque"),
    ("write", "opaque/same", "same\n"),
    ("write", "opaque/gone", "gone\n"),
    ("mkdir", "opaque/sub"),
    ("write", "opaque/sub/deep", "deep\n"),
    ("write", "twin", "twin\n"),
    ("link", "twin", "d/twin"),
    ("write", "brother", "brothers\n"),
    ("link", "brother", "d/brother"),
    ("write", "file-to-directory", "file\n"),
    ("mkdir", "directory-to-file"),
    ("write", "directory-to-file/inner", "inner\n"),
    ("age-all",),
]
PHASES: Sequence[Phase] = [
    [
        ("write", "fresh", "fresh\n"),
        ("mkdir", "new"),
        ("write", "new/file", "new\n"),
        ("symlink", "new/link", "file"),
        ("write", "d/file", "new\n"),
        ("append", "d/log", "second\n"),
        ("remove", "d/gone"),
        ("remove", "d/tree"),
        ("rename", "name", "renamed"),
        ("rename", "moving", "moved"),
    ],
    [
        ("chmod", "d/mode", 0o600),
        ("own", "d/owner", 1, 2),
        ("attribute", "d/attribute", "new"),
        ("acl", "d/acl", 1),
        ("chmod", "d", 0o700),
        ("remove", "d/link"),
        ("symlink", "d/link", "log"),
        ("chmod", "d/brother", 0o640),
        ("write", "one", "two names\n"),
        ("link", "one", "another"),
        ("remove", "twin"),
        ("write", "moved/inner", "after the move\n"),
    ],
    [
        ("remove", "file-to-directory"),
        ("mkdir", "file-to-directory"),
        ("write", "file-to-directory/inner", "inner\n"),
        ("remove", "directory-to-file"),
        ("write", "directory-to-file", "file\n"),
        ("remove", "opaque"),
        ("mkdir", "opaque"),
        ("write", "opaque/same", "another\n"),
        ("mkdir", "opaque/new"),
        ("append", "d/log", "third\n"),
    ],
    [
        ("write", "d/file", "newer\n"),
        ("remove", "new"),
        ("remove", "opaque/new"),
        ("chmod", "d/file", 0o755),
        ("age", "another"),
        ("chmod", "another", 0o600),
        ("chmod", "brother", 0o600),
        ("remove", "d/mode"),
        ("remove", "renamed"),
    ],
]
# What a command does: the names that it sees, on a line in a file beside.
_LOOK = 'cd "$1" && echo * */* >> "$2"'


@dataclass(frozen=True)
class Bed:
    """A directory in which the plan can be applied again and again.

    `steps` are its steps, `states` the trees before its first batch and after each;
    `ends[k]` is how many steps come before and with the k-th command.
    """

    top: Path
    steps: tuple[Any, ...]
    contents: dict[str, bytes]
    states: tuple[Snapshot, ...]

    @property
    def host(self) -> Path:
        """The tree."""
        return self.top / "host"

    @property
    def log(self) -> Path:
        """Where the commands write."""
        return self.top / "log"

    @property
    def state(self) -> Path:
        """The runner's directory."""
        return self.top / "state"

    def lay_out(self) -> None:
        """Make the start state, with nothing else."""
        lay_out(self.host)
        self.log.unlink(missing_ok=True)
        if self.state.exists():
            shutil.rmtree(self.state)
        self.state.mkdir(mode=0o700)

    def seen(self) -> list[str]:
        """What the commands that ran saw."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def batch_of(self, index: int) -> int:
        """To which batch a step belongs; a command to the one before it."""
        return sum(isinstance(step, CommandStep) for step in self.steps[:index])


def visible(snapshot: Snapshot) -> Snapshot:
    """Without temporary names and what is below them."""
    return {
        path: entry
        for path, entry in snapshot.items()
        if not any(name.startswith(TEMPORARY) for name in path.split("/"))
    }


def is_between(found: Snapshot, before: Snapshot, after: Snapshot) -> str | None:
    """The first path that is neither as before a batch nor as after it; None if there is none.

    Metadata aside, of which a step changes one after the other.
    """
    for path in sorted({*before, *after, *visible(found)}):
        if not any(_same(found.get(path), state.get(path)) for state in (before, after)):
            return path
    return None


def _same(found: dict[str, Any] | None, expected: dict[str, Any] | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return all(found.get(name) == expected.get(name) for name in ("type", "content", "target"))


def lay_out(host: Path) -> None:
    """Make the start state at `host`, in place of whatever is there."""
    if host.exists():
        shutil.rmtree(host)
    host.mkdir(mode=0o755)
    perform(str(host), LAYOUT, strict=True)


def quick_place() -> Path:
    """Where files are made and synced at no cost; on the disk if there is no such place."""
    memory = Path("/dev/shm")
    if memory.is_dir():
        with tempfile.NamedTemporaryFile(dir=memory) as file:
            try:
                os.setxattr(file.name, "user.test", b"x")
            except OSError:
                return Path("/var/tmp")
        return memory
    return Path("/var/tmp")


@contextmanager
def bed(place: Path, phases: Sequence[Phase] = PHASES) -> Iterator[Bed]:
    """Record the plan of `phases` in a directory below `place`. Root's privilege."""
    top = Path(tempfile.mkdtemp(prefix="shannot-faults-", dir=place))
    try:
        top.chmod(0o755)
        (top / "layers").mkdir()
        lay_out(top / "host")
        account = overlays.ourselves()
        recordings = record_phases(top, phases, account)
        states = [overlays.snapshot(top / "host")]
        steps: list[Any] = []
        contents: dict[str, bytes] = {}
        for number, (phase, recording) in enumerate(zip(phases, recordings, strict=True)):
            perform(str(top / "host"), phase, strict=True)
            states.append(overlays.snapshot(top / "host"))
            steps += recording.steps
            contents.update(recording.contents)
            if number < len(phases) - 1:
                steps.append(shell(_LOOK, str(top / "host"), str(top / "log")))
        yield Bed(top, tuple(steps), contents, tuple(states))
    finally:
        shutil.rmtree(top)


def kinds(steps: Sequence[Any]) -> set[str]:
    """The kinds of file steps among `steps`."""
    found = set()
    for step in steps:
        if isinstance(step, FileStep):
            found.add(f"{step.change} {step.before.type} {step.after.type}")
            found.update({"link"} if step.link_to else set())
    return found
