"""What a machine has and lacks, before a sandbox would fail for it (P8)."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

# What doctor loads late is loaded now: another account may not be able to read the checkout.
from shannotd.runner import doctor, kernel, seccomp, shims, warm  # noqa: F401
from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.support.accounts import is_root
from tests.support.runner import REPOSITORY

pytestmark = [
    pytest.mark.P8,
    pytest.mark.skipif(not is_root(), reason="makes mounts and accounts"),
]

Found = dict[str, tuple[str, str, str | None]]


def found() -> Found:
    """Name of a check -> level, detail and remedy."""
    checks = json.loads(doctor.report())
    assert all(check["ok"] == (check["level"] == "ok") for check in checks)
    return {check["name"]: (check["level"], check["detail"], check["remedy"]) for check in checks}


def found_with(place: Path, files: Mapping[str, str], become: Identity | None = None) -> Found:
    """The same where the `files` of the system hold something else, or are no programs."""

    def work() -> Found:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        for number, (path, content) in enumerate(files.items()):
            other = place / str(number)
            other.write_text(content)
            kernel.mount(other, path, None, kernel.MS_BIND)
        if become is None:
            return found()
        return overlays.in_child(found, become)

    return overlays.in_child(work)


def test_this_machine_has_what_it_needs() -> None:
    checks = overlays.in_child(found)
    assert checks["builder"][1] == "privileged"
    assert checks["sandbox"] == ("ok", "was built", None), checks["sandbox"]
    assert "limit" not in checks
    assert not [name for name, check in checks.items() if check[0] == "error"]


def test_an_ordinary_account_reads_of_its_limits(ordinary: Identity) -> None:
    shims.library()  # read while we may: the account may not look into the checkout

    def work() -> tuple[Found, list[str]]:
        # Who changed its uid is not dumpable, and then /proc/self is root's.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        return found(), doctor.limits()

    checks, limits = overlays.in_child(work, ordinary)
    assert checks["builder"][1] == "one-uid"
    assert checks["sandbox"] == ("ok", "was built", None), checks["sandbox"]
    assert checks["limit"][0] == "warning"
    assert any("EXDEV" in limit for limit in limits)


@pytest.mark.parametrize(
    ("path", "content", "name", "level", "remedy"),
    [
        (doctor.INTERPRETER, "", "python", "error", "Install the package python3."),
        ("/proc/filesystems", "nodev\tproc\n", "overlayfs", "warning", "modprobe overlay"),
        (
            "/proc/sys/kernel/seccomp/actions_avail",
            "kill_process errno",
            "libseccomp",
            "error",
            "Use a kernel with seccomp.",
        ),
        (
            "/proc/sys/user/max_user_namespaces",
            "0\n",
            "user namespaces",
            "error",
            "Set user.max_user_namespaces above 0.",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    path: str, content: str, name: str, level: str, remedy: str, tmp_path: Path
) -> None:
    check = found_with(tmp_path, {path: content})[name]
    assert check[0] == level
    assert remedy in str(check[2])


def test_proc_that_does_not_tell_is_no_failure_of_the_doctor() -> None:
    """As in a container that masks it: unreadable is not known to be there."""

    def work() -> Found:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", "/proc/sys/kernel", "tmpfs", kernel.MS_RDONLY)
        return found()

    checks = overlays.in_child(work)
    assert checks["user namespaces"] == ("ok", "available", None)
    assert checks["libseccomp"][1] == "no user notification"


def run(*prefix: str) -> Found:
    """What `python -m shannotd.runner doctor` prints, started by the command `prefix`."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "shannotd.runner", "doctor"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    checks = json.loads(done.stdout)
    return {check["name"]: (check["level"], check["detail"], check["remedy"]) for check in checks}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="setarch has another architecture")
def test_another_architecture() -> None:
    checks = run("setarch", "i686")
    assert checks["architecture"][:2] == ("error", "i686")
    assert checks["sandbox"][0] == "error"


def test_an_old_kernel() -> None:
    level, detail, remedy = run("setarch", "--uname-2.6")["kernel"]
    assert (level, remedy) == ("error", "Linux 6.1 or later is needed.")
    assert detail.startswith("Linux 2.6")


def test_a_broken_floor(tmp_path: Path) -> None:
    def work() -> tuple[str, str, str | None]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        overlays.over_etc(tmp_path, {"shannot/runner.conf": "[identities]\nallow = root\n"})
        return found()["runner.conf"]

    level, detail, _ = overlays.in_child(work)
    assert level == "error"
    assert detail == "/etc/shannot/runner.conf: unknown key [identities] allow"


def test_a_missing_libseccomp(tmp_path: Path) -> None:
    library = ctypes.util.find_library("seccomp")
    assert library is not None

    def work() -> Found:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        for line in subprocess.check_output(["ldconfig", "-p"], text=True).splitlines():
            if "libseccomp.so" in line:
                (tmp_path / "empty").touch()
                kernel.mount(tmp_path / "empty", line.split()[-1], None, kernel.MS_BIND)
        return run()  # this process may have loaded it already

    checks = overlays.in_child(work)
    assert checks["sandbox"][0] == "error"
