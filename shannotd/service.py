"""Wires the parts of the daemon together; starts, reloads, drains and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import gc
import importlib.metadata
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sdnotify

from shannotd.audit.log import AuditLog
from shannotd.bus.address import bus_address
from shannotd.config import Config, load
from shannotd.policy.profiles import Profile
from shannotd.server.accounts import Accounts
from shannotd.server.admission import Limits, raise_descriptor_limit, total_connections
from shannotd.server.listener import (
    EMBEDDED_MODE,
    SERVICE_MODE,
    Server,
    is_served,
    make_socket,
    passed_socket,
)
from shannotd.server.methods import Methods
from shannotd.server.presence import Presence, RolesAlone
from shannotd.server.roles import EmbeddedRoles, Roles, ServiceRoles
from shannotd.server.standing import Standing
from shannotd.sessions.access import Caller
from shannotd.sessions.amendments import Amendments
from shannotd.sessions.approval import Approvals
from shannotd.sessions.checkpoints import Checkpoints
from shannotd.sessions.events import Events
from shannotd.sessions.journal import Journal
from shannotd.sessions.manager import Sessions
from shannotd.sessions.registry import Registry
from shannotd.sessions.rollbacks import Rollbacks
from shannotd.sessions.runner import Launch, Runner, connector, spawner
from shannotd.sessions.store import Store
from shannotd.sessions.usual import Usual
from shannotd.wire.errors import ConfigError, ShannotError, UsageError
from shannotd.wire.session import State
from shannotd.wire.status import DaemonStatus
from shannotd.wire.text import visible

if TYPE_CHECKING:
    from shannotd.bus.service import BusService

log = logging.getLogger(__name__)

_LOCK_SECONDS = 15  # for an earlier daemon that is just stopping
_APPLY_SECONDS = 60.0  # for plans that are being applied when the daemon stops
_FAREWELL_SECONDS = 5.0
_POOL_SECONDS = 0.5
_THREAD_SWITCH_SECONDS = 0.001  # a long parse on the store's thread holds up the loop no longer


@dataclass(frozen=True)
class Options:
    """How a daemon is started. `launch` overrides where its runner comes from."""

    embedded: bool
    socket: Path
    state: Path | None
    config: Path
    config_required: bool = False
    launch: Launch | None = None

    def load(self) -> Config:
        """The configuration as it is now.

        :raises ConfigError: it cannot be used.
        """
        return load(self.config, required=self.config_required, embedded=self.embedded)


@functools.cache
def version() -> str:
    """The installed version of shannot."""
    try:
        return importlib.metadata.version("shannot")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def serve(options: Options, default_state: Path) -> None:
    """Be the daemon until SIGTERM, SIGINT or (embedded) until nobody needs it.

    :param default_state: where the state is kept unless options or configuration say otherwise.
    :raises ShannotError: it could not be started.
    """
    os.umask(0o077)
    sys.setswitchinterval(_THREAD_SWITCH_SECONDS)
    config = options.load()
    state = options.state or Path(config.daemon.state_directory or default_state)
    with _locked(state, options.socket):
        asyncio.run(_serve(Service(options, config, state)))


async def _serve(service: Service) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.request_stop)
    loop.add_signal_handler(signal.SIGHUP, service.request_reload)
    await service.start()
    await service.run()


class Service:
    """One daemon: all of its parts, from their start to their end."""

    def __init__(self, options: Options, config: Config, state: Path) -> None:
        self._options = options
        self._config = config
        self._state = state
        self._manager = _service_manager()
        self._started_at = time.time()
        self._roles = self._make_roles(config)
        self._reloading = asyncio.Lock()
        self._accounts = Accounts()
        self._standing = Standing(lambda: self._roles)
        self._total_connections = total_connections(raise_descriptor_limit())
        self._stop = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._socket: socket.socket
        self._own_inode: int | None
        self._store: Store
        self._audit: AuditLog
        self._journal: Journal
        self._registry: Registry
        self._runner: Runner
        self._sessions: Sessions
        self._approvals: Approvals
        self._rollbacks: Rollbacks
        self._checkpoints: Checkpoints
        self._methods: Methods
        self._server: Server
        self._bus: BusService | None = None
        self._busless = "there is no bus"

    async def start(self) -> None:
        """Start all parts; when this returns, clients are served.

        :raises ShannotError: one cannot be started.
        """
        launch = self._options.launch or self._launch()
        self._runner = Runner(
            launch,
            pool_size=self._config.daemon.pool_size,
            usual=Usual.of(self._most_sessions()),
        )
        starting = asyncio.ensure_future(self._start_runner())
        self._background.add(starting)
        starting.add_done_callback(self._background.discard)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self._runner.stop)
            self._store = await Store.open(self._state / "store")
            undo.push_async_callback(self._store.close)
            self._audit = await self._store.run(lambda: AuditLog(self._state / "audit"))
            undo.callback(self._audit.close)
            self._journal = Journal(self._store, self._audit)
            undo.push_async_callback(self._journal.close)
            events = Events()
            self._registry = Registry(self._store, self._journal, events)
            undo.callback(self._registry.close)
            self._sessions = Sessions(self._registry, self._runner, self._config)
            self._approvals = Approvals(self._registry, self._runner)
            await self._sessions.recover()
            self._approvals.recover()
            self._rollbacks = Rollbacks(
                self._registry, self._runner, self._sessions.policy, self._sessions.ttl_seconds
            )
            self._checkpoints = Checkpoints(
                self._registry,
                self._runner,
                lambda: self._config.checkpoints,
                self._rollbacks.pending_of,
            )
            self._bus = self._make_bus(events)
            self._methods = self._make_methods()
            self._server = self._make_server(events)
            await self._listen()
            undo.pop_all()
        self._checkpoints.start()
        self._journal.note("daemon.started", uid=os.getuid(), session=None, version=version())
        gc.freeze()  # what is there now stays: the collector need not look at it again
        self._touch()
        self._notify("READY=1")
        self._feed_watchdog()
        log.info("serving on %s", self._options.socket)
        if self._bus is not None:
            self._bus.start(self._methods, with_polkit=not self._options.embedded)

    async def run(self) -> None:
        """Serve until a stop is requested, then stop in order."""
        await self._stop.wait()
        log.info("stopping")
        self._notify("STOPPING=1")
        for timer in (self._idle, self._watchdog):
            if timer is not None:
                timer.cancel()
        self._remove_socket()
        self._server.stop_accepting()
        if self._bus is not None:
            await self._bus.stop()
        await self._sessions.drain()
        await self._approvals.drain(_APPLY_SECONDS)
        await self._checkpoints.close()
        await self._server.stop(_FAREWELL_SECONDS)
        await self._runner.stop()
        if self._background:
            await asyncio.wait(self._background, timeout=_FAREWELL_SECONDS)
        self._registry.close()
        self._journal.note("daemon.stopped", uid=os.getuid(), session=None)
        await self._journal.close()
        await self._store.run(self._audit.close)
        await self._store.close()
        if self._manager is not None and self._manager.socket is not None:
            self._manager.socket.close()

    def request_stop(self) -> None:
        """Stop soon."""
        self._stop.set()

    def request_reload(self) -> None:
        """Read the configuration again soon; what is broken changes nothing."""
        task = asyncio.get_running_loop().create_task(self.reload())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _most_sessions(self) -> Profile:
        """The profile that most sessions have."""
        return self._config.profiles[self._config.daemon.default_profile]

    async def reload(self) -> None:
        """Read the configuration again and use it for what comes; a broken one changes nothing."""
        async with self._reloading:  # or what was read first might be used last
            await self._reload()

    async def _reload(self) -> None:
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = await self._store.run(self._options.load)
        except ConfigError as error:
            log.error("%s", visible(str(error)))
        else:
            # Looks groups up.
            self._roles = await self._accounts.ask(lambda: self._make_roles(config))
            self._config = config
            self._sessions.configure(self._config)
            await self._runner.resize_pool(
                self._config.daemon.pool_size, Usual.of(self._most_sessions())
            )
            log.info("the configuration was read again")
        self._notify("READY=1")

    def _notify(self, state: str) -> None:
        if self._manager is not None:
            self._manager.notify(state)

    # Parts

    def _launch(self) -> Launch:
        if self._config.daemon.runner_socket is not None:
            return connector(self._config.daemon.runner_socket)
        state = self._state / "runner"
        return spawner(
            lambda descriptor: (
                sys.executable,
                "-P",  # nothing is imported from the working directory
                *("-X", "utf8"),  # whatever the locale: names are bytes
                *("-m", "shannotd.runner", "serve"),
                *("--fd", str(descriptor)),
                *("--state", str(state)),
                *("--hide", str(self._state)),
            )
        )

    async def _start_runner(self) -> None:
        try:
            await self._runner.start()
        except ShannotError:
            pass  # logged; who submits meanwhile gets this error, all else is served

    def _make_roles(self, config: Config) -> Roles:
        if self._options.embedded:
            return EmbeddedRoles(os.getuid())
        return ServiceRoles(config.roles)

    def _make_bus(self, events: Events) -> BusService | None:
        """The daemon's place on its bus; None where there is none, or it is not wanted."""
        embedded = self._options.embedded
        if not self._config.daemon.dbus:
            self._busless = "dbus is false in the configuration"
        address = bus_address(embedded) if self._config.daemon.dbus else None
        if address is None:
            log.info("without D-Bus: %s", self._busless)
            if not embedded:
                log.warning("without polkit: by roles alone, nobody approves what he submitted")
            return None
        from shannotd.bus.service import BusService  # a dozen modules, which not every daemon needs

        return BusService(
            address,
            events=events,
            standing=self._standing,
            version=version(),
            pending=self._pending_of,
            changed=self._touch,
        )

    def _pending_of(self, caller: Caller) -> int:
        """How many sessions that the caller may see wait for a decision."""
        if caller.sees_all:
            return self._registry.total(State.PENDING)
        return self._registry.count(caller.uid, State.PENDING)

    def _presence(self) -> Presence:
        if self._options.embedded or self._bus is None:
            return RolesAlone()
        return self._bus.polkit

    def _make_methods(self) -> Methods:
        return Methods(
            self._sessions,
            self._approvals,
            Amendments(self._registry, self._runner, self._sessions.ttl_seconds),
            self._rollbacks,
            self._checkpoints,
            self._store,
            self._audit,
            self._status,
            self._standing,
            self._presence(),
        )

    def _make_server(self, events: Events) -> Server:
        return Server(
            self._methods,
            events,
            self._standing,
            limits=self._limits,
            max_unread_bytes=lambda: self._config.daemon.max_unread_bytes,
            changed=self._touch,
        )

    def _limits(self) -> Limits:
        settings = self._config.daemon
        return Limits(
            settings.max_connections,
            settings.max_unfinished_bytes,
            settings.max_total_connections or self._total_connections,
        )

    async def _listen(self) -> None:
        mode = EMBEDDED_MODE if self._options.embedded else SERVICE_MODE
        passed = passed_socket()
        self._socket = passed or make_socket(self._options.socket, mode)
        self._own_inode = None if passed else self._options.socket.stat().st_ino
        await self._server.start(self._socket)

    def _remove_socket(self) -> None:
        """Remove the socket's name, if it is still ours."""
        path = self._options.socket
        try:
            if self._own_inode is not None and path.stat().st_ino == self._own_inode:
                path.unlink()
        except OSError:
            pass

    async def _status(self) -> DaemonStatus:
        facts = self._runner.facts
        return DaemonStatus(
            version=version(),
            mode="embedded" if self._options.embedded else "service",
            pid=os.getpid(),
            uid=os.getuid(),
            started_at=self._started_at,
            builder="none" if facts is None else facts.builder,
            pool_ready=await self._runner.pool_ready(_POOL_SECONDS),
            running=self._registry.total(State.RUNNING),
            pending=self._registry.total(State.PENDING),
            roles=(),
            store=str(self._state),
            **self._bus_status(),
        )

    def _bus_status(self) -> dict[str, str | None]:
        """The fields of the status about D-Bus and polkit."""
        kind = "session" if self._options.embedded else "system"
        bus: str | None = self._busless
        polkit: str | None = self._busless
        if self._bus is not None:
            bus, polkit = self._bus.missing, self._bus.polkit.missing
        if self._options.embedded:
            polkit = "an embedded daemon serves one account only"
        return {"bus": kind, "bus_missing": bus, "polkit_missing": polkit}

    # Idle exit and watchdog

    def _touch(self) -> None:
        """Something happened: the idle time begins anew."""
        if not self._options.embedded:
            return
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._config.daemon.idle_seconds, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._server.connections or self._sessions.busy or self._approvals.busy:
            self._touch()
            return
        log.info("nobody needs this daemon any more")
        self.request_stop()

    def _feed_watchdog(self) -> None:
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        if not microseconds.isdigit() or not int(microseconds):
            return
        self._notify("WATCHDOG=1")
        self._watchdog = asyncio.get_running_loop().call_later(
            int(microseconds) / 2e6, self._feed_watchdog
        )


def _service_manager() -> sdnotify.SystemdNotifier | None:
    """Who started the daemon, if it wants to know how it goes."""
    return sdnotify.SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None


def tell_starter(error: ShannotError) -> None:
    """Tell whoever waits for this daemon to be ready why it never will be.

    Fields of sd_notify(3) that begin with `X_` are nobody's but ours.
    """
    manager = _service_manager()
    if manager is not None:
        manager.notify(f"X_SHANNOT_ERROR={json.dumps(error.to_wire())}")


@contextlib.contextmanager
def _locked(state: Path, address: Path) -> Iterator[None]:
    """Be the only daemon of a state directory, which is made with mode 0700.

    Waits a little for a daemon that is just stopping and does not listen any more.

    :raises UsageError: another daemon is there, or the directory cannot be made.
    """
    try:
        if state.is_symlink():
            raise UsageError(
                reason=f"the state directory {state} is a symbolic link: name what it points to"
            )
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = state.stat()
        if status.st_uid != os.getuid():
            raise UsageError(
                reason=f"the state directory {state} belongs to another account"
                f" (uid {status.st_uid}, this is uid {os.getuid()}): choose one of your own"
            )
        if status.st_mode & 0o077:
            others = "it can be entered by other accounts; chmod 700 it"
            raise UsageError(reason=f"the state directory {state}: {others}")
        descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(reason=f"the state directory {state}: {reason}") from error
    try:
        _lock(descriptor, state, address)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, state: Path, address: Path) -> None:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    if is_served(address):
        raise UsageError(reason=f"another daemon serves {address}")
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        signal.alarm(_LOCK_SECONDS)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except _LockTimeout:
        raise UsageError(reason=f"another daemon uses {state}") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _LockTimeout(Exception):
    """The lock was not to be had."""


def _too_long(*_: object) -> None:
    raise _LockTimeout
