"""The daemon's place on a bus: found, taken, and taken again when the bus was restarted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from shannotd.bus.adapter import Adapter, BusUnavailable, Incoming, LibrariesMissing
from shannotd.bus.interface import NAME, Value
from shannotd.bus.manager import Manager
from shannotd.bus.polkit import Polkit
from shannotd.server.methods import Methods
from shannotd.server.standing import Standing
from shannotd.sessions.access import Caller
from shannotd.sessions.events import Events
from shannotd.wire.text import visible

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 10.0


class BusService:
    """What a daemon does on its bus, and through it with polkit."""

    def __init__(
        self,
        address: str,
        *,
        events: Events,
        standing: Standing,
        version: str,
        pending: Callable[[Caller], int],
        changed: Callable[[], None],
    ) -> None:
        """:param changed: called whenever somebody has called."""
        self._address = address
        self._events = events
        self._standing = standing
        self._version = version
        self._pending = pending
        self._changed = changed
        self._adapter: Adapter | None = None
        self._running: asyncio.Task[None] | None = None
        self.polkit = Polkit(lambda: self._adapter)
        self.missing: str | None = "it is being connected to"

    def start(self, methods: Methods, *, with_polkit: bool) -> None:
        """Begin to serve on the bus, in the background."""
        self._manager = Manager(
            methods,
            self._standing,
            self._version,
            self._pending,
            self._events,
            self._emit,
            self._watch,
        )
        self._running = asyncio.get_running_loop().create_task(self._run(with_polkit))

    async def stop(self) -> None:
        """Leave the bus."""
        self._manager.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        if self._adapter is not None:
            await self._adapter.stop()

    async def _run(self, with_polkit: bool) -> None:
        first, hopeless = True, False
        while True:
            adapter = Adapter(self._address, self._answer, self._manager.left, self._named)
            try:
                await adapter.start()
            except BusUnavailable as error:
                self.missing = visible(str(error))
                if first:
                    log.warning("without D-Bus: %s", self.missing)
                hopeless = isinstance(error, LibrariesMissing)
            else:
                self._adapter, nameless = adapter, adapter.nameless
                if nameless is None:
                    self._named()
                else:
                    self.missing = visible(nameless)
                    log.warning("not on D-Bus as %s: %s", NAME, self.missing)
            if first and with_polkit:
                await self._look_for_polkit()
            first = False
            if self._adapter is not None:
                await adapter.lost.wait()
                self._adapter, self.missing = None, "the connection to the bus was lost"
                log.warning("%s: trying again", self.missing)
                self._manager.close()
                await adapter.stop()
            elif hopeless:
                return
            await asyncio.sleep(_AGAIN_SECONDS)

    def _named(self) -> None:
        """The adapter may have its name just now, or have had it when it was connected."""
        if self._adapter is not None and self.missing is not None:
            self.missing = None
            log.info("on D-Bus as %s", NAME)

    async def _look_for_polkit(self) -> None:
        await self.polkit.look()
        if self.polkit.missing is None:
            log.info("approvals and rollbacks are authorized by polkit, beside the roles")
        else:
            log.warning(
                "without polkit (%s): by roles alone, and nobody approves what he submitted",
                self.polkit.missing,
            )

    async def _answer(self, incoming: Incoming) -> tuple[Value, ...]:
        self._changed()
        return tuple(await self._manager.answer(incoming))

    def _emit(self, receiver: str, signal: str, *values: Value) -> None:
        if self._adapter is not None:
            self._adapter.emit(receiver, signal, *values)

    def _watch(self, client: str) -> None:
        if self._adapter is not None:
            self._adapter.watch(client)
