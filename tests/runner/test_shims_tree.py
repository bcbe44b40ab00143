"""The tree of shims: for which names, made when, as what; and what the runner does with it
(P1, P8)."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shannotd.runner import kernel, shim_store, shims
from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.support.accounts import is_root

pytestmark = pytest.mark.P1

PLACE = Path("/usr/local/sbin")


@pytest.fixture
def state() -> Iterator[str]:
    """The directory of a runner, with what it leads to."""
    directory = tempfile.mkdtemp(prefix="shannot-test-")
    try:
        yield directory
        shim_store.remove(directory)
        assert os.listdir(directory) == []
    finally:
        shutil.rmtree(directory)


def with_programs(work: Callable[[], overlays.Result], *lines: str) -> overlays.Result:
    """What `work` gives where `lines` (shell) made what is in a PATH directory."""

    def alone() -> overlays.Result:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", str(PLACE), "tmpfs", 0, "mode=755")
        subprocess.run(["/bin/sh", "-e", "-c", "\n".join(lines)], cwd=PLACE, check=True)
        return work()

    return overlays.in_child(alone)


def made(state: str, *names: str) -> dict[str, tuple[int, int, int]]:
    """Mode, owner and time of the shims in the PATH directory of ours."""
    tree = shim_store.take(state, names)
    assert tree is not None
    found = {}
    for path in Path(tree.tree + str(PLACE)).iterdir():
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert path.read_bytes().startswith(b"#!/usr/bin/python3 -IS\n# shannot " + tree.marker)
        assert repr(os.fsencode(f"{PLACE}/{path.name}")).encode() in path.read_bytes()
        found[path.name] = (stat.S_IMODE(status.st_mode), status.st_uid, int(status.st_mtime))
    return found


root = pytest.mark.skipif(not is_root(), reason="mounts a PATH directory")


@root
def test_programs_of_the_names_have_one_and_nothing_else(state: str) -> None:
    lines = (
        "for name in one two 'thr ee' \"fo'ur\" \"$(printf 'f\\377ve')\"; do",
        '    cp /bin/true "$name"; touch -d @5000 "$name"; done',
        "chmod 4750 two; chown 7 two; touch plain; mkdir six; ln -s nowhere seven",
    )
    names = ("one", "two", "thr ee", "fo'ur", "f\udcffve", "plain", "six", "seven", "eight")
    found = with_programs(lambda: made(state, *names), *lines)
    ordinary = (0o755, 0, 5000)
    # A new owner takes the bit away (chown(2)), here as on the host.
    assert found.pop("two") == (0o750, 7, 5000)
    assert found == dict.fromkeys(("one", "thr ee", "fo'ur", "f\udcffve"), ordinary)
    assert set(with_programs(shims.programs, *lines)) >= {*names[:5]}
    assert not {"plain", "six", "seven"} & set(with_programs(shims.programs, *lines))


@root
def test_links(state: str) -> None:
    """A link to a shim needs none; one that leads elsewhere, or may change, has one."""
    lines = (
        "mkdir /run/elsewhere.$$; cp /bin/true one; cp /bin/true two",
        "ln -s one in; ln -s /usr/sbin/../local/sbin/one around; ln -s in twice",
        "ln -s two out; ln -s /etc/alternatives/awk awk; ln -s /usr/bin/python3 interpreter",
        "ln -s loop loop; rmdir /run/elsewhere.$$",
    )
    names = ("one", "in", "around", "twice", "out", "awk", "interpreter", "loop")
    assert set(with_programs(lambda: made(state, *names), *lines)) == {"one", "out", "awk"}


@root
def test_each_has_its_own_bytes(state: str) -> None:
    """Nobody who read one knows another; and the next tree has none of their bytes."""

    def work() -> tuple[set[bytes], set[bytes]]:
        first = shim_store.take(state, ["one", "two"])
        assert first is not None
        seen = [Path(f"{first.tree}{PLACE}/{name}").read_bytes() for name in ("one", "two")]
        tokens = {data.splitlines()[1].split()[-1] for data in seen}
        os.utime(PLACE)
        second = shim_store.take(state, ["one", "two"])
        assert second is not None
        return tokens, {first.marker, second.marker}

    tokens, markers = with_programs(work, "cp /bin/true one; cp /bin/true two")
    assert len(tokens) == len(markers) == 2


@root
def test_made_once_and_anew_when_a_directory_changes(state: str) -> None:
    def work() -> list[object]:
        one = shim_store.take(state, ["a", "b"])
        again = shim_store.take(state, ["b", "a"])
        assert one is not None and again is not None
        found: list[object] = [one.path == again.path, one.outdated()]
        again.close()
        shutil.copy("/bin/true", PLACE / "b")
        other = shim_store.take(state, ["a", "b"])
        assert other is not None
        found += [one.outdated(), other.outdated(), other.path == one.path]
        found += [os.path.exists(one.path)]  # somebody has it
        one.close()
        os.chmod(PLACE, 0o750)
        last = shim_store.take(state, ["a", "b"])
        assert last is not None
        found += [os.path.exists(one.path), stat.S_IMODE(os.stat(last.tree + str(PLACE)).st_mode)]
        found += [sorted(os.listdir(last.tree + str(PLACE)))]
        other.close()
        last.close()
        return found

    assert with_programs(work, "cp /bin/true a") == [
        *(True, False),
        *(True, False, False),
        *(True, False, 0o750),
        ["a", "b"],
    ]


def test_no_names_no_tree(state: str) -> None:
    assert shim_store.take(state, []) is None


def test_programs(bench: Bench) -> None:
    """The daemon learns which names there are."""
    names = bench.runner.ask({"op": "programs"})["names"]
    assert names == sorted(set(names))
    assert {"sh", "ls", "tac", "python3"} <= set(names)


@pytest.mark.P8
def test_somebody_else_s_directory_is_not_used(state: str) -> None:
    """A directory that others could have written to is not taken for ours."""
    other = tempfile.mkdtemp(prefix="shannot-test-")
    try:
        os.chmod(other, 0o755)
        os.symlink(other, f"{state}/shims")
        tree = shim_store.take(state, ["tac"])
        assert tree is not None
        assert os.readlink(f"{state}/shims") != other
        assert os.listdir(other) == []
        tree.close()
    finally:
        os.rmdir(other)


def test_what_a_killed_runner_left_is_removed(state: str) -> None:
    """Its directory is gone: the next runner of this account takes the trees away."""
    with tempfile.TemporaryDirectory(prefix="shannot-test-") as other:
        left = shim_store.take(other, ["tac"])
        assert left is not None
        base = os.path.dirname(left.path)
    tree = shim_store.take(state, ["tac"])
    assert tree is not None
    assert os.path.exists(left.path)  # a sandbox of that runner still has it
    tree.close()
    shim_store.remove(state)
    left.close()
    tree = shim_store.take(state, ["tac"])
    assert tree is not None
    assert not os.path.exists(base)
    tree.close()


@pytest.mark.P8
def test_a_job_gets_the_shims_that_it_wants(bench: Bench) -> None:
    """Whatever the warm sandbox has; without a word of its own it gets what the pool is told."""
    look = "head -c 2 /usr/bin/tac | tr -d '\\177'; head -c 2 /usr/bin/nl | tr -d '\\177'"
    wanted: list[tuple[list[str] | None, bytes]] = [
        ([], b"EE"),
        (["tac"], b"#!E"),
        (["nl"], b"E#!"),
        (None, b"EE"),
    ]
    for shims_of_job, seen in wanted:
        assert bench.run("shell", look, shims=shims_of_job).stdout == seen
    usual = {"run_as": None, "hide": [], "scratch": [], "deny": [], "shims": []}
    pool = {"op": "pool", "size": 1}
    try:
        bench.runner.ask({**pool, "usual": {**usual, "shims": ["tac"]}})
        one = bench.run("shell", look)
        assert one.stdout == b"#!E", one
        assert bench.run("shell", look, shims=[]).stdout == b"EE"
    finally:
        bench.runner.ask({**pool, "usual": usual})
    assert bench.run("shell", look).stdout == b"EE"
