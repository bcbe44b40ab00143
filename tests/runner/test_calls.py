"""What becomes of the programs that a script calls: asked at each call, and obeyed (P1, P3, P7)."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.runner.conftest import Bench
from tests.support.runner import Outcome, observe, review, verdict

SHIMS = ("df", "uname", "systemctl", "mount", "ss", "logger", "chpasswd", "seq")


def decided(**answers: Any) -> Any:
    """Answers by the name of the program; a callable is asked."""

    def decide(call: dict[str, Any]) -> dict[str, Any]:
        answer = answers.get(os.path.basename(call["path"]), verdict("contain"))
        return answer(call) if callable(answer) else answer

    return decide


def run(bench: Bench, script: str, cwd: Path | str = "/", **more: Any) -> Outcome:
    """A shell script with shims."""
    return bench.run("shell", script, cwd=str(cwd), shims=SHIMS, **more)


def content(outcome: Outcome, of: dict[str, Any] | None) -> bytes:
    """The bytes of a step's input or output."""
    assert of is not None
    return outcome.blobs[of["sha256"]]


@pytest.mark.P1
def test_a_reviewed_command_is_recorded_and_not_run(bench: Bench) -> None:
    asked: list[dict[str, Any]] = []

    def answer(call: dict[str, Any]) -> dict[str, Any]:
        asked.append(call)
        return review(exit_status=3, stdout="as told\n", seconds=7.0, undo=["/bin/true"])

    outcome = run(
        bench,
        "A=1 systemctl reload 'x y'; echo $?; SHANNOT_X=1 systemctl status",
        cwd="/usr",
        decide=decided(systemctl=answer),
    )
    assert outcome.error is None
    assert outcome.stdout == b"as told\n3\nas told\n"
    first, second = outcome.commands()
    program = os.path.realpath("/usr/bin/systemctl")
    assert (first["decision"], first["program"]) == ("review", program)
    assert first["program_sha256"] == hashlib.sha256(Path(program).read_bytes()).hexdigest()
    assert first["argv"] == ["systemctl", "reload", "x y"]
    assert (first["cwd"], first["exit_status"], first["seconds"]) == ("/usr", 3, 7.0)
    assert (first["undo"], first["stdin"], first["assumed"]) == (["/bin/true"], None, False)
    assert (first["rule"], first["reason"], first["risk"]) == ("test", "told so", "caution")
    assert first["environment"]["A"] == "1"
    assert first["changed"] == ["A"]
    assert not any(name.startswith("SHANNOT_") for name in second["environment"])
    assert second["changed"] == []
    assert asked[0]["program"] == program
    assert (asked[0]["argv"], asked[0]["cwd"]) == (first["argv"], "/usr")
    assert asked[0]["as_root"] == (bench.uid == 0)


@pytest.mark.P2
def test_a_command_has_the_limits_of_the_job(bench: Bench) -> None:
    limits = {"command_memory_bytes": 1 << 30, "command_processes": 20}
    outcome = run(bench, "systemctl x", decide=decided(systemctl=review()), limits=limits)
    (step,) = outcome.commands()
    assert (step["memory_bytes"], step["processes"]) == (1 << 30, 20)
    outcome = run(bench, "systemctl x", decide=decided(systemctl=review()))
    (step,) = outcome.commands()
    assert (step["memory_bytes"], step["processes"]) == (None, None)


@pytest.mark.P3
def test_what_was_written_before_a_command_comes_before_it(bench: Bench, place: Path) -> None:
    """The same file, three times another, with a command after each."""
    outcome = run(
        bench,
        "echo 1 > a.sql; systemctl one; echo 22 > a.sql; systemctl two; rm a.sql; echo 3 > b",
        cwd=place,
        decide=decided(systemctl=review()),
    )
    assert outcome.error is None
    told = [
        (step["change"], os.path.basename(step["path"]))
        if step["kind"] == "file"
        else step["argv"][1]
        for step in outcome.steps
    ]
    assert told[:4] == [("create", "a.sql"), "one", ("modify", "a.sql"), "two"]
    assert set(told[4:]) == {("delete", "a.sql"), ("create", "b")}
    files = [step for step in outcome.steps if step["kind"] == "file"]
    assert outcome.blobs[files[0]["after"]["sha256"]] == b"1\n"
    assert outcome.blobs[files[1]["after"]["sha256"]] == b"22\n"
    assert len(outcome.notes) == len(outcome.steps)


@pytest.mark.P3
@pytest.mark.P7
def test_what_is_not_applied_is_no_step_among_the_changes(bench: Bench, place: Path) -> None:
    outcome = run(
        bench,
        "echo 1 > a; uname; mount; echo 2 > b; systemctl one; rm a; uname -r; echo 3 > c; mount",
        cwd=place,
        decide=decided(systemctl=review(), uname=observe, mount=verdict("deny")),
    )
    assert outcome.error is None
    told = [
        (step["kind"], step["decision"], step["called_after"])
        if step["kind"] == "command"
        else (step["kind"], os.path.basename(step["path"]))
        for step in outcome.steps
    ]
    assert set(told[:2]) == {("file", "a"), ("file", "b")}
    assert told[2] == ("command", "review", None)
    assert set(told[3:5]) == {("file", "a"), ("file", "c")}
    assert told[5:] == [
        ("command", "observe", None),
        ("command", "observe", 2),
        ("command", "deny", None),
        ("command", "deny", 2),
    ]
    assert len(outcome.notes) == len(outcome.steps)


def test_an_observed_program_answers_as_the_host(bench: Bench) -> None:
    outcome = run(
        bench,
        "uname -s > /tmp/out; echo $?; cat /tmp/out; uname -s; uname --none; echo $?",
        decide=decided(uname=observe),
    )
    assert outcome.error is None
    assert outcome.stdout == b"0\nLinux\nLinux\n1\n"
    first, second, third = outcome.commands()
    assert (first["decision"], first["exit_status"], first["assumed"]) == ("observe", 0, True)
    assert content(outcome, first["stdout"]) == b"Linux\n"
    assert first["stderr"] is None
    assert (second["assumed"], third["exit_status"]) == (False, 1)
    assert content(outcome, third["stderr"]) in outcome.stderr


def test_an_observed_pgrep_finds_neither_itself_nor_its_shim(bench: Bench) -> None:
    outcome = bench.run(
        "shell",
        'name=unheard; pgrep -f "$name-of" || echo none; exec pgrep -f "pgrep[ ]-f"',
        shims=["pgrep"],
        decide=observe,
    )
    assert (outcome.error, outcome.stdout, outcome.exit_code) == (None, b"none\n", 1)


def test_a_large_output_is_held_back_and_cut_in_the_plan(bench: Bench) -> None:
    """1.2 MB through a slow reader; the rule keeps 1 MB of it."""
    outcome = run(
        bench,
        "seq 200000 | (read first; cat | wc -l)",
        decide=decided(seq=lambda call: observe(call, output_bytes=1 << 20)),
    )
    assert outcome.error is None
    (command,) = outcome.commands()
    assert command["stdout"]["truncated"] is True
    kept = content(outcome, command["stdout"])
    assert kept.startswith(b"1\n2\n3\n")
    assert b"[shannot: cut here, after 1048576 bytes]" in kept[-80:]


def test_a_reader_that_goes_ends_an_observed_program(bench: Bench) -> None:
    outcome = run(
        bench,
        "seq 100000000 | head -1",
        decide=decided(seq=lambda call: observe(call, output_bytes=1 << 40)),
    )
    assert outcome.error is None
    assert outcome.stdout == b"1\n"
    (command,) = outcome.commands()
    assert command["exit_status"] == 128 + signal.SIGPIPE
    assert command["stdout"]["truncated"] is True


def test_an_observed_program_that_takes_too_long_is_ended(bench: Bench) -> None:
    outcome = run(
        bench,
        "seq inf > /dev/null; echo $?",
        decide=decided(seq=lambda call: observe(call, seconds=0.2, output_bytes=1 << 40)),
    )
    assert outcome.stdout == b"124\n"
    assert b"seq: stopped: it took too long" in outcome.stderr
    assert outcome.commands()[0]["exit_status"] == 124


@pytest.mark.P8
def test_an_observation_that_cannot_be_built_fails_that_call_alone(bench: Bench) -> None:
    """It runs nowhere else, and the plan says why."""
    broken = {"net": "host", "sockets": ["/run/x"]}
    outcome = run(
        bench,
        "uname -s; echo $?; df / > /dev/null && echo observed",
        decide=decided(uname=lambda call: observe(call, **broken), df=observe),
    )
    assert outcome.error is None
    assert outcome.stdout == b"126\nobserved\n"
    assert outcome.stderr.startswith(b"shannot: uname: could not be observed: a program in ")
    first, second = outcome.commands()
    assert (first["decision"], first["exit_status"], first["stdout"]) == ("observe", 126, None)
    assert content(outcome, first["stderr"]) == outcome.stderr
    assert (second["decision"], second["exit_status"]) == ("observe", 0)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.P8
def test_an_observer_that_is_killed_fails_its_call_alone(bench: Bench) -> None:
    last = f"9{os.getpid()}999"

    def kill(call: dict[str, Any]) -> dict[str, Any]:
        """While the other program runs: it is a child of its init, that one of the observer."""
        argv = f"seq\0{last}\0".encode()
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if (directory / "cmdline").read_bytes() == argv:
                    os.kill(_parent(_parent(int(directory.name))), signal.SIGKILL)
                    break
            except FileNotFoundError:
                continue
        return observe(call)

    outcome = run(
        bench,
        f"(seq {last}; echo $? >&2) | (read first; uname -s; cat > /dev/null)",
        decide=decided(seq=lambda call: observe(call, output_bytes=1 << 40), uname=kill),
    )
    assert outcome.error is None
    assert outcome.stdout == b"Linux\n"
    message = b"shannot: seq: could not be observed: what observed it was killed\n"
    assert outcome.stderr == message + b"126\n"
    statuses = {step["argv"][0]: step["exit_status"] for step in outcome.commands()}
    assert statuses == {"seq": 126, "uname": 0}


@pytest.mark.P1
def test_a_denied_program_never_runs(bench: Bench) -> None:
    outcome = run(bench, "mount; echo $?", decide=decided(mount=verdict("deny")))
    assert outcome.stdout == b"126\n"
    assert outcome.stderr == b"shannot: mount: denied: told so\n"
    (command,) = outcome.commands()
    assert (command["decision"], command["exit_status"]) == ("deny", 126)


def test_a_contained_program_runs_inside(bench: Bench) -> None:
    asked: list[str] = []

    def answer(call: dict[str, Any]) -> dict[str, Any]:
        asked.append(call["path"])
        return verdict("contain")

    outcome = run(bench, "seq 1 3; seq none; echo $?", decide=decided(seq=answer))
    assert outcome.stdout == b"1\n2\n3\n1\n"
    assert outcome.commands() == []
    assert asked == ["/usr/bin/seq", "/usr/bin/seq"]


def test_what_is_started_without_a_shim_is_told(bench: Bench) -> None:
    outcome = run(bench, "expr 1 + 1; expr 1 + 1")
    assert {"argv": ["expr", "1", "+", "1"], "count": 2, "cut": False} in outcome.programs


@pytest.mark.P1
def test_a_program_without_a_shim_is_denied_at_its_start(bench: Bench) -> None:
    answers = {"shred": lambda call: verdict("deny" if "-u" in call["argv"] else "contain")}
    outcome = run(
        bench,
        "shred --version > /dev/null && echo one; shred -u x; echo $?",
        deny=["shred"],
        decide=decided(**answers),
    )
    assert outcome.stdout == b"one\n126\n"
    (command,) = outcome.commands()
    assert command["decision"] == "deny"
    assert command["argv"] == ["shred", "-u", "x"]


@pytest.mark.P1
def test_only_starts_that_may_be_denied_are_asked_about(bench: Bench, place: Path) -> None:
    asked: dict[tuple[str, ...], None] = {}  # once for each directory that the shell tries

    def answer(call: dict[str, Any]) -> dict[str, Any]:
        asked[tuple(call["argv"])] = None
        return verdict("deny")

    outcome = run(
        bench,
        "touch x y; shred -n 1 y; shred -u x; shred --rem x; echo $?",
        deny=[("shred", "ur")],
        cwd=place,
        decide=decided(shred=answer),
    )
    assert outcome.stdout == b"126\n"
    assert list(asked) == [("shred", "-u", "x"), ("shred", "--rem", "x")]


# Standard input


def test_a_file_as_input_is_kept_and_not_drained(bench: Bench, place: Path) -> None:
    """A loop that reads lines goes on after a command that could have read them."""
    (place / "users").write_text("a\nb\nc\n")
    outcome = run(
        bench,
        "while read user; do echo $user; systemctl add $user; done < users",
        cwd=place,
        decide=decided(systemctl=review()),
    )
    assert outcome.stdout == b"a\nb\nc\n"
    commands = outcome.commands()
    assert [step["argv"][2] for step in commands] == ["a", "b", "c"]
    assert commands[2]["stdin"] is None or content(outcome, commands[2]["stdin"]) == b""


def test_a_file_is_read_from_where_the_script_is(bench: Bench, place: Path) -> None:
    (place / "input").write_text("one\ntwo\n")
    outcome = bench.run(
        "python",
        "import os, subprocess\n"
        "file = os.open('input', os.O_RDONLY)\n"
        "os.read(file, 4)\n"
        "subprocess.run(['systemctl', 'x'], stdin=file, check=True)\n"
        "print(os.read(file, 9))\n",
        cwd=str(place),
        shims=SHIMS,
        decide=decided(systemctl=review()),
    )
    assert outcome.error is None, outcome.stderr
    (command,) = outcome.commands()
    assert content(outcome, command["stdin"]) == b"two\n"
    assert outcome.stdout == b"b'two\\n'\n"


@pytest.mark.P7
def test_what_a_command_is_not_given_is_told(bench: Bench) -> None:
    code = (
        "import os, subprocess\n"
        "def call(**more): subprocess.run(['systemctl', 'x'], check=True, **more)\n"
        "call(input=b'here')\n"
        "call(input=b'')\n"
        "call(stdin=subprocess.DEVNULL)\n"
        "call()\n"
        "reader, writer = os.pipe()\n"
        "call(stdin=reader)\n"
        "os.close(writer)\n"
        "call(stdin=reader)\n"
        "call(stdin=open('/etc/passwd'))\n"
    )
    outcome = bench.run("python", code, shims=SHIMS, decide=decided(systemctl=review()))
    assert outcome.error is None and outcome.exit_code == 0, outcome.stderr
    unread = [step["unread"] for step in outcome.commands()]
    assert unread[0] is True and unread[2:] == [False, False, True, False, False]


def test_a_pipe_is_kept_only_where_the_rule_says_so(bench: Bench) -> None:
    outcome = run(
        bench,
        "echo user:word | chpasswd; echo more | systemctl x",
        decide=decided(chpasswd=review(stdin=True), systemctl=review()),
    )
    assert outcome.error is None
    first, second = outcome.commands()
    assert content(outcome, first["stdin"]) == b"user:word\n"
    assert second["stdin"] is None


def test_a_command_that_waits_for_another_ones_input_is_no_deadlock(bench: Bench) -> None:
    outcome = run(
        bench,
        "(systemctl first; echo word) | chpasswd",
        decide=decided(chpasswd=review(stdin=True), systemctl=review()),
    )
    assert outcome.error is None
    names = [os.path.basename(step["program"]) for step in outcome.commands()]
    assert names == ["systemctl", "chpasswd"]


def test_an_input_that_cannot_be_kept_is_refused(bench: Bench, place: Path) -> None:
    outcome = run(
        bench,
        "truncate -s 17M big; systemctl x < big; echo $?; systemctl y < /proc/self/status; echo $?",
        cwd=place,
        decide=decided(systemctl=review()),
    )
    assert outcome.stdout == b"126\n126\n"
    assert [step["decision"] for step in outcome.commands()] == ["deny", "deny"]
    assert "larger than" in outcome.commands()[0]["reason"]


@pytest.mark.parametrize(
    ("script", "assumed"),
    [
        ("systemctl x", False),
        ("systemctl x > /dev/null", False),
        ("systemctl x >&2", False),
        ("v=$(systemctl x)", True),
        ("systemctl x | cat", True),
        ("systemctl x > /tmp/file", True),
    ],
)
def test_who_may_read_an_output_that_nobody_knew_is_told(
    bench: Bench, script: str, assumed: bool
) -> None:
    outcome = run(bench, script, decide=decided(systemctl=review()))
    assert outcome.commands()[0]["assumed"] is assumed


# Many at a time


def test_commands_of_many_processes_are_recorded_one_by_one(bench: Bench, place: Path) -> None:
    outcome = run(
        bench,
        "seq 0 39 | xargs -P 8 -I N sh -c 'echo N > fN; systemctl N'",
        cwd=place,
        decide=decided(systemctl=review()),
    )
    assert outcome.error is None
    assert sorted(int(step["argv"][1]) for step in outcome.commands()) == list(range(40))
    # One may be seen empty by a barrier of another's, and then be written: two steps.
    written = {step["path"] for step in outcome.steps if step["kind"] == "file"}
    for step in outcome.steps:
        if step["kind"] == "command":
            paths = [
                one["path"]
                for one in outcome.steps[: outcome.steps.index(step)]
                if one["kind"] == "file"
            ]
            assert str(place / f"f{step['argv'][1]}") in paths
    assert written == {str(place / f"f{number}") for number in range(40)}


def test_too_many_calls_end_the_session(bench: Bench) -> None:
    outcome = run(
        bench,
        "while :; do uname; done",
        limits={"calls": 5},
        decide=decided(uname=review()),
    )
    assert outcome.stopped == "calls"


@pytest.mark.P10
def test_a_lost_daemon_ends_a_script_that_waits_for_a_decision(bench: Bench) -> None:
    _, job = bench.runner.start("shell", "uname; echo alive", shims=SHIMS)
    while job.receive()[0]["event"] != "decide":
        pass
    job.close()
    assert bench.run("shell", "echo next").stdout == b"next\n"


# Claims


@pytest.mark.P10
@pytest.mark.parametrize("count", [1, 200])
def test_who_made_no_call_is_hung_up_on(bench: Bench, count: int) -> None:
    """The socket serves shims only, and whatever else connects to it harms no call."""
    script = f"""
import socket, struct, subprocess
frame = b'{{"op": "call", "fds": 3, "environment": {{}}}}'
for _ in range({count}):
    one = socket.socket(socket.AF_UNIX)
    one.connect("/run/shannot/calls")
    try:
        socket.send_fds(one, [struct.pack(">II", len(frame), 0) + frame], [0, 1, 2])
        assert one.recv(1) == b""
    except (BrokenPipeError, ConnectionResetError):
        pass
held = [socket.socket(socket.AF_UNIX) for _ in range(50)]
for each in held:
    each.connect("/run/shannot/calls")
print(subprocess.run(["uname"]).returncode)
"""
    answer = review(exit_status=7)
    outcome = bench.run("python", script, shims=SHIMS, decide=decided(uname=answer))
    assert outcome.error is None, outcome
    assert outcome.stdout == b"7\n", outcome
    assert [step["argv"] for step in outcome.commands()] == [["uname"]]
