"""Presence proved to a real polkit, on the socket and on D-Bus, with a real password (P5)."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

from shannotd.wire.errors import (
    AuthenticationNeeded,
    AuthenticationRefused,
    AuthenticationUnavailable,
    NotAllowed,
)
from tests.support.accounts import is_root, temporary_account
from tests.support.bus import Account
from tests.support.daemon import running_daemon
from tests.support.polkit import Polkit, polkit
from tests.support.service import Caller, in_loop, running_service, service_config, socket_of

pytestmark = [
    pytest.mark.P5,
    pytest.mark.skipif(not is_root(), reason="takes on other accounts and mounts"),
    pytest.mark.skipif(shutil.which("pkttyagent") is None, reason="there is no polkit"),
]

FILE = "/var/lib/example/file"


class Person:
    """An account with a password."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.uid = pwd.getpwnam(name).pw_uid
        self.password = secrets.token_hex(8)
        line = f"{name}:{self.password}\n".encode()
        subprocess.run(["chpasswd"], input=line, check=True)


@pytest.fixture
def admin() -> Iterator[Person]:
    """An administrator, whose agent runs under his own account."""
    with temporary_account() as name:
        yield Person(name)


@pytest.fixture
def other() -> Iterator[Person]:
    """Another reviewer."""
    with temporary_account() as name:
        yield Person(name)


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> Iterator[Polkit]:
    """A polkit that is not started yet."""
    with polkit() as made:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.bus.address)
        yield made


@asynccontextmanager
async def served(directory: Path, admin: Person, other: Person) -> AsyncIterator[Any]:
    """A daemon that has looked for polkit."""
    submit = [f"uid:{uid}" for uid in (admin.uid, 0)]
    config = service_config(submit=submit, review=[*submit, f"uid:{other.uid}"])
    async with running_service(directory, config=config, embedded=False) as service:
        async with asyncio.timeout(60):
            unknown = "it was not looked for yet"
            while service._bus.missing or service._bus.polkit.missing == unknown:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield service


class Screen:
    """A program on a terminal, which is waited for beside the event loop."""

    def __init__(self, program: Any) -> None:
        self.program = program

    async def expect(self, wanted: Any) -> int:
        """Wait for text; of several, the number of the one that came."""
        return int(await asyncio.to_thread(self.program.expect, wanted))

    def type(self, line: str) -> None:
        """Type a line."""
        self.program.sendline(line)


@asynccontextmanager
async def on_screen(program: Any) -> AsyncIterator[Screen]:
    """A program that was started on a terminal; ended at the end."""
    try:
        yield Screen(program)
    finally:
        await asyncio.to_thread(program.close)


def approving(pending: dict[str, Any]) -> dict[str, Any]:
    """The parameters that approve it."""
    return {"id": pending["id"], "digest": pending["digest"]}


async def submitted(directory: Path, uid: int) -> dict[str, Any]:
    """A pending session of that account's."""
    async with await Caller.connect_as(directory, uid, uid) as agent:
        return dict(await agent.submit(("files", [FILE]), name="tidy up"))


async def state_of(directory: Path, session: str, uid: int) -> dict[str, Any]:
    """The session, as that account sees it."""
    async with await Caller.connect_as(directory, uid, uid) as caller:
        return dict(await caller.call("sessions.get", id=session))


@in_loop
async def test_on_a_terminal_with_a_password(
    directory: Path, authority: Polkit, admin: Person, other: Person, packages: Path
) -> None:
    authority.start()
    async with served(directory, admin, other) as service:
        assert service._bus.polkit.missing is None
        pending = await submitted(directory, admin.uid)
        terminal = authority.terminal(
            *(admin.name, packages, "approve", pending["id"]),
            socket=socket_of(directory),
        )
        async with on_screen(terminal) as screen:
            await screen.expect(r"\[yes/no\] ")
            screen.type("yes")
            await screen.expect("Prove that it is you")
            await screen.expect("tidy up")
            await screen.expect("Password: ")
            assert (await state_of(directory, pending["id"], admin.uid))["state"] == "pending"
            # One question at a time: nobody floods him with them.
            given = approving(pending)
            async with await Caller.connect_as(directory, admin.uid, admin.uid) as again:
                failure = await again.failure("sessions.approve", **given)
            assert isinstance(failure, AuthenticationNeeded)
            assert "being asked already" in str(failure)
            screen.type(admin.password)
            await screen.expect("AUTHENTICATION COMPLETE")
            await screen.expect(pexpect.EOF)
        async with await Caller.connect_as(directory, admin.uid, admin.uid) as caller:
            ended = await caller.call("sessions.wait", id=pending["id"], states=[])
        assert ended["state"] == "executed" and ended["decided_by"] == [admin.uid]
        async with await Caller.connect(directory) as auditor:
            records = await auditor.call("audit.tail", session=pending["id"])
        (approval,) = [one for one in records if one["event"] == "session.approval"]
        assert approval["uid"] == admin.uid and approval["details"]["proven"] is True


BY_BUS = """
import sys
from gi.repository import Gio, GLib
from shannotctl.authentication import terminal_agent
flags = Gio.DBusConnectionFlags
bus = Gio.DBusConnection.new_for_address_sync(
    "unix:path=/run/dbus/system_bus_socket",
    flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
with terminal_agent():
    name = "org.shannot.Shannot1"
    answer = bus.call_sync(name, "/org/shannot/Shannot1", name + ".Manager", "Approve",
        GLib.Variant("(sss)", (sys.argv[1], sys.argv[2], "")), None,
        Gio.DBusCallFlags.ALLOW_INTERACTIVE_AUTHORIZATION, 60000, None)
print("answer", *answer.unpack())
"""


@in_loop
async def test_on_the_bus_with_a_password(
    directory: Path, authority: Polkit, admin: Person, other: Person, packages: Path
) -> None:
    authority.start()
    async with served(directory, admin, other):
        pending = await submitted(directory, admin.uid)
        terminal = authority.python(
            *(admin.name, packages, "-c", BY_BUS, pending["id"], pending["digest"]),
            socket=directory,
        )
        async with on_screen(terminal) as screen:
            await screen.expect("Prove that it is you")
            await screen.expect("Password: ")
            screen.type(admin.password)
            await screen.expect("answer (approved|execut)")
        ended = await state_of(directory, pending["id"], admin.uid)
        assert ended["decided_by"] == [admin.uid]


@in_loop
async def test_a_wrong_password_approves_nothing(
    directory: Path, authority: Polkit, admin: Person, other: Person, packages: Path
) -> None:
    authority.start()
    async with served(directory, admin, other):
        pending = await submitted(directory, admin.uid)
        terminal = authority.terminal(
            *(admin.name, packages, "approve", pending["id"]),
            socket=socket_of(directory),
        )
        async with on_screen(terminal) as screen:
            await screen.expect(r"\[yes/no\] ")
            screen.type("yes")
            for _ in range(3):
                if await screen.expect(["Password: ", "came to nothing"]):
                    break
                screen.type("wrong")
            else:
                await screen.expect("came to nothing")
            await screen.expect(pexpect.EOF)
            await asyncio.to_thread(screen.program.wait)
            assert screen.program.exitstatus == 6
        assert (await state_of(directory, pending["id"], admin.uid))["state"] == "pending"


@in_loop
async def test_without_an_agent_it_is_an_error(
    directory: Path, authority: Polkit, admin: Person, other: Person
) -> None:
    authority.start()
    async with served(directory, admin, other):
        pending = await submitted(directory, admin.uid)
        given = approving(pending)
        async with await Caller.connect_as(directory, admin.uid, admin.uid) as agent:
            failure = await agent.failure("sessions.approve", **given)
            assert isinstance(failure, AuthenticationNeeded)
            # What could not be approved anyhow is not asked for.
            wrong = {"id": pending["id"], "digest": "0" * 64}
            assert (await agent.failure("sessions.approve", **wrong)).code == "digest_mismatch"
        told = await Account(authority.bus.address, admin.uid).error(
            "Approve", pending["id"], pending["digest"], ""
        )
        assert "org.shannot.Error.AuthenticationNeeded" in told
        # Another reviewer has nothing to prove, with the rules that we ship.
        async with await Caller.connect_as(directory, other.uid, other.uid) as reviewer:
            approved = await reviewer.call("sessions.approve", **given)
            assert approved["decided_by"] == [other.uid]


@in_loop
async def test_who_is_gone_is_asked_no_more(
    directory: Path, authority: Polkit, admin: Person, other: Person, packages: Path
) -> None:
    authority.start()
    async with served(directory, admin, other) as service:
        pending = await submitted(directory, admin.uid)
        terminal = authority.terminal(
            *(admin.name, packages, "approve", pending["id"], "--yes"),
            socket=socket_of(directory),
        )
        async with on_screen(terminal) as screen:
            await screen.expect("Password: ")
            assert service._bus.polkit._asked == {admin.uid}
            # The client alone: its agent would still take the password.
            os.kill(screen.program.pid, signal.SIGKILL)
            async with asyncio.timeout(30):
                while service._bus.polkit._asked:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert (await state_of(directory, pending["id"], admin.uid))["state"] == "pending"


@in_loop
async def test_root_proves_nothing_to_polkit(
    directory: Path, authority: Polkit, admin: Person, other: Person
) -> None:
    """polkit lets root do everything, unasked: a program of root's could approve its own plan."""
    authority.start()
    async with served(directory, admin, other):
        pending = await submitted(directory, 0)
        given = approving(pending)
        async with await Caller.connect(directory) as root:
            failure = await root.failure("sessions.approve", **given)
        assert isinstance(failure, NotAllowed)
        told = await Account(authority.bus.address).error(
            "Approve", pending["id"], pending["digest"], ""
        )
        assert "org.shannot.Error.NotAllowed" in told


@in_loop
async def test_rules_of_the_host_count(
    directory: Path, authority: Polkit, admin: Person, other: Person
) -> None:
    authority.rule(
        """polkit.addRule(function(action, subject) {
            if (action.id == "org.shannot.approve") return polkit.Result.NO;
            if (action.id == "org.shannot.rollback") return polkit.Result.AUTH_ADMIN;
        });"""
    )
    authority.start()
    async with served(directory, admin, other):
        pending = await submitted(directory, admin.uid)
        given = approving(pending)
        async with await Caller.connect_as(directory, other.uid, other.uid) as reviewer:
            failure = await reviewer.failure("sessions.approve", **given)
            assert isinstance(failure, AuthenticationRefused)
            # A rollback is refused before anything is looked at; its dry run asks nobody.
            failure = await reviewer.failure("sessions.rollback", id=pending["id"])
            assert isinstance(failure, AuthenticationNeeded)
            dry = await reviewer.failure("sessions.rollback", id=pending["id"], dry_run=True)
            assert dry.code == "not_reversible"


@in_loop
async def test_a_polkit_that_was_there_is_not_done_without(
    directory: Path, authority: Polkit, admin: Person, other: Person
) -> None:
    authority.start()
    async with served(directory, admin, other):
        pending = await submitted(directory, admin.uid)
        given = approving(pending)
        authority.stop()
        async with await Caller.connect_as(directory, other.uid, other.uid) as reviewer:
            failure = await reviewer.failure("sessions.approve", **given)
            assert isinstance(failure, AuthenticationUnavailable)
            authority.start()
            assert (await reviewer.call("sessions.approve", **given))["state"] != "pending"


@pytest.mark.parametrize("started", [True, False])
@in_loop
async def test_a_polkit_that_does_not_know_us_leaves_the_roles(
    directory: Path,
    admin: Person,
    other: Person,
    started: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with polkit(with_actions=False) as authority:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", authority.bus.address)
        if started:
            authority.start()
        async with served(directory, admin, other) as service:
            assert service._bus.polkit.missing is not None
            pending = await submitted(directory, admin.uid)
            given = approving(pending)
            async with await Caller.connect_as(directory, admin.uid, admin.uid) as agent:
                failure = await agent.failure("sessions.approve", **given)
                assert isinstance(failure, NotAllowed)
            async with await Caller.connect_as(directory, other.uid, other.uid) as reviewer:
                status = await reviewer.call("daemon.status")
                assert status["bus_missing"] is None and status["polkit_missing"]
                await reviewer.call("sessions.approve", **given)


@in_loop
async def test_a_daemon_under_its_own_account_may_ask(
    directory: Path, admin: Person, other: Person, packages: Path
) -> None:
    """polkit answers about others only root and the owner of an action, as the file names him."""
    with polkit(owner=other.name) as authority:
        authority.start()
        config = f'[roles]\nsubmit = ["uid:{admin.uid}"]\nreview = ["uid:{admin.uid}"]\n'
        with running_daemon(
            directory / "daemon",
            config=config,
            embedded=False,
            account=other.name,
            code=packages,
            prefix=["env", f"DBUS_SYSTEM_BUS_ADDRESS={authority.bus.address}"],
        ) as daemon:
            for path in (directory / "daemon", daemon.socket.parent):
                path.chmod(0o755)
            file = Path(pwd.getpwnam(other.name).pw_dir, "made")
            async with await Caller.connect_as(directory / "daemon", admin.uid, admin.uid) as agent:
                status = await agent.call("daemon.status")
                while status["polkit_missing"] is not None:
                    await asyncio.sleep(0.05)
                    status = await agent.call("daemon.status")
                pending = await agent.call(
                    "sessions.submit", kind="shell", script=f"echo 1 > {file}".encode()
                )
                assert pending["state"] == "pending", pending["error"]
                terminal = authority.terminal(
                    admin.name, packages, "approve", pending["id"], socket=daemon.socket
                )
                async with on_screen(terminal) as screen:
                    await screen.expect(r"\[yes/no\] ")
                    screen.type("yes")
                    await screen.expect("Password: ")
                    screen.type(admin.password)
                    await screen.expect("AUTHENTICATION COMPLETE")
                    ended = await agent.call("sessions.wait", id=pending["id"], states=[])
                assert ended["state"] == "executed", ended["error"]
                assert await asyncio.to_thread(file.read_text) == "1\n"
            assert "on D-Bus as org.shannot.Shannot1" in daemon.log()


HANDS_ON = """
import socket, sys
made = socket.socket(socket.AF_UNIX)
made.connect(sys.argv[2])
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"x"], [made.fileno()])
"""


@in_loop
async def test_who_is_asked_is_the_process_that_connected(
    directory: Path, authority: Polkit, admin: Person, other: Person
) -> None:
    """One that hands its connection on and ends cannot have another one authenticate for it."""
    authority.start()
    async with served(directory, admin, other):
        pending = await submitted(directory, admin.uid)
        ours, theirs = socket.socketpair()
        child = await asyncio.create_subprocess_exec(
            *("/usr/bin/python3", "-c", HANDS_ON, str(theirs.fileno())),
            str(socket_of(directory)),
            pass_fds=[theirs.fileno()],
            user=admin.uid,
            group=admin.uid,
            extra_groups=[],
            cwd="/",
        )
        assert await child.wait() == 0
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        connection = socket.socket(fileno=descriptors[0])
        ours.close()
        theirs.close()
        caller = Caller(*await asyncio.open_unix_connection(sock=connection))
        async with caller:
            given = approving(pending)
            failure = await caller.failure("sessions.approve", **given)
            assert isinstance(failure, AuthenticationNeeded)
            assert "has ended" in str(failure)
