"""Attacks on what a sandbox shares with the host: device nodes, /proc, core dumps, modules."""

from __future__ import annotations

import os

import pytest

from tests.runner.conftest import Bench

pytestmark = pytest.mark.P1

DEVICES = ["null", "zero", "full", "random", "urandom", "tty"]


def test_device_nodes_are_the_hosts_and_stay_as_they_are(bench: Bench) -> None:
    """The nodes are the host's own inodes: uid 0 must not chmod them, nobody set their times."""
    paths = [f"/dev/{name}" for name in DEVICES]
    before = [(os.stat(p).st_mode, os.stat(p).st_uid, os.stat(p).st_mtime_ns) for p in paths]
    script = (
        "import os\n"
        f"for path in {paths!r}:\n"
        "    mode = os.stat(path).st_mode & 0o7777\n"
        "    for change in (lambda: os.chmod(path, mode ^ 0o001), lambda: os.utime(path),\n"
        "                   lambda: os.chown(path, os.getuid(), os.getgid())):\n"
        "        try: change(); print('changed', path)\n"
        "        except OSError: pass\n"
        "open('/dev/null', 'w').write('x'); print(len(open('/dev/zero', 'rb').read(3)))\n"
    )
    try:
        assert bench.run("python", script).stdout == b"3\n"
        after = [(os.stat(p).st_mode, os.stat(p).st_uid, os.stat(p).st_mtime_ns) for p in paths]
        assert after == before
    finally:
        if os.geteuid() == 0:
            for path, (mode, _, _) in zip(paths, before, strict=True):
                os.chmod(path, mode & 0o7777)


def test_modes_in_proc_hold_for_the_whole_host_and_cannot_be_changed(bench: Bench) -> None:
    """A chmod of a file of the kernel's in one procfs shows in every other one."""
    before = os.stat("/proc/version").st_mode
    script = (
        "import os\n"
        "for path in ('/proc/version', '/proc/tty/drivers', '/proc/loadavg'):\n"
        "    try: os.chmod(path, 0o400); print('changed')\n"
        "    except OSError: pass\n"
        "open('/proc/version').read(); open('/proc/self/status').read()\n"
    )
    try:
        outcome = bench.run("python", script)
        assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome
        assert os.stat("/proc/version").st_mode == before
    finally:
        if os.geteuid() == 0:
            for path in ("/proc/version", "/proc/tty/drivers", "/proc/loadavg"):
                os.chmod(path, 0o444)


def test_no_file_of_the_kernels_can_be_written(bench: Bench) -> None:
    """Every file of /proc and /sys that belongs to no process, as uid 0 or an ordinary one."""
    script = (
        "import os, stat\n"
        "tops = ['/proc/' + n for n in os.listdir('/proc') if not n.isdigit()]\n"
        "tops = [t for t in tops if not os.path.islink(t)] + ['/sys']\n"
        "paths = [d + '/' + n for t in tops for d, _, ns in os.walk(t) for n in ns]\n"
        "for path in tops + paths:\n"
        "    try:\n"
        "        if not stat.S_ISREG(os.lstat(path).st_mode): continue\n"
        "        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))\n"
        "        print(path)\n"
        "    except OSError: pass\n"
    )
    assert bench.run("python", script).stdout == b""


CORE = """
import ctypes, resource, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
try: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (OSError, ValueError): pass
try: resource.prlimit(0, resource.RLIMIT_CORE, (0, 0))
except (OSError, ValueError): pass
zero = (ctypes.c_ulong * 2)(0, 0)
for number in (4, 4 + (1 << 32)):
    libc.syscall(ctypes.c_long(302), 0, ctypes.c_ulong(number), zero, 0)
    libc.syscall(ctypes.c_long(160), ctypes.c_ulong(number), zero)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE))
print(subprocess.run(["sh", "-c", "ulimit -c 0; ulimit -c"], stdout=-1).stdout)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the system calls' numbers")
def test_a_crash_starts_no_core_handler_of_the_host(bench: Bench) -> None:
    """Only a limit of 1 stops a core_pattern that is a pipe (fs/coredump.c); 0 does not."""
    outcome = bench.run("python", CORE)
    assert outcome.stdout == b"(1, 1) (100, 200)\nb'0\\n'\n", outcome
    assert bench.run("python", "import os; os.abort()").signal == 6


def test_no_socket_makes_the_host_load_a_module(bench: Bench) -> None:
    script = (
        "import socket\n"
        "for kind, protocol in ((1, 132), (5, 0), (5, 132), (6, 0), (6, 33), (2, 136)):\n"
        "    for family in (2, 10):\n"
        "        try: socket.socket(family, kind, protocol); print(kind, protocol)\n"
        "        except PermissionError: pass\n"
        "for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
        "    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):\n"
        "        socket.socket(family, kind | socket.SOCK_NONBLOCK).close()\n"
        "socket.socket(2, 1, socket.IPPROTO_TCP); socket.socket(10, 2, socket.IPPROTO_UDP)\n"
    )
    outcome = bench.run("python", script)
    assert (outcome.exit_code, outcome.stdout) == (0, b""), outcome
