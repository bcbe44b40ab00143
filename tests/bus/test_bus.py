"""The daemon on real message buses: methods, rights, signals, and buses that come and go."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pwd
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.accounts import run, temporary_group
from tests.support.bus import MANAGER, NAME, PATH, REPOSITORY, Account, Bus, Refused
from tests.support.on_bus import ROLES, on_bus, served, submitted
from tests.support.service import Caller, in_loop, running_service


@pytest.mark.P5
def test_a_reviewer_lists_reads_and_approves(
    directory: Path, system_bus: Bus, people: tuple[int, int, int]
) -> None:
    submitter, reviewer, _ = people

    @in_loop
    async def scenario() -> None:
        async with served(directory, people):
            pending = await submitted(directory, submitter)
            person = Account(system_bus.address, reviewer)
            assert await person.property("PendingCount") == 1
            assert await person.property("Version")
            (sessions,) = await person.call("ListSessions", "asu", "1", "pending", "10")
            (session,) = sessions
            assert session["id"]["data"] == pending["id"]
            assert session["name"]["data"] == "a\\e[31m <b>name</b>"
            assert session["submitter"]["data"] == submitter
            assert session["counts"]["data"]["create"] == 1
            (whole,) = await person.call("GetSession", "s", pending["id"][:8])
            assert bytes(whole["script"]["data"]) == pending["script"]
            canonical, notes = await person.call("GetPlan", "s", pending["id"])
            digest = hashlib.sha256(bytes(canonical)).hexdigest()
            assert digest == pending["digest"]
            assert json.loads(notes)[0]["risk"] == pending["notes"][0]["risk"]
            wrong = await person.error("Approve", pending["id"], "0" * 64, "")
            assert "org.shannot.Error.DigestMismatch" in wrong
            state = await person.call("Approve", "sss", pending["id"], digest, "as agreed")
            assert state[0] in ("approved", "executing", "executed")
            async with await Caller.connect_as(directory, submitter, submitter) as watching:
                ended = await watching.call("sessions.wait", id=pending["id"], states=[])
            assert ended["state"] == "executed"
            assert ended["decided_by"] == [reviewer]
            assert await person.property("PendingCount") == 0

    scenario()


@pytest.mark.P5
def test_rights_are_those_of_the_socket(
    directory: Path, system_bus: Bus, people: tuple[int, int, int]
) -> None:
    submitter, reviewer, stranger = people

    @in_loop
    async def scenario() -> None:
        async with served(directory, people):
            pending = await submitted(directory, submitter)
            digest = pending["digest"]
            agent = Account(system_bus.address, submitter)
            nobody = Account(system_bus.address, stranger)
            person = Account(system_bus.address, reviewer)
            # Who submitted sees it, and does not approve it.
            assert len((await agent.call("ListSessions", "asu", "0", "10"))[0]) == 1
            refused = await agent.error("Approve", pending["id"], digest, "")
            assert "org.shannot.Error.NotAllowed" in refused
            # Who has no role gets nothing, and learns of nothing.
            assert await nobody.property("PendingCount") == 0
            for method, more in (
                ("ListSessions", ["[]", "10"]),
                ("GetSession", [pending["id"]]),
                ("GetPlan", [pending["id"]]),
                ("Approve", [pending["id"], digest, ""]),
                ("Reject", [pending["id"], ""]),
                ("Cancel", [pending["id"]]),
                ("Subscribe", []),
            ):
                assert "org.shannot.Error.NotAllowed" in await nobody.error(method, *more)
            # Who may only submit does not see what others did.
            other = await submitted(directory, 0)
            assert "org.shannot.Error.NotFound" in await agent.error("GetSession", other["id"])
            assert await person.call("Reject", "ss", other["id"], "not today") == ["rejected"]
            assert await agent.call("Cancel", "s", pending["id"]) == ["cancelled"]
            over = await person.error("Approve", pending["id"], digest, "")
            assert "org.shannot.Error.WrongState" in over

    scenario()


@pytest.mark.P10
def test_bad_calls_get_an_error_each(
    directory: Path, system_bus: Bus, people: tuple[int, int, int]
) -> None:
    @in_loop
    async def scenario() -> None:
        async with served(directory, people):
            pending = await submitted(directory, people[0])
            person = Account(system_bus.address, people[1])
            for name, method, *arguments in (
                ("InvalidRequest", "ListSessions", "['no state']", "10"),
                ("InvalidRequest", "ListSessions", "[]", "0"),
                ("InvalidRequest", "Reject", pending["id"], "x" * 5000),
                ("IdTooShort", "GetSession", "a"),
                ("NotFound", "GetSession", "../etc"),
                ("NotFound", "GetPlan", "f" * 32),
            ):
                assert f"org.shannot.Error.{name}" in await person.error(method, *arguments)
            large = "['" + 70_000 * "x" + "']"
            assert "FrameTooLarge" in await person.error("ListSessions", large, "10")
            assert "UnknownMethod" in await person.error("Submit", "x")
            with pytest.raises(Refused):
                await person.run(
                    *("busctl", f"--address={system_bus.address}", "set-property"),
                    *(NAME, PATH, MANAGER, "PendingCount", "u", "7"),
                )
            assert len((await person.call("ListSessions", "asu", "0", "10"))[0]) == 1

    scenario()


def test_tools_show_documented_arguments(
    directory: Path, system_bus: Bus, people: tuple[int, int, int]
) -> None:
    @in_loop
    async def scenario() -> None:
        async with served(directory, people):
            anybody = Account(system_bus.address, people[2])
            where = ["--address", system_bus.address, "--dest", NAME, "--object-path", PATH]
            told = await anybody.run("gdbus", "introspect", *where)
            assert "in  s digest" in told and "SHA-256 (hexadecimal) of the plan" in told
            assert "SessionPending(" in told and "PendingCount = 0" in told
            told = await anybody.run(
                "busctl", f"--address={system_bus.address}", "introspect", NAME, PATH, MANAGER
            )
            for line in (".Approve", ".Reject", ".GetPlan", ".PendingCount", ".SessionChanged"):
                assert line in told

    scenario()


class Listener:
    """A client of an account's that subscribes and prints the signals that it gets."""

    PROGRAM = """
import sys, gi
from gi.repository import Gio, GLib
flags = Gio.DBusConnectionFlags
bus = Gio.DBusConnection.new_for_address_sync(
    sys.argv[1], flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
def heard(bus, sender, path, interface, signal, values):
    print(signal, *values.unpack(), flush=True)
bus.signal_subscribe(None, "org.shannot.Shannot1.Manager", None, None, None, 0, heard)
bus.signal_subscribe(None, "org.freedesktop.DBus.Properties", None, None, None, 0, heard)
if sys.argv[2] == "subscribe":
    bus.call_sync("org.shannot.Shannot1", "/org/shannot/Shannot1", "org.shannot.Shannot1.Manager",
        "Subscribe", None, None, 0, 10000, None)
print("listening", flush=True)
GLib.MainLoop().run()
"""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def of(
        cls, address: str, uid: int, *groups: int, subscribe: bool = True
    ) -> AsyncIterator[Listener]:
        process = await asyncio.create_subprocess_exec(
            *("/usr/bin/python3", "-c", cls.PROGRAM, address),
            "subscribe" if subscribe else "listen",
            stdout=asyncio.subprocess.PIPE,
            user=uid,
            group=uid,
            extra_groups=groups,
            cwd="/",
        )
        listener = cls(process)
        try:
            assert await listener.line() == "listening"
            yield listener
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def line(self) -> str:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 30)
        return line.decode().strip()

    async def rest(self) -> list[str]:
        """What else has come by now."""
        self._process.terminate()
        out, _ = await self._process.communicate()
        return out.decode().splitlines()


@pytest.mark.P5
def test_signals_reach_only_who_may_see_the_session(
    directory: Path, system_bus: Bus, people: tuple[int, int, int]
) -> None:
    submitter, reviewer, stranger = people

    @in_loop
    async def scenario() -> None:
        async with (
            served(directory, people),
            Listener.of(system_bus.address, reviewer) as person,
            Listener.of(system_bus.address, submitter) as agent,
            Listener.of(system_bus.address, stranger, subscribe=False) as nobody,
        ):
            theirs = await submitted(directory, 0)
            mine = await submitted(directory, submitter)
            caller = await Caller.connect_as(directory, reviewer, reviewer)
            async with caller:
                for session in (theirs, mine):
                    await caller.call("sessions.reject", id=session["id"])
            seen = [await person.line() for _ in range(8)]
            for session in (theirs, mine):
                of_it = [line for line in seen if session["id"] in line]
                assert of_it == [
                    f"SessionChanged {session['id']} running",
                    f"SessionPending {session['id']}",
                    f"SessionChanged {session['id']} pending",
                    f"SessionChanged {session['id']} rejected",
                ]
            # Of what is his own, and nothing else; a stranger hears nothing at all.
            assert [await agent.line() for _ in range(4)] == [
                line for line in seen if mine["id"] in line
            ]
            assert await agent.rest() == []
            assert await nobody.rest() == []

    scenario()


@pytest.mark.P5
@pytest.mark.parametrize("way", ["leave", "vanish", "reconfigure"])
def test_a_subscriber_who_lost_the_role_hears_of_his_own_sessions_only(
    directory: Path, system_bus: Bus, people: tuple[int, int, int], way: str
) -> None:
    _, submitter, _ = people
    name = pwd.getpwuid(submitter).pw_name
    config = ROLES.format(submitter=submitter, reviewer=0)

    @in_loop
    async def scenario() -> None:
        with temporary_group() as group:
            await run("usermod", "--append", "--groups", group.gr_name, name)
            reviewing = config.replace('review = ["uid:0"]', f'review = ["{group.gr_name}"]')
            assert reviewing != config
            async with running_service(directory, config=reviewing, embedded=False) as service:
                await on_bus(service)
                account = Account(system_bus.address, submitter, submitter, group.gr_gid)
                listening = Listener.of(system_bus.address, submitter, group.gr_gid)
                async with listening as person:
                    theirs = await submitted(directory, 0)
                    lines = [await person.line() for _ in range(3)]
                    assert lines[-1] == f"SessionChanged {theirs['id']} pending"
                    assert await account.property("PendingCount") == 1
                    if way == "leave":
                        await run("gpasswd", "--delete", name, group.gr_name)
                    elif way == "vanish":
                        await run("userdel", "--force", name)
                    else:
                        (directory / "shannotd.toml").write_text(config)
                        await service.reload()
                    await submitted(directory, 0)
                    own = await submitted(directory, submitter)
                    lines = [await person.line() for _ in range(3)]
                    assert all(own["id"] in line for line in lines)
                    assert await person.rest() == []
                assert "NotFound" in await account.error("GetSession", theirs["id"])
                assert await account.property("PendingCount") == 1

    scenario()


def test_the_example_of_the_page(
    directory: Path, system_bus: Bus, people: tuple[int, int, int]
) -> None:
    page = (REPOSITORY / "docs" / "dbus.md").read_text()
    example = page[page.index("    from gi.repository") :].split("\n\n**")[0]
    program = textwrap.dedent(example)
    assert "Subscribe" in program

    @in_loop
    async def scenario() -> None:
        async with served(directory, people) as service:
            process = await asyncio.create_subprocess_exec(
                *("/usr/bin/python3", "-c", program),
                stdout=asyncio.subprocess.PIPE,
                user=people[1],
                group=people[1],
                extra_groups=[],
                cwd="/",
            )
            try:
                async with asyncio.timeout(30):
                    while not service._bus._manager._subscribers:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                await submitted(directory, people[0])
                assert process.stdout is not None
                line = await asyncio.wait_for(process.stdout.readline(), 30)
                assert line == b"a\\e[31m <b>name</b>\n"
            finally:
                process.kill()
                await process.wait()

    scenario()


def test_who_left_the_bus_is_forgotten(
    directory: Path, system_bus: Bus, people: tuple[int, int, int]
) -> None:
    @in_loop
    async def scenario() -> None:
        async with served(directory, people) as service:
            manager = service._bus._manager
            async with Listener.of(system_bus.address, people[1]):
                assert len(manager._subscribers) == 1
            async with asyncio.timeout(30):
                while manager._subscribers:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    scenario()


@pytest.mark.P10
def test_a_slow_call_holds_up_nobody(
    directory: Path, system_bus: Bus, people: tuple[int, int, int]
) -> None:
    """Cancelling a dry run takes until its script has ended; others are answered meanwhile."""
    submitter, reviewer, _ = people

    @in_loop
    async def scenario() -> None:
        async with served(directory, people) as service:
            agent = await Caller.connect_as(directory, submitter, submitter)
            async with agent:
                running = await agent.submit(("hang", None), wait=False)
                person = Account(system_bus.address, reviewer)
                assert await person.call("GetPlan", "s", running["id"]) == [[], "[]"]
                async with asyncio.timeout(30):  # it is written soon, not at once
                    listed = []
                    while not listed:
                        (listed,) = await person.call("ListSessions", "asu", "1", "running", "5")
                        await asyncio.sleep(0.01)
                cancelling = asyncio.create_task(person.call("Cancel", "s", running["id"]))
                async with asyncio.timeout(30):
                    while not service._bus._manager._calls:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                for _ in range(20):
                    (sessions,) = await person.call("ListSessions", "asu", "1", "running", "5")
                    assert [one["id"]["data"] for one in sessions] == [running["id"]]
                assert not cancelling.done()
                await service._runner.stop()
                assert await cancelling == ["cancelled"]

    scenario()


@pytest.mark.P10
def test_calls_leave_no_memory_behind(
    directory: Path, system_bus: Bus, people: tuple[int, int, int]
) -> None:
    import pydbus
    from gi.repository import GLib

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def flood(calls: int) -> None:
        bus = pydbus.connect(system_bus.address)
        for _ in range(calls):
            with pytest.raises(GLib.Error):
                bus.con.call_sync(
                    *(NAME, PATH, MANAGER, "GetSession", GLib.Variant("(s)", ("f" * 32,))),
                    *(None, 0, 10000, None),
                )
        bus.con.close_sync(None)

    @in_loop
    async def scenario() -> None:
        async with served(directory, people):
            await asyncio.to_thread(flood, 500)
            before = resident()
            await asyncio.to_thread(flood, 3000)
            # PyGObject alone would have kept 2 kB of each.
            assert resident() - before < 3000 * 1000

    scenario()
