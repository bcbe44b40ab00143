"""Attacks by observed programs on the host's files: each works naively and fails here (P1).

Naively means: the same program over the host's tree.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.support.observing import ObserverProcess

pytestmark = pytest.mark.P1

FIFO = """
import os, sys
os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK), b"planted")
print("written")
"""


def test_a_fifo_of_the_host_cannot_be_written(observer: ObserverProcess, shelf: Path) -> None:
    path = shelf / "fifo"
    os.mkfifo(path)
    os.chmod(path, 0o666)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert observer.naive_python(FIFO, str(path)).stdout == "written\n"
        assert os.read(reader, 64) == b"planted"
        assert observer.python(FIFO, str(path)).stdout == ""
        assert os.read(reader, 64) == b""
    finally:
        os.close(reader)


WRITE = """
import os, sys
path, done = sys.argv[1], []
directory = os.path.dirname(path)
for name, attempt in (
    ("append", lambda: os.close(os.open(path, os.O_WRONLY | os.O_APPEND))),
    ("truncate", lambda: os.truncate(path, 4)),
    ("chmod", lambda: os.chmod(path, 0o644)),
    ("chown", lambda: os.chown(path, os.getuid(), -1)),
    ("utime", lambda: os.utime(path)),
    ("xattr", lambda: os.setxattr(path, "user.planted", b"x")),
    ("link", lambda: os.link(path, path + ".link")),
    ("rename", lambda: (os.rename(path, path + ".old"), os.rename(path + ".old", path))),
    ("create", lambda: os.close(os.open(directory + "/new", os.O_CREAT | os.O_WRONLY))),
    ("mkdir", lambda: os.mkdir(directory + "/directory")),
    ("symlink", lambda: os.symlink("x", directory + "/symlink")),
    ("fifo", lambda: os.mkfifo(directory + "/made")),
    ("unlink", lambda: os.unlink(path)),
):
    try:
        attempt()
        done.append(name)
    except OSError:
        pass
print(*done)
"""


def test_nothing_of_the_hosts_tree_can_be_changed(observer: ObserverProcess, shelf: Path) -> None:
    for name in ("naive", "seen"):
        (shelf / name).mkdir()
        (shelf / name / "file").write_text("planted")
        for path in (shelf / name, shelf / name / "file"):
            os.chown(path, observer.uid, -1)
    before = os.stat(shelf / "seen/file")
    assert observer.naive_python(WRITE, f"{shelf}/naive/file").stdout.split() == [
        *("append", "truncate", "chmod", "chown", "utime", "xattr", "link", "rename"),
        *("create", "mkdir", "symlink", "fifo", "unlink"),
    ]
    assert observer.python(WRITE, f"{shelf}/seen/file").stdout == "\n"
    after = os.stat(shelf / "seen/file")
    assert os.listdir(shelf / "seen") == ["file"]
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


WALK = """
import os, stat
for top in ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/etc", "/var/log", "/home"):
    for directory, names, files in os.walk(top):
        if top == "/proc" and directory == "/proc":
            names[:] = [n for n in names if not n.isdigit()] + ["self", "1"]
        if directory.count("/") > 5 or directory == "/run/.temporary":
            names.clear()
            continue
        try:
            os.mkdir(directory + "/planted")
            print("made", directory)
        except OSError:
            pass
        for name in files:
            path = directory + "/" + name
            try:
                mode = os.lstat(path).st_mode
                if stat.S_ISREG(mode):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                    print("opened", path)
            except OSError:
                pass
"""


def test_no_file_can_be_opened_for_writing(observer: ObserverProcess) -> None:
    """The host's configuration and files of the kernel, which uid 0 owns."""
    shows = ["socket owners", "kernel log", "user limits", "disks", "all mounts"]
    assert observer.python(WALK, seconds=100, shows=shows).stdout == ""


LOCK = """
import fcntl, sys
with open(sys.argv[1]) as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("locked", flush=True)
    sys.stdin.read() or input() if len(sys.argv) > 2 else None
"""


def test_a_lock_holds_only_in_the_view(observer: ObserverProcess, shelf: Path) -> None:
    """Through a bind mount a program could keep the host's own from a file."""
    path = shelf / "file"
    path.write_text("")
    with open(path) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "BlockingIOError" in observer.naive_python(LOCK, str(path)).stderr
        assert observer.python(LOCK, str(path)).stdout == "locked\n"


def test_hidden_files_are_hidden(observer: ObserverProcess, shelf: Path) -> None:
    (shelf / "home/.ssh").mkdir(parents=True)
    for name in ("home/.ssh/id", "home/history", "home/open"):
        (shelf / name).write_text("squeamish")
    show = ("/bin/grep", "-r", "squeamish", str(shelf))
    assert observer.naive(*show).stdout.count("squeamish") == 3
    seen = observer.run(*show, hide=[f"{shelf}/*/.ssh", f"{shelf}/*/history"])
    assert seen.stdout == f"{shelf}/home/open:squeamish\n"
