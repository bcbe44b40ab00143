"""Which control group a runner uses, and what it says of controllers that it has (P8, P10)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from shannotd.runner import cgroups, kernel
from shannotd.runner.cgroups import Base, Cgroup, Unavailable
from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.support.accounts import is_root
from tests.support.cgroups import available, cgroup_of

pytestmark = pytest.mark.P10

Result = TypeVar("Result")
needs_root = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")


@pytest.fixture
def given() -> Iterator[Path]:
    """A cgroup for a process of a test's own to be in, as a service manager gives one."""
    path = Path(available().path) / f"shannot-test-{os.urandom(8).hex()}"
    path.mkdir()
    yield path
    for leaf in (path / cgroups.RUNNER, path):
        if leaf.exists():
            leaf.rmdir()


def within(path: Path, work: Callable[[], Result], become: Identity | None = None) -> Result:
    """What `work` returns in a process in the cgroup `path`, with a mount namespace of its own."""

    def moved() -> Result:
        (path / "cgroup.procs").write_text("0")
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        if become is not None:
            os.setresuid(become.uid, become.uid, become.uid)
        return work()

    return overlays.in_child(moved)


def why_not() -> str:
    with pytest.raises(Unavailable) as raised:
        cgroups.find()
    assert cgroups.arrange() is None
    return str(raised.value)


@needs_root
def test_who_has_a_cgroup_to_itself_moves_to_a_leaf(given: Path) -> None:
    def work() -> tuple[list[Base | None], str, str]:
        expected = cgroups.prospect(cgroups.find())
        bases = [cgroups.arrange(), cgroups.arrange()]
        assert bases[0] is not None
        assert expected == bases[0].controllers
        cgroup = cgroups.create(bases[0])
        cgroup.remove()
        return bases, cgroup_of(os.getpid()), cgroups.find()

    bases, own, found = within(given, work)
    first, second = bases
    assert first == second
    assert first is not None
    assert first.path == found == str(given)
    assert own.endswith(f"/{given.name}/{cgroups.RUNNER}")


@needs_root
def test_processes_that_share_the_cgroup_are_left_alone(given: Path) -> None:
    def work() -> tuple[Base | None, list[bool]]:
        reader, writer = os.pipe()
        other = os.fork()
        if other == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        base = cgroups.arrange()
        inside = [cgroup_of(pid).endswith(given.name) for pid in (os.getpid(), other)]
        os.close(writer)
        os.waitpid(other, 0)
        return base, inside

    base, inside = within(given, work)
    assert base == Base(str(given), frozenset())
    assert inside == [True, True]
    assert not (given / cgroups.RUNNER).exists()


@needs_root
def test_a_cgroup_of_anothers_is_not_used(given: Path, ordinary: Identity) -> None:
    assert within(given, why_not, ordinary) == f"{given} is not delegated to this account"


@needs_root
def test_under_systemd_only_what_it_delegated_is_used(given: Path) -> None:
    def work() -> tuple[str, list[str]]:
        kernel.mount("none", "/run", "tmpfs", 0)
        os.makedirs("/run/systemd/system")
        reason = why_not()
        found = []
        for name in ("user.delegate", "trusted.delegate"):
            os.setxattr(given, name, b"0")
            why_not()
            os.setxattr(given, name, b"1")
            found.append(cgroups.find())
            os.removexattr(given, name)
        return reason, found

    reason, found = within(given, work)
    assert reason == f"{given} is not delegated by systemd"
    assert found == [str(given)] * 2


@needs_root
def test_only_a_mount_that_shows_our_cgroup_will_do(given: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "own").mkdir()

    def work() -> tuple[str, str]:
        elsewhere = given / cgroups.RUNNER
        elsewhere.mkdir()
        kernel.mount(elsewhere, tmp_path / "other", None, kernel.MS_BIND)
        kernel.mount(given, tmp_path / "own", None, kernel.MS_BIND)
        kernel.unmount(next(path for path in given.parents if path.is_mount()))
        found = cgroups.find()
        kernel.unmount(tmp_path / "own")
        return found, why_not()

    found, reason = within(given, work)
    assert found == f"{tmp_path}/own"
    assert reason == "no cgroup2 filesystem with our cgroup is mounted"


@needs_root
def test_a_cgroup_that_cannot_be_opened_is_given_up(ordinary: Identity) -> None:
    def work() -> int:
        os.umask(0o777)
        with pytest.raises(PermissionError):
            cgroups.create(Base(str(top / "host"), frozenset()))
        return len(os.listdir(top / "host"))

    with overlays.workplace(ordinary) as top:
        assert 1 < overlays.in_child(work, ordinary) < 10


# The files of controllers, which the machine of these tests may not have (make test-machine has
# them): what is written to them and read from them.

EVENTS = "low 0\nhigh 0\nmax {max}\noom {oom}\noom_kill {oom_kill}\n"


def imitation(path: Path, files: Mapping[str, str], *controllers: str) -> Cgroup:
    for name, text in {"cgroup.events": "populated 0\nfrozen 0\n", **files}.items():
        (path / name).write_text(text)
    return Cgroup(str(path), frozenset(controllers))


def test_limits_are_of_all_processes_and_leave_one_for_the_init(tmp_path: Path) -> None:
    names = ("memory.max", "memory.oom.group", "pids.max")
    cgroup = imitation(tmp_path, dict.fromkeys(names, ""), "memory", "pids")
    assert cgroup.counts_processes
    cgroup.prepare()  # where the kernel does not account for swap
    cgroup.limit(1 << 20, 7)
    assert [(tmp_path / name).read_text() for name in names] == [str(1 << 20), "1", "8"]
    cgroup.remove()


def test_nothing_is_swapped_out(tmp_path: Path) -> None:
    names = ("memory.swap.max", "memory.oom.group")
    cgroup = imitation(tmp_path, dict.fromkeys(names, ""), "memory")
    assert not cgroup.counts_processes
    cgroup.prepare()
    assert [(tmp_path / name).read_text() for name in names] == ["0", "1"]
    cgroup.remove()


def test_without_controllers_nothing_is_limited(tmp_path: Path) -> None:
    cgroup = imitation(tmp_path, {})
    cgroup.limit(1, 1)
    assert cgroup.exceeded() is None
    assert os.listdir(tmp_path) == ["cgroup.events"]
    cgroup.remove()


@pytest.mark.P8
def test_a_limit_that_cannot_be_set_is_told_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "pids.max").symlink_to("/dev/full")
    cgroup = imitation(tmp_path, {"memory.max": ""}, "memory", "pids")
    with pytest.raises(OSError, match="No space left") as raised:
        cgroup.limit(1, 1)
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == f"{tmp_path}/pids.max"
    cgroup.remove()


@pytest.mark.parametrize(
    ("oom", "oom_kill", "refused_forks", "exceeded"),
    [
        (0, 0, 0, None),
        (1, 1, 0, "memory_bytes"),
        (1, 0, 0, None),  # memory was found after all
        (0, 1, 0, None),  # the whole host's want of memory
        (0, 0, 3, "processes"),
        (2, 1, 3, "memory_bytes"),
    ],
)
def test_which_limit_was_hit(
    oom: int, oom_kill: int, refused_forks: int, exceeded: str | None, tmp_path: Path
) -> None:
    files = {
        "memory.events": EVENTS.format(max=9, oom=oom, oom_kill=oom_kill),
        "pids.events": f"max {refused_forks}\n",
    }
    cgroup = imitation(tmp_path, files, "memory", "pids")
    assert cgroup.exceeded() == exceeded
    cgroup.remove()


def test_what_does_not_stop_is_let_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "PATIENCE_SECONDS", 0.01)
    cgroup = imitation(tmp_path, {"cgroup.freeze": "?"})
    with pytest.raises(TimeoutError, match="frozen is not 1"):
        cgroup.freeze()
    assert (tmp_path / "cgroup.freeze").read_text() == "0"
    cgroup.remove()


def test_what_does_not_die_is_left_to_a_later_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "PATIENCE_SECONDS", 0.01)
    path = tmp_path / f"{cgroups.SESSION}1"
    path.mkdir()
    files = {"cgroup.events": "populated 1\nfrozen 0\n", "cgroup.kill": "?"}
    cgroup = imitation(path, files)
    cgroup.remove()
    assert (path / "cgroup.kill").read_text() == "1"
    (path / "cgroup.kill").write_text("?")
    cgroups.sweep(Base(str(tmp_path), frozenset()))  # nobody's any more
    assert (path / "cgroup.kill").read_text() == "1"
