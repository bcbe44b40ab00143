"""Buses that come and go, that are not there, or where another has the name."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus import NAME, Account, Bus, message_bus
from tests.support.on_bus import FILE, ROLES, on_bus, served, submitted
from tests.support.service import Caller, in_loop, running_service

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
