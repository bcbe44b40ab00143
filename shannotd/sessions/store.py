"""Where sessions are kept: one SQLite database and content-addressed blobs.

SQLite blocks, so all of it happens on one thread that the store owns. What need not be on
disk at once is deferred and written with the next group; what must be (`commit`) shares
its disk sync with all that waits at that moment.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from shannotd.sessions.blobs import COPY_BYTES, LargeCopy
from shannotd.sessions.database import Database
from shannotd.sessions.records import Content, Entry, Page, Record, Stored
from shannotd.wire.errors import StoreFull
from shannotd.wire.session import State
from shannotd.wire.text import visible

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_GROUP_SECONDS = 0.05
_RETRY_SECONDS = 1.0
MAX_DEFERRED = 1000  # sessions that wait for a full disk, before new ones are refused


class _Write(NamedTuple):
    entry: Entry
    done: asyncio.Future[None] | None  # None: deferred, nobody waits


class Store:
    """The store in one directory. Its coroutines never block the loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._database: Database
        self._queue: list[_Write] = []  # in the order of the changes
        self._deferred: dict[str, int] = {}  # where in the queue a session's last change waits
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, directory: Path) -> Store:
        """Open the store in `directory` (made with mode 0700), or begin one.

        :raises StoreFull: it cannot be read or written.
        :raises ConfigError: a newer program made it.
        """
        store = cls(directory)
        try:
            store._database = await store.run(lambda: Database(directory))
        except BaseException:
            store._thread.shutdown()
            raise
        return store

    async def close(self) -> None:
        """Write what is deferred and close. What cannot be written is reported and lost."""
        if self._timer is not None:
            self._timer.cancel()
        await self.flush()
        if self._queue:
            log.error("%d sessions could not be stored", len(self._queue))
        await self.run(self._database.close)
        self._thread.shutdown()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do blocking `work` on the store's thread, after all that was asked for before.

        :raises StoreFull: the disk or the database failed in it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    @property
    def path(self) -> str:
        """The store's directory."""
        return str(self._directory)

    @property
    def overloaded(self) -> bool:
        """Whether so much waits for a full disk that nothing new should be taken in."""
        return len(self._queue) >= MAX_DEFERRED

    # Writing

    def defer(self, entry: Entry) -> None:
        """Write `entry` soon, in a group, without a disk sync of its own."""
        self._enqueue(_Write(entry, None))
        if self._timer is None:
            self._schedule(_GROUP_SECONDS)

    async def commit(self, *entries: Entry) -> None:
        """Write `entries` in one transaction, and return when they are on disk.

        :raises StoreFull: none of them is.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A group takes all that is queued, so these are never parted.
        for entry in entries:
            self._enqueue(_Write(entry, done))
        self._pump()
        await done

    async def flush(self) -> None:
        """Write all that is deferred; what fails stays deferred."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self._pump()
        writing = self._writing
        if writing is not None:
            await asyncio.wait([writing])

    def _enqueue(self, write: _Write) -> None:
        """Add `write`; one that waits already and is not waited for is replaced by it."""
        identifier = write.entry.record.session.id
        position = self._deferred.pop(identifier, None)
        if write.done is None:
            if position is not None:
                earlier = self._queue[position].entry
                contents = {**earlier.contents, **write.entry.contents}
                self._queue[position] = _Write(Entry(write.entry.record, contents), None)
                self._deferred[identifier] = position
                return
            self._deferred[identifier] = len(self._queue)
        self._queue.append(write)

    def _schedule(self, delay: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self) -> None:
        """Begin to write all that waits, unless a group is being written: then it is next."""
        if self._writing is not None or not self._queue:
            return
        writes, self._queue = self._queue, []
        self._deferred.clear()
        self._writing = asyncio.ensure_future(self.run(lambda: self._write(writes)))
        self._writing.add_done_callback(lambda result: self._written(result, writes))

    def _written(self, result: asyncio.Future[None], writes: list[_Write]) -> None:
        self._writing = None
        error = None if result.cancelled() else result.exception()
        if error is not None:
            log.error("%s", visible(str(error)))
            newer, self._queue = self._queue, []
            self._deferred.clear()
            for write in (*(write for write in writes if write.done is None), *newer):
                self._enqueue(write)
        for write in writes:
            if write.done is None or write.done.done():
                continue
            if error is None:
                write.done.set_result(None)
            else:
                write.done.set_exception(error)
        if any(write.done is not None for write in self._queue):
            self._pump()
        elif self._queue and self._timer is None:
            self._schedule(_GROUP_SECONDS if error is None else _RETRY_SECONDS)

    # Reading

    async def find(self, prefix: str, submitter: int | None) -> list[str]:
        """The ids that begin with `prefix`, of `submitter` (None: of everybody), at most 1000."""
        await self.flush()
        found = set(await self.run(lambda: self._database.find(prefix, submitter)))
        for write in self._queue:  # what a full disk holds up is there all the same
            session = write.entry.record.session
            if session.id.startswith(prefix) and submitter in (None, session.submitter):
                found.add(session.id)
        return sorted(found)

    async def load(self, identifier: str) -> Stored | None:
        """The session with all its contents, as it is now."""
        await self.flush()
        stored = await self.run(lambda: self._database.load(identifier))
        for write in self._queue:
            if write.entry.record.session.id == identifier:
                contents = {**(stored.contents if stored else {}), **write.entry.contents}
                stored = Stored(write.entry.record, contents)
        return stored

    async def page(
        self,
        *,
        states: tuple[State, ...],
        name: str | None,
        submitter: int | None,
        limit: int,
        before: int | None,
    ) -> Page:
        """Sessions, newest first: in one of `states` (empty: all), of that name and submitter.

        :param before: the cursor, as a number; None begins at the newest.
        """
        await self.flush()
        return await self.run(lambda: self._database.page(states, name, submitter, limit, before))

    async def unfinished(self) -> list[Record]:
        """The records of all sessions that are in no final state, oldest first."""
        return await self.run(self._database.unfinished)

    # Contents of files

    async def keep_small(
        self, session: str, blobs: list[tuple[str, int]], contents: bytes | bytearray
    ) -> None:
        """Keep several contents. On disk with the next `commit`.

        :raises ValueError: one is not what its hash says.
        :raises StoreFull: they could not be written.
        """
        await self.run(
            lambda: self._database.transaction(
                lambda: self._database.blobs.add_small(session, blobs, contents)
            )
        )

    async def keep_large(self, session: str, sha256: str, size: int, descriptor: int) -> None:
        """Keep a large content, read from `descriptor`; on disk when this returns.

        :raises ValueError: it is not what its hash says.
        :raises StoreFull: it could not be written.
        """

        def refer() -> None:
            self._database.transaction(
                lambda: self._database.blobs.add_large(session, sha256, size)
            )

        # What is in place is referred to in the same turn of the thread: between two turns
        # another session could drop it.
        def begin() -> LargeCopy | None:
            if self._database.blobs.has_large(sha256):
                refer()
                return None
            return self._database.blobs.begin_large(sha256, size, descriptor)

        def step(copy: LargeCopy) -> bool:
            complete = copy.step()
            if complete:
                refer()
            return complete

        copy = await self.run(begin)
        if copy is None:
            return
        try:
            while not await self.run(functools.partial(step, copy)):
                pass
        finally:
            await asyncio.shield(self.run(copy.close))

    async def share(self, session: str, other: str) -> None:
        """Have `other` refer to all contents of `session` too. On disk with the next `commit`.

        :raises StoreFull: the database failed.
        """
        await self.run(
            lambda: self._database.transaction(lambda: self._database.blobs.share(session, other))
        )

    async def content(self, session: str, sha256: str) -> Content | None:
        """A content that `session` refers to; None when it does not.

        :raises StoreFull: it cannot be read.
        """
        return await self.run(lambda: self._database.content(session, sha256))

    async def contents(self, session: str, wanted: list[str]) -> list[Content]:
        """The contents of the first of `wanted` that `session` refers to, some megabytes at
        most: as many as there are before the first that is missing.

        :raises StoreFull: one cannot be read.
        """

        def read() -> list[Content]:
            found: list[Content] = []
            size = 0
            for sha256 in wanted:
                content = self._database.content(session, sha256)
                if content is None:
                    break
                found.append(content)
                size += len(content.data or b"")
                if size >= COPY_BYTES or content.descriptor is not None:
                    break
            return found

        return await self.run(read)

    async def drop_contents(self, session: str) -> None:
        """Forget the contents of a session that got no plan.

        :raises StoreFull: the database failed.
        """

        await self.run(
            lambda: self._database.transaction(lambda: self._database.blobs.drop(session))
        )

    # On the store's thread

    def _write(self, writes: list[_Write]) -> None:
        synced = any(write.done is not None for write in writes)
        self._database.write([write.entry for write in writes], synced=synced)

    def _guarded(self, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except sqlite3.Error as error:
            raise StoreFull(reason=str(error), path=str(self._directory)) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreFull(reason=reason, path=str(self._directory)) from error
