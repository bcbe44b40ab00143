"""A command has a control group: it is counted and ended as a whole, whatever it does (P10)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner import cgroups
from shannotd.runner.cgroups import Base
from shannotd.runner.command_group import CommandGroup
from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.support.accounts import is_root
from tests.support.applying import Applying, applying, command, shell
from tests.support.cgroups import cgroup_of, own_base
from tests.support.processes import wait_until_gone

pytestmark = pytest.mark.P10

# As root; and as an account, which may not write to the group that root made.
WHO = ["root", "account"] if is_root() else ["own"]


@pytest.fixture
def base() -> Iterator[Base]:
    with own_base() as own:
        yield own


@pytest.fixture(params=WHO)
def who(request: pytest.FixtureRequest) -> Identity:
    if request.param == "account":
        account: Identity = request.getfixturevalue("ordinary")
        return account
    return overlays.ourselves()


def groups(base: Base) -> list[str]:
    """The control groups below, without what is random in their names."""
    names = (entry.name for entry in os.scandir(base.path) if entry.is_dir())
    return sorted(name if name == cgroups.LEFT else name.rpartition("-")[0] for name in names)


def pids(applied: Applying) -> list[int]:
    """What the first command printed."""
    return [int(line) for line in applied.outputs[0, "stdout"].split()]


def test_a_command_is_in_a_group_of_its_own(base: Base, who: Identity) -> None:
    own = shell("grep ^0: /proc/self/cgroup; setsid -w sh -c 'grep ^0: /proc/self/cgroup'")
    with applying([own, own], who, base=base) as applied:
        applied.finish()
    assert applied.error is None
    lines = b"".join(applied.outputs[number, "stdout"] for number in (0, 1)).decode().split()
    (path,) = set(lines)  # the second's is the first's
    assert f"/{Path(base.path).name}/{cgroups.COMMAND}" in path
    cgroups.sweep(base)
    assert groups(base) == []


FAMILY = """
for way in '' 'setsid' 'setsid -f' 'nohup' {other}; do
    $way sh -c 'trap "" TERM HUP INT; echo $$; while :; do sleep 100; done' 2>/dev/null &
done
(setsid sh -c 'sh -c "trap \\"\\" TERM; echo \\$\\$; sleep 1000; :" &' &)
while :; do sleep 1; done
"""


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("how", ["cancel", "seconds"])
def test_all_of_it_is_killed(base: Base, who: Identity, how: str) -> None:
    """In whatever session it hides, and of another account too."""
    other = "'setpriv --reuid 12345 --clear-groups'" if who.uid == 0 else "'nice'"

    def stop(applied: Applying) -> None:
        if how == "cancel" and len(pids(applied)) == 6:
            applied.channel.send({"op": "cancel"})

    step = shell(FAMILY.format(other=other), seconds=2.0 if how == "seconds" else 300.0)
    with applying([step], who, base=base, at_output=stop) as applied:
        applied.finish()
    assert applied.commands[0]["stopped"] == ("cancelled" if how == "cancel" else "seconds")
    assert applied.commands[0]["left"] == 0
    assert len(pids(applied)) == 6 or how == "seconds"  # a slow machine starts fewer until then
    for pid in pids(applied):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_a_command_leaves_running_is_counted_and_goes_on(
    base: Base, who: Identity, left: list[int]
) -> None:
    """A daemon that it started: nothing ends it, not what comes after it either."""
    text = (
        "setsid sh -c 'echo $$; sleep 1000 & echo $!; sleep 1000 & echo $!; wait' & "
        "while [ $(wc -l < /proc/$$/task/$$/children) = x ]; do :; done; sleep 0.3"
    )
    with applying([shell(text), shell("exit 1")], who, base=base) as applied:
        applied.finish()
    left += pids(applied)
    assert applied.commands[0]["left"] == len(left) == 3
    assert applied.commands[1]["left"] == 0
    cgroups.sweep(base)
    assert groups(base) == [cgroups.LEFT]
    for pid in left:
        os.kill(pid, 0)
        assert cgroup_of(pid).endswith("/" + cgroups.LEFT)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    wait_until_gone(left)
    while groups(base):
        cgroups.sweep(base)


def test_what_is_left_may_be_joined_by_more(base: Base, who: Identity, left: list[int]) -> None:
    """A sweep between two commands takes nothing away that the next one needs."""
    daemon = shell("setsid sleep 1000 > /dev/null 2>&1 & echo $!")

    def sweep(applied: Applying) -> None:
        cgroups.sweep(base)
        applied.channel.send({"op": "go"})

    with applying([shell("true"), daemon], who, base=base, at_start=sweep) as applied:
        applied.finish()
    left.append(int(applied.outputs[1, "stdout"]))
    assert cgroup_of(left[0]).endswith("/" + cgroups.LEFT)


def test_a_command_that_nobody_watches_is_killed(base: Base, who: Identity) -> None:
    def kill(applied: Applying) -> None:
        if len(pids(applied)) == 2:
            status = Path(f"/proc/{pids(applied)[0]}/status").read_text()
            os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGKILL)
            applied.at_output = None

    step = shell("echo $$; setsid sleep 1000 & echo $!; wait")
    with applying([step], who, base=base, at_output=kill) as applied:
        applied.finish()
    assert applied.error is not None
    assert (
        applied.error["details"]["ending"] == "lost the process that watched over it and was killed"
    )
    wait_until_gone(pids(applied))


def test_what_a_killed_apply_left_is_swept(base: Base) -> None:
    group = CommandGroup(base)
    child = subprocess.Popen(["/bin/sleep", "1000"], preexec_fn=group.enter)
    assert group.processes() == [child.pid]
    cgroups.sweep(base)
    assert child.poll() is None  # somebody has it
    for descriptor in group.descriptors:
        os.close(descriptor)
    cgroups.sweep(base)
    assert child.wait() == -signal.SIGKILL
    assert groups(base) == []


def test_without_a_base_there_is_none(tmp_path: Path) -> None:
    assert CommandGroup.make(None) is None
    assert CommandGroup.make(Base(str(tmp_path / "none"), frozenset())) is None


def test_where_none_can_be_made_nothing_is_left(base: Base) -> None:
    """It cannot limit what the kernel has no files for, and then it is none."""
    missing = {"memory", "pids"} - base.controllers
    if not missing:
        pytest.skip("every controller is there")
    before = len(os.listdir("/proc/self/fd"))
    for controller in missing:
        assert CommandGroup.make(Base(base.path, frozenset({controller}))) is None
        assert groups(base) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_group_memory_is_limited_for_each_process(who: Identity) -> None:
    code = "x = bytearray(400 << 20)"
    step = command("/usr/bin/python3", "-c", code, memory_bytes=200 << 20)
    with applying([step, shell("true")], who) as applied:
        applied.finish()
    assert (applied.code, applied.commands[0]["exit_status"]) == ("command_failed", 1)
    assert b"MemoryError" in applied.outputs[0, "stderr"]
    with applying([command("/usr/bin/python3", "-c", code)], who) as applied:
        applied.finish()
    assert applied.error is None
