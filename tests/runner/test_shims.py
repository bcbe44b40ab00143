"""A call that is recorded or observed is to its script as if the program had run (P1, P2, P7).

What answers is a shell script that is observed in the program's place: so it is known how it
prints and ends.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.runner import Decide, Outcome, observe, review, verdict

SHIMS = ("df", "uname", "mount", "logger", "tac", "comm", "reset", "tset", "awk", "busy*")
root = pytest.mark.skipif(not is_root(), reason="puts programs into a PATH directory")


def answered(**scripts: str) -> Decide:
    """Calls of these programs print and end as shell scripts do; of others they are contained."""

    def decide(call: dict[str, Any]) -> dict[str, Any]:
        script = scripts.get(os.path.basename(call["path"]))
        if script is None:
            return verdict("contain")
        return observe(call, program="/bin/sh", argv=["sh", "-c", script])

    return decide


def run(bench: Bench, script: str, cwd: Path | str = "/", **more: Any) -> Outcome:
    """A shell script with shims."""
    outcome = bench.run("shell", script, cwd=str(cwd), shims=SHIMS, **more)
    assert outcome.error is None and outcome.stopped is None, outcome
    return outcome


class Asked:
    """Remembers the questions; all are answered alike."""

    def __init__(self, **answer: Any) -> None:
        self.calls: list[dict[str, Any]] = []
        self._answer = answer or review()

    def __call__(self, call: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(call)
        return self._answer

    @property
    def paths(self) -> list[str]:
        """What was called."""
        return [call["path"] for call in self.calls]


# What is called


def test_a_call_is_what_the_kernel_would_have_given_the_program(bench: Bench) -> None:
    asked = Asked()
    outcome = run(
        bench,
        r"""cd /usr; env -i A=1 B= /bin/../bin/df -x 'two words' "" "$(printf 'a\377\n.')" """,
        decide=asked,
    )
    words = ["/bin/../bin/df", "-x", "two words", "", "a\udcff\n."]
    (call,) = asked.calls
    assert (call["path"], call["program"], call["cwd"]) == ("/usr/bin/df", "/usr/bin/df", "/usr")
    assert call["argv"] == words
    (step,) = outcome.commands()
    assert (step["argv"], step["environment"]) == (words, {"A": "1", "B": ""})


def test_the_first_word_is_the_caller_s(bench: Bench) -> None:
    outcome = run(bench, "(exec -a other df x); df y", decide=Asked())
    assert outcome.stderr == b"" or b"exec" in outcome.stderr  # dash has no exec -a
    outcome = bench.run(
        "command", "", "bash", "-c", "(exec -a other df x); df y", shims=SHIMS, decide=Asked()
    )
    assert [step["argv"] for step in outcome.commands()] == [["other", "x"], ["df", "y"]]
    assert {step["program"] for step in outcome.commands()} == {"/usr/bin/df"}


@pytest.mark.parametrize(
    "way",
    [
        "df",
        "/usr/bin/df",
        "/bin/df",
        "//usr//bin/./df",
        "../usr/bin/df",
        "command df",
        "env df",
        "env -i df",
        "env -u A df",
        "nice df",
        "nohup df",
        "timeout 9 df",
        "setsid -w df",
        "xargs df < /dev/null",
        "sh -c df",
        "sh -c 'exec df'",
        "find / -maxdepth 0 -exec df \\;",
        'python3 -c \'import os; os.execv("/usr/bin/df", ["df"])\'',
        'python3 -c \'import os; f = os.open("/usr/bin/df", 0); os.execve(f, ["df"], {})\'',
        "python3 -c 'import subprocess as s; s.run([\"df\"])'",
        "python3 -c 'import os; os.system(\"df\")'",
        "perl -e 'system(\"df\")'",
        "ln -s /usr/bin/df mine; ./mine",
        "ln -s /bin there; there/df",
        "cp -p /usr/bin/df /usr/bin/df 2>/dev/null; df",
        "cd /usr/bin; ./df",
        "PATH=/bin; df",
        "/proc/self/root/usr/bin/df",
        "/proc/self/cwd/../usr/bin/df",
        "/proc/$$/root/usr/bin/df",
    ],
)
def test_every_way_to_start_a_program_is_a_call(bench: Bench, place: Path, way: str) -> None:
    asked = Asked(**review(stdout="told\n"))
    cwd = place if "ln -s" in way else "/tmp"
    outcome = run(bench, way, cwd, decide=asked)
    assert asked.paths == ["/usr/bin/df"], outcome
    assert outcome.stdout == b"told\n"


def test_a_thread_that_starts_a_program_becomes_its_shim(bench: Bench) -> None:
    code = (
        "import os, threading\n"
        "thread = threading.Thread(target=os.execv, args=('/usr/bin/df', ['df']))\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    answer = answered(df="echo one; exit 3")
    outcome = bench.run("python", code, shims=SHIMS, decide=answer)
    assert (outcome.stdout, outcome.exit_code) == (b"one\n", 3)


def test_links_count_by_their_own_name(bench: Bench, place: Path) -> None:
    """A link of the host's, an alternative for example; a script's own is the program."""
    asked = Asked()
    run(bench, "reset; tset; awk; ln -s /usr/bin/reset mine; ./mine", place, decide=asked)
    paths = ["/usr/bin/reset", "/usr/bin/tset", "/usr/bin/awk", "/usr/bin/tset"]
    assert asked.paths == paths
    programs = [os.path.realpath(path) for path in paths]
    assert [call["program"] for call in asked.calls] == programs


def test_what_is_no_program_of_path_is_the_script_s_own(bench: Bench, place: Path) -> None:
    """A copy, a script's own program of the same name, and one elsewhere run inside."""
    asked = Asked()
    outcome = run(
        bench,
        "cp /usr/bin/tac copied; echo one | ./copied; mkdir bin; cp /bin/echo bin/df;"
        ' PATH="$PWD/bin:$PATH"; df two; exec 2>&1; nothing-of-this-name',
        place,
        decide=asked,
    )
    assert outcome.stdout.startswith(b"one\ntwo\n"), outcome
    assert asked.calls == []


def test_a_program_that_cannot_run_is_no_call(bench: Bench) -> None:
    """The script gets the kernel's own errors."""
    code = (
        "import os\n"
        "paths = '/usr/bin', '/usr/bin/df/', '/usr/bin/none', '/etc/passwd', '', 'x' * 5000\n"
        "for path in paths:\n"
        "    try:\n        os.execv(path, ['df'])\n"
        "    except OSError as error:\n        print(error.errno)\n"
    )
    asked = Asked()
    outcome = bench.run("python", code, shims=["*"], decide=asked)
    assert outcome.stdout.split() == [b"13", b"20", b"2", b"13", b"2", b"36"], outcome
    assert asked.calls == []


def test_words_without_end_are_refused_and_told(bench: Bench) -> None:
    """P7, P10: what a plan cannot hold is not run in any way."""
    code = (
        "import subprocess\n"
        "try:\n    subprocess.run(['df', *['x' * 100_000] * 3])\n"
        "except OSError as error:\n    print(error.errno)\n"
        "print(subprocess.run(['df'], env={'A': 'x' * 100_000, 'B': 'y' * 100_000}).returncode)\n"
        "values = {name: 'x' * 100_000 for name in 'ABC'}\n"
        "print(subprocess.run(['df'], env=values).returncode)\n"
    )
    outcome = bench.run("python", code, shims=SHIMS, decide=Asked())
    assert outcome.stdout.split() == [b"7", b"0", b"126"], outcome
    recorded, words, variables = outcome.commands()
    assert (recorded["decision"], len(recorded["environment"]["A"])) == ("review", 100_000)
    assert (words["decision"], len(words["argv"])) == ("deny", 4)
    assert "its arguments are too large" in words["reason"]
    assert (variables["decision"], variables["argv"]) == ("deny", ["df"])
    assert "its environment is too large" in variables["reason"]
    assert b"its environment is too large" in outcome.stderr


# Scripts and their interpreters


@pytest.fixture
def programs(bench: Bench) -> Iterator[Callable[..., None]]:
    """Puts scripts into a PATH directory of the host's, by name."""
    made: list[Path] = []

    def put(**scripts: str) -> None:
        for name, text in scripts.items():
            path = Path("/usr/local/bin") / name
            path.write_text(text)
            path.chmod(0o755)
            made.append(path)

    yield put
    for path in made:
        path.unlink()


@root
def test_the_interpreter_of_a_script_is_called(
    bench: Bench, place: Path, programs: Callable[..., None]
) -> None:
    """As the kernel calls it: with its one argument, the script's path, and the script's words."""
    name = f"busy{os.getpid()}"
    programs(**{name: "#!/bin/sh\n", f"{name}two": f"#! /usr/local/bin/{name}  a b \n"})
    (place / "one").write_text(f"#!/usr/local/bin/{name} -x -y \nrest\n")
    (place / "two").write_text("#!one\n")
    (place / "three").write_text(f"#!/usr/bin/env {name}\n")
    for path in place.iterdir():
        path.chmod(0o755)
    asked = Asked(**review(exit_status=5))
    outcome = run(
        bench, f"./one 1 ''; echo $?; ./two 2; ./three 3; {name}two 4", place, decide=asked
    )
    assert outcome.stdout == b"5\n"
    host = f"/usr/local/bin/{name}"
    assert [call["argv"] for call in asked.calls] == [
        [host, "-x -y", "./one", "1", ""],
        [host, "-x -y", "one", "./two", "2"],
        [name, "./three", "3"],
        [f"{name}two", "4"],
    ]
    assert asked.paths == [host, host, host, f"{host}two"]


@root
def test_what_runs_a_script_is_in_its_plan(
    bench: Bench, place: Path, programs: Callable[..., None]
) -> None:
    """P2: as the script has left it when it calls, which is what the command will meet."""
    name = f"busy{os.getpid()}"
    shell = os.path.realpath("/bin/sh")
    programs(
        **{
            name: f"#!/usr/bin/env {name}x\n",
            f"{name}x": "#!/bin/sh\n",
            f"{name}y": f"#!{place}/link\n",
        }
    )
    (place / "own").write_text("#!/bin/sh\n")
    (place / "own").chmod(0o755)
    (place / "link").symlink_to("own")
    os.chown(place / "own", bench.uid, place.stat().st_gid)
    outcome = run(
        bench, f"{name} 1; echo changed >> own; {name}y 2; /usr/bin/df", place, decide=Asked()
    )
    first, second, third = outcome.commands()
    hashed = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in (shell,)}
    assert [one["path"] for one in first["interpreters"]] == [
        os.path.realpath("/usr/bin/env"),
        f"/usr/local/bin/{name}x",
        shell,
    ]
    assert first["interpreters"][-1]["sha256"] == hashed[shell]
    assert second["interpreters"] == [
        {"path": f"{place}/own", "sha256": hashlib.sha256(b"#!/bin/sh\nchanged\n").hexdigest()},
        {"path": shell, "sha256": hashed[shell]},
    ]
    assert third["interpreters"] == []
    for step in (first, second, third):
        assert any(path.endswith("/libc.so.6") for path in step["loaded"]), step


@root
def test_a_contained_script_runs_as_it_stands(bench: Bench, programs: Callable[..., None]) -> None:
    """Its `$0`, and what /proc tells of it, are those of the program."""
    name = f"busy{os.getpid()}"
    programs(**{name: '#!/bin/sh\necho "$0" $1; cat /proc/$$/comm; readlink /proc/$$/exe\n'})
    asked = Asked(**verdict("contain"))
    outcome = run(bench, f"{name} x", decide=asked)
    shell = os.path.realpath("/bin/sh")
    assert outcome.stdout.decode() == f"/usr/local/bin/{name} x\n{name[:15]}\n{shell}\n"
    assert len(asked.calls) == 1


@root
def test_programs_of_the_profile_s_own_path_are_called(bench: Bench) -> None:
    """Every directory of it counts, as they are at that moment: nothing is built beforehand."""
    top = Path(tempfile.mkdtemp(prefix="shannot-test-", dir="/opt"))
    try:
        top.chmod(0o755)
        (top / "real").mkdir(mode=0o755)
        (top / "link").symlink_to("real")
        environment = {"PATH": f"{top}/link:/usr/bin:relative::{top}/none"}
        asked = Asked(**review(exit_status=4))
        for name in ("df-first", "df-later"):
            (top / "real" / name).write_text("#!/bin/sh\n")
            (top / "real" / name).chmod(0o755)
            outcome = bench.run(
                "shell", f"{name}; echo $?", shims=["df*"], environment=environment, decide=asked
            )
            assert outcome.stdout == b"4\n", outcome
            (step,) = outcome.commands()
            assert step["program"] == f"{top}/real/{name}"
        assert asked.paths == [f"{top}/real/df-first", f"{top}/real/df-later"]
        asked = Asked()
        bench.run("shell", f"{top}/real/df-first", shims=["df*"], decide=asked)
        assert asked.calls == []  # on another PATH it is no program of the host's
    finally:
        shutil.rmtree(top)


@root
def test_what_a_script_puts_in_a_program_s_place_is_its_own(bench: Bench) -> None:
    if bench.uid != 0:
        pytest.skip("the identity may not")
    asked = Asked(**review(stdout="asked\n"))
    outcome = run(
        bench,
        "chmod 711 /usr/bin/df; df; cp /bin/echo /usr/bin/tac; tac own; rm /usr/bin/comm;"
        " comm 2>/dev/null || echo gone; cp /usr/bin/uname /root/x; mv /root/x /usr/bin/uname;"
        " uname; ln -sf ../bin/echo /usr/bin/mount; mount linked;"
        " mv /usr/bin/logger /usr/bin/moved; moved x",
        decide=asked,
    )
    assert outcome.stdout == b"asked\nown\ngone\nasked\nlinked\n", outcome
    # Moved, it is called what it is called now: no name that is asked about.
    assert asked.paths == ["/usr/bin/df", "/usr/bin/uname"]


# How it is answered


def test_output_and_exit_status(bench: Bench) -> None:
    answer = answered(
        df="printf out; printf err >&2; printf 'put\\n'; exit 3",
        uname="kill -TERM $$",
        mount="kill -KILL $$",
        logger="kill -PIPE $$",
        tac="exit 255",
    )
    script = "".join(f"{name}; echo $?;" for name in ("df", "uname", "mount", "logger", "tac"))
    outcome = run(bench, script, decide=answer)
    assert outcome.stdout == b"output\n3\n143\n137\n141\n255\n", outcome
    assert outcome.stderr.startswith(b"err")


def test_both_outputs_to_one_place_keep_their_order(bench: Bench, place: Path) -> None:
    lines = "for i in 1 2 3 4 5 6 7 8 9; do echo out$i; echo err$i >&2; done"
    answer = answered(df=lines)
    expected = "".join(f"out{i}\nerr{i}\n" for i in range(1, 10)).encode()
    outcome = run(bench, "df 2>&1 | cat; df > both 2>&1; cat both; df >&2", place, decide=answer)
    assert outcome.stdout == expected * 2
    assert outcome.stderr == expected


def test_a_large_output_is_whole(bench: Bench, place: Path) -> None:
    def decide(call: dict[str, Any]) -> dict[str, Any]:
        command = "head -c 5000000 /dev/zero | tr '\\0' y"
        return observe(call, program="/bin/sh", argv=["sh", "-c", command], output_bytes=1 << 24)

    outcome = run(
        bench, "df | wc -c; df > file; wc -c < file; v=$(df); echo ${#v}", place, decide=decide
    )
    assert outcome.stdout.split() == [b"5000000"] * 3


def test_a_broken_pipe_ends_it(bench: Bench) -> None:
    answer = answered(df="while :; do echo yyyyyyyy; done")
    outcome = bench.run(
        "command",
        "",
        *("bash", "-c", 'df | head -c 3; echo " ${PIPESTATUS[0]}"'),
        shims=SHIMS,
        decide=answer,
    )
    assert outcome.stdout == b"yyy 141\n", outcome


def test_closed_descriptors(bench: Bench) -> None:
    answer = answered(df="echo x; exit 4")
    outcome = run(
        bench,
        "df >&-; echo $?; df 2>&- >/dev/null; echo $?; df <&- >&- 2>&-; echo $?",
        decide=answer,
    )
    assert outcome.stdout == b"4\n4\n4\n"


def test_no_descriptor_of_ours_is_left_in_the_caller(bench: Bench) -> None:
    outcome = run(bench, "df; df & wait; ls -l /proc/self/fd | wc -l", decide=Asked())
    bare = run(bench, "ls -l /proc/self/fd | wc -l", decide=Asked())
    assert outcome.stdout == bare.stdout


# In the background, and ended from outside


def test_in_the_background(bench: Bench) -> None:
    answer = answered(df="sleep 0.2; exit 6", uname="exit 7", mount="while :; do sleep 9; done")
    script = (
        "df & one=$!; uname & two=$!; wait $two; echo $?; wait $one; echo $?\n"
        "mount & kill $!; wait $!; echo $?\n"
        "mount & kill -9 $!; wait $!; echo $?\n"
        "timeout 0.5 mount; echo $?\n"
        "timeout -s KILL 0.5 mount; echo $?\n"
        "nohup nice -n 5 uname; echo $?\n"
    )
    outcome = run(bench, script, decide=answer)
    assert outcome.stdout.split() == [b"7", b"6", b"143", b"137", b"124", b"137", b"7"], outcome
    jobs = "set -m; mount & kill %1; wait %1; echo $?; df & fg %+ >/dev/null; echo $?"
    outcome = bench.run("command", "", "bash", "-c", jobs, shims=SHIMS, decide=answer)
    assert outcome.stdout == b"143\n6\n", outcome


def test_a_stopped_one_goes_on(bench: Bench) -> None:
    """Stopped while it waits for its answer, and after that."""
    answer = answered(df="sleep 0.3; echo done")
    script = "df & kill -STOP $!; sleep 0.2; kill -CONT $!; sleep 0.1; kill -STOP $!; sleep 0.1;"
    outcome = run(bench, script + " kill -CONT $!; wait $!; echo $?", decide=answer)
    assert outcome.stdout == b"done\n0\n", outcome
    assert len(outcome.commands()) == 1


def test_signals_while_policy_is_asked_make_no_other_call(bench: Bench) -> None:
    """The call is begun again and again, and told once."""
    code = """
import os, signal, time
signal.signal(signal.SIGUSR1, lambda *_: None)
parent = os.getpid()
if os.fork() == 0:
    for _ in range(1000):
        os.kill(parent, signal.SIGUSR1)
    time.sleep(0.2)
    os.kill(parent, signal.SIGKILL)
    os._exit(0)
os.execv("/usr/bin/df", ["df"])
"""
    # What no handler is for any more ends a program, whichever it is.
    asked = Asked(**review(exit_status=9))
    outcome = bench.run("command", "", "python3", "-c", code, shims=SHIMS, decide=asked)
    assert outcome.error is None and (outcome.exit_code, outcome.signal) != (0, None), outcome
    told = [step for step in outcome.steps if step["kind"] in ("blocked", "command")]
    assert len(told) <= 1, outcome
    assert len(asked.calls) < 20


def test_subprocess(bench: Bench) -> None:
    code = """
import subprocess as s, signal
one = s.Popen(["df"], stdin=s.PIPE, stdout=s.PIPE, stderr=s.PIPE, text=True)
print(one.communicate("x" * 200_000), one.returncode)
two = s.Popen(["mount"])
print(two.poll())
two.terminate()
print(two.wait(), two.poll())
three = s.Popen(["mount"], start_new_session=True, close_fds=False)
three.send_signal(signal.SIGINT)
print(three.wait())
try:
    s.run(["mount"], timeout=0.3)
except s.TimeoutExpired:
    print("late")
print(s.check_output("df 2>/dev/null; true", shell=True))
print(s.run(["df"], stdout=s.DEVNULL, stderr=s.STDOUT, env={}).returncode)
print(s.run(["df"], capture_output=True, preexec_fn=lambda: None, cwd="/usr").returncode)
"""
    answer = answered(df="echo out; echo err >&2; exit 2", mount="while :; do sleep 9; done")
    outcome = bench.run("python", code, shims=SHIMS, decide=answer)
    assert outcome.stdout.decode().splitlines() == [
        "('out\\n', 'err\\n') 2",
        "None",
        "-15 -15",
        "-2",
        "late",
        "b'out\\n'",
        "2",
        "2",
    ], outcome


def test_many_at_a_time(bench: Bench) -> None:
    answer = answered(df="echo 1")
    outcome = run(bench, "seq 30 | xargs -P 8 -n 1 df | sort | uniq -c", decide=answer)
    assert outcome.stdout.split() == [b"30", b"1"]
    assert len(outcome.commands()) == 30


def test_process_substitution(bench: Bench) -> None:
    answer = answered(df="echo one", uname="cat; exit 1")
    script = "cat <(df) <(df); diff <(df) <(df) && echo same; df > >(cat -n; :); sleep 0.2"
    outcome = bench.run("command", "", "bash", "-c", script, shims=SHIMS, decide=answer)
    assert outcome.stdout == b"one\none\nsame\n     1\tone\n", outcome


def test_a_call_whose_shim_was_killed_is_shown(bench: Bench) -> None:
    """P7: policy let it be recorded, and nobody knows any more with what it was called."""
    outcome = run(bench, "(ulimit -v 9000; exec df 'a b'); echo $?; df c", decide=Asked())
    assert outcome.stdout.strip() not in (b"0", b""), outcome
    steps = [step for step in outcome.steps if step["kind"] in ("blocked", "command")]
    assert steps[0]["argv"] == ["df", "c"]
    told = (steps[1]["what"], steps[1]["target"], steps[1]["count"])
    assert told == ("call", "df 'a b'", 1)
