"""What `shannotctl doctor` finds: the runner's checks, and what only a client can see."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from shannotctl.client import Client, DaemonStatus, ShannotError
from shannotctl.location import state_directory
from shannotctl.render.amounts import size
from shannotd.wire.decode import decode

OK, WARNING, ERROR = "ok", "warning", "error"

_SECONDS = 60
_ENOUGH_BYTES = 256 * 1024 * 1024
_FEW_BYTES = 16 * 1024 * 1024
_LIBRARIES = "apt install python3-pydbus python3-gi, or pip install 'shannot[dbus]'"


@dataclass(frozen=True)
class Check:
    """One finding; `level` is ok, warning or error, and only an error stops sandboxes."""

    name: str
    ok: bool
    level: str
    detail: str
    remedy: str | None = None


def all_checks() -> list[Check]:
    """The runner's checks of this machine, then those of the client's surroundings."""
    status, daemon = daemon_check()
    return [
        *runner_checks(),
        bus_check() if status is None or status.bus is None else served_bus_check(status),
        *([] if status is None or status.mode == "embedded" else [polkit_check(status)]),
        space_check(Path(state_directory())),
        daemon,
    ]


def runner_checks() -> list[Check]:
    """What the runner says of kernel, sandbox and limits."""
    # -P: nothing is imported from the working directory.
    command = [sys.executable, "-P", "-m", "shannotd.runner", "doctor"]
    try:
        completed = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return [_runner_broken(f"it did not answer within {_SECONDS} seconds")]
    except OSError as error:
        return [_runner_broken(error.strerror or str(error))]
    try:
        found = json.loads(completed.stdout)
        if not isinstance(found, list):
            raise ValueError("no list")
        return [decode(Check, item) for item in found]
    except ValueError:
        lines = completed.stderr.decode(errors="surrogateescape").strip().splitlines()
        return [_runner_broken(lines[-1] if lines else f"exit status {completed.returncode}")]


def bus_check() -> Check:
    """Whether the D-Bus service can be offered."""
    missing = [name for name in ("pydbus", "gi") if importlib.util.find_spec(name) is None]
    if not missing:
        return Check("D-Bus", True, OK, "pydbus and PyGObject are there")
    return Check(
        "D-Bus",
        False,
        WARNING,
        f"not importable: {', '.join(missing)}; there will be no D-Bus service",
        _LIBRARIES,
    )


def served_bus_check(status: DaemonStatus) -> Check:
    """Whether the daemon that runs is on its bus."""
    bus = f"the {status.bus} bus"
    if status.bus_missing is None:
        return Check("D-Bus", True, OK, f"the daemon is on {bus}")
    detail = f"the daemon is not on {bus}: {status.bus_missing}"
    if "pydbus" in status.bus_missing:
        return Check("D-Bus", False, WARNING, detail, _LIBRARIES)
    if status.mode == "embedded":
        # A machine without a desktop has no session bus, and needs none.
        return Check("D-Bus", True, OK, detail)
    remedy = "is dbus running, and org.shannot.Shannot1.conf in /usr/share/dbus-1/system.d?"
    return Check("D-Bus", False, WARNING, detail, remedy)


def polkit_check(status: DaemonStatus) -> Check:
    """Whether somebody can prove that he is there, to approve what he submitted."""
    if status.polkit_missing is None:
        return Check("polkit", True, OK, "approvals and rollbacks are authorized by it as well")
    return Check(
        "polkit",
        False,
        WARNING,
        f"{status.polkit_missing}; roles alone count, and nobody approves what he submitted",
        "apt install polkitd, and org.shannot.policy in /usr/share/polkit-1/actions",
    )


def space_check(directory: Path) -> Check:
    """Whether sessions and their contents can be stored."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    space = os.statvfs(existing)
    free = space.f_bavail * space.f_frsize
    detail = f"{size(free)} free under {existing}"
    remedy = f"free space on the filesystem of {existing}"
    if space.f_flag & os.ST_RDONLY:
        remedy = "mount it writable, or choose another place with XDG_STATE_HOME"
        return Check("disk", False, ERROR, f"{existing} is on a read-only filesystem", remedy)
    if not os.access(existing, os.W_OK):
        return Check("disk", False, ERROR, f"{existing} is not writable", f"chmod u+w {existing}")
    if free < _FEW_BYTES:
        return Check("disk", False, ERROR, detail, remedy)
    if free < _ENOUGH_BYTES:
        return Check("disk", False, WARNING, detail, remedy)
    return Check("disk", True, OK, detail)


def daemon_check() -> tuple[DaemonStatus | None, Check]:
    """What the daemon says of itself, and whether one answers; for one's own it is no fault if
    none runs yet."""
    client = Client(start=False)
    try:
        with client:
            status = client.status()
    except ShannotError as error:
        if client.embedded and error.code == "daemon_unreachable":
            detail = f"none runs yet; submit starts one at {client.path}"
            return None, Check("daemon", True, OK, detail)
        remedy = "systemctl status shannotd.service, or unset SHANNOT_SOCKET"
        return None, Check("daemon", False, WARNING, str(error), remedy)
    detail = f"shannotd {status.version} ({status.mode}, {status.builder}) at {client.path}"
    return status, Check("daemon", True, OK, detail)


def _runner_broken(reason: str) -> Check:
    return Check(
        "runner", False, ERROR, f"its own checks failed: {reason}", "install shannot again"
    )
