"""The sandbox looks like the whole machine and keeps every effect to itself (P1, P8)."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner.conftest import Bench
from tests.support.runner import collect

pytestmark = pytest.mark.P1


def value(bench: Bench, expression: str, setup: str = "pass", **more: object) -> object:
    """What a Python expression gives inside."""
    outcome = bench.run(
        "python", f"import json, os\n{setup}\nprint(json.dumps({expression}))", **more
    )
    assert outcome.exit_code == 0, outcome
    return json.loads(outcome.stdout)


def test_effects_stay_inside(bench: Bench, place: Path) -> None:
    existing = place / "existing"
    existing.write_text("before")
    os.chown(existing, bench.uid, os.stat(bench.home).st_gid)
    outcome = bench.run(
        "shell",
        "echo after > existing; echo new > added; mkdir d; ls -A; cat existing",
        cwd=str(place),
    )
    assert outcome.stdout == b"added\nd\nexisting\nafter\n"
    assert outcome.changes() == {
        str(existing): "modify",
        str(place / "added"): "create",
        str(place / "d"): "create",
    }
    assert existing.read_text() == "before"
    assert sorted(os.listdir(place)) == ["existing"]


def test_the_host_is_seen_as_it_is_now(bench: Bench, place: Path) -> None:
    """A sandbox that was warm while the host changed shows the host's present (section 5)."""
    for round_number in range(4):
        (place / "a").write_text(f"round {round_number}")
        (place / f"new-{round_number}").touch()
        outcome = bench.run("shell", "cat a; ls", cwd=str(place))
        assert outcome.stdout.startswith(f"round {round_number}".encode())
        assert f"new-{round_number}".encode() in outcome.stdout
        (place / "b").write_text(f"replaced {round_number}")
        os.rename(place / "b", place / "a")
        assert bench.run("shell", "cat a", cwd=str(place)).stdout == b"replaced %d" % round_number


def test_identity_and_groups(bench: Bench) -> None:
    uid, gid, euid = value(bench, "[os.getuid(), os.getgid(), os.geteuid()]")  # type: ignore[misc]
    assert (uid, euid) == (bench.uid, bench.uid)
    assert gid == os.stat(bench.home).st_gid or bench.builder == "privileged"


def test_capabilities_are_those_of_files_at_most(bench: Bench) -> None:
    status = bench.run("shell", "cat /proc/self/status").stdout.decode()
    sets = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Cap"))
    allowed = 0
    if bench.builder == "privileged" and bench.uid == 0:
        for capability in (0, 1, 3, 4, 5, 6, 7, 31):
            allowed |= 1 << capability
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert int(sets[name], 16) & ~allowed == 0, name
    assert int(sets["CapInh"], 16) == int(sets["CapAmb"], 16) == 0
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_no_process_of_the_host_is_seen(bench: Bench) -> None:
    pids = value(bench, "[int(p) for p in os.listdir('/proc') if p.isdigit()]")
    assert pids == [1, 2]


def test_no_descriptor_is_inherited(bench: Bench) -> None:
    assert bench.run("shell", "ls /proc/self/fd").stdout.split() == [b"0", b"1", b"2", b"3"]


def test_environment_is_clean(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = value(bench, "dict(os.environ)", environment={"EXTRA": "1"})
    assert isinstance(environment, dict)
    assert environment.pop("SHANNOT_SESSION")
    assert environment == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(bench.home),
        "USER": bench.home.name if bench.uid else "root",
        "LOGNAME": bench.home.name if bench.uid else "root",
        "SHELL": environment["SHELL"],
        "PWD": "/",
        "SHANNOT_SANDBOX": "1",
        "EXTRA": "1",
    }


def test_hidden_files_cannot_be_read_or_replaced(bench: Bench, place: Path) -> None:
    (place / "secret").write_text("s3cret")
    (place / "keys").mkdir()
    (place / "keys" / "id").write_text("s3cret")
    (place / "link").symlink_to("secret")
    script = (
        "cat secret link keys/id; ls keys; echo x > secret; rm -rf secret keys; mv keys other;"
        "cp -r . ../copy; grep -r s3cret ."
    )
    outcome = bench.run(
        "shell", script, cwd=str(place), hide=[str(place / "secret"), str(place / "key*")]
    )
    assert b"s3cret" not in outcome.stdout + outcome.stderr
    assert (place / "secret").read_text() == "s3cret"
    paths = [step["path"] for step in outcome.steps if step["kind"] == "file"]
    assert str(place / "secret") not in paths
    assert not any(path.startswith(str(place / "keys")) for path in paths)


def test_the_runners_own_state_is_always_hidden(bench: Bench) -> None:
    outcome = bench.run("shell", f"ls -A {bench.runner.state}; cat {bench.runner.state}/runner.key")
    assert outcome.stdout == b""


def test_host_sockets_and_fifos_are_out_of_reach(bench: Bench, place: Path) -> None:
    """A pathname socket or a FIFO of the host does not answer through an overlay."""
    address, fifo = str(place / "s"), str(place / "f")
    os.mkfifo(fifo, 0o666)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        os.chmod(address, 0o777)
        server.listen()
        server.setblocking(False)
        outcome = bench.run(
            "python",
            "import os, socket\n"
            "try:\n    socket.socket(socket.AF_UNIX).connect('s'); print('connected')\n"
            "except OSError as e: print(e.errno)\n"
            "try:\n    os.write(os.open('f', os.O_WRONLY | os.O_NONBLOCK), b'x'); print('wrote')\n"
            "except OSError as e: print(e.errno)\n",
            cwd=str(place),
        )
        with pytest.raises(BlockingIOError):
            server.accept()
    assert b"connected" not in outcome.stdout
    assert b"wrote" not in outcome.stdout
    assert os.read(reader, 10) == b""
    os.close(reader)
    blocked = [step for step in outcome.steps if step["kind"] == "blocked"]
    assert [(step["what"], step["target"]) for step in blocked] == [("connect", f"unix:{address}")]


def test_abstract_sockets_of_the_host_are_out_of_reach(bench: Bench) -> None:
    name = "\0shannot-test-" + os.urandom(8).hex()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
        assert bench.run("python", code).exit_code == 1


def test_loopback_is_the_sandboxes_own(bench: Bench) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        inside = (
            "import socket\n"
            "s = socket.create_server(('127.0.0.1', 0))\n"
            "c = socket.create_connection(s.getsockname()); print('own server')\n"
            f"print(socket.socket().connect_ex(('127.0.0.1', {port})))\n"
        )
        outcome = bench.run("python", inside)
    assert outcome.stdout.split(b"\n")[0] == b"own server"
    assert outcome.stdout.split(b"\n")[1] == b"111"
    assert [step["target"] for step in outcome.steps] == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    "code",
    [
        "os.unshare(0x10000000)",
        "libc.unshare(0x10000000)",
        "libc.syscall(435, 0, 0)",  # clone3
        "libc.syscall(425, 1, 0)",  # io_uring_setup
        "libc.syscall(321, 0, 0, 0)",  # bpf
        "libc.syscall(298, 0, 0, 0, 0, 0)",  # perf_event_open
        "libc.syscall(250, 0, 0, 0, 0, 0)",  # keyctl
        "libc.syscall(323, 0)",  # userfaultfd
        "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",  # clone(CLONE_NEWUSER)
        "libc.mount(b'x', b'/mnt', b'tmpfs', 0, None)",
        "libc.umount2(b'/proc/sys', 2)",
        "libc.pivot_root(b'/', b'/')",
        "libc.chroot(b'/tmp')",
        "libc.setns(0, 0)",
        "libc.reboot(0)",
        "libc.ptrace(16, 1, 0, 0)",
        "libc.swapon(b'/x', 0)",
        "libc.sethostname(b'x', 1)",
        "libc.socket(40, 1, 0)",  # AF_VSOCK
        "libc.socket(38, 5, 0)",  # AF_ALG
        "libc.socket(17, 3, 0)",  # AF_PACKET
        "libc.socket(16, 3, 9)",  # NETLINK_AUDIT
        "libc.open_by_handle_at(0, 0, 0)",
    ],
)
def test_system_calls_that_lead_out_are_refused(bench: Bench, code: str) -> None:
    if os.uname().machine != "x86_64" and "syscall" in code:
        code = "libc.unshare(0x10000000)"
    if code.startswith("os.unshare") and not hasattr(os, "unshare"):
        code = "libc.unshare(0x20000)"
    script = f"import ctypes, os\nlibc = ctypes.CDLL(None)\nprint({code})"
    outcome = bench.run("python", script)
    assert outcome.stdout == b"-1\n", outcome


def test_every_port_can_be_listened_at(bench: Bench) -> None:
    """A server that only checks its configuration takes its ports as well."""
    code = (
        "import socket\n"
        "for family, host in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):\n"
        "    for port in (22, 80):\n"
        "        server = socket.create_server((host, port), family=family)\n"
        "        server.close()\n"
    )
    outcome = bench.run("python", code)
    assert (outcome.exit_code, outcome.stderr) == (0, b"")


def test_a_kernel_without_audit_is_what_a_script_sees(bench: Bench) -> None:
    """Tools for accounts go on without audit if there is none, and give up if it is refused."""
    code = (
        "import errno, socket\n"
        "for protocol in range(1, 22):\n"
        "    try:\n"
        "        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)\n"
        "    except OSError as error:\n"
        "        assert error.errno == errno.EPROTONOSUPPORT, error\n"
        "    else:\n"
        "        assert False, protocol\n"
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\n"
    )
    outcome = bench.run("python", code)
    assert (outcome.exit_code, outcome.stderr) == (0, b"")


def test_foreign_architecture_calls_kill(bench: Bench) -> None:
    """int 0x80 is i386's entry: its numbers would slip past a filter of x86_64's."""
    code = (
        "import ctypes, mmap\n"
        "m = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))\n"  # mov eax, 20; int 0x80; ret
        "a = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(a)())\n"
    )
    if os.uname().machine == "x86_64":
        outcome = bench.run("python", code)
        assert outcome.stdout == b""
        assert outcome.signal in (31, 11)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/kernel/core_pattern",
        "/sys/kernel/mm/ksm/run",
        "/proc/1/mem",
        "/dev/kmsg",
        "/dev/mem",
        "/dev/sda",
        "/dev/vda",
        "/proc/kcore",
    ],
)
def test_kernel_files_cannot_be_written(bench: Bench, path: str) -> None:
    code = f"import os; os.write(os.open({path!r}, os.O_WRONLY), b'0')"
    outcome = bench.run("python", code)
    assert outcome.exit_code == 1, outcome


@pytest.mark.parametrize(
    "path",
    ["/proc/kcore", "/proc/1/environ", "/proc/1/root/etc/passwd", "/proc/1/fd/3", "/proc/1/maps"],
)
def test_kernel_files_cannot_be_read(bench: Bench, path: str) -> None:
    outcome = bench.run("python", f"print(len(open({path!r}, 'rb').read(100)))")
    assert outcome.exit_code == 1 or outcome.stdout == b"0\n", outcome


def test_init_cannot_be_killed_or_traced(bench: Bench) -> None:
    outcome = bench.run(
        "shell", "kill -9 1; kill -TERM 1; kill -STOP 1; kill -9 -1; sleep 0.01; echo alive"
    )
    assert outcome.exit_code == 0 or outcome.signal == 9
    assert outcome.error is None


def test_setuid_programs_gain_nothing(bench: Bench) -> None:
    outcome = bench.run(
        "shell", "cp /usr/bin/id x 2>/dev/null; su -c id </dev/null; mount | head -1"
    )
    assert b"uid=0" not in outcome.stdout or bench.uid == 0


def test_devices_of_the_sandbox_work(bench: Bench) -> None:
    outcome = bench.run(
        "shell",
        "head -c 4 /dev/urandom | wc -c; head -c 3 /dev/zero | wc -c; echo x > /dev/null;"
        "echo y > /dev/shm/x && cat /dev/shm/x; echo z > /dev/full; ls /dev/pts; echo $?",
    )
    assert outcome.stdout.split() == [b"4", b"3", b"y", b"ptmx", b"0"]


def test_run_is_fresh_and_scratch(bench: Bench) -> None:
    outcome = bench.run(
        "shell", "echo 1 > /run/service.pid && cat /run/service.pid; ls /run/shannot"
    )
    assert outcome.stdout == b"1\ncalls\ninput\nscript\nshim\n"
    if outcome.steps:
        assert [(step["path"], step["scratch"]) for step in outcome.steps] == [
            ("/run/service.pid", True)
        ]
    assert not Path("/run/service.pid").exists()


def test_nobody_may_leave_through_the_script_directory(bench: Bench) -> None:
    outcome = bench.run("shell", "echo x > /run/shannot/script/y; rm -rf /run/shannot; echo $?")
    assert b"Read-only" in outcome.stderr


def test_file_modes_of_the_host_hold(bench: Bench, place: Path) -> None:
    """What the identity may not write on the host, it may not write inside either."""
    foreign = place / "foreign"
    foreign.write_text("x")
    if os.geteuid() == 0 and bench.uid != 0:
        os.chown(foreign, 0, 0)
        os.chmod(foreign, 0o644)
        outcome = bench.run("shell", "echo y >> foreign; echo y > /etc/x", cwd=str(place))
        assert outcome.stderr.count(b"denied") == 2
        assert outcome.steps == []


def test_directories_that_may_not_be_written_look_like_that(bench: Bench) -> None:
    """P1: preparing a sandbox leaves no trace in its layers."""
    code = "import os; print(*(oct(os.stat(p).st_mode & 0o777) for p in ('/', '/etc', '/usr')))"
    outcome = bench.run("python", code)
    assert outcome.steps == []
    writable = {"privileged": 0o755, "one-uid": 0o755 if bench.uid == 0 else 0o555}
    assert {int(mode, 8) for mode in outcome.stdout.split()} == {writable[bench.builder]}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as another account")
def test_a_privileged_runner_drops_to_another_account(
    bench: Bench, account: str, place: Path
) -> None:
    if bench.builder != "privileged":
        outcome = bench.run("shell", "id", run_as="root")
        assert outcome.error is not None
        assert outcome.error["code"] == "identity_refused"
        return
    home = f"/home/{account}"
    outcome = bench.run(
        "shell",
        "id -un; echo x > mine; cat /etc/shadow; echo y > /etc/foreign",
        cwd=home,
        run_as=account,
    )
    assert outcome.stdout == f"{account}\n".encode()
    assert outcome.stderr.count(b"denied") == 2
    assert outcome.changes() == {f"{home}/mine": "create"}
    owner = os.stat(home).st_uid
    assert [step["after"]["uid"] for step in outcome.steps] == [owner]
    refused = bench.run("shell", "id", cwd=str(place), run_as=account)
    assert refused.error is not None
    assert refused.error["code"] == "directory_not_entered"


def test_unknown_identity(bench: Bench) -> None:
    outcome = bench.run("shell", "id", run_as="no-such-account")
    assert outcome.error is not None
    assert outcome.error["code"] == "identity_refused"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_mounts_below_are_seen_and_captured(bench: Bench, place: Path) -> None:
    """A mount that came after the sandbox was warmed is seen, overlaid, and not confused."""
    inner = place / "mnt"
    inner.mkdir()
    (inner / "covered").write_text("under the mount")
    subprocess.run(["mount", "-t", "tmpfs", "none", inner], check=True)
    try:
        (inner / "on-top").write_text("x")
        os.chmod(inner, 0o777)
        outcome = bench.run("shell", "ls mnt; echo y > mnt/new; rm mnt/on-top", cwd=str(place))
        assert outcome.stdout == b"on-top\n", outcome
        assert outcome.changes() == {str(inner / "new"): "create", str(inner / "on-top"): "delete"}
        assert os.listdir(inner) == ["on-top"]
    finally:
        subprocess.run(["umount", inner], check=True)
    outcome = bench.run("shell", "ls mnt", cwd=str(place))
    assert outcome.stdout == b"covered\n"


def test_cannot_enter_a_missing_directory(bench: Bench) -> None:
    outcome = bench.run("shell", "pwd", cwd="/no/such/directory")
    assert outcome.error is not None
    assert outcome.error["code"] == "directory_not_entered"
    assert outcome.stdout == b""


def test_the_interpreter_is_the_hosts(bench: Bench) -> None:
    assert value(bench, "sys.executable", "import sys") == "/usr/bin/python3"
    assert stat.S_ISREG(os.stat(os.path.realpath(sys.executable)).st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_file_that_is_a_mount_is_a_copy(bench: Bench, place: Path) -> None:
    """A lock on it inside holds nothing up outside; its content is the host's of now."""
    source, target = place / "source", place / "target"
    source.write_text("first")
    target.touch()
    for path in (source, target):
        os.chmod(path, 0o666)
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        for text in ("first", "second"):
            source.write_text(text)
            code = (
                "import fcntl, os\n"
                "f = os.open('target', os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX)\n"
                "print(os.read(f, 99).decode(), flush=True)\n"
                "try: os.chmod('target', 0o600); open('target', 'w')\n"
                "except OSError as error: print(error.strerror, flush=True)\n"
                "import time; time.sleep(1000)\n"
            )
            session, job = bench.runner.start("python", code, cwd=str(place))
            with job:
                outcome = b""
                while b"\n" not in outcome[outcome.find(b"\n") + 1 :]:
                    event, payload, _ = job.receive()
                    outcome += payload if event["event"] == "output" else b""
                with source.open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                job.send({"op": "cancel"})
                collect(session, job)
            assert outcome == f"{text}\nRead-only file system\n".encode()
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_files_beside_mounts_are_those_of_now(bench: Bench, place: Path) -> None:
    """In the one-uid builder such files are copies: a stale one must not be handed out."""
    (place / "mnt").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place / "mnt"], check=True)
    try:
        for text in ("one", "two", "three"):
            (place / "beside").write_text(text)
            outcome = bench.run("shell", "cat beside", cwd=str(place))
            assert outcome.stdout == text.encode(), outcome
    finally:
        subprocess.run(["umount", place / "mnt"], check=True)
