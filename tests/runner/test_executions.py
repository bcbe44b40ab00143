"""Which programs a script started, and starts that policy is asked about."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from shannotd.runner import kernel, seccomp
from shannotd.runner.decisions import Decisions, Then, Verdict
from shannotd.runner.executions import (
    MAX_RECORDS,
    MAX_WORD_BYTES,
    MAX_WORDS,
    Execution,
    Executions,
    addresses,
    read_execution,
    read_words,
)
from shannotd.runner.frames import Channel
from shannotd.runner.names import Asked, Denied, Names
from shannotd.runner.notifier import Notifier, Waiting
from shannotd.runner.plan import CommandStep, Identity
from shannotd.runner.resolution import Programs
from shannotd.runner.starts import Starts
from shannotd.runner.view import View


class Answers(Decisions):
    """Policy, which says at once what a test wants."""

    def __init__(self, decision: str = "contain") -> None:
        self.decision = decision
        self.asked: list[tuple[str, str, tuple[str, ...]]] = []

    def ask(
        self, path: str, program: str, argv: Sequence[str], cwd: str, then: Then, *, start: bool
    ) -> None:
        assert start
        self.asked.append((path, program, tuple(argv)))
        then(Verdict(self.decision, "", "", ""))


class Filtered:
    """A child under the script's filter, which executes one program."""

    def __init__(
        self,
        argv: list[str],
        deny: tuple[str, ...],
        cwd: str,
        decision: str,
        inside: tuple[str, ...],
    ) -> None:
        ours, theirs = socket.socketpair()
        program = seccomp.compile_filter()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                null = os.open(os.devnull, os.O_RDWR)
                for number in (0, 1, 2):
                    os.dup2(null, number)
                os.chdir(cwd)
                channel = Channel(theirs)
                kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
                listener = kernel.install_filter(program, listener=True)
                channel.send({}, descriptors=(listener,))
                os.close(listener)
                try:
                    os.execv(argv[0], argv)
                except PermissionError:
                    os._exit(126)
            finally:
                os._exit(99)
        theirs.close()
        with Channel(ours) as channel:
            _, _, (self.listener,) = channel.receive()
        self.policy = Answers(decision)
        self.denied: list[CommandStep] = []
        self.processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self.notifier = Notifier(self.listener, self.processes, self.on_start)
        self.tree = View(self.processes)
        self.starts = Starts(
            self.notifier,
            self.tree,
            os.open(os.devnull, os.O_RDONLY),
            Programs("/usr/bin", Identity("test", os.geteuid(), os.getegid(), (), 0o022)),
            self.policy,
            self.denied.append,
            lambda *_: None,
            asked=Asked(Names(inside)),
            denied=Denied([(name, "") for name in deny]),
        )

    def on_start(self, waiting: Waiting) -> None:
        """A program is started."""
        self.starts.begin(waiting)

    def serve(self) -> int:
        """Answer all that is asked until the child has ended; its exit status."""
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        while True:
            for _, event in poll.poll():
                if not event & select.POLLIN:
                    return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                self.notifier.answer()

    def close(self) -> None:
        """End what is left."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.starts.close()
        self.tree.close()
        os.close(self.listener)
        os.close(self.processes)


@contextmanager
def filtered(
    argv: list[str],
    deny: tuple[str, ...] = (),
    cwd: str = "/",
    decision: str = "contain",
    inside: tuple[str, ...] = ("*",),
) -> Iterator[Filtered]:
    child = Filtered(argv, deny, cwd, decision, inside)
    try:
        yield child
    finally:
        child.close()


def argvs(child: Filtered) -> list[tuple[list[str], int]]:
    return [(entry["argv"], entry["count"]) for entry in child.starts.executions()]  # type: ignore[misc]


def test_every_start_is_recorded_with_its_words() -> None:
    text = "/bin/true a b; /bin/true a b; cd /usr; ./bin/env /bin/true ''; exit 7"
    with filtered(["/bin/sh", "-c", text]) as child:
        assert child.serve() == 7
        found = argvs(child)
    assert found[0] == (["/bin/sh", "-c", text], 1)
    assert (["/bin/true", "a", "b"], 2) in found
    assert (["./bin/env", "/bin/true", ""], 1) in found
    assert (["/bin/true", ""], 1) in found


def test_what_is_not_there_does_not_start() -> None:
    """Most callers try every directory on PATH."""
    words = ["/usr/bin/env", "PATH=/none:/usr:/usr/bin", "true"]
    with filtered(words) as child:
        assert child.serve() == 0
        assert argvs(child) == [(words, 1), (["true"], 1)]
    with filtered(["/bin/sh", "-c", "/none/x; exit 5"]) as child:
        assert child.serve() == 5
        assert len(argvs(child)) == 1


def test_long_and_many_words_are_cut_with_a_mark() -> None:
    """P7: a list that is not whole says so."""
    many = ["/bin/true", "x" * (MAX_WORD_BYTES + 1), *["y"] * MAX_WORDS]
    with filtered(many) as child:
        assert child.serve() == 0
        (entry,) = child.starts.executions()
    assert entry["cut"] is True
    words = entry["argv"]
    assert isinstance(words, list)
    assert len(words) == MAX_WORDS
    assert words[1] == "x" * MAX_WORD_BYTES


def test_a_word_at_the_end_of_its_page_is_read() -> None:
    code = (
        "import ctypes, mmap, os\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "at = libc.mmap(None, 8192, 3, 0x22, -1, 0)\n"
        "libc.munmap(ctypes.c_void_p(at + 4096), 4096)\n"
        "end = at + 4096 - 10\n"
        "ctypes.memmove(end, b'/bin/true\\0', 10)\n"
        "argv = (ctypes.c_char_p * 2)(ctypes.cast(end, ctypes.c_char_p), None)\n"
        "argv = (ctypes.c_void_p * 2)(end, None)\n"
        "libc.execve(ctypes.c_void_p(end), argv, None)\n"
    )
    with filtered([sys.executable, "-c", code]) as child:
        assert child.serve() == 0
        assert argvs(child)[-1] == (["/bin/true"], 1)


def test_a_start_by_descriptor_is_named_by_its_file() -> None:
    code = "import os\nos.execve(os.open('/bin/true', os.O_PATH), ['harmless'], {})\n"
    with filtered([sys.executable, "-c", code], deny=("true",)) as child:
        assert child.serve() == 0
    path = os.path.realpath("/bin/true")
    assert child.policy.asked[-1] == (path, path, ("harmless",))


@pytest.mark.parametrize("called", ["direct", "link", "copy name"])
def test_a_denied_start_fails_with_eacces(tmp_path: Path, called: str) -> None:
    """P1: what a rule denies does not start, whatever leads to it."""
    names = {"direct": "/bin/rm", "link": f"{tmp_path}/harmless", "copy name": f"{tmp_path}/rm"}
    (tmp_path / "harmless").symlink_to("/bin/rm")
    (tmp_path / "rm").symlink_to("/bin/true")
    argv = [names[called], "-rf", str(tmp_path)]
    with filtered(argv, deny=("rm",), decision="deny") as child:
        assert child.serve() == 126
    assert (tmp_path / "rm").is_symlink()
    (step,) = child.denied
    assert (step.decision, step.argv, step.cwd) == ("deny", tuple(argv), "/")
    assert step.program == os.path.realpath(names[called])


def test_a_denied_interpreter_does_not_start(tmp_path: Path) -> None:
    """P1: with what it is given, since that is what a rule may name."""
    (tmp_path / "script").write_text("#!/bin/rm -rf\n")
    (tmp_path / "script").chmod(0o755)
    with filtered([f"{tmp_path}/script", "x"], deny=("rm",), decision="deny") as child:
        assert child.serve() == 126
    assert child.denied[0].argv == ("/bin/rm", "-rf", f"{tmp_path}/script", "x")


def test_an_allowed_start_goes_on_after_the_question() -> None:
    with filtered(["/bin/sh", "-c", "exit 3"], deny=("s?",)) as child:
        assert child.serve() == 3
        assert child.policy.asked


def test_others_are_not_asked_about() -> None:
    with filtered(["/bin/true"], deny=("rm", "mk*"), decision="deny") as child:
        assert child.serve() == 0
        assert not child.policy.asked


def test_a_killed_caller_leaves_the_listener_working() -> None:
    with filtered(["/bin/sh", "-c", "/bin/sleep 100 & kill -9 $!; exit 4"]) as child:
        assert child.serve() == 4


def test_names_with_patterns() -> None:
    names = Names(["mkfs.*", "rm", "s?"])
    assert [name for name in ("mkfs.ext4", "rm", "sh", "rmdir", "mkfs", "s") if name in names] == [
        "mkfs.ext4",
        "rm",
        "sh",
    ]
    assert names and not Names([])
    asked = Asked(Names(["*"]), names)
    assert "rm" in asked and "ls" not in asked and "ls" in Asked()


def test_only_starts_with_certain_options_may_be_denied() -> None:
    denied = Denied([("rm", "rRn"), ("mkfs.*", ""), ("all", "")])
    for arguments in (["-r"], ["-vfr", "x"], ["x", "--Recursive"], ["--no-preserve-root"]):
        assert denied.may_be("rm", arguments)
    for arguments in ([], ["-f", "r"], ["--force", "--", "-"], ["x", "--verbose=r"]):
        assert not denied.may_be("rm", arguments)
    assert denied.may_be("rm", None)  # some of which are not known
    assert denied.may_be("all", []) and denied.may_be("mkfs.ext4", [])
    assert not denied.may_be("ls", None)


def test_a_flood_of_programs_is_counted() -> None:
    """P10: the list is bounded and says how many are not on it."""
    kept = Executions()
    for number in range(MAX_RECORDS + 5):
        kept.add(Execution("/bin/true", ("true", str(number)), "/"))
    listed = kept.listed()
    assert len(listed) == MAX_RECORDS + 1
    assert listed[-1] == {"argv": [], "count": 5, "cut": True}


@pytest.mark.P10
@pytest.mark.parametrize("reads", range(1, 3))
def test_a_process_that_ends_while_it_is_read_holds_nobody_up(
    reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no byte in its memory any more, and no end of a word."""
    caller = subprocess.Popen(["/bin/cat", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert caller.stdin is not None and caller.stdout is not None
    caller.stdin.write(b"runs\n")
    caller.stdin.flush()
    assert caller.stdout.readline() == b"runs\n"  # before that it may have no stack yet
    status = Path(f"/proc/{caller.pid}/stat").read_text().rpartition(")")[2].split()
    # proc_pid_stat(5): startstack, where the number of words is, and then their addresses.
    where = addresses("execve", [int(status[45]), int(status[25]) + 8, 0, 0, 0, 0])
    assert read_words(caller.pid, where) == ("/bin/cat", "-")
    left = reads
    pread = os.pread

    def killing(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal left
        left -= 1
        assert left > -100, "it is read for ever"
        if left == 0:
            caller.kill()
            caller.wait()
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", killing)
    assert read_words(caller.pid, where) is None
    assert caller.returncode == -signal.SIGKILL
    assert read_execution(caller.pid, where) is None
    caller.stdin.close()
    caller.stdout.close()


@pytest.mark.P7
@pytest.mark.parametrize("reads", range(1, 6))  # words that stand side by side are read at once
def test_a_process_that_is_killed_while_it_is_read_was_denied_nothing(
    reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = reads
    pread = os.pread
    with filtered(["/usr/bin/true", "word"], inside=()) as child:

        def killing(descriptor: int, size: int, offset: int) -> bytes:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(child.pid, signal.SIGKILL)
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            return pread(descriptor, size, offset)

        monkeypatch.setattr(os, "pread", killing)
        assert child.serve() == -signal.SIGKILL
        assert child.denied == []


def test_memory_of_nobody_is_no_execution() -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    nowhere = addresses("execve", [0, 0, 0, 0, 0, 0])
    assert read_execution(ended.pid, nowhere) is None
    assert read_words(ended.pid, addresses("execve", [1, 1, 1, 0, 0, 0])) is None
    assert read_execution(os.getpid(), nowhere) is None
