"""Attacks of a running script on what is observed for it, by its calls and its own tree (P1).

Beside each stands what the script itself sees, which is what a naive observer over its tree would.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runner.conftest import Bench
from tests.runner.test_calls import decided
from tests.support.observing import ObserverProcess
from tests.support.processes import descendants, inner_pid, wait_until_gone
from tests.support.runner import observe, verdict

pytestmark = pytest.mark.P1

SHIMS = ("stat", "cat", "uname", "seq", "readlink", "ls")


def run(bench: Bench, script: str, cwd: Path | str = "/", **more: Any) -> Any:
    """A shell script whose shimmed programs are observed, by root for a script of root's."""

    def decide(call: dict[str, Any]) -> dict[str, Any]:
        return observe(call, as_root=bench.uid == 0)

    return bench.run("shell", script, cwd=str(cwd), shims=SHIMS, decide=decide, **more)


def test_a_program_that_the_script_made_is_never_observed(bench: Bench, place: Path) -> None:
    """In a program's place, beside it or by a link: what is observed is the host's own."""
    script = """
        printf '#!/bin/sh\\necho planted\\n' > own; chmod 755 own; ln -s own uname; ./uname
        PATH=$PWD:$PATH; uname
        cp own /usr/bin/uname 2> /dev/null && /usr/bin/uname || echo planted
        ln -s /usr/bin/readlink other; ./other /proc/self/cwd
    """
    outcome = run(bench, script, cwd=place)
    assert outcome.error is None
    assert outcome.stdout == b"planted\nplanted\nplanted\n/\n"
    assert [os.path.basename(step["program"]) for step in outcome.commands()] == ["readlink"]


def test_a_path_leads_where_it_does_on_the_host(bench: Bench, place: Path) -> None:
    """Files, links and directories that the script made or swapped are not there."""
    (place / "file").write_text("of the host\n")
    (place / "directory").mkdir()
    (place / "directory/file").write_text("of the host\n")
    script = """
        read line < file; echo "$line"
        rm file; ln -s /etc/passwd file; echo planted > made
        mv directory other; mkdir directory; echo planted > directory/file
        while read -r line; do echo "$line"; break; done < file
        cat "$PWD/file" "$PWD/made" "$PWD/directory/file" "$PWD/other/file"
        readlink "$PWD/file"
    """
    outcome = run(bench, script, cwd=place)
    assert outcome.error is None
    lines = outcome.stdout.decode().splitlines()
    assert lines[0] == "of the host"
    assert lines[1].startswith("root:"), "to the script the link is there"
    assert lines[2:] == ["of the host"] * 2
    assert outcome.stderr.count(b"No such file or directory") == 2
    (command, _) = outcome.commands()
    assert outcome.blobs[command["stdout"]["sha256"]] == b"of the host\n" * 2


def test_a_path_swapped_while_it_is_read_is_the_hosts(bench: Bench, place: Path) -> None:
    (place / "file").write_text("of the host\n")
    script = """
        (while :; do ln -sf /etc/passwd file; rm file; echo planted > file; done) &
        for n in 1 2 3 4 5 6 7 8; do cat "$PWD/file"; done
        kill %1
    """
    outcome = run(bench, script, cwd=place)
    assert outcome.stdout == b"of the host\n" * 8


def test_what_a_script_holds_open_is_out_of_reach(bench: Bench, place: Path) -> None:
    """Its descriptors, input and directory by their names in /proc and /dev."""
    script = """
        echo planted > mine; exec 7< mine
        echo naive: $(sed p /proc/self/fd/7 | head -n1)
        echo planted | cat /dev/stdin /proc/self/fd/0
        cat /proc/self/fd/7 /dev/fd/7 /proc/self/cwd/mine < mine
        readlink /proc/self/cwd; ls /proc/self/fd
    """
    outcome = run(bench, script, cwd=place)
    assert outcome.error is None
    # The directory that ls reads is its fourth.
    assert outcome.stdout == b"naive: planted\n/\n0\n1\n2\n3\n"


def test_the_tree_of_a_script_is_out_of_reach_by_its_processes(
    bench: Bench, observer: ObserverProcess, place: Path
) -> None:
    """/proc/PID/root, cwd and fd of a process in a sandbox lead into it, for who may follow."""
    number = f"7{os.getpid()}"
    script = f"echo planted > mine; exec 9< mine; echo ready; exec sleep {number}"
    _, job = bench.runner.start("shell", script, cwd=str(place))
    with job:
        printed = b""
        while b"ready" not in printed:
            printed += job.receive()[1]
        pid = _process(["sleep", number])
        paths = [f"/proc/{pid}/root{place}/mine", f"/proc/{pid}/cwd/mine", f"/proc/{pid}/fd/9"]
        if os.geteuid() == 0:
            assert [Path(path).read_text() for path in paths] == ["planted\n"] * 3
        for shows in ([], ["socket owners"]):
            seen = observer.run("/bin/cat", *paths, shows=shows)
            assert (seen.stdout, seen.exit_code) == ("", 1)
        job.send({"op": "cancel"})
        while job.receive()[0]["event"] != "end":
            pass


def _process(argv: list[str]) -> int:
    """A process that is about to become this program."""
    wanted = "\0".join([*argv, ""]).encode()
    while True:
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if (directory / "cmdline").read_bytes() == wanted:
                    return int(directory.name)
            except OSError:
                continue
        time.sleep(0)


def test_what_a_script_starts_it_with_gives_a_program_nothing(bench: Bench, place: Path) -> None:
    """Its name, environment, directory, input and descriptors."""
    script = """
        echo "echo planted" > rc; exec 5<> rc
        export BASH_ENV="$PWD/rc" ENV="$PWD/rc" PS_FORMAT=planted LD_BIND_NOW=1
        export HOME="$PWD" PATH="$PWD:$PATH"
        echo naive: $(bash -c :); exec -a planted /usr/bin/uname -s < rc
    """
    outcome = bench.run(
        "command", "", "/bin/bash", "-c", script, cwd=str(place), shims=SHIMS, decide=observe
    )
    assert (outcome.error, outcome.stdout) == (None, b"naive: planted\nLinux\n")
    (command,) = outcome.commands()
    assert set(command["environment"]) == {"PATH", "HOME", "LANG", "TMPDIR"}
    assert str(place) not in "".join(command["environment"].values())


@pytest.mark.P10
def test_an_output_that_is_never_read_holds_nobody_up(bench: Bench) -> None:
    """Twenty floods that nobody takes: others are served, and the session ends when it does."""
    script = """
        cd /tmp; mkdir up
        for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            seq 100000000 | (read -r first; : > up/$n; sleep 1000) &
        done
        while set -- up/*; [ $# -lt 20 ]; do :; done
        uname -s; uname -s; uname -s
    """
    answers = decided(seq=lambda call: observe(call, output_bytes=1 << 40), uname=observe)
    outcome = bench.run("shell", script, shims=SHIMS, decide=answers)
    assert (outcome.error, outcome.stopped, outcome.stdout) == (None, None, b"Linux\n" * 3)
    floods = [step for step in outcome.commands() if step["argv"][0] == "seq"]
    assert len(floods) == 20
    for step in floods:
        assert step["stdout"]["truncated"] is True
        assert step["stdout"]["size"] <= 1 << 21, "what was not taken is not produced"


def test_a_script_ends_only_what_it_could_end_anyway(bench: Bench) -> None:
    """A signal to the shim ends its observation; no other process can be reached through it."""
    script = """
        (exec seq 100000000 > /dev/null) & shim=$!
        uname -s; kill -9 $shim; wait $shim; echo $?
        kill -9 -1 2> /dev/null
        uname -s
    """
    answers = decided(seq=lambda call: observe(call, output_bytes=1 << 40), uname=observe)
    outcome = bench.run("shell", script, shims=SHIMS, decide=answers)
    assert outcome.error is None
    assert outcome.stdout.splitlines()[:2] == [b"Linux", b"137"]


# A process whose shim does not start, since it has no environment (EFAULT), and which calls itself.
_CALLER = """
import array, ctypes, json, os, signal, socket, sys, time
libc = ctypes.CDLL(None)

def turn(*words):
    argv = (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words), None)
    libc.execve(b"/usr/bin/" + os.fsencode(words[0]), argv, ctypes.c_void_p(8))

def connect():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("/run/shannot/calls")
    return connection

def call(connection):
    text = json.dumps({"op": "call", "fds": 3, "environment": {}}).encode()
    rights = array.array("i", [0, 1, 2])
    frame = len(text).to_bytes(4, "big") + bytes(4) + text
    connection.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    while connection.recv(65536):
        pass
"""


@pytest.mark.P2
def test_what_is_observed_is_what_is_recorded(bench: Bench) -> None:
    """A process calls for another program between a call and what it says of that."""
    script = """
turn("uname", "-s")
first = connect()
turn("seq", "1")  # policy is asked: whoever called before is accepted
turn("seq", "1")
turn("seq", "7", "7")
call(first)
call(connect())
"""
    outcome = bench.run("python", _CALLER + script, shims=SHIMS, decide=observe)
    assert (outcome.error, outcome.stderr) == (None, b"")
    found = [(step["argv"], outcome.blobs[step["stdout"]["sha256"]]) for step in outcome.commands()]
    assert found == [(["uname", "-s"], b"Linux\n"), (["seq", "7", "7"], b"7\n")]
    # Of what it turned to no more, all is told (P7).
    blocked = [step for step in outcome.steps if step["kind"] == "blocked"]
    assert [(step["target"], step["count"]) for step in blocked] == [("seq 1", 2)]


def _views(bench: Bench) -> list[int]:
    """The processes that are to become observed programs: one number inside and on the host."""
    found: list[int] = []
    while not found:
        found = [pid for pid in descendants(bench.runner.process.pid) if inner_pid(pid) == pid]
    return found


@pytest.mark.P10
def test_a_view_waits_for_no_shim_for_long(bench: Bench) -> None:
    """A script whose shims never call keeps none of the host's mounts while it runs."""
    script = _CALLER + 'turn("uname", "-s")\nsignal.pause()\n'
    _, job = bench.runner.start("python", script, shims=SHIMS, limits={"wall_seconds": 1000.0})
    with job:
        asked, _, _ = job.receive()
        job.send({"op": "verdict", "call": asked["call"], **observe(asked)})
        wait_until_gone(_views(bench))
        job.send({"op": "cancel"})
        while job.receive()[0]["event"] != "end":
            pass


@pytest.mark.P10
def test_a_view_waits_for_no_shim_of_a_script_that_has_ended(bench: Bench, place: Path) -> None:
    """What a script has left to be captured may be much."""
    script = """
turn("uname", "-s")
for number in range(64):
    open(str(number), "wb").write(os.urandom(60_000))
turn("seq", "1")
"""
    _, job = bench.runner.start("python", _CALLER + script, cwd=str(place), shims=SHIMS)
    with job:
        asked, _, _ = job.receive()
        job.send({"op": "verdict", "call": asked["call"], **observe(asked)})
        views = _views(bench)
        asked, _, _ = job.receive()
        job.send({"op": "verdict", "call": asked["call"], **verdict("contain")})
        while job.receive()[0]["event"] != "exited":
            pass
        wait_until_gone(views, 10.0)  # while nobody takes what the script has left
        while job.receive()[0]["event"] != "end":
            pass


def test_what_was_not_to_be_observed_is_not(bench: Bench) -> None:
    """The decision is the daemon's at each call, not the one before it."""
    told = iter(["observe", "deny", "contain"])

    def decide(call: dict[str, Any]) -> dict[str, Any]:
        answer = next(told)
        return observe(call) if answer == "observe" else verdict(answer)

    outcome = bench.run(
        "shell", "uname -s; uname -s; echo $?; uname -s", shims=SHIMS, decide=decide
    )
    assert outcome.stdout == b"Linux\n126\nLinux\n"
    assert [step["decision"] for step in outcome.commands()] == ["observe", "deny"]
