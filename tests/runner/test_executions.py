"""Which programs a script started, and starts that policy is asked about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shannotd.runner import kernel, seccomp
from shannotd.runner.executions import (
    MAX_RECORDS,
    MAX_WORD_BYTES,
    MAX_WORDS,
    DenyNames,
    Execution,
    Executions,
)
from shannotd.runner.frames import Channel
from shannotd.runner.notifier import Notifier


class Filtered:
    """A child under the script's filter, which executes one program."""

    def __init__(self, argv: list[str], deny: tuple[str, ...] = (), cwd: str = "/") -> None:
        import socket

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
        self.asked: list[tuple[int, Execution]] = []
        self.processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self.notifier = Notifier(
            self.listener, self.processes, deny, lambda *call: self.asked.append(call)
        )

    def serve(self, allowed: bool = True) -> int:
        """Answer all that is asked until the child has ended; its exit status."""
        import select

        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        while True:
            for _, event in poll.poll():
                if not event & select.POLLIN:
                    return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                self.notifier.answer()
                if self.asked:
                    self.notifier.decided(self.asked[-1][0], allowed=allowed)

    def close(self) -> None:
        """End what is left."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self.listener)
        os.close(self.processes)


@contextmanager
def filtered(argv: list[str], deny: tuple[str, ...] = (), cwd: str = "/") -> Iterator[Filtered]:
    child = Filtered(argv, deny, cwd)
    try:
        yield child
    finally:
        child.close()


def argvs(child: Filtered) -> list[tuple[list[str], int]]:
    return [(entry["argv"], entry["count"]) for entry in child.notifier.executions()]  # type: ignore[misc]


def test_every_start_is_recorded_with_its_words() -> None:
    text = "/bin/true a b; /bin/true a b; cd /usr; ./bin/env /bin/true ''; exit 7"
    with filtered(["/bin/sh", "-c", text]) as child:
        assert child.serve() == 7
        found = argvs(child)
    assert found[0] == (["/bin/sh", "-c", text], 1)
    assert (["/bin/true", "a", "b"], 2) in found
    assert (["./bin/env", "/bin/true", ""], 1) in found
    assert (["/bin/true", ""], 1) in found


def test_long_and_many_words_are_cut_with_a_mark() -> None:
    """P7: a list that is not whole says so."""
    many = ["/bin/true", "x" * (MAX_WORD_BYTES + 1), *["y"] * MAX_WORDS]
    with filtered(many) as child:
        assert child.serve() == 0
        (entry,) = child.notifier.executions()
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
        (_, execution) = child.asked[-1]
    assert os.path.basename(execution.path) == "true"
    assert execution.argv == ("harmless",)


@pytest.mark.parametrize("called", ["direct", "link", "copy name"])
def test_a_denied_start_fails_with_eacces(tmp_path: Path, called: str) -> None:
    """P1: what a rule denies does not start, whatever leads to it."""
    names = {"direct": "/bin/rm", "link": f"{tmp_path}/harmless", "copy name": f"{tmp_path}/rm"}
    (tmp_path / "harmless").symlink_to("/bin/rm")
    (tmp_path / "rm").symlink_to("/bin/true")
    with filtered([names[called], "-rf", str(tmp_path)], deny=("rm",)) as child:
        assert child.serve(allowed=False) == 126
    assert (tmp_path / "rm").is_symlink()


def test_an_allowed_start_goes_on_after_the_question() -> None:
    with filtered(["/bin/sh", "-c", "exit 3"], deny=("s?",)) as child:
        assert child.serve(allowed=True) == 3
        assert child.asked


def test_others_are_not_asked_about() -> None:
    with filtered(["/bin/true"], deny=("rm", "mk*")) as child:
        assert child.serve(allowed=False) == 0
        assert not child.asked


def test_a_killed_caller_leaves_the_listener_working() -> None:
    with filtered(["/bin/sh", "-c", "/bin/sleep 100 & kill -9 $!; exit 4"]) as child:
        assert child.serve() == 4


def test_names_with_patterns() -> None:
    names = DenyNames(["mkfs.*", "rm"])
    assert names.match(os.getpid(), "/sbin/mkfs.ext4")
    assert names.match(os.getpid(), "/nowhere/rm")
    assert not names.match(os.getpid(), "/nowhere/rmdir")


def test_a_flood_of_programs_is_counted() -> None:
    """P10: the list is bounded and says how many are not on it."""
    kept = Executions()
    for number in range(MAX_RECORDS + 5):
        kept.add(Execution("/bin/true", ("true", str(number)), "/"))
    listed = kept.listed()
    assert len(listed) == MAX_RECORDS + 1
    assert listed[-1] == {"argv": [], "count": 5, "cut": True}


def test_memory_of_nobody_is_no_execution() -> None:
    from shannotd.runner.executions import read_execution

    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    assert read_execution(ended.pid, "execve", [0, 0, 0, 0, 0, 0]) is None
