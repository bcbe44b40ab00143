"""`shannotctl notify` on a real desktop: what is shown, what is chosen, what is withdrawn."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.bus import Account, Bus, message_bus
from tests.support.desktop import Desktop, Traffic, desktop
from tests.support.service import SECONDS, Caller, in_loop, running_service, socket_of

pytestmark = [
    pytest.mark.skipif(
        not all(map(shutil.which, ("Xvfb", "dunst", "busctl"))), reason="there is no desktop"
    ),
]

CAUTION = ("files", ["/etc/example.conf"])
DANGER = ("files", ["/etc/sudoers"])
HOSTILE = "<b>bold</b> <img src='x'/> &amp; \x1b[31m \u202eevil\nsecond line"


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Desktop]:
    """A desktop."""
    with desktop(tmp_path) as made:
        yield made


@asynccontextmanager
async def notified(
    screen: Desktop, directory: Path, *options: str, config: str = ""
) -> AsyncIterator[tuple[Caller, Traffic]]:
    """A daemon whose notifications are on the screen: a client of it, and what is said of them."""
    made = directory / "daemon"
    async with (
        running_service(made, config=config),
        await Caller.connect(made) as caller,
        screen.traffic() as traffic,
        screen.notifier(socket_of(made), *options),
    ):
        yield caller, traffic


@pytest.mark.P7
@in_loop
async def test_what_is_shown_and_withdrawn(screen: Desktop, tmp_path: Path) -> None:
    directory = tmp_path / "daemon"
    async with (
        running_service(directory),
        await Caller.connect(directory) as caller,
        screen.traffic() as traffic,
    ):
        before = await caller.submit(CAUTION, name="was there before")
        async with screen.notifier(socket_of(directory)) as notifier:
            first = await traffic.next("Notify")
            assert first[3] == "A plan waits for review: caution"
            assert "was there before" in first[4]
            hostile = await caller.submit(DANGER, name=HOSTILE)
            second = await traffic.next("Notify")
            assert second[3] == "A plan waits for review: danger"
            assert second[6]["urgency"]["data"] == 2 and first[6]["urgency"]["data"] == 1
            body = second[4]
            assert "&lt;b&gt;bold&lt;/b&gt; &lt;img src='x'/&gt; &amp;amp;" in body
            assert "\\e[31m \\u202eevil\\nsecond line" in body
            assert hostile["digest"][:16] in body and "1 step: 1 create" in body
            # Only what is no danger is approved from here.
            assert first[5] == [*("review", "Review", "approve", "Approve…", "reject", "Reject")]
            assert second[5] == ["review", "Review", "reject", "Reject"]
            assert first[7] == second[7] == 0  # until it is decided
            await screen.screenshot(tmp_path / "shown.png")
            assert await screen.displayed() == 2
            # Decided elsewhere, and withdrawn by its submitter.
            await caller.call("sessions.reject", id=hostile["id"])
            await traffic.next("CloseNotification")
            await caller.call("sessions.cancel", id=before["id"])
            await traffic.next("CloseNotification")
            assert await screen.displayed() == 0
            last = await caller.submit(CAUTION, name="at the end")
            await traffic.next("Notify")
            notifier.terminate()
            await traffic.next("CloseNotification")
            assert await notifier.wait() == 0
            assert await caller.call("sessions.cancel", id=last["id"])


@in_loop
async def test_what_expires_is_withdrawn(screen: Desktop, tmp_path: Path) -> None:
    config = "[daemon]\nttl_seconds = 2\n"
    async with notified(screen, tmp_path, config=config) as (caller, traffic):
        await caller.call("sessions.watch")
        await caller.submit(CAUTION)
        await traffic.next("Notify")
        await traffic.next("CloseNotification")
        assert await caller.changed_to("expired")


@pytest.mark.P2
@in_loop
async def test_approving_takes_two_notifications(screen: Desktop, tmp_path: Path) -> None:
    async with notified(screen, tmp_path) as (caller, traffic):
        pending = await caller.submit(CAUTION, name="tidy up")
        await traffic.next("Notify")
        await screen.choose("Approve")
        assert (await traffic.next("ActionInvoked"))[1] == "approve"
        question = await traffic.next("Notify")
        assert question[3] == "Apply this plan?" and pending["digest"][:16] in question[4]
        assert question[5] == ["confirm", "Yes, apply it", "keep", "No"]
        got = await caller.call("sessions.get", id=pending["id"])
        assert got["state"] == "pending"
        await screen.choose("Yes, apply it")
        ended = await caller.call("sessions.wait", id=pending["id"], states=[])
        assert ended["state"] == "executed" and ended["decided_by"] == [os.getuid()]
        # Saying no to the question leaves it pending; so does putting it away.
        pending = await caller.submit(CAUTION, name="another")
        await traffic.next("Notify")
        await screen.choose("Approve")
        while (await traffic.next("Notify"))[3] != "Apply this plan?":
            pass
        await screen.choose("No")
        assert (await traffic.next("ActionInvoked"))[1] == "keep"
        got = await caller.call("sessions.wait", id=pending["id"], states=[], timeout=1)
        assert got["state"] == "pending"


@in_loop
async def test_rejecting(screen: Desktop, tmp_path: Path) -> None:
    async with notified(screen, tmp_path) as (caller, traffic):
        pending = await caller.submit(DANGER)
        await traffic.next("Notify")
        await screen.choose("Reject")
        ended = await caller.call("sessions.wait", id=pending["id"], states=[])
        assert ended["state"] == "rejected"
        assert ended["reason"] == "rejected from a desktop notification"


@in_loop
async def test_reviewing_opens_a_terminal(screen: Desktop, tmp_path: Path) -> None:
    terminal, told = tmp_path / "terminal", tmp_path / "told"
    os.mkfifo(told)
    terminal.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" > {told}\n')
    terminal.chmod(0o755)
    async with notified(screen, tmp_path, "--terminal", f"{terminal} -e") as (caller, traffic):
        pending = await caller.submit(DANGER)
        await traffic.next("Notify")
        reading = asyncio.create_task(asyncio.to_thread(told.read_text))
        await screen.choose("Review")
        line = await asyncio.wait_for(reading, SECONDS)
        assert line.startswith("-e ") and line.endswith(
            f" -P -m shannotctl review {pending['id']}\n"
        )


@in_loop
async def test_many_are_told_together(screen: Desktop, tmp_path: Path) -> None:
    async with notified(screen, tmp_path) as (caller, traffic):
        made = [await caller.submit(CAUTION) for _ in range(19)]
        made.append(await caller.submit(DANGER))
        while True:
            notice = await traffic.next("Notify")
            if notice[3].startswith("20 plans"):
                break
        assert notice[3] == "20 plans wait for review: danger"
        assert notice[4] == "1 danger, 19 caution"
        assert notice[5] == ["review", "Review"]
        async with asyncio.timeout(SECONDS):
            while await screen.displayed() != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        # What was put away comes back for what is new only.
        await screen.close_all()
        await caller.call("sessions.reject", id=made.pop()["id"])
        await caller.submit(CAUTION)
        while not (await traffic.next("Notify"))[3].startswith("20 plans wait for review: c"):
            pass
        for session in made:
            await caller.call("sessions.cancel", id=session["id"])
        while (await traffic.next("Notify"))[3] != "A plan waits for review: caution":
            pass


@in_loop
async def test_a_service_that_starts_again_shows_all_again(screen: Desktop, tmp_path: Path) -> None:
    async with notified(screen, tmp_path) as (caller, traffic):
        await caller.submit(CAUTION, name="again")
        await traffic.next("Notify")
        screen.stop_service()
        screen.start_service()
        assert "again" in (await traffic.next("Notify"))[4]


@pytest.mark.P5
@in_loop
async def test_who_is_not_the_service_chooses_nothing(screen: Desktop, tmp_path: Path) -> None:
    async with notified(screen, tmp_path) as (caller, traffic):
        pending = await caller.submit(CAUTION)
        await traffic.next("Notify")
        bus, say = Account(screen.bus.address), ("busctl", f"--address={screen.bus.address}")
        daemon = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        named = await bus.run(*say, "--json=short", "call", *daemon, "ListNames")
        place = ("/org/freedesktop/Notifications", "org.freedesktop.Notifications")
        for name in json.loads(named)["data"][0]:
            if name.startswith(":"):
                # To one client only: a bus does not filter these.
                emit = (*say, "emit", f"--destination={name}", *place, "ActionInvoked", "us")
                for number in range(1, 4):
                    await bus.run(*emit, str(number), "reject")
        await screen.choose("Approve")
        while (await traffic.next("Notify"))[3] != "Apply this plan?":
            pass
        got = await caller.call("sessions.get", id=pending["id"])
        assert got["state"] == "pending"


_ODD_SERVICE = """
import sys
from gi.repository import Gio, GLib

flags = Gio.DBusConnectionFlags
connection = Gio.DBusConnection.new_for_address_sync(
    sys.argv[1], flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
)
words = "".join(f'<arg type="{kind}" direction="in"/>' for kind in "s u s s s as a{sv} i".split())
(interface,) = Gio.DBusNodeInfo.new_for_xml(
    '<node><interface name="org.freedesktop.Notifications"><method name="GetCapabilities">'
    f'<arg type="as" direction="out"/></method><method name="Notify">{words}</method>'
    "</interface></node>"
).interfaces

def called(connection, sender, path, interface, member, parameters, invocation):
    capable = member == "GetCapabilities"
    invocation.return_value(GLib.Variant("(as)", (["actions"],)) if capable else None)
    print(member, flush=True)

connection.register_object("/org/freedesktop/Notifications", interface, called, None, None)
Gio.bus_own_name_on_connection(
    connection, "org.freedesktop.Notifications", 0, lambda *_: print("here", flush=True), None
)
GLib.MainLoop().run()
"""


@pytest.mark.P10
def test_a_service_that_answers_otherwise(tmp_path: Path) -> None:
    directory = tmp_path / "daemon"

    @in_loop
    async def scenario(bus: Bus) -> None:
        service = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _ODD_SERVICE, bus.address), stdout=asyncio.subprocess.PIPE
        )
        assert service.stdout is not None

        async def said(word: str) -> None:
            assert service.stdout is not None
            line = await asyncio.wait_for(service.stdout.readline(), SECONDS)
            assert line.decode().strip() == word

        try:
            await said("here")
            async with (
                running_service(directory),
                await Caller.connect(directory) as caller,
                Desktop(tmp_path, bus, "").notifier(socket_of(directory)),
            ):
                await said("GetCapabilities")
                for _ in range(3):
                    await caller.submit(CAUTION)
                    await said("Notify")
        finally:
            service.terminate()
            await service.wait()

    with message_bus(system=False) as bus:
        scenario(bus)


@pytest.mark.P10
def test_a_session_bus_that_ends_ends_it(tmp_path: Path) -> None:
    directory = tmp_path / "daemon"

    @in_loop
    async def scenario(bus: Bus) -> None:
        service = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _ODD_SERVICE, bus.address), stdout=asyncio.subprocess.PIPE
        )
        assert service.stdout is not None
        try:
            assert await asyncio.wait_for(service.stdout.readline(), SECONDS) == b"here\n"
            async with (
                running_service(directory),
                await Caller.connect(directory) as caller,
                Desktop(tmp_path, bus, "").notifier(socket_of(directory)) as notifier,
            ):
                await caller.submit(CAUTION)
                for word in (b"GetCapabilities\n", b"Notify\n"):
                    assert await asyncio.wait_for(service.stdout.readline(), SECONDS) == word
                bus.stop()
                _, told = await asyncio.wait_for(notifier.communicate(), SECONDS)
            assert notifier.returncode == 8
            assert b"the session bus has ended" in told and b"Traceback" not in told
        finally:
            service.terminate()
            await service.wait()

    with message_bus(system=False) as bus:
        scenario(bus)


@in_loop
async def test_a_daemon_that_goes_takes_its_notices_along(screen: Desktop, tmp_path: Path) -> None:
    directory = tmp_path / "daemon"
    async with screen.traffic() as traffic, screen.notifier(socket_of(directory)):
        async with running_service(directory), await Caller.connect(directory) as caller:
            await caller.submit(CAUTION, name="waits on")
            await traffic.next("Notify")
        await traffic.next("CloseNotification")
        async with running_service(directory):
            assert "waits on" in (await traffic.next("Notify"))[4]


@pytest.mark.P10
@pytest.mark.parametrize("bus", ["", "unix:path=/nowhere"])
def test_without_a_desktop_it_says_so(tmp_path: Path, bus: str) -> None:
    environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": bus, "XDG_RUNTIME_DIR": "/nowhere"}
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m shannotctl notify', sys.executable],
        env={**environment, "SHANNOT_SOCKET": str(tmp_path / "none")},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 8
    assert b"No desktop notification can be shown" in done.stderr and b"--print" in done.stderr
