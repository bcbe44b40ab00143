"""observe: the host's own programs as if they had been started on the host, only harmless."""

from __future__ import annotations

import grp
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.accounts import is_root
from tests.support.observing import ObserverProcess, running_observer

pytestmark = pytest.mark.P1


def _needs(program: str) -> None:
    if not os.path.exists(program):
        pytest.skip(f"no {program}")


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process of the host's."""
    with subprocess.Popen(["/bin/sleep", "98765"]) as process:
        yield process.pid
        process.kill()


def test_ps_sees_every_process_of_the_host(observer: ObserverProcess, sleeper: int) -> None:
    _needs("/usr/bin/ps")
    seen = observer.run("/usr/bin/ps", "-eo", "pid=,args=")
    lines = [line.split(None, 1) for line in seen.stdout.splitlines()]
    assert [str(sleeper), "/bin/sleep 98765"] in lines
    assert any(words[0] == "1" for words in lines)
    if is_root() and observer.run_as is not None:  # the one-uid builder maps no other name
        assert "root" in observer.run("/usr/bin/ps", "-o", "user=", "1").stdout


SELF = """
import os
directory = f"/proc/{os.getpid()}"
print(os.readlink("/proc/self") == str(os.getpid()), os.readlink("/proc/self/exe"))
print(open(directory + "/comm").read(), os.getsid(0) == os.getpid())
"""


def test_a_program_finds_itself_among_the_hosts_processes(observer: ObserverProcess) -> None:
    """ps and pgrep look up their own number in /proc; also while others fork all the time."""
    with subprocess.Popen(["/bin/sh", "-c", "while :; do /bin/true; done"]) as busy:
        try:
            for _ in range(20):
                seen = observer.python(SELF)
                python = os.path.realpath("/usr/bin/python3")
                assert seen.stdout.split() == ["True", python, "python3", "True"], seen
        finally:
            busy.kill()
    name = f"unheard-of-{os.getpid()}"
    assert observer.run("/usr/bin/pgrep", "-f", name).stdout == ""
    assert "ps" in observer.run("/usr/bin/ps", "-o", "comm=").stdout.split()


def test_who_called_is_not_seen_beside_it(observer: ObserverProcess) -> None:
    """`pgrep -f` would always find the shim that waits for it."""
    name = f"unheard-of-{os.getpid()}"
    with subprocess.Popen(["/bin/sh", "-c", "read x", name], stdin=subprocess.PIPE) as shim:
        argv = ("/usr/bin/pgrep", "-f", name)
        assert observer.run(*argv).stdout == f"{shim.pid}\n"
        assert observer.run(*argv, caller=shim.pid).stdout == ""
        listed = observer.run("/usr/bin/ps", "-e", caller=shim.pid).stdout
        assert str(shim.pid) not in listed.split()
        assert shim.stdin is not None
        shim.stdin.close()
        shim.wait()
        assert observer.run(*argv, caller=shim.pid).exit_code == 1


def test_an_ordinary_runner_says_what_it_cannot_tell(observer: ObserverProcess) -> None:
    """In its user namespace every other account is nobody."""
    note = "others are nobody"
    ordinary = os.stat(f"/proc/{observer.process.pid}").st_uid != 0
    own = str(observer.uid)
    for argv, owners, expected in (
        (["/usr/bin/ps", "-o", "user=", "-p", "1"], "shown", ordinary),
        (["/usr/bin/ps", "-o", "pid=", "-p", "1"], "shown", False),
        (["/usr/bin/pgrep", "-u", own], "sought", ordinary),
        (["/bin/echo", "nobody"], "", False),
    ):
        seen = observer.run(*argv, owners=owners)
        assert (note in seen.stderr) == expected, (argv, seen)
    if not ordinary and observer.run_as is not None:
        assert observer.run("/usr/bin/ps", "-o", "user=", "-p", "1").stdout == "root\n"


def test_control_groups_and_names_are_the_hosts(observer: ObserverProcess) -> None:
    for path in ("/proc/1/cgroup", "/proc/self/cgroup", "/proc/sys/kernel/hostname"):
        assert observer.run("/bin/cat", path).stdout == observer.naive("/bin/cat", path).stdout


def test_ss_sees_the_hosts_listening_sockets_only_in_its_network(observer: ObserverProcess) -> None:
    _needs("/usr/bin/ss")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = f"127.0.0.1:{server.getsockname()[1]} "
        assert port in observer.run("/usr/bin/ss", "-tlnp", net="host").stdout
        assert port not in observer.run("/usr/bin/ss", "-tlnp").stdout


LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(uid: int) -> Iterator[tuple[int, int]]:
    """A process of this uid that listens: its number and the port."""
    owner: dict[str, Any] = {}
    if is_root():
        owner = {"user": uid, "group": pwd.getpwuid(uid).pw_gid, "extra_groups": []}
    with subprocess.Popen(
        ["/usr/bin/python3", "-I", "-c", LISTEN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        **owner,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.stdin.close()


def test_who_has_a_socket_is_shown_as_on_the_host(observer: ObserverProcess) -> None:
    """To root all, to others their own; netstat finds nothing that it may not look at."""
    _needs("/usr/bin/ss")
    more: dict[str, Any] = {"net": "host", "shows": ["socket owners"]}
    with listening(observer.uid) as (pid, port):
        owner = f'"python3",pid={pid},fd=3'
        argv = ("/usr/bin/ss", "-tlnp", f"sport = :{port}")
        assert owner in observer.naive(*argv).stdout
        assert owner in observer.run(*argv, **more).stdout
        unshown = observer.run(*argv, net="host").stdout
        assert str(port) in unshown and "pid=" not in unshown
        if observer.uid == 0:
            for other in (1, 2, os.getpid(), observer.process.pid):
                assert observer.run("/bin/ls", f"/proc/{other}/fd", **more).exit_code == 0
    if is_root():
        with listening(1) as (pid, port):
            argv = ("/usr/bin/ss", "-tlnp", f"sport = :{port}")
            assert (f"pid={pid}," in observer.run(*argv, **more).stdout) == (observer.uid == 0)


@pytest.mark.P5
def test_the_kernels_log_is_shown_to_whom_it_is_on_the_host(observer: ObserverProcess) -> None:
    restricted = Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() == "1"
    argv = ("/bin/dmesg", "-F", "/run/kernel.log", "-r")
    seen = observer.run(*argv, shows=["kernel log"])
    if observer.uid == 0 or not restricted:
        expected = subprocess.run(["dmesg", "-S", "-r"], capture_output=True, text=True, check=True)
        lines = set(seen.stdout.splitlines())
        assert len(lines & set(expected.stdout.splitlines())) > len(lines) / 2 > 5
    else:
        assert (seen.exit_code, "Permission denied" in seen.stderr) == (1, True), seen
    assert observer.run(*argv).exit_code == 1


def test_settings_of_the_kernel_are_the_hosts(observer: ObserverProcess) -> None:
    """Some belong to namespaces, of which the program has some of its own."""
    read = (
        "cat /proc/sys/user/max_user_namespaces /proc/sys/user/max_mnt_namespaces"
        " /proc/sys/kernel/shmmax /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max"
        " /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_forward /proc/sys/net/core/somaxconn"
    )
    seen = observer.run("/bin/sh", "-c", read, net="host", shows=["user limits"])
    assert seen.stdout == observer.naive("/bin/sh", "-c", read).stdout
    alone = observer.run("/bin/sh", "-c", read, net="host").stdout
    assert alone.splitlines()[:2] == [str(2**31 - 1)] * 2


INTERFACE = """
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    answer = fcntl.ioctl(asking, 0x8915, b"lo".ljust(40, bytes(1)))  # SIOCGIFADDR
print(socket.inet_ntoa(answer[20:24]))
"""


def test_interfaces_can_be_asked_by_ioctl(observer: ObserverProcess) -> None:
    """As ifconfig, arp and netstat -i do."""
    assert observer.python(INTERFACE, net="interfaces").stdout == "127.0.0.1\n"
    assert "OSError" in observer.python(INTERFACE, net="host").stderr


def test_the_addresses_of_the_host_are_those_of_its_network(observer: ObserverProcess) -> None:
    _needs("/usr/sbin/ip")
    argv = ("/usr/sbin/ip", "-brief", "link")
    assert observer.run(*argv, net="host").stdout == observer.naive(*argv).stdout
    assert observer.run(*argv).stdout != observer.naive(*argv).stdout


@pytest.mark.parametrize(
    "argv",
    [
        ["/usr/bin/df", "--output=source,fstype,size,target", "/"],
        ["/usr/bin/findmnt", "-o", "TARGET,SOURCE,FSTYPE", "/"],
        ["/usr/bin/uname", "-a"],
        ["/usr/bin/lscpu"],
        ["/usr/bin/free", "--bytes"],
        ["/usr/bin/uptime", "--since"],
        ["/usr/bin/stat", "-c", "%a %s %Y %n", "/etc/hostname", "/usr/bin"],
        ["/usr/bin/ls", "-R", "/etc/default", "/usr/lib/systemd"],
        ["/usr/bin/getent", "services"],
        ["/usr/bin/nproc"],
        ["/usr/bin/lsblk"],
    ],
    ids=lambda argv: os.path.basename(argv[0]),
)
def test_what_is_printed_is_what_the_host_prints(
    observer: ObserverProcess, argv: list[str]
) -> None:
    _needs(argv[0])

    def stable(text: str) -> list[str]:
        """Without what changes by itself from run to run: free memory, clock speed."""
        if argv[0] == "/usr/bin/free":
            return [" ".join(line.split()[:2]) for line in text.splitlines()]
        changing = ("scaling MHz", "loop")  # loop devices are other tests'
        return [line for line in text.splitlines() if not any(word in line for word in changing)]

    expected = observer.naive(*argv)
    seen = observer.run(*argv)
    assert (seen.exit_code, seen.stderr) == (expected.returncode, expected.stderr)
    assert stable(seen.stdout) == stable(expected.stdout)


def test_directories_that_come_and_go_while_it_begins(
    observer: ObserverProcess, shelf: Path
) -> None:
    """Beside a mount every directory is one of the view's own, for an ordinary user."""
    if not is_root():
        pytest.skip("mounts are root's")
    (shelf / "mount").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "test", shelf / "mount"], check=True)
    churn = (
        "import os, sys\nos.chdir(sys.argv[1])\n"
        "while True:\n for change in os.mkdir, os.rmdir:\n  change('a')\n  change('b')\n"
    )
    with subprocess.Popen(["/usr/bin/python3", "-c", churn, shelf]) as churning:
        try:
            for _ in range(20):
                assert observer.run("/bin/true").error is None
        finally:
            churning.kill()
            subprocess.run(["umount", shelf / "mount"], check=True)


def test_df_speaks_only_of_what_has_the_hosts_size(observer: ObserverProcess) -> None:
    """Also where the view has something else: in /run, and in /dev, which is not there then."""
    argv = ("/usr/bin/df", "-a", "--output=target,itotal,size")
    host = {line.split()[0]: line.split() for line in observer.naive(*argv).stdout.splitlines()}
    seen = [line.split() for line in observer.run(*argv).stdout.splitlines()]
    assert "/" in [line[0] for line in seen]
    assert [line for line in seen if line != host.get(line[0], line)] == []
    assert "/dev" not in [line[0] for line in seen]
    for path in ("/run", "/dev/shm"):
        if is_root() and path in host and os.path.ismount(path):
            assert host[path] in seen


def test_every_mount_of_the_host_is_listed(observer: ObserverProcess) -> None:
    argv = ("/usr/bin/findmnt", "-n", "-l", "-o", "ID,TARGET,SOURCE,FSTYPE")

    def stable(text: str) -> list[str]:
        return [line for line in text.splitlines() if "/shannot-" not in line]

    expected = stable(observer.naive(*argv).stdout)
    assert stable(observer.run(*argv, shows=["all mounts"]).stdout) == expected


def test_a_filesystem_that_is_mounted_twice_counts_once(
    observer: ObserverProcess, shelf: Path
) -> None:
    """df tells by the device, which every mount has for itself in the view."""
    if not is_root():
        pytest.skip("mounts are root's")
    for name in ("first", "second"):
        (shelf / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "test", shelf / "first"], check=True)
    subprocess.run(["mount", "--bind", shelf / "first", shelf / "second"], check=True)
    try:
        argv = ("/usr/bin/df", "--output=target")
        for shows, names in (([], ["first", "second"]), (["filesystems once"], ["first"])):
            seen = observer.run(*argv, shows=shows).stdout.splitlines()
            assert [line for line in seen if str(shelf) in line] == [f"{shelf}/{n}" for n in names]
        assert f"{shelf}/second" not in observer.naive(*argv).stdout
        path = observer.run(*argv, f"{shelf}/second").stdout.splitlines()[1]
        assert path == f"{shelf}/second"
    finally:
        for name in ("second", "first"):
            subprocess.run(["umount", shelf / name], check=True)


def test_a_growing_log_is_read_as_it_is_now(observer: ObserverProcess, shelf: Path) -> None:
    log = shelf / "log"
    for line in ("one\n", "two\n", "three\n"):
        with open(log, "a") as file:
            file.write(line)
        assert observer.run("/usr/bin/tail", "-n1", str(log)).stdout == line
    log.unlink()
    assert observer.run("/usr/bin/tail", "-n1", str(log)).exit_code == 1


STATUS = """
import socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    client.sendall(b"status")
    print(client.recv(64).decode())
"""


@pytest.mark.parametrize("run", [True, False], ids=["in /run", "elsewhere"])
def test_a_named_socket_is_answered(observer: ObserverProcess, shelf: Path, run: bool) -> None:
    """As systemctl's is; by a link too, and only if it is named."""
    if run and not is_root():
        pytest.skip("/run is root's")
    path = Path("/run" if run else shelf) / f"{shelf.name}.sock"
    (shelf / "link").symlink_to(path)
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.bind(str(path))
            os.chmod(path, 0o666)
            server.listen()

            def answer() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(connection.recv(64).upper())

            thread = threading.Thread(target=answer)
            thread.start()
            named = observer.python(STATUS, str(path), sockets=[str(shelf / "link")])
            if named.exit_code:  # let the thread end
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
            thread.join()
            assert (named.exit_code, named.stdout) == (0, "STATUS\n"), named
            assert observer.python(STATUS, str(path)).exit_code == 1
        finally:
            path.unlink()


def test_run_is_fresh_but_says_that_systemd_is_there(observer: ObserverProcess) -> None:
    if not is_root():
        pytest.skip("/run is root's")
    directory = Path(f"/run/shannot-test-{os.getpid()}")
    try:
        (directory / "system").mkdir(parents=True)
        (directory / "secret").write_text("squeamish")
        printed = observer.run("/bin/ls", "-R", str(directory)).stdout
        assert "system" in printed
        assert "secret" not in printed
    finally:
        shutil.rmtree(directory)


def test_there_is_a_place_for_temporary_files(observer: ObserverProcess) -> None:
    seen = observer.run("/bin/sh", "-c", 'echo x > "$TMPDIR/x" && cat "$TMPDIR/x"')
    assert seen.stdout == "x\n"
    assert observer.run("/bin/sh", "-c", 'ls -A "$TMPDIR"').stdout == ""


@pytest.mark.parametrize("status", [0, 1, 3, 126, 255])
def test_the_exit_status_is_the_programs(observer: ObserverProcess, status: int) -> None:
    seen = observer.run("/bin/sh", "-c", f"exit {status}")
    assert (seen.exit_code, seen.signal, seen.stopped) == (status, None, None), seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT, signal.SIGINT])
def test_a_signal_ends_it_as_it_would_anywhere(observer: ObserverProcess, number: int) -> None:
    """As process 1 of its namespace it would be immune to its own."""
    seen = observer.run("/bin/sh", "-c", f"kill -{int(number)} $$")
    assert (seen.exit_code, seen.signal) == (None, number)


def test_programs_that_cannot_be_executed_end_as_in_a_shell(
    observer: ObserverProcess, shelf: Path
) -> None:
    (shelf / "text").write_text("no program")
    assert observer.run(str(shelf / "none")).exit_code == 127
    seen = observer.run(str(shelf / "text"))
    assert (seen.exit_code, "Permission denied" in seen.stderr) == (126, True)


def test_both_streams_come_whole_and_in_their_order(observer: ObserverProcess) -> None:
    code = "seq 1 60000; seq 1 50000 >&2; echo end"
    seen = observer.run("/bin/sh", "-c", code)
    assert seen.stdout == "".join(f"{n}\n" for n in range(1, 60001)) + "end\n"
    assert seen.stderr == "".join(f"{n}\n" for n in range(1, 50001))
    assert seen.truncated == []


@pytest.mark.P7
def test_too_much_output_is_cut_with_a_mark(observer: ObserverProcess) -> None:
    """The program gets SIGPIPE: a script cannot take the part for the whole."""
    seen = observer.run("/usr/bin/yes", output_bytes=10_000)
    mark = "\n[shannot: cut here, after 10000 bytes]\n"
    assert seen.stdout == "y\n" * 5000 + mark
    assert (seen.signal, seen.truncated) == (signal.SIGPIPE, ["stdout"])
    exact = observer.run("/usr/bin/head", "-c", "10000", "/dev/zero", output_bytes=10_000)
    assert (len(exact.stdout), exact.exit_code, exact.truncated) == (10_000, 0, [])


def test_it_gets_sigpipe_when_nobody_reads(observer: ObserverProcess) -> None:
    assert observer.run("/usr/bin/yes", closing="broken").signal == signal.SIGPIPE


@pytest.mark.parametrize(
    ("closing", "seconds", "stopped"),
    [(None, 0.3, "wall_seconds"), ("timeout", 30, "wall_seconds"), ("cancel", 30, "cancelled")],
)
def test_it_is_ended_with_all_that_it_started(
    observer: ObserverProcess, closing: str | None, seconds: float, stopped: str
) -> None:
    number = f"4{os.getpid()}"
    code = f"(trap '' TERM HUP; setsid sleep {number}) & echo x; sleep {number}"
    seen = observer.run("/bin/sh", "-c", code, closing=closing, seconds=seconds)
    assert (seen.exit_code, seen.signal, seen.stopped) == (None, None, stopped)
    running = subprocess.run(["pgrep", "-fx", f"sleep {number}"], check=False)
    assert running.returncode == 1


def test_what_it_left_in_the_background_ends_with_it(observer: ObserverProcess) -> None:
    seen = observer.run("/bin/sh", "-c", "sleep 43211 & echo started")
    assert (seen.stdout, seen.exit_code) == ("started\n", 0)


def test_it_dies_with_the_process_that_observes(packages: Path) -> None:
    """Whoever kills that process (at a cancel, at the end of a session) ends the program."""
    with running_observer(packages, account=None) as observer:
        observer.run("/bin/true")
        observer.start("/bin/sleep", "54321", seconds=100)
        pid = _wait_for_child(observer.process.pid)
        handle = os.pidfd_open(pid)
        observer.process.kill()
        assert select.select([handle], [], [], 20)[0]
        os.close(handle)
        observer.process.wait()
        observer.process.returncode = 0


def _wait_for_child(pid: int) -> int:
    """The first child of a process; it is about to be made."""
    path = f"/proc/{pid}/task/{pid}/children"
    while True:
        with open(path) as file:
            children = file.read().split()
        if children:
            return int(children[0])
        os.sched_yield()


def test_nothing_is_left_after_a_hundred_runs(observer: ObserverProcess) -> None:
    def mounts() -> list[str]:
        """Those of views; other tests mount as well."""
        lines = Path(f"/proc/{observer.process.pid}/mountinfo").read_text().splitlines()
        return [line for line in lines if " shannot " in line]

    first, before = observer.run("/bin/true"), mounts()
    for _ in range(99):
        last = observer.run("/bin/true")
    assert last.children == []
    assert last.descriptors == first.descriptors
    assert mounts() == before == []


@pytest.mark.P10
@pytest.mark.parametrize(
    "request_",
    [
        {"program": "ps"},
        {"argv": ["/bin/ps", "a\0b"]},
        {"argv": []},
        {"argv": ["/bin/ps", "\ud800"]},
        {"net": "all"},
        {"shows": ["everything"]},
    ],
)
def test_what_cannot_be_run_is_refused(
    observer: ObserverProcess, request_: dict[str, object]
) -> None:
    seen = observer.run("/bin/ps", **request_)
    assert seen.error is not None
    assert (seen.error["code"], seen.error["method"]) == ("invalid_request", "observe")
    assert observer.run("/bin/true").exit_code == 0


def test_roots_scripts_observe_as_nobody_unless_the_rule_says_root(packages: Path) -> None:
    if not is_root():
        pytest.skip("only root's runner has more than one identity")
    with running_observer(packages, account=None) as observer:
        assert observer.run("/usr/bin/id", "-u").stdout == "65534\n"
        assert observer.run("/usr/bin/id", "-G").stdout == "65534\n"
        assert observer.run("/usr/bin/id", "-u", as_root=True).stdout == "0\n"
        groups = ("adm", "unheard-of")
        adm = grp.getgrnam("adm").gr_gid
        assert observer.run("/usr/bin/id", "-G", groups=groups).stdout == f"65534 {adm}\n"
        assert observer.run("/usr/bin/id", "-G", groups=groups, as_root=True).stdout == "0\n"
        seen = observer.run("/usr/bin/id", "-Gn", groups=groups, run_as="daemon")
        assert seen.stdout == "daemon\n", "who is no root gets no group"
    with running_observer(packages, account=None, floor=["daemon"]) as observer:
        seen = observer.run("/usr/bin/id", as_root=True)
        assert seen.error is not None
        assert seen.error["code"] == "identity_refused"


def test_an_ordinary_runner_observes_as_itself(packages: Path, account: str) -> None:
    if not is_root():
        pytest.skip("the tests are of an ordinary account already")
    with running_observer(packages, account=account) as observer:
        assert observer.run("/usr/bin/id", "-u").stdout == f"{observer.uid}\n"
        seen = observer.run("/usr/bin/id", as_root=True)
        assert seen.error is not None
        assert seen.error["code"] == "identity_refused"


def test_the_runners_own_state_is_always_hidden(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/key").write_text("squeamish")
    with running_observer(packages, account=None, hidden=[str(tmp_path / "state")]) as observer:
        seen = observer.run("/bin/cat", str(tmp_path / "state/key"))
        assert (seen.exit_code, seen.stdout) == (1, "")


NAMESPACE = ["unshare", "--user", "--map-root-user"]


def test_root_of_a_container_observes_as_a_user_does(packages: Path) -> None:
    """Root of a user namespace has the one-uid builder."""
    with running_observer(packages, account=None, within=NAMESPACE) as observer:
        seen = observer.run("/usr/bin/id", "-u", as_root=True)
        assert (seen.error, seen.stdout) == (None, "0\n")
        assert observer.run("/bin/sh", "-c", "ls /proc/1/root/ || echo refused").exit_code == 0


@pytest.mark.parametrize("more", [[], ["--user", "--map-root-user"]], ids=["root", "one-uid"])
def test_numbers_of_processes_begin_anew(packages: Path, more: list[str]) -> None:
    """There some are taken."""
    if not is_root() and not more:
        pytest.skip("root's")
    begin = (
        'echo $(($(cat /proc/sys/kernel/pid_max) - 4)) > /proc/sys/kernel/ns_last_pid && exec "$@"'
    )
    within = ["unshare", *more, "--pid", "--fork", "--mount-proc", "/bin/sh", "-c", begin, "sh"]
    with running_observer(packages, account=None, within=within) as observer:
        numbers = []
        for _ in range(8):
            seen = observer.python("import os; print(os.readlink('/proc/self'), os.getpid())")
            assert seen.error is None, seen
            first, second = seen.stdout.split()
            assert first == second
            numbers.append(int(first))
        assert min(numbers) < 1000 < max(numbers)


@pytest.mark.P8
def test_nothing_runs_without_namespaces(packages: Path) -> None:
    refused = 'echo 0 > /proc/sys/user/max_mnt_namespaces && exec "$@"'
    within = [*NAMESPACE, "/bin/sh", "-c", refused, "sh"]
    with running_observer(packages, account=None, within=within) as observer:
        seen = observer.run("/bin/echo", "ran")
        assert (seen.error and seen.error["code"], seen.stdout) == ("sandbox_unavailable", "")
        assert observer.run("/bin/echo", "ran").descriptors == seen.descriptors


@pytest.mark.P8
def test_nothing_runs_where_the_view_cannot_be_built(observer: ObserverProcess) -> None:
    """Here what the view needs cannot be written."""
    seen = observer.run("/bin/echo", "ran", closing="no files")
    assert (seen.error and seen.error["code"], seen.stdout) == ("sandbox_unavailable", "")
    assert seen.children == []
    assert observer.run("/bin/echo", "ran").stdout == "ran\n"
