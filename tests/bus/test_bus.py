"""The daemon on real message buses: methods, rights, signals, and buses that come and go."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pwd
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.accounts import is_root, run, temporary_account, temporary_group
from tests.support.bus import MANAGER, NAME, PATH, REPOSITORY, Account, Bus, Refused, message_bus
from tests.support.service import Caller, in_loop, public_directory, running_service

FILE = "/var/lib/example/file"
ROLES = """
[daemon]
runner_socket = "/nowhere"
[roles]
submit = ["uid:{submitter}", "uid:0"]
review = ["uid:{reviewer}"]
audit = []
admin = []
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a daemon in service mode is reached by everybody."""
    with public_directory() as made:
        yield made


@pytest.fixture
def system_bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """The system bus of whoever looks for it."""
    with message_bus(system=True) as bus:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        yield bus


@pytest.fixture
def people() -> Iterator[tuple[int, int, int]]:
    """The uids of a submitter, a reviewer and a stranger. Root's privilege."""
    if not is_root():
        pytest.skip("takes on other accounts")
    with temporary_account() as one, temporary_account() as two, temporary_account() as three:
        yield tuple(pwd.getpwnam(name).pw_uid for name in (one, two, three))  # type: ignore[misc]


# Has a name, as another program would that does not let go of it.
SQUATTER = """
import sys
from gi.repository import Gio, GLib
flags = Gio.DBusConnectionFlags
bus = Gio.DBusConnection.new_for_address_sync(
    sys.argv[1], flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
daemon = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
asked = GLib.Variant("(su)", (sys.argv[2], 4))
assert bus.call_sync(*daemon, "RequestName", asked, None, 0, 10000, None).unpack() == (1,)
print("taken", flush=True)
GLib.MainLoop().run()
"""


@asynccontextmanager
async def served(directory: Path, people: tuple[int, int, int]) -> AsyncIterator[Any]:
    """A daemon in service mode that is on its bus."""
    config = ROLES.format(submitter=people[0], reviewer=people[1])
    async with running_service(directory, config=config, embedded=False) as service:
        await on_bus(service)
        yield service


async def on_bus(service: Any) -> None:
    """Wait until the daemon has its name."""
    async with asyncio.timeout(30):
        while service._bus.missing is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def submitted(directory: Path, uid: int) -> dict[str, Any]:
    """A pending session of that account's."""
    agent = await Caller.connect_as(directory, uid, uid)
    async with agent:
        pending = await agent.submit(("files", [FILE]), name="a\x1b[31m <b>name</b>")
        assert pending["state"] == "pending"
        return dict(pending)


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


def test_a_bus_that_is_restarted_is_joined_again(
    directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    people: tuple[int, int, int],
) -> None:
    monkeypatch.setattr("shannotd.bus.service._AGAIN_SECONDS", 0.05)

    @in_loop
    async def scenario() -> None:
        place = directory / "bus"
        place.mkdir()
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={place}/system_bus_socket")
        with message_bus(system=True, place=place) as first:
            async with served(directory, people) as service:
                first.stop()
                await asyncio.wait_for(service._bus._adapter.lost.wait(), 30)
                pending = await submitted(directory, people[0])  # the socket goes on
                with message_bus(system=True, place=place) as second:
                    await asyncio.sleep(0)
                    await on_bus(service)
                    person = Account(second.address, people[1])
                    (session,) = await person.call("GetSession", "s", pending["id"])
                    assert session["state"]["data"] == "pending"

    scenario()


def test_an_embedded_daemon_is_on_the_session_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @in_loop
    async def scenario() -> None:
        with message_bus(system=False) as bus:
            monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
            async with running_service(tmp_path / "daemon") as service:
                await on_bus(service)
                async with await Caller.connect(tmp_path / "daemon") as caller:
                    pending = await caller.submit(("files", [FILE]))
                person = Account(bus.address)
                state = await person.call("Approve", "sss", pending["id"], pending["digest"], "")
                assert state[0] in ("approved", "executing", "executed")
                # One name is one daemon's: a second one says so, and serves its socket.
                async with running_service(tmp_path / "second") as second:
                    async with asyncio.timeout(30):
                        while "already" not in (second._bus.missing or ""):  # noqa: ASYNC110
                            await asyncio.sleep(0.01)
                    async with await Caller.connect(tmp_path / "second") as caller:
                        status = await caller.call("daemon.status")
                        assert status["bus"] == "session"
                        assert "already" in status["bus_missing"]

    scenario()


def test_a_name_that_another_has_is_taken_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def waits(service: Any) -> None:
        async with asyncio.timeout(30):
            while "already" not in (service._bus.missing or ""):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    @in_loop
    async def scenario() -> None:
        with message_bus(system=False) as bus:
            monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
            person = Account(bus.address)
            squatter = await asyncio.create_subprocess_exec(
                *("/usr/bin/python3", "-c", SQUATTER, bus.address, NAME),
                stdout=asyncio.subprocess.PIPE,
            )
            assert squatter.stdout is not None and await squatter.stdout.readline()
            async with AsyncExitStack() as stack:
                first = await stack.enter_async_context(running_service(tmp_path / "first"))
                await waits(first)
                async with running_service(tmp_path / "second") as second:
                    await waits(second)
                    squatter.kill()
                    await squatter.wait()
                    await on_bus(first)  # it waited longer
                    assert await person.call("ListSessions", "asu", "0", "10") == [[]]
                    async with await Caller.connect(tmp_path / "second") as caller:
                        pending = await caller.submit(("files", [FILE]))
                        assert "already" in (await caller.call("daemon.status"))["bus_missing"]
                        await stack.aclose()
                        await on_bus(second)
                        assert (await caller.call("daemon.status"))["bus_missing"] is None
                    ((session,),) = await person.call("ListSessions", "asu", "0", "10")
                    assert session["id"]["data"] == pending["id"]

    with caplog.at_level("INFO"):
        scenario()
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if line.startswith("not on D-Bus as")]) == 2
    assert len([line for line in said if line.startswith("on D-Bus as")]) == 2


@pytest.mark.parametrize("address", ["unix:path=/nowhere/bus", "nonsense:", None])
def test_without_a_bus_it_says_so_once_and_works(
    directory: Path,
    address: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    people: tuple[int, int, int],
) -> None:
    if address is None:
        monkeypatch.setattr("shannotd.bus.address._SYSTEM_BUS", "unix:path=/nowhere/bus")
        monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS")
    else:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    monkeypatch.setattr("shannotd.bus.service._AGAIN_SECONDS", 0.01)

    @in_loop
    async def scenario() -> None:
        config = ROLES.format(submitter=people[0], reviewer=people[1])
        async with running_service(directory, config=config, embedded=False):
            pending = await submitted(directory, people[0])
            person = await Caller.connect_as(directory, people[1], people[1])
            async with person:
                status = await person.call("daemon.status")
                assert status["bus_missing"] and status["polkit_missing"]
                given = {"id": pending["id"], "digest": pending["digest"]}
                await person.call("sessions.approve", **given)
                ended = await person.call("sessions.wait", id=pending["id"], states=[])
                assert ended["state"] == "executed"

    with caplog.at_level("INFO"):
        scenario()
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "without D-Bus" in line]) == 1
    assert len([line for line in said if "without polkit" in line]) == 1


def test_without_the_libraries_it_says_so_once_and_works(
    directory: Path,
    system_bus: Bus,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydbus", None)  # as Python does: not there
    monkeypatch.setattr("shannotd.bus.service._AGAIN_SECONDS", 0.01)

    @in_loop
    async def scenario() -> None:
        config = ROLES.format(submitter=os.getuid(), reviewer=os.getuid())
        async with running_service(directory, config=config, embedded=False) as service:
            await asyncio.wait_for(service._bus._running, 30)  # it does not try again
            async with await Caller.connect(directory) as caller:
                assert "pydbus" in (await caller.call("daemon.status"))["bus_missing"]

    with caplog.at_level("INFO"):
        scenario()
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "without D-Bus: pydbus or PyGObject" in line]) == 1


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
