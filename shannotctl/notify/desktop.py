"""Desktop notifications: org.freedesktop.Notifications on the session bus.

https://specifications.freedesktop.org/notification-spec/ . GLib runs in a thread of its own; what
people do comes to the asyncio loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from shannotctl.notify.notices import Notice
from shannotd.wire.errors import NotificationsUnavailable

_NAME = "org.freedesktop.Notifications"
_PATH = "/org/freedesktop/Notifications"
_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_MILLISECONDS = 10_000  # a desktop may have to start its service first
_NEVER = 0  # of expiry: until it is closed
_ICONS = {0: "dialog-information", 1: "dialog-question", 2: "dialog-warning"}


def session_bus(environment: Mapping[str, str] = os.environ) -> str | None:
    """The address of the session bus; None without one. None is started."""
    if environment.get("DBUS_SESSION_BUS_ADDRESS"):
        return environment["DBUS_SESSION_BUS_ADDRESS"]
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    path = Path(runtime, "bus")
    return f"unix:path={path}" if runtime.startswith("/") and path.exists() else None


class Person(Protocol):
    """Who hears of what people do with the notices."""

    def invoked(self, key: str, action: str) -> None:
        """Somebody chose an action: the notice's key, the action's."""

    def closed(self, key: str) -> None:
        """A notice is not shown any more, and not because it was withdrawn."""

    def restarted(self) -> None:
        """There is another notification service, which shows nothing yet."""


class Desktop:
    """Shows notices, and tells what becomes of them."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._person: Person
        self._lost: Callable[[], object]
        self._loop = asyncio.get_running_loop()
        self._numbers: dict[str, int] = {}
        self._capabilities: frozenset[str] = frozenset()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)
        self._calls = ThreadPoolExecutor(max_workers=1)
        self._glib: Any = None
        self._bus: Any = None
        self._main: Any = None
        self._owner = ""

    async def start(self, person: Person, lost: Callable[[], object]) -> None:
        """Find the desktop's notification service, and tell `person` from now on.

        :param lost: called when the session bus has ended.
        :raises NotificationsUnavailable: there is none.
        """
        self._person, self._lost = person, lost
        self._thread.start()
        await self._ready

    async def stop(self) -> None:
        """Withdraw everything."""
        await self._call(self._withdraw_all)  # also what is just being shown
        self._calls.shutdown()
        if self._main is not None:
            self._main.quit()
        await asyncio.to_thread(self._thread.join)

    async def show(self, notice: Notice) -> None:
        """Show a notice, in the place of one of the same key."""
        await self._call(self._show, notice)

    async def withdraw(self, key: str) -> None:
        """Show it no more."""
        await self._call(self._withdraw, key)

    async def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        await self._loop.run_in_executor(self._calls, function, *arguments)

    # In the thread that calls the service, one call after the other

    def _show(self, notice: Notice) -> None:
        actions: list[str] = []
        if "actions" in self._capabilities:
            actions = [word for action in notice.actions for word in action]
        body = notice.body
        if "body-markup" in self._capabilities:
            body = html.escape(body, quote=False)
        arguments = (
            "shannot",
            self._numbers.get(notice.key, 0),
            _ICONS[notice.urgency],
            notice.summary,
            body,
            actions,
            {"urgency": self._glib.Variant("y", notice.urgency)},
            _NEVER if notice.seconds is None else int(notice.seconds * 1000),
        )
        parameters = self._glib.Variant("(susssasa{sv}i)", arguments)
        answer = self._ask("Notify", parameters, "(u)")
        if answer is not None:
            self._numbers[notice.key] = answer[0]

    def _withdraw(self, key: str) -> None:
        number = self._numbers.pop(key, None)
        if number is not None:
            self._ask("CloseNotification", self._glib.Variant("(u)", (number,)), "()")

    def _withdraw_all(self) -> None:
        for key in tuple(self._numbers):
            self._withdraw(key)

    def _ask(self, method: str, parameters: Any, answer: str) -> Any:
        """What the service answers; None where it does not, or something that is no `answer`: then
        there is nothing to see."""
        with contextlib.suppress(self._glib.Error):
            return self._ask_now(method, parameters, answer)
        return None

    def _ask_now(self, method: str, parameters: Any, answer: str) -> Any:
        wanted = self._glib.VariantType(answer)
        return self._bus.con.call_sync(
            *(_NAME, _PATH, _NAME, method, parameters, wanted, 0, _MILLISECONDS, None)
        ).unpack()

    # In the thread of GLib

    def _tell(self, function: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run(self) -> None:
        try:
            self._begin()
        except NotificationsUnavailable as error:
            self._tell(self._ready.set_exception, error)
            return
        self._tell(self._ready.set_result, None)
        self._main.run()
        with contextlib.suppress(self._glib.Error):
            self._bus.con.close_sync(None)

    def _begin(self) -> None:
        try:
            import pydbus
            from gi.repository import GLib
        except ImportError as error:
            raise NotificationsUnavailable(
                reason=f"pydbus or PyGObject is missing ({error})"
            ) from None
        self._glib = GLib
        context = GLib.MainContext()
        context.push_thread_default()
        self._main = GLib.MainLoop(context)
        try:
            self._bus = pydbus.connect(self._address)
            self._bus.con.set_exit_on_close(False)
            self._bus.con.connect("closed", lambda *_: self._tell(self._lost))
            for signal, heard in (
                ("ActionInvoked", self._action_invoked),
                ("NotificationClosed", self._notification_closed),
            ):
                self._bus.subscribe(
                    sender=_NAME, iface=_NAME, signal=signal, object=_PATH, signal_fired=heard
                )
            (capabilities,) = self._ask_now("GetCapabilities", None, "(as)")
            self._capabilities = frozenset(capabilities)
            self._bus.subscribe(
                sender=_BUS,
                iface=_BUS,
                signal="NameOwnerChanged",
                arg0=_NAME,
                signal_fired=self._owner_changed,
            )
            self._owner = self._owner_now()
        except GLib.Error as error:
            raise NotificationsUnavailable(reason=error.message) from None

    def _owner_now(self) -> str:
        """The unique name of the service: any program on the bus can send a signal like its own,
        and not every GLib looks at who did."""
        parameters, wanted = self._glib.Variant("(s)", (_NAME,)), self._glib.VariantType("(s)")
        (owner,) = self._bus.con.call_sync(
            *(_BUS, _BUS_PATH, _BUS, "GetNameOwner", parameters, wanted, 0, _MILLISECONDS, None)
        ).unpack()
        return str(owner)

    def _action_invoked(self, sender: object, path: object, interface: object, *more: Any) -> None:
        if sender != self._owner:
            return
        number, action = more[1]
        self._tell(self._was_invoked, number, action)

    def _notification_closed(
        self, sender: object, path: object, interface: object, *more: Any
    ) -> None:
        if sender == self._owner:
            self._tell(self._was_closed, more[1][0])

    def _owner_changed(self, sender: object, path: object, interface: object, *more: Any) -> None:
        self._owner = more[1][2]
        if self._owner:
            self._tell(self._was_restarted)

    # In the asyncio loop

    def _key(self, number: int) -> str | None:
        return next((key for key, known in tuple(self._numbers.items()) if known == number), None)

    def _was_invoked(self, number: int, action: str) -> None:
        key = self._key(number)
        if key is not None:
            self._person.invoked(key, action)

    def _was_closed(self, number: int) -> None:
        key = self._key(number)
        if key is not None:
            self._numbers.pop(key, None)
            self._person.closed(key)

    def _was_restarted(self) -> None:
        self._numbers.clear()
        self._person.restarted()
