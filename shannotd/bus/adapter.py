"""One connection to a message bus, in a thread of its own: all that knows of pydbus and GLib.

The GLib loop runs in that thread and asyncio in its own; neither waits for the other. A call that
comes in is handed to the asyncio loop and answered when its coroutine has ended, however long
that takes, while others come and go. (pydbus itself would answer when a method returns: so its
object wrapper is replaced by one of ours; connection, name and registration are pydbus's.)
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from shannotd.bus.interface import INTERFACE, NAME, PATH, XML, Value, error_name
from shannotd.wire.errors import FrameTooLarge, ShannotError

log = logging.getLogger(__name__)

_DAEMON = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
MAX_CALL_BYTES = 64 * 1024  # of all arguments together
_QUEUE_AND_KEEP = 0  # flags of RequestName: nobody may replace us, and we replace nobody
_PRIMARY_OWNER = 1  # what it answers
_MILLISECONDS = 5000  # for the bus daemon's own answers
_NO_LIMIT = 2**31 - 1  # G_MAXINT: GLib waits without an end
_STOP_SECONDS = 5.0


class BusUnavailable(Exception):
    """There is no such bus, or it does not take us."""


class LibrariesMissing(BusUnavailable):
    """Nothing here speaks D-Bus."""


class CallFailed(Exception):
    """A method that we called answered with an error; `name` is that of D-Bus."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Incoming:
    """A call of one of our methods, with what the bus daemon says of its sender.

    `groups` is None where the bus daemon does not tell them; `interactive` says that the sender is
    ready to wait for somebody who authenticates. The member is `Get`, `GetAll` or `Set` for
    properties.
    """

    sender: str
    uid: int
    groups: frozenset[int] | None
    interactive: bool
    member: str
    arguments: tuple[Any, ...]


Answer = Callable[[Incoming], Coroutine[Any, Any, Sequence[Value]]]


class Adapter:
    """The daemon on one bus."""

    def __init__(
        self,
        address: str,
        answer: Answer,
        left: Callable[[str], None],
        named: Callable[[], None],
    ) -> None:
        """:param answer: gives the values of a method's answer; runs in the asyncio loop.
        :param left: called (there) with the unique name of a watched client that has left.
        :param named: called (there) when the name is had, at once or later.
        """
        self.lost = asyncio.Event()
        self.nameless: str | None = None  # why the name is not had
        self._address = address
        self._answer = answer
        self._left = left
        self._named = named
        self._asyncio = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._asyncio.create_future()
        self._thread = threading.Thread(target=self._run, name="D-Bus", daemon=True)
        self._glib: Any = None
        self._gio: Any = None
        self._context: Any = None
        self._main: Any = None
        self._bus: Any = None
        self._stopped = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: dict[str, Any] = {}

    # From the asyncio loop

    async def start(self) -> None:
        """Connect, offer the object and own the name; without the name, `nameless` says why.

        A name that another one has is taken when it is free.

        :raises LibrariesMissing, BusUnavailable: there is no connection.
        """
        self._thread.start()
        try:
            await asyncio.shield(self._ready)
        except (BusUnavailable, asyncio.CancelledError):
            await self.stop()
            raise

    async def stop(self) -> None:
        """Leave the bus. Calls that are not answered yet are not."""
        for task in tuple(self._tasks):
            task.cancel()
        self._stopped.set()
        if self._main is not None:
            self._later(self._main.quit)
        await asyncio.to_thread(self._thread.join, _STOP_SECONDS)

    def emit(self, receiver: str, signal: str, *values: Value) -> None:
        """Send a signal to one client only."""
        self._later(self._emit, receiver, signal, values)

    def watch(self, client: str) -> None:
        """Have `left` called when the client of that unique name has left the bus."""
        self._later(self._watch, client)

    async def call(
        self,
        place: tuple[str, str, str],
        method: str,
        values: Sequence[Value],
        descriptors: Sequence[int] = (),
        *,
        milliseconds: int | None = _MILLISECONDS,
    ) -> tuple[Any, ...]:
        """What a method of somebody else's answers.

        :param place: its bus name, object path and interface.
        :param descriptors: what values of the signature `h` count up.
        :raises CallFailed: it answered with an error, or not in time.
        """
        answered: asyncio.Future[tuple[Any, ...]] = self._asyncio.create_future()
        self._later(self._call, answered, place, method, values, descriptors, milliseconds)
        return await answered

    def _later(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have `function` called in the GLib thread."""

        def run(_: object) -> bool:
            function(*arguments)
            return False

        source = self._glib.Idle()
        source.set_callback(run)
        source.attach(self._context)

    # In the GLib thread

    def _tell(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have `function` called in the asyncio loop, if that still runs."""
        with contextlib.suppress(RuntimeError):
            self._asyncio.call_soon_threadsafe(function, *arguments)

    def _run(self) -> None:
        try:
            self._begin()
        except BusUnavailable as error:
            self._tell(self._ready.set_exception, error)
        except Exception as error:
            log.exception("D-Bus")
            self._tell(self._ready.set_exception, LibrariesMissing(type(error).__name__))
        else:
            self._tell(self._ready.set_result, None)
            if not self._stopped.is_set():
                self._main.run()
        finally:
            self._end()

    def _begin(self) -> None:
        try:
            import gi
            import pydbus
            from gi.repository import Gio, GLib
        except ImportError as error:
            raise LibrariesMissing(f"pydbus or PyGObject is missing ({error})") from None
        self._glib, self._gio = GLib, Gio
        # In older versions the wrapper of a call is never freed (2 kB each): PyGObject takes one
        # reference more to what is handed over to it altogether.
        self._holds_too_much = gi.version_info < (3, 52)
        self._objects = ctypes.CDLL("libgobject-2.0.so.0")
        self._objects.g_object_unref.argtypes = [ctypes.c_void_p]
        self._context = GLib.MainContext()
        self._context.push_thread_default()
        self._main = GLib.MainLoop(self._context)
        try:
            self._bus = pydbus.connect(self._address)
            self._bus.con.set_exit_on_close(False)
            self._bus.con.connect("closed", self._closed)
            (interface,) = Gio.DBusNodeInfo.new_for_xml(XML).interfaces
            self._bus.con.register_object(PATH, interface, self._called, None, None)
            self._take_name()
        except GLib.Error as error:
            raise BusUnavailable(error.message) from None

    def _take_name(self) -> None:
        """Own the name, or wait in the bus's queue for it.

        :raises GLib.Error: the connection is lost.
        """
        self._bus.subscribe(
            sender=_DAEMON[0],
            iface=_DAEMON[2],
            signal="NameAcquired",
            object=_DAEMON[1],
            arg0=NAME,
            signal_fired=self._has_name,
        )
        try:
            (answer,) = self._ask_daemon("RequestName", "su", NAME, _QUEUE_AND_KEEP)
        except self._glib.Error as error:  # the bus's policy
            if self._bus.con.is_closed():
                raise
            self.nameless = error.message
        else:
            if answer != _PRIMARY_OWNER:
                self.nameless = "another program has the name already; it is taken when it is free"

    def _has_name(self, *_: object) -> None:
        self.nameless = None
        self._tell(self._named)

    def _end(self) -> None:
        for watch in self._watches.values():
            watch.unsubscribe()
        if self._bus is not None and not self._bus.con.is_closed():
            with contextlib.suppress(self._glib.Error):
                self._bus.con.flush_sync(None)
                self._bus.con.close_sync(None)
        self._tell(self.lost.set)

    def _closed(self, connection: object, vanished: bool, error: object) -> None:
        self._tell(self.lost.set)

    def _called(
        self,
        connection: Any,
        sender: str,
        path: str,
        interface: str,
        member: str,
        parameters: Any,
        invocation: Any,
    ) -> None:
        try:
            facts = self._ask_daemon("GetConnectionCredentials", "s", sender)[0]
            uid, groups = facts["UnixUserID"], facts.get("UnixGroupIDs")
        except (self._glib.Error, KeyError):
            self._reply_error(invocation, ShannotError(reason="the bus does not say who you are"))
            return
        if parameters.get_size() > MAX_CALL_BYTES:  # before Python makes objects of it
            self._reply_error(invocation, FrameTooLarge(limit=MAX_CALL_BYTES))
            return
        interactive = self._gio.DBusMessageFlags.ALLOW_INTERACTIVE_AUTHORIZATION
        incoming = Incoming(
            sender=sender,
            uid=uid,
            groups=None if groups is None else frozenset(groups),
            interactive=bool(invocation.get_message().get_flags() & interactive),
            member=member,
            arguments=tuple(parameters.unpack()),
        )
        self._tell(self._take, incoming, invocation)

    def _ask_daemon(self, method: str, signature: str, *arguments: object) -> Any:
        parameters = self._glib.Variant(f"({signature})", arguments)
        connection = self._bus.con
        return connection.call_sync(
            *_DAEMON, method, parameters, None, 0, _MILLISECONDS, None
        ).unpack()

    def _reply(self, invocation: Any, values: Sequence[Value]) -> None:
        try:
            variants = [self._variant(value) for value in values]
        except Exception as error:  # it must be answered, whatever it is
            log.exception("an answer that D-Bus does not take")
            self._reply_error(invocation, ShannotError(reason=type(error).__name__))
            return
        invocation.return_value(self._glib.Variant.new_tuple(*variants) if variants else None)
        self._release(invocation)

    def _reply_error(self, invocation: Any, error: ShannotError) -> None:
        invocation.return_dbus_error(error_name(error), str(error))
        self._release(invocation)

    def _release(self, invocation: Any) -> None:
        if self._holds_too_much:
            self._objects.g_object_unref(hash(invocation))

    def _variant(self, value: Value) -> Any:
        glib = self._glib
        if value.signature == "ay":  # not byte by byte
            return glib.Variant.new_from_bytes(
                glib.VariantType("ay"), glib.Bytes.new(value.value), True
            )
        return glib.Variant(value.signature, self._inner(value.value))

    def _inner(self, value: Any) -> Any:
        """`value` with every `Value` in it as a variant."""
        if isinstance(value, Value):
            return self._variant(value)
        if isinstance(value, dict):
            return {key: self._inner(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._inner(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self._inner(item) for item in value)
        return value

    def _emit(self, receiver: str, signal: str, values: Sequence[Value]) -> None:
        variants = [self._variant(value) for value in values]
        with contextlib.suppress(self._glib.Error):  # of a bus that is gone
            self._bus.con.emit_signal(
                receiver, PATH, INTERFACE, signal, self._glib.Variant.new_tuple(*variants)
            )

    def _watch(self, client: str) -> None:
        if client in self._watches:
            return

        def changed(
            sender: object, path: object, interface: object, name: object, parameters: Any
        ) -> None:
            if not parameters[2]:
                gone()

        def gone() -> None:
            watch = self._watches.pop(client, None)
            if watch is not None:
                watch.unsubscribe()
                self._tell(self._left, client)

        self._watches[client] = self._bus.subscribe(
            sender=_DAEMON[0],
            iface=_DAEMON[2],
            signal="NameOwnerChanged",
            object=_DAEMON[1],
            arg0=client,
            signal_fired=changed,
        )
        with contextlib.suppress(self._glib.Error):
            if not self._ask_daemon("NameHasOwner", "s", client)[0]:  # it left before
                gone()

    def _call(
        self,
        answered: asyncio.Future[tuple[Any, ...]],
        place: tuple[str, str, str],
        method: str,
        values: Sequence[Value],
        descriptors: Sequence[int],
        milliseconds: int | None,
    ) -> None:
        glib, gio = self._glib, self._gio

        def settle(set_it: Callable[[Any], None], result: object) -> None:
            if not answered.done():
                set_it(result)

        def fail(error: Any) -> None:
            name = gio.DBusError.get_remote_error(error) or ""
            gio.DBusError.strip_remote_error(error)
            self._tell(settle, answered.set_exception, CallFailed(name, error.message))

        def done(connection: Any, result: Any) -> None:
            try:
                variant, _ = connection.call_with_unix_fd_list_finish(result)
            except glib.Error as error:
                fail(error)
            else:
                self._tell(settle, answered.set_result, tuple(variant.unpack()))

        try:
            passed = gio.UnixFDList.new()
            for descriptor in descriptors:
                passed.append(descriptor)  # a duplicate of it
            parameters = glib.Variant.new_tuple(*(self._variant(value) for value in values))
            self._bus.con.call_with_unix_fd_list(
                *place,
                method,
                parameters,
                None,
                gio.DBusCallFlags.NONE,
                _NO_LIMIT if milliseconds is None else milliseconds,
                passed,
                None,
                done,
            )
        except glib.Error as error:
            fail(error)

    # In the asyncio loop again

    def _take(self, incoming: Incoming, invocation: Any) -> None:
        task = self._asyncio.create_task(self._respond(incoming, invocation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _respond(self, incoming: Incoming, invocation: Any) -> None:
        try:
            values = await self._answer(incoming)
        except ShannotError as error:
            self._later(self._reply_error, invocation, error)
        except Exception as error:
            log.exception("%s", incoming.member)
            internal = ShannotError(reason=type(error).__name__)
            self._later(self._reply_error, invocation, internal)
        else:
            self._later(self._reply, invocation, values)
