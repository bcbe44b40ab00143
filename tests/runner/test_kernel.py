"""The system call wrappers: what they do, and that a failure names its call and its object (P8)."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shannotd.runner import kernel
from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.support.accounts import is_root
from tests.support.runner import REPOSITORY

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and namespaces")

Failure = tuple[int | None, str | None, str | None]


def failure(work: Callable[[], object], become: Identity | None = None) -> Failure:
    """The errno, the words and the object of the OSError that `work` ends with in a child."""

    def attempt() -> Failure:
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS) if become is None else None
        with pytest.raises(OSError) as raised:
            work()
        return raised.value.errno, raised.value.strerror, raised.value.filename

    return overlays.in_child(attempt, become)


@pytest.mark.P8
def test_a_failure_names_the_call_and_its_object(tmp_path: Path) -> None:
    missing, here = str(tmp_path / "missing"), str(tmp_path)
    assert failure(lambda: kernel.mount("tmpfs", missing, "tmpfs")) == (
        errno.ENOENT,
        "mount tmpfs: No such file or directory",
        missing,
    )
    assert failure(lambda: kernel.mount(here, missing, None, kernel.MS_BIND))[1:] == (
        "mount bind: No such file or directory",
        missing,
    )
    assert failure(lambda: kernel.unmount(here)) == (
        errno.EINVAL,
        "umount2: Invalid argument",
        here,
    )
    assert failure(lambda: kernel.pivot_root(here, here)) == (
        errno.EBUSY,
        "pivot_root: Device or resource busy",
        here,
    )
    assert failure(lambda: kernel.sethostname("x" * 65))[:2] == (
        errno.EINVAL,
        "sethostname: Invalid argument",
    )
    assert failure(lambda: kernel.prctl(-1))[:2] == (errno.EINVAL, "prctl -1: Invalid argument")
    assert failure(lambda: kernel.close_range(9, 8))[:2] == (
        errno.EINVAL,
        "close_range: Invalid argument",
    )
    assert failure(lambda: kernel.install_filter(b"", listener=False))[:2] == (
        errno.EINVAL,
        "seccomp: Invalid argument",
    )


@pytest.mark.P8
def test_an_account_without_privilege_gets_no_namespace(ordinary: Identity) -> None:
    for call, work in (
        ("unshare", lambda: kernel.unshare(kernel.CLONE_NEWNS)),
        ("clone3", lambda: kernel.clone(kernel.CLONE_NEWPID)),
    ):
        assert failure(work, ordinary)[:2] == (errno.EPERM, f"{call}: Operation not permitted")


def test_a_clone_is_a_sound_fork() -> None:
    def work() -> tuple[int, bytes]:
        reader, writer = os.pipe()
        child = kernel.clone(kernel.CLONE_NEWPID | kernel.CLONE_NEWUTS)
        if child == 0:
            kernel.sethostname("inside")
            os.write(writer, f"{os.getpid()} {os.uname().nodename}".encode())
            os._exit(7)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), os.read(reader, 100)

    assert overlays.in_child(work) == (7, b"1 inside")
    assert os.uname().nodename != "inside"


def test_another_root_by_pivot_root(tmp_path: Path) -> None:
    def work() -> list[str]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", tmp_path, "tmpfs", kernel.MS_NODEV, "mode=755")
        (tmp_path / "alone").touch()
        os.chdir(tmp_path)
        kernel.pivot_root(".", ".")
        kernel.unmount(".")
        return os.listdir("/")

    # From there a child can only tell by a pipe that is open already.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, ",".join(work()).encode())
        os.kill(os.getpid(), 9)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"alone"
    os.waitpid(child, 0)


def capability_sets() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line[:6]: int(line[7:], 16) for line in lines if line.startswith("Cap")}


def test_capabilities_once_dropped_do_not_come_back() -> None:
    kept = 1 << kernel.CAPABILITIES["CHOWN"]

    def work() -> tuple[dict[str, int], str]:
        kernel.drop_bounding(kept, kernel.last_capability())
        kernel.set_capabilities(kept)
        try:
            kernel.set_capabilities(kept | 1 << kernel.CAPABILITIES["KILL"])
        except OSError as error:
            return capability_sets(), str(error.strerror)
        return capability_sets(), "nothing"

    sets, error = overlays.in_child(work)
    assert {sets[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {kept}
    assert sets["CapInh"] == sets["CapAmb"] == 0
    assert error == "capset: Operation not permitted"


def test_a_stage_is_resized_without_a_path(tmp_path: Path) -> None:
    def work() -> list[object]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", tmp_path, "tmpfs", 0, "size=64m,mode=755")
        stage = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        with open(tmp_path / "file", "wb") as file:
            file.write(bytes(1 << 20))
        kernel.unmount(tmp_path)
        kernel.resize_tmpfs(stage, 2 << 20, 10)
        found: list[object] = []
        for work in (
            lambda: os.open("more", os.O_CREAT | os.O_WRONLY, dir_fd=stage),
            lambda: os.posix_fallocate(os.open("more", os.O_WRONLY, dir_fd=stage), 0, 2 << 20),
            lambda: kernel.resize_tmpfs(stage, 4096, 10),
        ):
            try:
                work()
                found.append("done")
            except OSError as error:
                found.append(error.strerror)
        return found

    assert overlays.in_child(work) == [
        "done",
        "No space left on device",
        "fsconfig: Invalid argument",
    ]
    with open("/dev/null") as no_stage, pytest.raises(OSError, match="fspick"):
        kernel.resize_tmpfs(no_stage.fileno(), 4096, 10)


def test_a_filter_that_is_installed_is_obeyed() -> None:
    # struct sock_filter (linux/filter.h): return SECCOMP_RET_KILL_PROCESS whatever is called.
    everything = struct.pack("=HBBI", 0x06, 0, 0, 0x80000000)
    child = os.fork()
    if child == 0:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.install_filter(everything, listener=False)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGSYS


@pytest.mark.P8
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="setarch has another architecture")
def test_another_architecture_is_refused_by_name() -> None:
    code = (
        "from shannotd.runner import kernel\n"
        "try:\n    kernel.pivot_root('/', '/')\n"
        "except OSError as error:\n    print(error.errno, error.strerror)\n"
    )
    done = subprocess.run(
        ["setarch", "i686", sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{errno.ENOSYS} pivot_root: no system call number known for i686"
