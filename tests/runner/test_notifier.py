"""What a script tries of the outside is refused and told to the reviewer (P1, P7)."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shannotd.runner import kernel, seccomp
from shannotd.runner.notifier import MAX_RECORDS, Notifier, describe_address
from shannotd.runner.plan import BlockedStep
from tests.runner.conftest import Bench
from tests.support.runner import Outcome

pytestmark = pytest.mark.P1


def attempts(outcome: Outcome) -> dict[tuple[str, str], int]:
    """What and where -> how often, of a run that gave a plan."""
    assert outcome.digest, outcome
    return {
        (step["what"], step["target"]): step["count"]
        for step in outcome.steps
        if step["kind"] == "blocked"
    }


def test_addresses_in_words() -> None:
    port = struct.pack(">H", 80)
    four = struct.pack("=H", socket.AF_INET) + port + bytes([192, 0, 2, 1]) + bytes(8)
    six = struct.pack("=H", socket.AF_INET6) + port + bytes(4) + bytes(15) + b"\1" + bytes(4)
    unix = struct.pack("=H", socket.AF_UNIX)
    assert describe_address(four) == (socket.AF_INET, "192.0.2.1:80")
    assert describe_address(six) == (socket.AF_INET6, "[::1]:80")
    assert describe_address(unix + b"/run/x\0rest") == (socket.AF_UNIX, "/run/x")
    assert describe_address(unix + b"\0name\0") == (socket.AF_UNIX, "@name")
    for cut in (b"", b"\1", four[:7], six[:23], unix, struct.pack("=H", socket.AF_NETLINK) * 6):
        assert describe_address(cut) is None


def test_a_look_up_of_a_name_is_no_attempt(bench: Bench) -> None:
    """The servers that check their configuration look up the addresses to listen at."""
    code = (
        "import socket as s\n"
        "print(len(s.getaddrinfo(None, 22, type=s.SOCK_STREAM, flags=s.AI_PASSIVE)) > 1)\n"
        "s.socket(s.AF_INET, s.SOCK_DGRAM).connect(('0.0.0.0', 9))\n"
        "s.socket(s.AF_INET6, s.SOCK_DGRAM).connect(('::', 9))\n"
        "s.socket(s.AF_INET, s.SOCK_DGRAM).connect(('127.0.0.1', 7))\n"
        "s.socket().connect_ex(('0.0.0.0', 8))\n"
    )
    outcome = bench.run("python", code)
    assert outcome.stdout == b"True\n", outcome.stderr
    assert attempts(outcome) == {("connect", "127.0.0.1:7"): 1, ("connect", "0.0.0.0:8"): 1}


def test_destinations_outside_are_unreachable_and_told(bench: Bench) -> None:
    code = (
        "import socket as s\n"
        "for _ in range(3): print(s.socket().connect_ex(('192.0.2.1', 80)))\n"
        "print(s.socket(s.AF_INET6).connect_ex(('2001:db8::1', 443)))\n"
        "u = s.socket(s.AF_INET, s.SOCK_DGRAM)\n"
        "try:\n    u.sendto(b'x', ('192.0.2.2', 53))\nexcept OSError as e:\n    print(e.errno)\n"
    )
    outcome = bench.run("python", code)
    assert outcome.stdout.split() == [str(errno.ENETUNREACH).encode()] * 5
    assert attempts(outcome) == {
        ("connect", "192.0.2.1:80"): 3,
        ("connect", "[2001:db8::1]:443"): 1,
        ("connect", "192.0.2.2:53"): 1,
    }


def test_binding_is_told_where_it_would_serve_others(bench: Bench) -> None:
    code = (
        "import socket as s\n"
        "def bind(*address):\n"
        "    try:\n        s.socket().bind(address)\n"
        "    except OSError as e:\n        print(e.errno)\n"
        "bind('192.0.2.1', 8080)\nbind('192.0.2.1', 0)\nbind('127.0.0.1', 8081)\n"
    )
    outcome = bench.run("python", code)
    assert attempts(outcome) == {("bind", "192.0.2.1:8080"): 1}
    assert outcome.stdout.split() == [str(errno.EADDRNOTAVAIL).encode()] * 2


def test_addresses_that_cannot_be_read_reach_nothing(bench: Bench) -> None:
    code = (
        "import ctypes, socket\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "s = socket.socket()\n"
        "for pointer, length in ((1, 16), (2**63 + 1, 16), (0, 0)):\n"
        "    answer = libc.connect(s.fileno(), ctypes.c_void_p(pointer), length)\n"
        "    print(answer, ctypes.get_errno())\n"
        "print(libc.connect(s.fileno(), b'\\x02\\x00\\x00', 3), ctypes.get_errno())\n"
    )
    outcome = bench.run("python", code)
    lines = [line.split() for line in outcome.stdout.splitlines()]
    assert [line[0] for line in lines] == [b"-1"] * 4
    assert all(int(line[1]) in (errno.EFAULT, errno.EINVAL) for line in lines)
    assert attempts(outcome) == {}


def test_calls_that_no_script_may_make_are_told(bench: Bench) -> None:
    code = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.mount(b'none', b'/mnt', b'tmpfs', 0, None), ctypes.get_errno())\n"
    )
    outcome = bench.run("python", code)
    assert outcome.stdout.split() == [b"-1", str(errno.EPERM).encode()]
    assert attempts(outcome) == {("mount", ""): 1}


@pytest.mark.P7
def test_a_flood_of_attempts_is_counted_together(bench: Bench) -> None:
    more = 20
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for port in range(1, {MAX_RECORDS + more + 1}):\n"
        "    s.connect_ex(('192.0.2.1', port))\n"
    )
    outcome = bench.run("python", code)
    told = attempts(outcome)
    assert len(told) == MAX_RECORDS + 1
    assert told["more", f"further attempts, beyond {MAX_RECORDS} kinds"] == more


def test_a_hosts_socket_by_a_relative_path(bench: Bench, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / "host"))
        server.listen()
        code = (
            "import socket as s\n"
            "print(s.socket(s.AF_UNIX).connect_ex('host'))\n"
            "print(s.socket(s.AF_UNIX).connect_ex('missing'))\n"
            "own = s.socket(s.AF_UNIX); own.bind('own'); own.listen()\n"
            "print(s.socket(s.AF_UNIX).connect_ex('own'))\n"
        )
        outcome = bench.run("python", code, cwd=str(place))
    assert outcome.stdout.split()[1:] == [str(errno.ENOENT).encode(), b"0"]
    assert outcome.stdout.split()[0] != b"0"
    connects = [target for what, target in attempts(outcome) if what == "connect"]
    assert connects == [f"unix:{place}/host"]
    assert sorted(os.listdir(place)) == ["host"]


def test_a_server_of_the_scripts_own_is_reached_and_not_told(bench: Bench) -> None:
    code = (
        "import socket as s\n"
        "server = s.create_server(('127.0.0.1', 0))\n"
        "port = server.getsockname()[1]\n"
        "print(s.socket().connect_ex(('127.0.0.1', port)))\n"
        # What programs do that know IPv6 sockets only (ipv6(7)).
        "print(s.socket(s.AF_INET6).connect_ex(('::ffff:127.0.0.1', port)))\n"
        "print(s.socket(s.AF_INET6).connect_ex(('::ffff:192.0.2.1', 80)))\n"
    )
    outcome = bench.run("python", code)
    assert outcome.stdout.split() == [b"0", b"0", str(errno.ENETUNREACH).encode()]
    assert attempts(outcome) == {("connect", "[::ffff:192.0.2.1]:80"): 1}


def test_a_path_that_is_no_socket_is_no_attempt(bench: Bench, place: Path) -> None:
    (place / "file").touch()
    code = "import socket as s\nprint(s.socket(s.AF_UNIX).connect_ex('file'))\n"
    outcome = bench.run("python", code, cwd=str(place))
    assert int(outcome.stdout) in (errno.ECONNREFUSED, errno.EACCES)  # root may write it
    assert attempts(outcome) == {}


# A caller may be killed at any moment while its call is answered.


@contextmanager
def calling(call: Callable[[], object]) -> Iterator[tuple[int, int]]:
    """A process under the filter that does `call` and waits for its answer; its listener."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            listener = kernel.install_filter(seccomp.compile_filter(), listener=True)
            socket.send_fds(theirs, [b"x"], [listener])
            os.close(listener)
            call()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    theirs.close()
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    (listener,) = descriptors
    assert select.select([listener], [], [], 30)[0]
    try:
        yield pid, listener
    finally:
        os.close(listener)
        ours.close()


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Deadly(Notifier):
    """Whose caller dies while it is asked whether it still waits, or is recorded."""

    def __init__(self, listener: int, processes: int, victim: int, moment: str) -> None:
        super().__init__(listener, processes)
        self._victim = victim
        self._moment = moment

    def _dies(self, moment: str) -> None:
        if moment == self._moment:
            end(self._victim)
            self._moment = ""

    def waits(self, identifier: int) -> bool:
        self._dies("waits")
        return super().waits(identifier)

    def _record(self, what: str, target: str) -> None:
        self._dies("record")
        super()._record(what, target)

    def _is_host_socket(self, pid: int, named: str) -> bool:
        self._dies("look")
        return super()._is_host_socket(pid, named)


def outward() -> None:
    socket.socket().connect_ex(("192.0.2.1", 80))


def by_name() -> None:
    socket.socket(socket.AF_UNIX).connect_ex("missing")


OUTWARD = BlockedStep("connect", "192.0.2.1:80", 1)


@pytest.mark.P10
@pytest.mark.parametrize(
    ("call", "moment", "steps"),
    [
        (outward, "before", []),
        (outward, "waits", []),  # its memory may have been another process's
        (outward, "record", [OUTWARD]),
        (by_name, "look", []),
    ],
    ids=["before", "waits", "record", "look"],
)
def test_a_caller_that_dies_meanwhile_harms_nobody(
    call: Callable[[], object], moment: str, steps: list[BlockedStep], tmp_path: Path
) -> None:
    processes = os.open(tmp_path, os.O_RDONLY)
    with calling(call) as (pid, listener):
        notifier = Deadly(listener, processes, pid, moment)
        if moment == "before":
            end(pid)
        notifier.answer()
        assert notifier.steps() == steps
    os.close(processes)


@pytest.mark.P8
def test_what_is_no_listener_is_no_quiet_one() -> None:
    with open("/dev/null", "rb") as null, pytest.raises(OSError, match="Inappropriate ioctl"):
        Notifier(null.fileno(), null.fileno()).answer()


@pytest.mark.parametrize("unreadable", [False, True], ids=["missing", "unreadable"])
def test_without_tables_of_sockets_no_server_is_known(tmp_path: Path, unreadable: bool) -> None:
    if unreadable:
        (tmp_path / "1/net").mkdir(parents=True)
        (tmp_path / "1/net/tcp").symlink_to("/proc/self/mem")
    processes = os.open(tmp_path, os.O_RDONLY)
    with calling(lambda: socket.socket().connect_ex(("127.0.0.1", 9))) as (pid, listener):
        notifier = Notifier(listener, processes)
        notifier.answer()
        os.waitpid(pid, 0)  # its call went on
        assert notifier.steps() == [BlockedStep("connect", "127.0.0.1:9", 1)]
    os.close(processes)


def asynchronous() -> None:
    number = {"x86_64": 206, "aarch64": 0}[platform.machine()]  # io_setup(2)
    ctypes.CDLL(None).syscall(
        ctypes.c_long(number), ctypes.c_uint(1), ctypes.byref(ctypes.c_long())
    )


@pytest.mark.P2
@pytest.mark.parametrize("call", [asynchronous, outward])
def test_it_is_known_whether_the_kernel_may_work_on_for_who_ended(
    call: Callable[[], object], tmp_path: Path
) -> None:
    processes = os.open(tmp_path, os.O_RDONLY)
    with calling(call) as (pid, listener):
        notifier = Notifier(listener, processes)
        notifier.answer()
        os.waitpid(pid, 0)  # its call went on
        assert notifier.asynchronous is (call is asynchronous)
    os.close(processes)


def test_asynchronous_input_and_output_works(bench: Bench) -> None:
    code = (
        "import ctypes, platform\n"
        "context = ctypes.c_ulong()\n"
        "number = {'x86_64': 206, 'aarch64': 0}[platform.machine()]\n"
        "call = ctypes.CDLL(None, use_errno=True).syscall\n"
        "print(call(ctypes.c_long(number), ctypes.c_uint(1), ctypes.byref(context)))\n"
    )
    outcome = bench.run("python", code)
    assert outcome.stdout == b"0\n"
    assert attempts(outcome) == {}
