"""What somebody else does while a plan is applied or afterwards is never lost (P2, P9)."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.runner import plan
from shannotd.runner.batch import Points
from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.runner.test_any_script import make_gate, many, path, plot, scripts, trees
from tests.support.accounts import is_root
from tests.support.rolling import roll_back

pytestmark = [
    pytest.mark.P2,
    pytest.mark.P9,
    pytest.mark.skipif(not is_root(), reason="gives files to other accounts"),
    pytest.mark.parametrize("builder", ["privileged"], indirect=True, scope="session"),
]

ACTS = ["chmod", "own", "replace", "write", "put"]
_WORDS = "somebody's words\n"
_OWNER = 77
_MODES = (0o611, 0o711)
IMPOSSIBLE = [("replace", "d/e"), ("write", "d/e"), ("put", "a"), ("put", "n")]
# What some files are before: names of one.
LINKED = [("link", "a", "n"), ("link", "a", "d/e/b")]


def leave_mark(act: str, at: Path) -> bool:
    """Have somebody do something to what is there, if it can be done to such a thing."""
    try:
        kind = stat.S_IFMT(at.lstat().st_mode)
        if act == "own":
            os.lchown(at, _OWNER, _OWNER)
        elif act == "chmod" and kind != stat.S_IFLNK:
            at.chmod(_MODES[kind == stat.S_IFDIR])
        elif act == "replace" and kind != stat.S_IFDIR:
            other = at.with_name("other")
            other.write_text(_WORDS)
            other.rename(at)
        elif act == "write" and kind == stat.S_IFREG:
            at.write_text(_WORDS)
        elif act == "put" and kind == stat.S_IFDIR:
            (at / "theirs").write_text(_WORDS)
        else:
            return False
    except OSError:
        return False
    return True


def is_marked(act: str, top: Path) -> bool:
    """Whether it is still there, wherever that is by now."""
    found = [top, *top.rglob("*")]
    if act == "own":
        return any(one.lstat().st_uid == _OWNER for one in found)
    if act == "chmod":
        return any(stat.S_IMODE(one.lstat().st_mode) in _MODES for one in found)
    return any(
        stat.S_ISREG(one.lstat().st_mode) and _WORDS.encode() in one.read_bytes() for one in found
    )


class Somebody(Points):
    """Acts in the process that applies, at one of its moments."""

    def __init__(self, moment: int, act: str, at: Path, flag: Path) -> None:
        self._left, self._act, self._at, self._flag = moment, act, at, flag

    def reached(self, point: str, index: int | None = None) -> None:
        self._left -= 1
        if self._left == -1 and leave_mark(self._act, self._at):
            self._flag.touch()


def check(
    bench: Bench, tree: Any, phases: Any, moment: int, act: str, name: str, *, fails: bool
) -> bool:
    """One of the moments of an apply; after the last of them it is rolled back by hand. Whether
    somebody could do it."""
    with plot(bench, [*tree, *LINKED]) as found:
        host, state, flag = found.top / "host", found.top / "state", found.top / "flag"
        state.mkdir(mode=0o700)
        outcome = found.dry_run(phases)
        if outcome.error is not None:
            return False
        if not fails:
            make_gate(found)
        applied = overlays.apply_plan(
            plan.parse(outcome.canonical),
            outcome.blobs,
            state=state,
            points=Somebody(moment, act, host / name, flag),
        )
        if not flag.exists() and applied.error is None and leave_mark(act, host / name):
            flag.touch()
            back = roll_back(state, outcome.session, key=overlays.KEY)
            if back.error is None and not back.conflicts:
                overlays.apply_plan(plan.parse(back.canonical), back.blobs, state=state)
        if not flag.exists():
            return False
        assert is_marked(act, host), applied.error
        return True


moments, acts = st.integers(0, 30), st.sampled_from(ACTS)


@pytest.mark.timeout(900)
@many(40)
@given(trees, scripts, moments, acts, path, st.booleans())
def test_it_is_there_afterwards(
    bench: Bench, tree: Any, phases: Any, moment: int, act: str, name: str, fails: bool
) -> None:
    check(bench, tree, phases, moment, act, name, fails=fails)


@pytest.mark.long
@pytest.mark.timeout(0)
@many(int(os.environ.get("SHANNOT_EXAMPLES", "20000")))
@given(trees, scripts, moments, acts, path, st.booleans())
def test_it_is_there_afterwards_for_long(
    bench: Bench, tree: Any, phases: Any, moment: int, act: str, name: str, fails: bool
) -> None:
    check(bench, tree, phases, moment, act, name, fails=fails)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("name", ["a", "n", "d/e"])
def test_between_two_batches_and_after_them(bench: Bench, act: str, name: str) -> None:
    """At every moment of a plan that gives one file this and that by its names."""
    phases = [[("mode", "a", 0o600), ("mode", "d/e", 0o700)], [("mode", "n", 0o640)]]
    done = [
        check(bench, [], phases, moment, act, name, fails=bool(moment % 2))
        for moment in range(0, 24, 3)
    ]
    assert all(done) or (act, name) in IMPOSSIBLE
