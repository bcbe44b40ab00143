"""Attacks by observed programs on processes, and on rights: each works naively, fails here (P1).

Naively means: the same program in the host's namespaces.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.accounts import is_root
from tests.support.observing import ObserverProcess

pytestmark = pytest.mark.P1

needs_root = pytest.mark.skipif(not is_root(), reason="the naive way mounts an overlay")


def _for_all(path: str, flags: int) -> int:
    descriptor = os.open(path, flags)
    os.fchmod(descriptor, 0o666)
    return descriptor


@pytest.fixture
def victim(observer: ObserverProcess, shelf: Path) -> Iterator[int]:
    """A process of the host's with the observed uid, with a secret and an open file."""
    owner: dict[str, Any] = {}
    if is_root():
        group = pwd.getpwuid(observer.uid).pw_gid
        owner = {"user": observer.uid, "group": group, "extra_groups": []}
    with (
        open(shelf / "open", "w", opener=_for_all) as file,
        subprocess.Popen(
            ["/bin/sleep", "1000"], env={"SECRET": "squeamish"}, cwd=shelf, stdout=file, **owner
        ) as process,
    ):
        yield process.pid
        process.kill()


SIGNALS = """
import os, signal, sys
pid, done = int(sys.argv[1]), []
directory = os.open(f"/proc/{pid}", os.O_RDONLY)
for name, attempt in (
    ("kill", lambda: os.kill(pid, 0)),
    ("pidfd", lambda: signal.pidfd_send_signal(os.pidfd_open(pid), 0)),
    ("proc", lambda: signal.pidfd_send_signal(directory, 0)),
    ("priority", lambda: os.getpriority(os.PRIO_PROCESS, pid)),
    ("affinity", lambda: os.sched_getaffinity(pid)),
):
    try:
        attempt()
        done.append(name)
    except OSError:
        pass
print(*done)
"""


def test_processes_of_the_host_are_out_of_reach(observer: ObserverProcess, victim: int) -> None:
    """Also by the descriptor of a process's directory in the host's own /proc."""
    naive = observer.naive_python(SIGNALS, str(victim)).stdout
    assert naive == "kill pidfd proc priority affinity\n"
    assert observer.python(SIGNALS, str(victim)).stdout == "\n"
    observer.run("/bin/sh", "-c", "kill -9 -1")
    assert os.waitid(os.P_PID, victim, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


PROC = """
import os, sys
base, done = f"/proc/{sys.argv[1]}/", []
for name in ("environ", "maps", "auxv", "mem", "root/etc/passwd", "cwd/open", "exe", "fd/1"):
    try:
        os.close(os.open(base + name, os.O_RDONLY))
        done.append(name)
    except OSError:
        pass
for name in ("root/tmp", "cwd"):
    try:
        os.mkdir(base + name + "/planted")
        os.rmdir(base + name + "/planted")
        done.append("write " + name)
    except OSError:
        pass
try:
    os.close(os.open(base + "fd/1", os.O_WRONLY))
    done.append("write fd")
    os.listdir(base + "fd")
    done.append("list")
except OSError:
    pass
print(*done, sep=", ")
"""


def test_a_process_of_the_same_uid_is_no_way_out(observer: ObserverProcess, victim: int) -> None:
    """The kernel lets a uid into /proc/PID of its own processes, but not from a user namespace."""
    naive = observer.naive_python(PROC, str(victim)).stdout
    assert naive == (
        "environ, maps, auxv, mem, root/etc/passwd, cwd/open, exe, fd/1, "
        "write root/tmp, write cwd, write fd, list\n"
    )
    assert observer.python(PROC, str(victim)).stdout == "\n"


TRACE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
pid = int(sys.argv[1])
print("seized" if libc.ptrace(0x4206, pid, None, None) == 0 else "refused")
buffer = ctypes.create_string_buffer(8)
print("self", libc.ptrace(0, 0, None, None))
"""


def test_nothing_can_be_traced(observer: ObserverProcess, victim: int) -> None:
    """PTRACE_SEIZE; PTRACE_TRACEME would let the program be traced itself."""
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if observer.uid == 0 or not yama.exists() or yama.read_text().strip() == "0":
        assert "seized" in observer.naive_python(TRACE, str(victim)).stdout
    assert observer.python(TRACE, str(victim)).stdout == "refused\nself -1\n"


HELD = """
import os, sys
base = f"/proc/{sys.argv[1]}/fd"
print(sorted(os.readlink(f"{base}/{name}").partition(":")[0] for name in os.listdir(base)))
for name in os.listdir(base):
    for attempt in (
        lambda: os.open(f"{base}/{name}", os.O_RDONLY),
        lambda: os.unlink(f"{base}/{name}"),
        lambda: os.mkdir(f"{base}/planted"),
    ):
        try:
            attempt()
            print("done")
        except OSError:
            pass
for path in ("/proc/sys/user/max_user_namespaces", "/run/kernel.log"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        print("opened", path)
    except OSError:
        pass
"""


def test_what_is_shown_of_a_process_is_no_way_to_it(
    observer: ObserverProcess, victim: int, servers: list[str]
) -> None:
    """Only the numbers of its sockets, as text: none of its files can be had or named."""
    shows = ["socket owners", "kernel log", "user limits"]
    naive = observer.naive_python(HELD, str(victim)).stdout
    assert "/open" in naive and "done" in naive
    assert observer.python(HELD, str(victim), shows=shows).stdout == "[]\n"
    if observer.uid == os.geteuid():
        assert "'socket'" in observer.naive_python(HELD, str(os.getpid())).stdout
        seen = observer.python(HELD, str(os.getpid()), shows=shows).stdout
        assert set(eval(seen)) == {"socket"}


@needs_root
def test_setuid_programs_gain_nothing(observer: ObserverProcess, shelf: Path) -> None:
    program = shelf / "id"
    shutil.copyfile("/usr/bin/id", program)
    os.chown(program, 1, 1)
    os.chmod(program, 0o6755)
    assert observer.naive(str(program), "-u").stdout == "1\n"
    assert observer.run(str(program), "-u").stdout == f"{observer.uid}\n"


RIGHTS = """
import ctypes, os, resource
status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
print(*(status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")))
print(status["NoNewPrivs"].strip(), status["Seccomp"].strip())
print(resource.getrlimit(resource.RLIMIT_CORE), oct(os.umask(0)), os.getcwd())
libc = ctypes.CDLL(None, use_errno=True)
for flags in (0x10000000, 0x00020000, 0x40000000, 0x20000000):
    print(libc.unshare(flags), end=" ")
print(libc.mount(b"x", b"/dev/shm", b"tmpfs", 0, None), libc.chroot(b"/"), libc.sethostname(b"x", 1))
"""  # noqa: E501


def test_it_has_no_rights_to_give_away(observer: ObserverProcess) -> None:
    """A core limit of 1 keeps the kernel from starting a handler as root (core(5))."""
    none = "0" * 16
    lines = observer.python(RIGHTS).stdout.splitlines()
    assert lines[0].split() == [none] * 5
    assert lines[1].split() == ["1", "2"]
    assert lines[2] == "(1, 1) 0o22 /"
    assert set(lines[3].split()) == {"-1"}
    naive = observer.naive_python(RIGHTS).stdout.splitlines()
    assert naive[1].split() == ["0", "0"]


SYSTEM_V = """
import ctypes, sys
libc = ctypes.CDLL(None)
queue, memory, semaphore, key = map(int, sys.argv[1:])
buffer = ctypes.create_string_buffer(128)
libc.shmat.restype = ctypes.c_void_p
for name, done in (
    ("get", libc.msgget(key, 0) >= 0),
    ("send", libc.msgsnd(queue, b"\\1" + bytes(16), 8, 0o4000) == 0),
    ("receive", libc.msgrcv(queue, buffer, 8, 0, 0o4000) >= 0),
    ("attach", libc.shmat(memory, None, 0) not in (None, 2**64 - 1)),
    ("operate", libc.semop(semaphore, b"\\0\\0\\1\\0\\0\\0", 1) == 0),
    ("set", libc.semctl(semaphore, 0, 16, 0) == 0),
    ("look", libc.msgctl(queue, 2, buffer) == 0),
    ("remove", libc.msgctl(queue, 0, None) == 0),
):
    if done:
        print(name)
"""


def test_shared_memory_and_queues_can_only_be_looked_at(observer: ObserverProcess) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x5EED0000 + os.getpid() % 0x10000
    queue, memory = libc.msgget(key, 0o1666), libc.shmget(key, 4096, 0o1666)
    semaphore = libc.semget(key, 1, 0o1666)
    assert min(queue, memory, semaphore) >= 0
    words = tuple(map(str, (queue, memory, semaphore, key)))
    try:
        assert observer.python(SYSTEM_V, *words).stdout == "look\n"
        assert f"0x{key:08x}" in observer.run("/usr/bin/ipcs", "-q").stdout
        naive = observer.naive_python(SYSTEM_V, *words).stdout.split()
        # Only the owner may remove it.
        done = ["get", "send", "receive", "attach", "operate", "set", "look", "remove"]
        assert naive == done[: None if observer.uid == os.geteuid() else -1]
    finally:
        libc.msgctl(queue, 0, None)
        libc.shmctl(memory, 0, None)
        libc.semctl(semaphore, 0, 0)
