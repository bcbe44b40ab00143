"""Somebody swaps a directory or a file while it is applied to: at any system call (P2, P9).

Nothing is ever written elsewhere, and nobody's change is lost.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shannotd.runner import filesystem
from tests.runner import overlays
from tests.support import mixed, syscalls
from tests.support.accounts import is_root
from tests.support.applying import Applying, Forked, applying
from tests.support.faults import Recorder, Supervised
from tests.support.mixed import Bed
from tests.support.operations import Phase
from tests.support.syscalls import Held
from tests.support.truth import check_told

pytestmark = [
    pytest.mark.P2,
    pytest.mark.P9,
    pytest.mark.skipif(not is_root(), reason="makes mounts and devices"),
]
SHARES = 4
OPENING = syscalls.compile_filter(opening=True)
# One batch in one directory, so that a swap of that concerns most of it.
PHASE: Phase = [
    ("write", "d/file", "new\n"),
    ("append", "d/log", "second\n"),
    ("remove", "d/gone"),
    ("remove", "d/tree"),
    ("write", "d/fresh", "fresh\n"),
    ("rename", "d/attribute", "d/moved"),
    ("chmod", "d/mode", 0o600),
    ("remove", "d/link"),
    ("symlink", "d/link", "log"),
    ("link", "d/fresh", "d/second"),
]
THEIRS = "theirs\n"


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with mixed.bed(mixed.quick_place(), [PHASE]) as found:
        yield found


@dataclass
class Meanwhile:
    """Has something done before some calls; the first change from call `failing` on may fail."""

    acts: dict[int, Callable[[], None]]
    failing: int | None = None

    def __call__(self, number: int, held: Held) -> None:
        act = self.acts.get(number)
        if act is not None:
            act()
        if self.failing is not None and number >= self.failing and held.changes:
            self.failing = None
            held.fail(errno.EIO)
        else:
            held.go()


def run(bed: Bed, decide: Callable[[int, Held], None]) -> Applying:
    """Apply from the start state."""

    def start(work: Callable[[], None]) -> Supervised:
        return Supervised(work, decide, OPENING)

    contents = list(bed.contents.values())
    who = overlays.ourselves()
    with applying(bed.steps, who, contents=contents, start=start, state=bed.state) as applied:
        return applied.finish()


def calls(bed: Bed) -> int:
    """How many calls an apply has that nothing happens to."""
    bed.lay_out()
    recorder = Recorder()
    assert run(bed, recorder).error is None
    return len(recorder.calls)


# A directory.


@dataclass
class Swap:
    """Puts a symlink to a directory that looks alike in the place of `d`, and takes it back."""

    bed: Bed

    @property
    def victim(self) -> Path:
        """Where the symlink leads."""
        return self.bed.top / "victim"

    def prepare(self) -> None:
        """From the start state."""
        self.bed.lay_out()
        for path in (self.victim, self.bed.top / "away"):
            if path.exists():
                shutil.rmtree(path)
        mixed.lay_out(self.bed.top / "alike")
        os.rename(self.bed.top / "alike/d", self.victim)
        shutil.rmtree(self.bed.top / "alike")

    def there(self) -> None:
        """Somebody has put the symlink there."""
        os.rename(self.bed.host / "d", self.bed.top / "away")
        os.symlink(self.victim, self.bed.host / "d")

    def back(self) -> None:
        """The directory is where it was."""
        os.unlink(self.bed.host / "d")
        os.rename(self.bed.top / "away", self.bed.host / "d")


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("returns", [False, True], ids=["stays", "comes-back"])
def test_a_directory_swapped_at_any_call_leads_nowhere(bed: Bed, share: int, returns: bool) -> None:
    swap = Swap(bed)
    for number in range(share, calls(bed) - 1, SHARES):
        swap.prepare()
        before = overlays.snapshot(swap.victim)
        acts = {number: swap.there}
        if returns:
            acts[number + 1] = swap.back
        applied = run(bed, Meanwhile(acts))
        assert overlays.snapshot(swap.victim) == before
        if (bed.host / "d").is_symlink():
            swap.back()
        check_told(bed, applied)


# A file.


def replace(path: Path, make: Callable[[Path], None]) -> None:
    """Somebody puts what `make` makes in the place of whatever is at `path`."""
    made = path.with_name("made")
    make(made)
    try:
        os.rename(made, path)
    except IsADirectoryError:
        shutil.rmtree(path)
        os.rename(made, path)


def write_in_place(path: Path) -> None:
    """Somebody writes into the file at `path`, if there is one; else into a new one."""
    if path.is_symlink() or path.is_dir():
        replace(path, lambda made: made.write_text(THEIRS) and None)
    else:
        path.write_text(THEIRS)


def put_directory(path: Path) -> None:
    """Somebody has a directory there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    path.mkdir()
    (path / "theirs").write_text(THEIRS)


SWAPS: dict[str, Callable[[Path], None]] = {
    "another": lambda path: replace(path, lambda made: made.write_text(THEIRS) and None),
    "in-place": write_in_place,
    "fifo": lambda path: replace(path, os.mkfifo),
    "symlink": lambda path: replace(path, lambda made: os.symlink("../name", made)),
    "device": lambda path: replace(
        path, lambda made: os.mknod(made, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    ),
    "directory": put_directory,
}
PATHS = ["file", "log", "gone", "tree", "fresh", "attribute", "moved", "mode", "link", "second"]


def entry(path: Path) -> object:
    """What is at a path and below it: its type, mode and content; None where nothing is."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if path.is_symlink():
        return "symlink", os.readlink(path)
    content: object = status.st_rdev
    if path.is_file():
        content = path.read_bytes()
    elif path.is_dir():
        content = {one.name: entry(one) for one in path.iterdir()}
    return status.st_mode, content


def swapped(bed: Bed, number: int, name: str, kind: str, failing: int | None = None) -> None:
    """Somebody swaps the file `name` before a call; perhaps one after it fails."""
    path = bed.host / "d" / name
    seen: list[object] = []

    def act() -> None:
        SWAPS[kind](path)
        seen.append(entry(path))

    bed.lay_out()
    applied = run(bed, Meanwhile({number: act}, failing))
    (theirs,) = seen
    places = [path]
    if failing is not None:
        # What was written into a renamed file goes back with it. What cannot be put back is told.
        # (Should that fail, the same is told of what was renamed.)
        other = {"moved": "attribute", "attribute": "moved"}.get(name)
        places += [] if other is None else [bed.host / "d" / other]
        details = {} if applied.error is None else applied.error["details"]
        places += [Path(word.split(" ")[0]) for word in details.get("left", "").split(", ") if word]
    assert theirs in map(entry, places), (applied.error, number)
    # What is written into a file is in all names of it.
    names = {"fresh", "second"} if name in ("fresh", "second") else {name}
    names |= {"attribute", "moved"} if name in ("attribute", "moved") else set()
    check_told(bed, applied, ignored=[f"d/{one}" for one in names])


def each_call(bed: Bed, share: int) -> Iterator[tuple[int, str, str]]:
    """Each call of a share, with another path and another kind of swap."""
    kinds = list(SWAPS)
    for number in range(share, calls(bed) - 1, SHARES):
        yield number, PATHS[number % len(PATHS)], kinds[number // len(PATHS) % len(kinds)]


@pytest.mark.parametrize("share", range(SHARES))
def test_a_file_swapped_at_any_call_stays_theirs(bed: Bed, share: int) -> None:
    for number, name, kind in each_call(bed, share):
        swapped(bed, number, name, kind)


@pytest.mark.parametrize("share", range(SHARES))
def test_a_file_swapped_at_any_call_stays_theirs_when_all_is_put_back(bed: Bed, share: int) -> None:
    chance = random.Random(share)
    for number, name, kind in each_call(bed, share):
        swapped(bed, number, name, kind, failing=number + chance.randrange(40))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", SWAPS)
@pytest.mark.parametrize("name", PATHS)
def test_any_file_swapped_at_any_call_in_any_way(bed: Bed, name: str, kind: str) -> None:
    chance = random.Random(name + kind)
    for number in range(calls(bed) - 1):
        swapped(bed, number, name, kind)
        swapped(bed, number, name, kind, failing=number + chance.randrange(40))


# All the time.


def looping(work: Callable[[], None]) -> Forked:
    """A process that does `work` again and again until it is killed."""

    def loop() -> None:
        while True:
            work()

    return Forked(loop)


def test_a_directory_swapped_in_a_loop_leads_nowhere(bed: Bed) -> None:
    swap = Swap(bed)
    outcomes = set()
    for _ in range(20):
        swap.prepare()
        before = overlays.snapshot(swap.victim)

        def there_and_back() -> None:
            swap.there()
            swap.back()

        other = looping(there_and_back)
        try:
            applied = run(bed, lambda _, held: held.go())
        finally:
            os.kill(other.pid, signal.SIGKILL)
            other.finish()
        outcomes.add(applied.code)
        assert overlays.snapshot(swap.victim) == before
        if not (bed.host / "d").exists() or (bed.host / "d").is_symlink():
            (bed.host / "d").unlink(missing_ok=True)
            os.rename(bed.top / "away", bed.host / "d")
        check_told(bed, applied)
    assert outcomes - {None}, "it was never in the way"


def exchanging(bed: Bed) -> Callable[[], None]:
    """Puts one file after the other at `d/file`, each in exchange for what is there, which is kept:
    so that everything can be accounted for."""
    kept = bed.top / "kept"
    if kept.exists():
        shutil.rmtree(kept)
    kept.mkdir()
    numbers = itertools.count()
    directory = os.open(bed.top, os.O_RDONLY | os.O_CLOEXEC)

    def exchange() -> None:
        name = f"kept/{next(numbers)}"
        (bed.top / name).write_text(THEIRS + name)
        filesystem.rename(directory, name, directory, "host/d/file", filesystem.RENAME_EXCHANGE)

    return exchange


def test_a_file_replaced_in_a_loop_is_never_lost(bed: Bed) -> None:
    outcomes = set()
    for _ in range(20):
        bed.lay_out()
        other = looping(exchanging(bed))
        try:
            applied = run(bed, lambda _, held: held.go())
        finally:
            os.kill(other.pid, signal.SIGKILL)
            other.finish()
        outcomes.add(applied.code)
        kept = list((bed.top / "kept").iterdir())
        everywhere = [
            path for path in (*kept, *(bed.host / "d").iterdir()) if not path.is_symlink()
        ]
        contents = [path.read_text() for path in everywhere if path.is_file()]
        # One may not have come to its place yet when the process was killed.
        last = max(int(path.name) for path in kept)
        for number in range(last):
            assert contents.count(f"{THEIRS}kept/{number}") == 1, (applied.error, number)
        check_told(bed, applied, ignored=["d/file"])
    assert outcomes - {None}, "it was never in the way"
