"""Real message buses of a test's own, and callers of all accounts on them."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.service import SECONDS

REPOSITORY = Path(__file__).resolve().parents[2]
POLICY = REPOSITORY / "packaging" / "dbus" / "org.shannot.Shannot1.conf"
NAME = "org.shannot.Shannot1"
PATH = "/org/shannot/Shannot1"
MANAGER = "org.shannot.Shannot1.Manager"

# As a system bus is configured: nobody owns or calls anything that no file allows.
_SYSTEM = """\
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>{policy}</include>
  <include ignore_missing="yes">/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf</include>
</busconfig>
"""

_SESSION = """\
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Bus:
    """A running bus daemon."""

    def __init__(self, address: str, process: subprocess.Popen[bytes]) -> None:
        self.address = address
        self.process = process

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(SECONDS)


@contextmanager
def message_bus(*, system: bool, owner: str = "", place: Path | None = None) -> Iterator[Bus]:
    """A bus, with our policy file for `owner` where it is a system's; all accounts reach it.

    :param place: a directory for its socket, which stays where it is for a second one.
    """
    with tempfile.TemporaryDirectory(prefix="shannot-bus-") as made:
        directory = place or Path(made)
        directory.chmod(0o755)
        socket = directory / "system_bus_socket"
        socket.unlink(missing_ok=True)
        policy = directory / "policy.conf"
        user = owner or pwd.getpwuid(os.getuid()).pw_name
        policy.write_text(POLICY.read_text().replace('user="shannot"', f'user="{user}"'))
        file = directory / "bus.conf"
        file.write_text((_SYSTEM if system else _SESSION).format(socket=socket, policy=policy))
        process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={file}", "--nofork", "--print-address"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline(), "dbus-daemon does not start"
            yield Bus(f"unix:path={socket}", process)
        finally:
            process.stdout.close()
            process.terminate()
            process.wait(SECONDS)


class Refused(Exception):
    """A call was answered with an error; `name` is that of D-Bus."""

    def __init__(self, text: str) -> None:
        super().__init__(text)


class Account:
    """Calls methods as one account (without one as oneself), in these groups."""

    def __init__(self, address: str, uid: int | None = None, *groups: int) -> None:
        self._address = address
        self._as: dict[str, Any] = {}
        if uid is not None and uid != os.geteuid():
            group = groups[0] if groups else uid
            self._as = {"user": uid, "group": group, "extra_groups": list(groups)}

    async def run(self, *command: str) -> str:
        """What a command prints.

        :raises Refused: it failed.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            **self._as,
        )
        out, error = await asyncio.wait_for(process.communicate(), SECONDS)
        if process.returncode != 0:
            raise Refused(error.decode())
        return out.decode()

    async def call(self, method: str, signature: str = "", *arguments: str) -> list[Any]:
        """What a method of the manager answers.

        :raises Refused: with the error's message; see `error` for its name.
        """
        given = ["call", NAME, PATH, MANAGER, method]
        given += [signature, *arguments] if signature else []
        answer = await self.run("busctl", f"--address={self._address}", "--json=short", *given)
        return list(json.loads(answer)["data"]) if answer.strip() else []

    async def property(self, name: str) -> Any:
        """A property of the manager."""
        given = ["get-property", NAME, PATH, MANAGER, name]
        answer = await self.run("busctl", f"--address={self._address}", "--json=short", *given)
        return json.loads(answer)["data"]

    async def error(self, method: str, *arguments: str) -> str:
        """The name and message of the error that a call is answered with."""
        command = ["gdbus", "call", "--address", self._address, "--dest", NAME]
        command += ["--object-path", PATH, "--method", f"{MANAGER}.{method}", *arguments]
        try:
            answer = await self.run(*command)
        except Refused as refused:
            return str(refused).strip()
        raise AssertionError(f"no error: {answer}")

    async def introspect(self, tool: Sequence[str]) -> str:
        """What a tool tells of the object."""
        return await self.run(*tool)
