"""Limits, cancels and lost peers end a whole sandbox and leave nothing behind (P1, P10)."""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from shannotd.runner import kernel
from shannotd.runner.frames import Channel, Closed
from shannotd.runner.mounts import ROOT, STAGE
from shannotd.runner.order import file_name
from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.processes import descendants, inner_pid, wait_until_gone
from tests.support.runner import RunnerProcess, collect, running_runner

pytestmark = pytest.mark.P10

Fresh = Callable[..., AbstractContextManager[RunnerProcess]]


@pytest.mark.parametrize(
    ("script", "limits", "stopped"),
    [
        ("while :; do :; done", {"wall_seconds": 0.3}, "wall_seconds"),
        ("trap '' TERM INT HUP; sleep 1000", {"wall_seconds": 0.3}, "wall_seconds"),
        ("sleep 1000 & setsid sleep 1000 & wait", {"wall_seconds": 0.3}, "wall_seconds"),
        ("f() { f | f & }; f; wait; sleep 9", {"processes": 40, "wall_seconds": 3}, "processes"),
    ],
    ids=["busy", "ignores-term", "background", "fork-bomb"],
)
def test_limits_end_everything(
    bench: Bench, script: str, limits: dict[str, float], stopped: str
) -> None:
    outcome = bench.run("shell", script, limits=limits)
    if stopped == "processes" and outcome.stopped != "processes":
        # RLIMIT_NPROC of the own user namespace came first: forks failed, nothing more.
        assert bench.builder == "one-uid"
        assert b"fork" in outcome.stderr
    else:
        assert outcome.stopped == stopped
        assert outcome.steps == []


def test_threads_count_as_processes(bench: Bench) -> None:
    code = (
        "import threading, time\n"
        "for _ in range(60): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "time.sleep(9)\n"
    )
    outcome = bench.run("python", code, limits={"processes": 30})
    # As an ordinary identity RLIMIT_NPROC comes first: no further thread can be started.
    assert outcome.stopped == "processes" or b"can't start new thread" in outcome.stderr


def test_output_is_capped_and_counted(bench: Bench) -> None:
    outcome = bench.run(
        "shell",
        "head -c 3000000 /dev/zero; head -c 10 /dev/zero >&2",
        limits={"output_bytes": 1000},
    )
    assert len(outcome.stdout) == 1000
    assert len(outcome.stderr) == 10
    assert outcome.dropped == 3000000 - 1000
    assert outcome.exit_code == 0


def test_endless_output_is_stopped(bench: Bench) -> None:
    outcome = bench.run("shell", "cat /dev/zero", limits={"output_bytes": 1000})
    assert outcome.stopped == "output_bytes"


def test_a_full_stage_is_a_full_disk_to_the_script(bench: Bench, place: Path) -> None:
    outcome = bench.run(
        "shell",
        "for i in 1 2 3 4 5 6 7 8; do head -c 1000000 /dev/zero > f$i || exit 3; done",
        cwd=str(place),
        limits={"written_bytes": 4 << 20},
    )
    assert outcome.exit_code == 3
    assert b"No space left" in outcome.stderr
    assert os.listdir(place) == []


def test_memory_limit(bench: Bench) -> None:
    outcome = bench.run("python", "x = bytearray(1 << 30)", limits={"memory_bytes": 512 << 20})
    assert outcome.exit_code == 1
    assert b"MemoryError" in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_exit_by_signal_is_told(bench: Bench, number: signal.Signals) -> None:
    outcome = bench.run("shell", f"kill -{number.value} $$")
    assert (outcome.exit_code, outcome.signal) == (None, number.value)


def test_leftover_processes_are_counted_and_ended(bench: Bench) -> None:
    outcome = bench.run("shell", "sleep 1000 & sleep 1000 & echo started")
    assert outcome.stdout == b"started\n"
    assert outcome.leftover == 2
    assert outcome.stopped is None


def test_cancel_ends_a_running_script(bench: Bench) -> None:
    session, job = bench.runner.start("shell", "echo on; sleep 1000")
    with job:
        while job.receive()[0]["event"] != "output":
            pass
        job.send({"op": "cancel"})
        outcome = collect(session, job)
    assert outcome.stopped == "cancelled"
    assert outcome.steps == []


def test_requests_that_arrive_together_are_all_answered(bench: Bench) -> None:
    """Frames behind the first of one read wait in a buffer that poll does not see."""
    for _ in range(5):
        bench.runner.control.send({"op": "hello"})
    for _ in range(5):
        assert bench.runner.control.receive()[0]["version"] == 1


@pytest.mark.parametrize("operation", ["dance", "run", "apply"])
def test_a_request_that_is_none_is_refused(bench: Bench, operation: str) -> None:
    """Unknown, or without the channel of its job."""
    answer = bench.runner.ask({"op": operation})
    assert answer == {"error": {"code": "invalid_request", "details": {"method": operation}}}


def test_an_apply_that_is_never_asked_for_harms_nobody(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert bench.runner.ask({"op": "apply"}, (theirs.fileno(),)) == {}
        theirs.close()
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(1) == b""  # its process ended
    assert bench.run("shell", "echo next").stdout == b"next\n"


def test_a_cancel_right_behind_the_job(bench: Bench) -> None:
    session, job = bench.runner.start("shell", "sleep 1000")
    with job:
        job.send({"op": "cancel"})
        assert collect(session, job).stopped == "cancelled"


def test_a_daemon_that_does_not_read_is_taken_for_gone() -> None:
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel, theirs:
        channel.limit_sending(1)
        with pytest.raises(Closed):
            while True:
                channel.send({"event": "output"}, bytes(1 << 20))


def test_output_streams_while_the_script_runs(bench: Bench) -> None:
    session, job = bench.runner.start(
        "shell", "echo first; head -c 1 /dev/random >/dev/null; sleep 1000"
    )
    with job:
        event, payload, _ = job.receive()
        while event["event"] != "output":
            event, payload, _ = job.receive()
        assert payload == b"first\n"
        job.send({"op": "cancel"})
        collect(session, job)


def running_sandbox(job: Channel) -> None:
    """Wait until the script of `job` has said something."""
    while job.receive()[0]["event"] != "output":
        pass


def test_a_vanished_daemon_ends_its_jobs(bench: Bench) -> None:
    _, job = bench.runner.start("shell", "sleep 1000 & sleep 1000 & echo on; wait")
    running_sandbox(job)
    inside = [pid for pid in descendants(bench.runner.process.pid) if inner_pid(pid) > 2]
    assert inside
    job.close()
    wait_until_gone(inside)


@pytest.mark.parametrize("victim", ["runner", "supervisor", "init", "zygote"])
def test_a_killed_process_of_ours_ends_its_sandboxes(fresh: Fresh, victim: str) -> None:
    """SIGKILL of any process between daemon and script: the script dies, nothing is recorded."""
    try:
        with fresh() as runner:
            session, job = runner.start("shell", "sleep 1000 & sleep 1000 & echo on; wait")
            with job:
                running_sandbox(job)
                everything = descendants(runner.process.pid)
                sleeps = [pid for pid in everything if inner_pid(pid) > 2]
                init = parent(parent(sleeps[0]))
                supervisor = parent(init)
                pid = {
                    "runner": runner.process.pid,
                    "supervisor": supervisor,
                    "init": init,
                    "zygote": parent(supervisor),
                }[victim]
                os.kill(pid, signal.SIGKILL)
                if victim != "zygote":
                    outcome = collect(session, job)
                    assert outcome.steps == []
                    assert outcome.error is not None
                    assert outcome.error["code"] in ("closed", "runner_lost")
            wait_until_gone(sleeps)
            if victim == "runner":
                runner.process.wait()
    except AssertionError:
        if victim != "runner" or runner.process.returncode != -signal.SIGKILL:
            raise
    wait_until_gone(everything)


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_nothing_is_left_after_200_sessions(fresh: Fresh) -> None:
    """No process, mount, cgroup or directory survives, some sessions killed at random moments."""
    chance = random.Random(7)
    with fresh(pool=2) as runner:
        runner.run("shell", "true")
        for round_number in range(200):
            session, job = runner.start("shell", "echo x > /var/tmp/x; sleep 0.01 & echo on")
            with job:
                if round_number % 3:
                    collect(session, job)
                else:
                    select.select([job], [], [], chance.random() * 0.02)
        everything = descendants(runner.process.pid)
    wait_until_gone(everything)
    # Others may mount meanwhile: what is ours names us, or lies below the root that we build.
    table = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    sources = [fields[fields.index("-") + 2] for fields in table]
    assert "shannot" not in sources
    assert not [fields[4] for fields in table if (fields[4] + "/").startswith(f"{ROOT}/")]
    assert not {"root", "upper", "work", "skeleton", "files"} & set(os.listdir(STAGE))
    assert sorted(os.listdir(runner.state)) == ["runner.key"]
    assert not Path("/var/tmp/x").exists()


def test_killing_what_it_can_reach_harms_nobody(bench: Bench) -> None:
    outcome = bench.run("shell", "kill -KILL -1; kill -KILL $PPID; echo alive")
    assert outcome.error is None
    assert bench.run("shell", "echo next").stdout == b"next\n"


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        ("/srv/fix.py", "fix.py"),
        ("-c", "-c"),
        ("", "script"),
        ("/srv/..", "script"),
        ("a\0b", "script"),
        ("x" * 256, "script"),
        ("\udc80", "\udc80"),
        ("\ud800", "script"),
    ],
)
def test_names_of_submitted_scripts(shown: str, name: str) -> None:
    assert file_name(shown) == name


def test_a_job_that_is_none_harms_no_other(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        assert bench.runner.ask({"op": "run"}, (theirs.fileno(),)) == {}
    with Channel(ours) as job:
        job.send({"op": "run"})
        assert collect("", job).error == {"code": "closed"}
    assert bench.run("shell", "echo on").stdout == b"on\n"


def test_a_daemon_that_vanishes_amid_output_ends_its_job(bench: Bench) -> None:
    _, job = bench.runner.start("shell", "cat /dev/zero", limits={"output_bytes": 1 << 40})
    running_sandbox(job)
    inside = [pid for pid in descendants(bench.runner.process.pid) if inner_pid(pid) > 2]
    assert inside
    job.close()
    wait_until_gone(inside)
    assert bench.run("shell", "echo next").stdout == b"next\n"


def warm_inits(runner: RunnerProcess) -> list[int]:
    """The first processes of the sandboxes that wait for a job, as soon as one does."""
    while not runner.ask({"op": "hello"})["ready"]:
        pass
    return [pid for pid in descendants(runner.process.pid) if inner_pid(pid) == 1]


def test_a_sandbox_that_died_while_it_waited_runs_nothing(fresh: Fresh) -> None:
    with fresh() as runner:
        inits = warm_inits(runner)
        for pid in inits:
            os.kill(pid, signal.SIGKILL)
        wait_until_gone(inits)
        outcome = runner.run("shell", "echo on")
        if outcome.error is None:  # another one was there already
            assert outcome.stdout == b"on\n"
        else:
            assert outcome.stdout == b""
            assert outcome.error["code"] == "runner_lost"
        assert runner.run("shell", "echo on").stdout == b"on\n"


@pytest.mark.P2
def test_contents_that_fill_more_than_one_frame_all_arrive(bench: Bench, place: Path) -> None:
    code = "import os\nfor n in range(30): open(str(n), 'wb').write(os.urandom(200_000))\n"
    outcome = bench.run("python", code, cwd=str(place))
    hashes = {step["after"]["sha256"] for step in outcome.steps}
    assert len(hashes) == 30
    assert set(outcome.blobs) == hashes
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in outcome.blobs.items())


@pytest.mark.P8
def test_without_a_key_for_its_seals_nothing_runs() -> None:
    with tempfile.TemporaryDirectory(prefix="shannot-test-") as directory:
        state = Path(directory)
        (state / "runner.key").symlink_to("elsewhere")  # what somebody else chose
        with running_runner(state) as runner:
            outcome = runner.run("shell", "echo on")
            assert outcome.stdout == b""
            assert outcome.error is not None
            assert outcome.error["code"] == "sandbox_unavailable"
            assert "runner.key" in outcome.error["details"]["reason"]
            assert outcome.error["details"]["remedy"]
            (state / "runner.key").unlink()
            assert runner.run("shell", "echo on").stdout == b"on\n"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory far from the root that every account may write."""
    with tempfile.TemporaryDirectory(prefix="shannot-test-", dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "a/b/c"
        path.mkdir(parents=True)
        path.chmod(0o777)
        yield path


def test_the_working_directory_may_be_anothers(bench: Bench, shared: Path) -> None:
    outcome = bench.run("shell", "echo x > file && cat file", cwd=str(shared))
    assert outcome.stdout == b"x\n"
    assert outcome.changes() == {f"{shared}/file": "create"}
    assert os.listdir(shared) == []


@pytest.mark.P2
def test_a_directory_that_cannot_be_read_any_more_is_no_plan(bench: Bench, shared: Path) -> None:
    if bench.builder != "one-uid" or not is_root():
        pytest.skip("only there a directory of others seems to be the script's own")
    outcome = bench.run("shell", "echo x > file; chmod 0 .", cwd=str(shared))
    assert outcome.error is not None, outcome.steps
    assert outcome.error["code"] == "capture_failed"
    assert outcome.error["details"]["path"] == str(shared)
    assert outcome.steps == []


@pytest.mark.P8
def test_what_cannot_be_kept_apart_appears_empty(top: Path) -> None:
    """Overlays over overlays over overlays are more than the kernel stacks."""
    if not is_root():
        pytest.skip("mounts")

    def work() -> tuple[list[str], bytes, dict[str, str]]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("none", top / "layers", "tmpfs", 0)
        lower = top / "layers/0"
        lower.mkdir()
        (lower / "secret").touch()
        for number in ("1", "2"):
            upper, work, merged = (top / "layers" / f"{name}{number}" for name in "uwm")
            for directory in (upper, work, merged):
                directory.mkdir()
            options = f"lowerdir={lower},upperdir={upper},workdir={work}"
            kernel.mount("overlay", merged, "overlay", 0, options)
            lower = merged
        with running_runner(top / "host") as runner:
            outcome = runner.run("shell", f"ls -A {lower}; echo x > {lower}/new; echo end")
            warm_inits(runner)
            return runner.ask({"op": "hello"})["limits"], outcome.stdout, outcome.changes()

    limits, output, changes = overlays.in_child(work)
    assert limits == [f"{top}/layers/m2 appears empty"]
    assert output == b"end\n"
    assert changes == {}
