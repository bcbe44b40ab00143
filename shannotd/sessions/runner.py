"""The daemon's hands: starts or connects the runner, and starts another when it dies.

There is one control connection. A job gets a channel of its own, whose other end
travels over the control connection to a sandbox or to an apply process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from weakref import WeakSet

from shannotd.sessions.channel import Channel, ChannelClosed, pair, wake
from shannotd.sessions.usual import Usual
from shannotd.wire.decode import decode
from shannotd.wire.errors import SandboxUnavailable, ShannotError, error_from_wire
from shannotd.wire.text import visible

log = logging.getLogger(__name__)

_HELLO_SECONDS = 30.0
_STOP_SECONDS = 5.0
_BACKOFF_SECONDS = (0.1, 0.5, 2.0, 5.0, 15.0)
_STABLE_SECONDS = 20.0  # a runner that lived so long did not die of its start

Answer = asyncio.Future[Mapping[str, Any]]


class RunnerGone(Exception):
    """The runner ended, or its connection broke, before the answer came."""


@dataclass(frozen=True)
class RunnerFacts:
    """What a runner says of itself. `host` identifies the machine for good, `version` is that
    of the protocol."""

    builder: str
    version: int
    uid: int
    host: str
    limits: tuple[str, ...] = ()


class Connection(NamedTuple):
    """A connected control socket and, where the runner is a child, its process."""

    socket: socket.socket
    process: subprocess.Popen[bytes] | None


Launch = Callable[[], Awaitable[Connection]]


class Job(NamedTuple):
    """A job's channel, and the runner's answer to the request that handed it over."""

    channel: Channel
    accepted: Answer


def spawner(command: Callable[[int], Sequence[str]]) -> Launch:
    """Launches the runner as a child process.

    :param command: from the number of the descriptor that the child inherits to its argv.
    """

    async def launch() -> Connection:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with there:
            environment = {
                name: value
                for name, value in os.environ.items()
                if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS")
            }
            try:
                # Blocks for a few milliseconds, once; asyncio's own would start a thread.
                process = subprocess.Popen(  # noqa: ASYNC220
                    command(there.fileno()),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(there.fileno(),),
                    env=environment,
                    cwd="/",
                    start_new_session=True,  # a terminal's Ctrl-C is the daemon's, to stop in order
                )
            except OSError:
                here.close()
                raise
        return Connection(here, process)

    return launch


def connector(path: str) -> Launch:
    """Connects to a runner that serves on the Unix socket `path`."""

    async def launch() -> Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, path)
        except BaseException:
            sock.close()
            raise
        return Connection(sock, None)

    return launch


class _Link:
    """One runner's control connection, from its start to its end."""

    def __init__(self, connection: Connection, lost: Callable[[_Link, str], None]) -> None:
        self.runs: WeakSet[Channel] = WeakSet()
        self._control = Channel(connection.socket)
        self._process = connection.process
        self._answers: deque[Answer] = deque()
        self._sending = asyncio.Lock()
        self._lost = lost
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def ask(self, header: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Answer:
        """Send a request; the future that it gives gets the answer.

        :raises RunnerGone: the runner is gone.
        """
        answer: Answer = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_retrieve)
        async with self._sending:
            self._answers.append(answer)
            try:
                await self._control.send(header, descriptors=descriptors)
            except ChannelClosed as error:
                raise RunnerGone(str(error)) from None
        return answer

    async def _read(self) -> None:
        reason = "its control connection closed"
        try:
            while True:
                header, _, descriptors = await self._control.receive()
                for descriptor in descriptors:
                    os.close(descriptor)
                if not self._answers:
                    raise ChannelClosed("it answered what nobody asked")
                answer = self._answers.popleft()
                if answer.done():
                    continue
                if "error" in header:
                    answer.set_exception(error_from_wire(header["error"]))
                else:
                    answer.set_result(header)
        except ChannelClosed as error:
            reason = str(error) or reason
        self.close(reason)
        self._lost(self, reason)

    def close(self, reason: str) -> None:
        """End the connection; whatever waits for an answer meets RunnerGone, dry runs end."""
        self._control.close()
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(RunnerGone(reason))
        self._answers.clear()
        for channel in list(self.runs):
            channel.close()

    async def end(self) -> None:
        """Close, and see to it that a child process is gone and reaped."""
        self._reader.cancel()
        self.close("the daemon is stopping")
        await self.reap()

    async def reap(self) -> None:
        """Wait for the child, which ends when its connection does; kill it if it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            await asyncio.wait_for(_exited(process.pid), _STOP_SECONDS)
        except TimeoutError:
            log.warning("the runner (pid %d) did not end by itself: killed", process.pid)
            process.send_signal(signal.SIGKILL)
            await _exited(process.pid)
        process.wait()


class Runner:
    """The runner as the rest of the daemon sees it: there, or an error that says why not."""

    def __init__(
        self,
        launch: Launch,
        *,
        pool_size: int,
        usual: Usual,
    ) -> None:
        """`usual` is what most sessions have."""
        self._launch = launch
        self._pool_size = pool_size
        self.usual = usual
        self._link: _Link | None = None
        self._starting: asyncio.Task[_Link] | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._reaping: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._failure: BaseException | None = None  # of the last start, until the next is due
        self._due_at = 0.0
        self._started_at = 0.0
        self._stopping = False
        self.facts: RunnerFacts | None = None

    async def start(self) -> RunnerFacts:
        """Have a runner.

        :raises ShannotError: none can be had; it says why.
        """
        await self._connected()
        assert self.facts is not None
        return self.facts

    async def run_job(self) -> Job:
        """A channel to a fresh sandbox.

        :raises RunnerGone, ShannotError: there is no runner.
        """
        link = await self._connected()
        job = await self._hand_over(link, "run")
        # A sandbox may outlive its runner for a moment: what it still says counts no more.
        link.runs.add(job.channel)
        return job

    async def apply_job(self) -> Job:
        """A channel to a new apply process.

        :raises RunnerGone, ShannotError: there is no runner.
        """
        return await self._hand_over(await self._connected(), "apply")

    async def resume_job(self) -> Job:
        """A channel to a process that tells what became of an apply.

        :raises RunnerGone, ShannotError: there is no runner.
        """
        return await self._hand_over(await self._connected(), "resume")

    async def amend_job(self) -> Job:
        """A channel to a new process that changes a plan.

        :raises RunnerGone, ShannotError: there is no runner.
        """
        return await self._hand_over(await self._connected(), "amend")

    async def rollback_job(self) -> Job:
        """A channel to a new process that makes a plan which takes a session back.

        :raises RunnerGone, ShannotError: there is no runner.
        """
        return await self._hand_over(await self._connected(), "rollback")

    async def checkpoint_job(self) -> Job:
        """A channel to a new process that tells what a checkpoint has.

        :raises RunnerGone, ShannotError: there is no runner.
        """
        return await self._hand_over(await self._connected(), "checkpoint")

    async def checkpoints(self) -> object:
        """All checkpoints as the runner tells them, the oldest first.

        :raises RunnerGone, ShannotError: there is no runner.
        """
        link = await self._connected()
        return (await (await link.ask({"op": "checkpoints"}))).get("checkpoints")

    async def drop_checkpoint(self, session: str) -> None:
        """Have a checkpoint removed.

        :raises CheckpointUnknown, CheckpointInUse: it is not there, or not over.
        :raises RunnerGone, ShannotError: there is no runner.
        """
        link = await self._connected()
        await (await link.ask({"op": "drop_checkpoint", "session": session}))

    async def pool_ready(self, seconds: float) -> int:
        """How many warm sandboxes wait; 0 when the runner does not say within `seconds`."""
        if self._link is None:
            return 0
        try:
            answer = await self._link.ask({"op": "pool", "size": self._pool_size})
            ready = (await asyncio.wait_for(answer, seconds)).get("ready", 0)
        except (RunnerGone, ShannotError, TimeoutError):
            return 0
        return ready if isinstance(ready, int) else 0

    @property
    def _pool_request(self) -> dict[str, object]:
        return {"op": "pool", "size": self._pool_size, "usual": asdict(self.usual)}

    async def resize_pool(self, size: int, usual: Usual) -> None:
        """Keep `size` warm sandboxes from now on, prepared for what is `usual`."""
        self._pool_size, self.usual = size, usual
        if self._link is not None:
            await self._link.ask(self._pool_request)

    async def stop(self) -> None:
        """End the runner (a child) or the connection to it."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._link is not None:
            link, self._link = self._link, None
            await link.end()
        if self._reaping:
            await asyncio.gather(*self._reaping)

    async def _hand_over(self, link: _Link, operation: str) -> Job:
        channel, theirs = pair()
        try:
            with theirs:
                accepted = await link.ask({"op": operation}, (theirs.fileno(),))
        except BaseException:
            channel.close()
            raise
        return Job(channel, accepted)

    async def _connected(self) -> _Link:
        if self._link is not None:
            return self._link
        if self._stopping:
            raise RunnerGone("the daemon is stopping")
        loop = asyncio.get_running_loop()
        if self._starting is None and self._failure is not None and loop.time() < self._due_at:
            raise self._failure  # a flood of submissions is no flood of starts
        return await asyncio.shield(self._starting or self._begin_start())

    def _begin_start(self) -> asyncio.Task[_Link]:
        self._starting = asyncio.get_running_loop().create_task(self._start())
        self._starting.add_done_callback(self._start_ended)
        return self._starting

    async def _start(self) -> _Link:
        try:
            link = _Link(await self._launch(), self._on_lost)
        except OSError as error:
            raise SandboxUnavailable(
                reason=f"the runner cannot be started ({error.strerror or error})",
                remedy="See the daemon's log.",
            ) from error
        try:
            hello = await asyncio.wait_for(await link.ask({"op": "hello"}), _HELLO_SECONDS)
            self.facts = decode(RunnerFacts, hello, "hello")
            await link.ask(self._pool_request)
        except (RunnerGone, TimeoutError, ValueError) as error:
            await link.end()
            raise SandboxUnavailable(
                reason=f"the runner ended or did not answer at its start ({error})",
                remedy="See the daemon's log.",
            ) from error
        except BaseException:
            await link.end()
            raise
        self._link = link
        self._started_at = asyncio.get_running_loop().time()
        log.info("runner: %s builder", visible(self.facts.builder))
        return link

    def _start_ended(self, task: asyncio.Task[_Link]) -> None:
        self._starting = None
        self._failure = None if task.cancelled() else task.exception()
        if self._failure is not None:
            self._due_at = asyncio.get_running_loop().time() + self._backoff()
            log.error("%s", visible(str(self._failure)))

    def _on_lost(self, link: _Link, reason: str) -> None:
        if link is not self._link:
            return
        self._link = None
        loop = asyncio.get_running_loop()
        if loop.time() - self._started_at > _STABLE_SECONDS:
            self._failures = 0
        log.error("the runner is gone: %s", visible(reason))
        reaping = loop.create_task(link.reap())
        self._reaping.add(reaping)
        reaping.add_done_callback(self._reaping.discard)
        if not self._stopping:
            self._restart = loop.call_later(self._backoff(), self._restart_now)

    def _backoff(self) -> float:
        """Seconds before the next start, more after each failure."""
        delay = _BACKOFF_SECONDS[min(self._failures, len(_BACKOFF_SECONDS) - 1)]
        self._failures += 1
        return delay

    def _restart_now(self) -> None:
        """Have a warm runner again before somebody needs it."""
        if self._link is None and self._starting is None and not self._stopping:
            self._begin_start()


def _retrieve(answer: Answer) -> None:
    """Mark an answer's error as seen: not every request has somebody who waits for it."""
    if not answer.cancelled():
        answer.exception()


async def _exited(pid: int) -> None:
    """Wait until the child `pid` has ended; it is left for its owner to reap."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)
    ended: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(descriptor, wake, ended)
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
