"""What this machine has and lacks for a sandbox, one check a line, each with its remedy.

The last check builds a sandbox for real: what all others only suspect it knows.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from typing import Callable, List, Optional, Tuple

from shannotd.runner import cgroups, identity, sandbox, turning
from shannotd.runner.child import in_child
from shannotd.runner.frames import RunnerError
from shannotd.runner.pool import INTERPRETER

OLDEST_KERNEL = (6, 1)
_OK, _WARNING, _ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Check:
    """One finding. `level` is ok, warning or error; only an error keeps sandboxes away."""

    name: str
    level: str
    detail: str
    remedy: Optional[str] = None

    @property
    def ok(self) -> bool:
        """Whether nothing needs to be done."""
        return self.level == _OK


def report() -> str:
    """All findings as a JSON list."""
    return json.dumps([{**asdict(check), "ok": check.ok} for check in checks()])


def checks() -> List[Check]:
    """Every check of this machine, in a sensible order to read."""
    return [
        _kernel(),
        _architecture(),
        _interpreter(),
        _user_namespaces(),
        _overlayfs(),
        _seccomp(),
        _tracing(),
        _cgroups(),
        _floor(),
        _builder(),
        *(Check("limit", _WARNING, limit) for limit in limits()),
        _sandbox(),
    ]


def limits() -> List[str]:
    """What the builder of this process cannot do, in words; empty for the privileged one."""
    if sandbox.choose_builder() == sandbox.PRIVILEGED:
        return []
    return [
        "renaming a directory that exists on the host, or moving a file between two of the "
        "sandbox's overlays, gives EXDEV inside (mv and shutil.move copy instead)",
        "files that belong to another owner or to a group that is not your primary one cannot be "
        "changed inside, even where you may write them (EOVERFLOW)",
        "directories of other owners that you may write get an overlay of their own only near "
        "the root or as the working directory; deeper ones give EOVERFLOW",
        "`find -xdev /` and `du /` see only part of the tree, which is made of many mounts",
        "every file looks as if it belonged to you or to nobody (65534)",
    ]


def _kernel() -> Check:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < OLDEST_KERNEL:
        return Check("kernel", _ERROR, f"Linux {release}", "Linux 6.1 or later is needed.")
    return Check("kernel", _OK, f"Linux {release}")


def _architecture() -> Check:
    machine = platform.machine()
    if machine in ("x86_64", "aarch64"):
        return Check("architecture", _OK, machine)
    return Check("architecture", _ERROR, machine, "Only x86_64 and aarch64 are supported.")


def _interpreter() -> Check:
    if os.access(INTERPRETER, os.X_OK):
        return Check("python", _OK, INTERPRETER)
    return Check("python", _ERROR, f"{INTERPRETER} is missing", "Install the package python3.")


def _user_namespaces() -> Check:
    name = "user namespaces"
    for path, bad, remedy in (
        ("/proc/sys/user/max_user_namespaces", "0", "Set user.max_user_namespaces above 0."),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "Set kernel.unprivileged_userns_clone=1.",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "Install shannot's AppArmor profile, or set "
            "kernel.apparmor_restrict_unprivileged_userns=0.",
        ),
    ):
        if _read(path) == bad:
            privileged = sandbox.choose_builder() == sandbox.PRIVILEGED and "max" not in path
            return Check(name, _OK if privileged else _ERROR, f"{path} is {bad}", remedy)
    return Check(name, _OK, "available")


def _overlayfs() -> Check:
    if "\toverlay\n" in (_read("/proc/filesystems") or "") + "\n":
        return Check("overlayfs", _OK, "available")
    return Check("overlayfs", _WARNING, "not loaded", "Load the module: modprobe overlay.")


def _seccomp() -> Check:
    found = ctypes.util.find_library("seccomp")
    actions = _read("/proc/sys/kernel/seccomp/actions_avail") or ""
    if not found:
        return Check("libseccomp", _ERROR, "missing", "Install the package libseccomp2.")
    if "user_notif" not in actions:
        return Check("libseccomp", _ERROR, "no user notification", "Use a kernel with seccomp.")
    return Check("libseccomp", _OK, found)


def _tracing() -> Check:
    """Whether what a script starts can be followed (see turning.py)."""
    try:
        turning.check()
    except OSError as error:
        remedy = "Allow ptrace(2): see kernel.yama.ptrace_scope and CAP_SYS_PTRACE."
        return Check("tracing", _ERROR, f"not permitted: {error.strerror}", remedy)
    return Check("tracing", _OK, "permitted")


def _cgroups() -> Check:
    """Whether a session's memory and processes can be limited as a whole."""
    effect = "the limit of memory is each process's, not the session's"
    remedy = "Run shannotd in a systemd unit of its own with Delegate=yes."
    try:
        base = cgroups.find()
        found = cgroups.prospect(base)
    except (OSError, cgroups.Unavailable) as error:
        return Check("cgroups", _WARNING, f"{error}: {effect}", remedy)
    if {"memory", "pids"} <= found:
        return Check("cgroups", _OK, f"{base}: {', '.join(sorted(found))}")
    return Check("cgroups", _WARNING, f"{base}: not both memory and pids: {effect}", remedy)


def _floor() -> Check:
    try:
        floor = identity.read_floor()
    except RunnerError as error:
        detail = f"{error.details['path']}: {error.details['reason']}"
        return Check("runner.conf", _ERROR, detail, "Correct the file; it must be root's.")
    allowed = "all" if floor.identities is None else ", ".join(floor.identities)
    return Check("runner.conf", _OK, f"identities allowed: {allowed}")


def _builder() -> Check:
    return Check("builder", _OK, sandbox.choose_builder())


def _sandbox() -> Check:
    """Build one sandbox in a process of its own, as the zygote would."""
    from shannotd.runner import warm

    def attempt() -> None:
        settings = warm.Settings(sandbox.choose_builder(), _compiled(), "/nonexistent", ())
        warm.build(settings).close()

    failure = _failure(attempt)
    if failure is None:
        return Check("sandbox", _OK, "was built")
    reason, remedy = failure
    return Check("sandbox", _ERROR, reason, remedy or None)


def _compiled() -> bytes:
    from shannotd.runner import seccomp

    return seccomp.compile_filter()


def _failure(action: Callable[[], None]) -> Optional[Tuple[str, str]]:
    """Run `action` in a fork; None, or the reason and remedy of its failure."""

    def told() -> str:
        try:
            action()
        except RunnerError as error:
            return json.dumps([str(error.details.get(k, "")) for k in ("reason", "remedy")])
        except BaseException as error:
            return json.dumps([repr(error), ""])
        return ""

    text, _ = in_child(told)
    if not text:
        return None
    reason, remedy = json.loads(text)
    return reason, remedy


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None
