"""Attacks by observed programs on devices and terminals: each works naively and fails here (P1).

Naively means: the same program over the host's tree, in the host's namespaces.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
from pathlib import Path

import pytest

from tests.support.accounts import is_root
from tests.support.observing import ObserverProcess

pytestmark = pytest.mark.P1

needs_root = pytest.mark.skipif(not is_root(), reason="the naive way mounts an overlay")

DEVICES = """
import os, sys
for path in sys.argv[1:]:
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
            print(path)
        except OSError:
            pass
for change in (lambda: os.chmod("/dev/null", 0o666), lambda: os.utime("/dev/null")):
    try:
        change()
        print("changed")
    except OSError:
        pass
"""


def test_devices_cannot_be_opened(observer: ObserverProcess, shelf: Path) -> None:
    """Neither those of /dev nor a node elsewhere, nor a terminal that is only looked at."""
    nodes = [shelf / "node"] if is_root() else []
    for node in nodes:
        os.mknod(node, 0o20666, os.makedev(1, 5))
        os.chmod(node, 0o666)
        assert str(node) in observer.naive_python(DEVICES, str(node)).stdout
    main, terminal = pty.openpty()
    try:
        os.fchmod(terminal, 0o666)
        name = os.ttyname(terminal)
        assert name in observer.naive_python(DEVICES, name).stdout
        paths = [name, *map(str, nodes), "/dev/tty", "/dev/ptmx", "/dev/kmsg", "/dev/mem"]
        paths += ["/dev/console", "/dev/vda", "/dev/sda", "/dev/fuse", "/dev/kvm", "/dev/net/tun"]
        assert observer.python(DEVICES, *paths).stdout == ""
        status = observer.run("/usr/bin/stat", "-c", "%t %T", name).stdout
        rdev = os.stat(name).st_rdev
        assert status == f"{os.major(rdev):x} {os.minor(rdev):x}\n"
    finally:
        os.close(main)
        os.close(terminal)


DISK = """
import os, stat, sys
print(stat.S_ISBLK(os.stat(sys.argv[1]).st_mode))
for flags in (os.O_RDONLY, os.O_WRONLY):
    try:
        print(os.pread(os.open(sys.argv[1], flags), 9, 0))
    except OSError:
        pass
"""


@needs_root
def test_disks_can_be_looked_at_but_not_read(observer: ObserverProcess, shelf: Path) -> None:
    """What is on a disk is every file on it, also those that are hidden."""
    (shelf / "image").write_bytes(b"squeamish".ljust(4096, b"."))
    attach = ["losetup", "--find", "--show", "--read-only", shelf / "image"]
    disk = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    try:
        os.chown(disk, observer.uid, -1)
        assert observer.naive_python(DISK, disk).stdout == "True\nb'squeamish'\n"
        assert observer.python(DISK, disk, shows=["disks"]).stdout == "True\n"
        assert "FileNotFoundError" in observer.python(DISK, disk).stderr
    finally:
        os.chown(disk, 0, -1)
        subprocess.run(["losetup", "--detach", disk], check=True)


TERMINAL = """
import fcntl, os, termios
try:
    terminal = os.open("/dev/tty", os.O_RDWR)
    print("terminal")
    fcntl.ioctl(terminal, termios.TIOCSTI, b"x")
    print("typed")
except OSError:
    pass
print(open("/proc/self/stat").read().rpartition(")")[2].split()[4])
"""


def test_there_is_no_terminal_to_type_on(observer: ObserverProcess) -> None:
    """TIOCSTI, where the kernel still has it, would type into the shell of who started it."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv("/usr/bin/python3", ["python3", "-I", "-c", TERMINAL])
    printed = b""
    while select.select([terminal], [], [], 20)[0]:
        try:
            printed += os.read(terminal, 4096)
        except OSError:
            break
    os.waitpid(child, 0)
    os.close(terminal)
    assert b"terminal" in printed
    assert observer.python(TERMINAL).stdout == "0\n"
