"""A real polkit on a system bus of its own, in a mount namespace. Root's privilege."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect

from tests.support.bus import REPOSITORY, Bus, message_bus
from tests.support.private_system import PrivateSystem, private_system
from tests.support.service import SECONDS

ACTIONS = REPOSITORY / "packaging" / "polkit" / "org.shannot.policy"
_POLKITD = "/usr/lib/polkit-1/polkitd"
_AUTHORITY = "org.freedesktop.PolicyKit1"
_RULES = "/etc/polkit-1/rules.d/99-test.rules"


class Polkit:
    """A running polkit: `bus` is where it is, `prefix` executes a command where it is the host's.

    The accounts and their passwords are the host's own.
    """

    def __init__(self, system: PrivateSystem, bus: Bus) -> None:
        self._system = system
        self.bus = bus
        self.prefix: Sequence[str] = system.prefix
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it has its name."""
        self._process = subprocess.Popen(
            [*self.prefix, _POLKITD, "--no-debug"],
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address},
        )
        command = ["gdbus", "wait", "--address", self.bus.address]
        subprocess.run([*command, "--timeout", str(int(SECONDS)), _AUTHORITY], check=True)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(SECONDS)
            self._process = None

    def rule(self, javascript: str) -> None:
        """Have rules of the host, instead of none; before it starts."""
        self._system.path(_RULES).write_text(javascript)

    def terminal(self, account: str, code: Path, *arguments: str, socket: Path) -> Any:
        """`shannotctl` of that account's on a terminal, where this polkit is the host's."""
        return self.python(account, code, "-m", "shannotctl", *arguments, socket=socket)

    def python(self, account: str, code: Path, *arguments: str, socket: Path) -> Any:
        """The host's Python, likewise."""
        entry = pwd.getpwnam(account)
        command = [*self.prefix, "setpriv", "--reuid", account, "--regid", str(entry.pw_gid)]
        command += ["--init-groups", "/usr/bin/python3", *arguments]
        return pexpect.spawn(
            command[0],
            command[1:],
            cwd="/",
            env={
                "PATH": "/usr/bin:/bin:/usr/sbin",
                "HOME": entry.pw_dir,
                "PYTHONPATH": str(code),
                "PYTHONDONTWRITEBYTECODE": "1",
                "SHANNOT_SOCKET": str(socket),
                "NO_COLOR": "1",
                "LC_ALL": "C.UTF-8",
            },
            encoding="utf-8",
            dimensions=(50, 120),
            timeout=SECONDS,
        )


@contextmanager
def polkit(*, owner: str = "root", with_actions: bool = True) -> Iterator[Polkit]:
    """A bus and a polkit that knows our actions; it is not started yet."""
    with private_system(
        copies=["/usr/share/polkit-1/actions", "/etc/polkit-1"], empty=["/run/dbus"]
    ) as system:
        if with_actions:
            actions = ACTIONS.read_text().replace("unix-user:shannot", f"unix-user:{owner}")
            system.path("/usr/share/polkit-1/actions/org.shannot.policy").write_text(actions)
        place = system.path("/run/dbus")
        for path in (place, *place.parents):
            if path.is_relative_to("/var/tmp") and path != Path("/var/tmp"):
                path.chmod(0o755)
        with message_bus(system=True, owner=owner, place=place) as bus:
            running = Polkit(system, bus)
            try:
                yield running
            finally:
                running.stop()
