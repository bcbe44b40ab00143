"""Attacks on observed programs, and by them: each works naively and fails here (P1).

Naively means: the same program with what the script made (its files laid over the host's tree,
its environment, directory, input, descriptors) and in the host's namespaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import pwd
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.observing import ObserverProcess, merged

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


PLANTED = [
    ({"/etc/ld.so.preload": "/planted.so"}, ["/bin/true"], {}, "/planted.so"),
    ({"/etc/passwd": "planted:x:0:0::/:/bin/sh\n"}, ["/usr/bin/getent", "passwd"], {}, "planted"),
    ({"/etc/nsswitch.conf": "hosts: files\n", "/etc/hosts": "192.0.2.1 planted\n"},
     ["/usr/bin/getent", "hosts", "planted"], {}, "192.0.2.1"),
    ({"/home/planted/.config/procps/toprc": "planted"}, ["/usr/bin/top", "-b", "-n1"],
     {"HOME": "/home/planted", "TERM": "dumb"}, "rcfile"),
    ({"/planted/gconv-modules": "module PLANTED// INTERNAL planted 1\n"},
     ["/usr/bin/iconv", "-l"], {"GCONV_PATH": "/planted"}, "PLANTED"),
    ({"/etc/topdefaultrc": "planted"}, ["/usr/bin/top", "-b", "-n1"], {"TERM": "dumb"}, "rcfile"),
    ({"/etc/fstab": "/dev/planted /planted ext4 defaults 0 0\n"},
     ["/usr/bin/findmnt", "--fstab", "-no", "SOURCE"], {}, "planted"),
    ({"/etc/iproute2/rt_tables": "255 planted\n254 main\n"}, ["/bin/ip", "rule"], {}, "planted"),
    ({"/etc/inputrc": '"\\C-g": "planted"\n'}, ["/bin/bash", "--norc", "-ic", "bind -s"],
     {"INPUTRC": "/etc/inputrc"}, "planted"),
    ({"/etc/os-release": "NAME=planted\n"}, ["/bin/sh", "-c", ". /etc/os-release; echo $NAME"], {},
     "planted"),
    ({"/usr/bin/ps": "#!/bin/sh\necho planted\n"}, ["/bin/sh", "/usr/bin/ps"], {}, "planted"),
    ({"/planted/sitecustomize.py": "print('planted')\n"}, ["/usr/bin/python3", "-c", ""],
     {"PYTHONPATH": "/planted"}, "planted"),
    ({"/planted/rc": "echo planted\n"}, ["/bin/bash", "-c", ":"], {"BASH_ENV": "/planted/rc"},
     "planted"),
    ({"/planted/lib.so": "planted"}, ["/bin/true"], {"LD_PRELOAD": "/planted/lib.so"}, "lib.so"),
    ({"/planted/libc.so.6": "planted"}, ["/bin/true"], {"LD_LIBRARY_PATH": "/planted"}, "planted"),
]  # fmt: skip


@needs_root
@pytest.mark.parametrize(("files", "argv", "environment", "proof"), PLANTED)
def test_planted_files_are_never_read(
    observer: ObserverProcess,
    files: dict[str, str],
    argv: list[str],
    environment: dict[str, str],
    proof: str,
) -> None:
    if not shutil.which(argv[0]):
        pytest.skip(f"no {argv[0]}")
    assert proof in merged(files, *argv, **environment)
    seen = observer.run(*argv, claimed=environment)
    assert seen.error is None
    assert proof not in seen.stdout + seen.stderr


def test_nothing_of_a_live_sandbox_is_seen(
    bench: Bench, observer: ObserverProcess, place: Path
) -> None:
    """While a script runs that has written, its writes are seen by it alone."""
    script = (
        f"echo planted | tee {place}/made /tmp/{place.name} /etc/ld.so.preload;"
        "echo ready; while :; do sleep 0.01; done"
    )
    _, job = bench.runner.start("shell", script)
    with job:
        printed = b""
        while b"ready" not in printed:
            event, payload, _ = job.receive()
            assert event["event"] in ("started", "output"), event
            printed += payload
        seen = observer.run("/bin/ls", "-d", f"{place}/made", f"/tmp/{place.name}", "/etc/passwd")
        assert (seen.exit_code, seen.stdout.strip()) == (2, "/etc/passwd")
        assert "preload" not in seen.stderr
        job.send({"op": "cancel"})
        while job.receive()[0]["event"] != "end":
            pass


NAMES = (
    "LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT LD_DEBUG_OUTPUT PATH HOME XDG_CONFIG_HOME TMPDIR "
    "PYTHONPATH PYTHONSTARTUP PYTHONHOME PERL5LIB PERL5OPT RUBYLIB NODE_OPTIONS BASH_ENV ENV "
    "GCONV_PATH LOCPATH NLSPATH TZDIR TERMINFO TERMCAP PAGER LESSOPEN SYSTEMD_PAGER "
    "SYSTEMD_EDITOR GIT_CONFIG MALLOC_TRACE GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN "
    "RES_OPTIONS DBUS_SESSION_BUS_ADDRESS DBUS_SYSTEM_BUS_ADDRESS SSH_AUTH_SOCK "
    "XDG_RUNTIME_DIR PROCPS_USERLEN OPENSSL_CONF SS_FILTER IFS LS_COLORS"
).split()
VALUES = {
    "TZ": ":/planted",
    "LANG": "/planted",
    "LC_ALL": "../planted",
    "LC_MESSAGES": "en\nplanted",
    "TERM": "../planted",
    "COLUMNS": "9planted",
    "LINES": "",
    "BLOCK_SIZE": "/planted",
}
CLAIMED = {**dict.fromkeys(NAMES, "/planted"), **VALUES}


def test_of_the_environment_only_harmless_words_are_taken(observer: ObserverProcess) -> None:
    assert observer.naive("/usr/bin/env", environment=CLAIMED).stdout.count("planted") > 40
    seen = observer.run("/usr/bin/env", claimed=CLAIMED)
    base = ["HOME=/nonexistent", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    assert sorted(seen.stdout.splitlines()) == [*base, "TMPDIR=/run/.temporary"]
    harmless = {"TZ": "Europe/Berlin", "LANG": "de_DE.UTF-8", "COLUMNS": "200", "TERM": "xterm"}
    printed = observer.run("/usr/bin/env", claimed=harmless).stdout
    assert set(printed.splitlines()) >= {f"{name}={value}" for name, value in harmless.items()}


def test_the_name_that_it_is_called_by_is_its_own(observer: ObserverProcess) -> None:
    code = "echo $0"
    assert observer.naive("planted", "-c", code, executable="/bin/sh").stdout == "planted\n"
    assert observer.run("planted", "-c", code, program="/bin/sh").stdout == "sh\n"
    assert observer.run("/bin/sh", "-c", code).stdout == "/bin/sh\n"


def test_the_scripts_directory_is_not_where_it_runs(observer: ObserverProcess, shelf: Path) -> None:
    (shelf / "planted.py").write_text("print('planted')")
    code = "import planted"
    assert observer.naive("/usr/bin/python3", "-c", code, cwd=shelf).stdout == "planted\n"
    assert "ModuleNotFoundError" in observer.run("/usr/bin/python3", "-c", code).stderr
    assert observer.run("/bin/pwd").stdout == "/\n"


def test_input_and_descriptors_are_not_the_scripts(observer: ObserverProcess, shelf: Path) -> None:
    code = "import os; print(sorted(os.listdir('/proc/self/fd'))); print(os.read(0, 9))"
    with open(shelf / "open", "w+") as file:
        naive = observer.naive(
            "/usr/bin/python3", "-c", code, stdin=subprocess.DEVNULL, pass_fds=[file.fileno()]
        )
        assert f"'{file.fileno()}'" in naive.stdout
        # The directory that is being listed is the fourth.
        assert observer.python(code).stdout == "['0', '1', '2', '3']\nb''\n"
    assert observer.naive("/bin/cat", stdin=None, input="planted").stdout == "planted"
    assert observer.run("/bin/cat").stdout == ""


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


CONNECT = """
import socket, sys
for address in sys.argv[1:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(socket.AF_UNIX, kind) as client:
                client.connect(address.replace("@", chr(0)))
                print("connected", address)
        except OSError:
            pass
    try:
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        left.sendto(b"planted", address.replace("@", chr(0)))
        print("sent", address)
    except OSError:
        pass
"""


@pytest.fixture
def servers(observer: ObserverProcess, shelf: Path) -> Iterator[list[str]]:
    """Addresses of the host's: a stream and a datagram socket in its tree, an abstract one."""
    abstract = f"@shannot-{shelf.name}"
    stream, datagram, other = (socket.socket(socket.AF_UNIX, kind) for kind in (1, 2, 2))
    with stream, datagram, other:
        stream.bind(str(shelf / "stream"))
        stream.listen(64)
        datagram.bind(str(shelf / "datagram"))
        other.bind("\0" + abstract[1:])
        for name in ("stream", "datagram"):
            os.chmod(shelf / name, 0o666)
        yield [str(shelf / "stream"), str(shelf / "datagram"), abstract]


@pytest.mark.parametrize("net", ["none", "host", "interfaces"])
def test_sockets_of_the_host_are_out_of_reach(
    observer: ObserverProcess, servers: list[str], net: str
) -> None:
    naive = observer.naive_python(CONNECT, *servers).stdout.splitlines()
    assert naive == [
        f"connected {servers[0]}",
        f"connected {servers[1]}",
        f"sent {servers[1]}",
        f"connected {servers[2]}",
        f"sent {servers[2]}",
    ]
    assert observer.python(CONNECT, *servers, net=net).stdout == ""


def test_one_named_socket_opens_no_other(observer: ObserverProcess, servers: list[str]) -> None:
    """The overlay is the wall here, and the network namespace for the abstract one."""
    seen = observer.python(CONNECT, *servers, sockets=[servers[1]])
    assert seen.stdout.splitlines() == [f"connected {servers[1]}"]


@pytest.mark.parametrize("net", ["host", "interfaces"])
def test_sockets_and_the_hosts_network_exclude_each_other(
    observer: ObserverProcess, net: str
) -> None:
    """The host's abstract sockets would be reachable."""
    seen = observer.run("/bin/true", net=net, sockets=["/run/x"])
    assert seen.error is not None
    assert seen.error["code"] == "invalid_request"


def test_only_a_socket_can_be_named_as_one(observer: ObserverProcess, shelf: Path) -> None:
    os.mkfifo(shelf / "fifo")
    os.symlink("fifo", shelf / "link")
    seen = observer.run("/bin/ls", "/run/planted", sockets=[f"{shelf}/link", "/run/planted"])
    assert seen.exit_code == 2


PORT = """
import socket, sys
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            with socket.socket(family, kind) as client:
                print("socket")
                client.connect((address, int(sys.argv[1])))
                print("connected")
        except OSError:
            pass
"""


@pytest.mark.parametrize("net", ["none", "host"])
def test_ports_of_the_host_are_out_of_reach(observer: ObserverProcess, net: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert "connected" in observer.naive_python(PORT, port).stdout
        assert observer.python(PORT, port, net=net).stdout == ""


DATAGRAM = """
import socket, struct, sys
port = int(sys.argv[1])
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    client = socket.socket(family, socket.SOCK_DGRAM)
    for name, attempt in (
        ("bound", lambda: client.bind((address, 0))),
        ("joined", lambda: client.setsockopt(0, 35, socket.inet_aton("224.0.0.251") + bytes(4))),
        ("sent", lambda: client.sendto(b"planted", (address, port))),
        ("sent a message", lambda: client.sendmsg([b"planted"], [], 0, (address, port))),
        ("connected", lambda: client.connect((address, port))),
        ("written", lambda: client.send(b"planted")),
    ):
        try:
            attempt()
            print(name, end=", ")
        except OSError:
            pass
try:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    print("stream")
except OSError:
    pass
"""


def test_at_interfaces_can_only_be_looked(observer: ObserverProcess) -> None:
    """ifconfig and its like ask by ioctl(2) on a socket: nothing else can be done with it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
        naive = observer.naive_python(DATAGRAM, port).stdout
        assert "bound, " in naive and "sent, sent a message, connected, written, " in naive
        assert "stream" in naive
        for _ in range(3):
            assert server.recv(64) == b"planted"
        assert observer.python(DATAGRAM, port, net="interfaces").stdout == ""
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv(64)


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
            os.chown(path, observer.uid, observer.uid)
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


UEVENT = """
import socket
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as client:
    client.bind((0, 0))
    client.sendto(b"planted", (0, 1 << 20))
    print("sent")
"""


def test_no_event_of_a_device_can_be_faked(observer: ObserverProcess) -> None:
    if observer.uid == 0:
        assert observer.naive_python(UEVENT).stdout == "sent\n"
    for net in ("none", "host", "interfaces"):
        assert observer.python(UEVENT, net=net).stdout == ""


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


def test_hidden_files_are_hidden(observer: ObserverProcess, shelf: Path) -> None:
    (shelf / "home/.ssh").mkdir(parents=True)
    for name in ("home/.ssh/id", "home/history", "home/open"):
        (shelf / name).write_text("squeamish")
    show = ("/bin/grep", "-r", "squeamish", str(shelf))
    assert observer.naive(*show).stdout.count("squeamish") == 3
    seen = observer.run(*show, hide=[f"{shelf}/*/.ssh", f"{shelf}/*/history"])
    assert seen.stdout == f"{shelf}/home/open:squeamish\n"
