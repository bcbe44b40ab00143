"""observe: the host's own read-only programs, run at once beside the sandbox (design section 6).

A program sees the host's tree (observe_view.py) and never a byte that a script wrote: it is a
fork of the runner's outside of the sandbox, with nothing of it but checked arguments. Its
output comes through pipes of the runner's own, so that it holds no descriptor of a script's.

Calls block; who serves a script meanwhile forks a process for them:

    with Channel(ours) as answers:                      # in the fork
        outlet = Outlet(stdout, stderr, request.seconds)
        answers.send(observe(request, outlet, settings, cancel=answers.fileno()).header())

When that process is killed, or its `cancel` descriptor's other end closes, so ends the program.
"""

from __future__ import annotations

import fcntl
import grp
import math
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Callable, Dict, Iterator, Mapping, Optional, Sequence, Set, Tuple

from shannotd.runner import (
    identity,
    kernel,
    observe_environment,
    observe_process,
    observe_shown,
    observe_tables,
    sandbox,
    seccomp,
)
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.plan import Identity
from shannotd.runner.warm import ATTEMPTS, Settings, kill, write_own_map

# Takes what the program prints: the stream ("stdout" or "stderr") and the bytes. It raises
# BrokenPipeError when nobody reads that stream any more, TimeoutError when nobody does in time.
Output = Callable[[str, bytes], None]

# Reads what a request lacks until its caller says it, and says how the request is then.
Complete = Callable[["Observation"], "Observation"]

# Not those of IPC, names and control groups: without a capability and through the filter there
# they can only be looked at, and what is looked at is the host.
_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID
_CHUNK = 65536
_NOBODY = Identity("nobody", 65534, 65534, (), identity.UMASK)

# What an ordinary user's program prints of others, and what then is said of it.
_UNKNOWN = b"nobody"
_NOTE = (
    b"shannot: without root's means no account but your own is known here: "
    b"others are nobody, and not found by name\n"
)


@dataclass(frozen=True)
class Observation:
    """One program to be observed.

    `program` is the absolute path that a rule names; `argv` all words, the first as the script
    called it; `claimed` the script's environment, of which little is taken over; `hide` patterns
    of what nobody may see; `net` is none, host (whose tables it can read) or interfaces (at which
    it can look besides); `sockets` the host's Unix sockets that it may reach, which needs `net`
    none; `groups` names of those that nobody gets; `shows` names of what it is shown besides
    (observe_shown.py); `seconds` and `output_bytes` (of each stream) limit it; `caller` is the
    process in whose place it runs, which it does not see beside itself. Where outputs are `merged`
    all it prints is its standard output, in the order of its printing. `owners` are shown where
    it prints whose something is, sought where it looks for what belongs to an account.
    """

    program: str
    argv: Tuple[str, ...]
    identity: Identity
    hide: Tuple[str, ...] = ()
    net: str = "none"
    sockets: Tuple[str, ...] = ()
    as_root: bool = False
    groups: Tuple[str, ...] = ()
    shows: Tuple[str, ...] = ()
    claimed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 30.0
    output_bytes: int = 1 << 20
    caller: Optional[int] = None
    merged: bool = False
    owners: str = ""


@dataclass(frozen=True)
class Observed:
    """How an observed program ended.

    Exactly one of `exit_code`, `signal` and `stopped` (wall_seconds or cancelled) is set;
    `truncated` names the streams that were cut, which say so at their end; `duration` in seconds.
    """

    exit_code: Optional[int]
    signal: Optional[int]
    stopped: Optional[str]
    truncated: Tuple[str, ...]
    duration: float

    def header(self) -> Header:
        """It as an event of a channel."""
        return {"event": "observed", **self.__dict__, "truncated": list(self.truncated)}


def prepare() -> None:
    """Compile the filters, so that forks of this process need not."""
    for reach in seccomp.REACHES:
        _filter(reach)


@lru_cache(maxsize=len(seccomp.REACHES))
def _filter(reach: str) -> bytes:
    return seccomp.compile_observe_filter(reach)


def observe(
    request: Observation,
    output: Output,
    settings: Settings,
    cancel: Optional[int] = None,
    floor: Optional[identity.Floor] = None,
    ended: Callable[[Observed], None] = lambda observed: None,
    complete: Optional[Complete] = None,
) -> Observed:
    """Run a program of the host's over the host's own tree, read-only; how it ended.

    A program that cannot be executed exits with 126 or 127 and says so, as in a shell. When the
    `cancel` descriptor can be read or is hung up, it is stopped. `floor` is the host's own. What
    cannot be built is tried again: directories of the host may have changed meanwhile. `ended` is
    told how it ended as soon as it has: to take its namespaces apart takes longer.

    With `complete`, the request has no `claimed` and `merged` yet. Everything is made ready, and
    the program starts when `cancel` can be read for the first time: then `complete` is called.

    :raises RunnerError: nothing ran: `sandbox_unavailable`, `identity_refused`, `invalid_request`.
    """
    floor = floor or identity.read_floor()
    awaited = _Awaited(request, complete)
    for _ in range(ATTEMPTS - 1):
        try:
            return _observe(awaited, output, settings, cancel, floor, ended)
        except RunnerError as error:
            if error.code != "sandbox_unavailable":
                raise
    return _observe(awaited, output, settings, cancel, floor, ended)


class _Awaited:
    """A request that may not be whole yet."""

    def __init__(self, request: Observation, complete: Optional[Complete]) -> None:
        self.request = request
        self._complete = complete

    @property
    def is_whole(self) -> bool:
        """Whether the program may start."""
        return self._complete is None

    def finish(self) -> None:
        """Have it completed."""
        assert self._complete is not None
        self.request = self._complete(self.request)
        self._complete = None


def _observe(
    awaited: _Awaited,
    output: Output,
    settings: Settings,
    cancel: Optional[int],
    floor: identity.Floor,
    ended: Callable[[Observed], None],
) -> Observed:
    request = awaited.request
    order = _order(request, settings, floor)
    flags = _NAMESPACES if request.net != "none" else _NAMESPACES | kernel.CLONE_NEWNET
    if settings.builder == sandbox.ONE_UID:
        flags |= kernel.CLONE_NEWUSER
    noting = _Noting(output, request.owners)
    with _Running(awaited, order, flags) as running:
        observed = running.follow(noting, cancel)
        if settings.builder == sandbox.ONE_UID and noting.is_needed:
            noting.tell("stdout" if awaited.request.merged else "stderr")
        ended(observed)
        return observed


class _Noting:
    """An `Output` that finds out whether something is to be said of what is printed."""

    def __init__(self, output: Output, owners: str) -> None:
        self.is_needed = owners == "sought"
        self._shown = owners == "shown"
        self._output = output

    def __call__(self, stream: str, data: bytes) -> None:
        self.is_needed = self.is_needed or (self._shown and _UNKNOWN in data)
        self._output(stream, data)

    def tell(self, stream: str) -> None:
        """Say it, if anybody still reads."""
        try:
            self._output(stream, _NOTE)
        except (BrokenPipeError, TimeoutError):
            pass


def _order(
    request: Observation, settings: Settings, floor: identity.Floor
) -> observe_process.Order:
    """What the processes are to do.

    :raises RunnerError: the request is none that can be served.
    """
    reason = None
    words = [request.program, *request.argv, *request.sockets]
    if not request.program.startswith("/") or not request.argv:
        reason = "an observed program needs an absolute path and its own name"
    elif any("\0" in word for word in words) or not all(map(_encodable, words)):
        reason = "an argument has a NUL byte in it, or is no text and no bytes"
    elif request.net not in ("none", "host", "interfaces"):
        reason = f"net is none, host or interfaces, not {request.net}"
    elif not set(request.shows) <= set(observe_shown.READERS):
        reason = f"nobody knows how to show all of {', '.join(request.shows)}"
    elif request.net != "none" and request.sockets:
        # In the host's network the host's abstract sockets could be reached as well.
        reason = "a program in the host's network can be given no sockets"
    if reason is not None:
        raise RunnerError("invalid_request", method="observe", reason=reason)
    return observe_process.Order(
        program=request.program,
        argv=(_own_name(request), *request.argv[1:]),
        identity=_identity(request, floor),
        sockets=request.sockets,
        hide=request.hide,
        hidden=settings.hidden,
        builder=settings.builder,
        caller=request.caller,
        shown=observe_shown.read(request.shows, request.identity.uid),
        tables=observe_tables.read(),
        filter=_filter(_reach(request)),
    )


def _reach(request: Observation) -> str:
    """Which of the filters it gets."""
    if request.net == "interfaces":
        return "interfaces"
    return "sockets" if request.sockets else "tables"


def _encodable(word: str) -> bool:
    try:
        os.fsencode(word)
    except UnicodeEncodeError:
        return False
    return True


def _own_name(request: Observation) -> str:
    """The name the program is called by: some do other things under another name."""
    base = os.path.basename(request.program)
    return request.argv[0] if request.argv[0] in (request.program, base) else base


def _identity(request: Observation, floor: identity.Floor) -> Identity:
    """Root only if the rule and the floor say so; a script of root's observes as nobody."""
    if request.as_root:
        return identity.resolve("0", floor)[0]
    if os.geteuid() == 0 and request.identity.uid == 0:
        return replace(_NOBODY, groups=tuple(sorted(_numbers(request.groups))))
    return request.identity


def _numbers(groups: Sequence[str]) -> Iterator[int]:
    """Those of `groups` that this host has."""
    for name in groups:
        try:
            yield grp.getgrnam(name).gr_gid
        except KeyError:
            continue


class _Running:
    """One running program, seen from outside; owns its init and its pipes."""

    def __init__(self, awaited: _Awaited, order: observe_process.Order, flags: int) -> None:
        self._awaited = awaited
        self._started = self._deadline = math.inf
        pipes = os.pipe(), os.pipe()
        ours, theirs = socket.socketpair()
        try:
            self._init = kernel.clone(flags)
        except OSError as error:
            for descriptor in (*pipes[0], *pipes[1]):
                os.close(descriptor)
            ours.close()
            theirs.close()
            raise sandbox.unavailable("namespaces", error) from error
        if self._init == 0:
            _leave_for(theirs.detach(), pipes[0][1], pipes[1][1])
            observe_process.main(Channel(socket.socket(fileno=3)), (4, 5), order)
        theirs.close()
        self._running = True
        self._channel = Channel(ours)
        self._streams: Dict[int, str] = {}
        for (reader, writer), name in zip(pipes, ("stdout", "stderr")):
            os.close(writer)
            self._streams[reader] = name
        self._poll = select.poll()
        self._printed = {"stdout": 0, "stderr": 0}
        self._truncated: Set[str] = set()
        # If the init is killed it says nothing (out of memory).
        self._ending: Tuple[Optional[int], Optional[int]] = (None, signal.SIGKILL)
        self._builder = order.builder

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill and reap what is left."""
        kill(self._init)
        os.waitpid(self._init, 0)
        self._channel.close()
        for descriptor in self._streams:
            os.close(descriptor)

    def follow(self, output: Output, cancel: Optional[int]) -> Observed:
        """Start it when its request is whole, and copy what it prints until it has ended and nobody
        can print any more; how it ended.

        :raises RunnerError: it could not be started.
        """
        self._map()
        if self._awaited.is_whole:
            self._begin()
        for descriptor in (*self._streams, self._channel.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        if cancel is not None:
            self._poll.register(cancel, select.POLLIN)
        limit = self._awaited.request.output_bytes
        stopped: Optional[str] = None
        while self._running or self._streams:
            wait = self._deadline - time.monotonic()
            reason = "wall_seconds" if wait <= 0 else None
            endless = stopped or math.isinf(wait)
            for descriptor, _ in self._poll.poll(None if endless else max(0.0, wait * 1000)):
                if descriptor == self._channel.fileno():
                    self._read_init()
                elif descriptor == cancel and not self._awaited.is_whole:
                    self._awaited.finish()
                    self._begin()
                elif descriptor == cancel:
                    reason = "cancelled"
                    self._poll.unregister(descriptor)
                elif not self._copy(descriptor, None if stopped else output, limit):
                    reason = "wall_seconds"
            if reason is not None and stopped is None and self._running:
                stopped = reason
                kill(self._init)
        exit_code, number = (None, None) if stopped else self._ending
        duration = max(0.0, time.monotonic() - self._started)
        return Observed(exit_code, number, stopped, tuple(sorted(self._truncated)), duration)

    def _map(self) -> None:
        try:
            if self._builder == sandbox.ONE_UID:
                write_own_map(self._init)
            self._channel.receive()  # its life is bound to ours
            self._channel.send({"op": "mapped"})
        except OSError as error:
            raise sandbox.unavailable("mapping the own uid", error) from error
        except Closed:
            pass  # What it said before is read in the loop.

    def _begin(self) -> None:
        """Let the program start: from now on its time runs."""
        request = self._awaited.request
        self._started = time.monotonic()
        self._deadline = self._started + request.seconds
        environment = observe_environment.environment(request.claimed)
        try:
            self._channel.send(
                {"op": "begin", "environment": environment, "merged": request.merged}
            )
        except Closed:
            pass  # as above

    def _read_init(self) -> None:
        """One message of the init, or its end.

        :raises RunnerError: it could not start the program.
        """
        try:
            event, _, _ = self._channel.receive()
        except Closed:
            self._poll.unregister(self._channel.fileno())
            self._running = False
            return
        if event["event"] == "error":
            raise RunnerError(event["code"], **event["details"])
        # Whatever the program has left behind ends now, with the init.
        self._running = False
        self._ending = (event["exit_code"], event["signal"])

    def _copy(self, descriptor: int, output: Optional[Output], limit: int) -> bool:
        """Hand on what there is to read; False if nobody took it in time.

        What exceeds `limit` is cut with a mark, and the program gets SIGPIPE when it prints more.
        """
        data = os.read(descriptor, _CHUNK)
        stream = self._streams[descriptor]
        if not data:
            self._end(descriptor)
            return True
        if output is None:
            return True
        room = limit - self._printed[stream]
        self._printed[stream] += len(data)
        if len(data) > room:
            data = data[:room] + f"\n[shannot: cut here, after {limit} bytes]\n".encode("ascii")
            self._truncated.add(stream)
        try:
            output(stream, data)
        except BrokenPipeError:
            self._end(descriptor)
        except TimeoutError:
            return False
        else:
            if stream in self._truncated:
                self._end(descriptor)
        return True

    def _end(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        os.close(descriptor)
        del self._streams[descriptor]


def _leave_for(*descriptors: int) -> None:
    """Keep only these descriptors, as 3 and the next numbers, and the standard ones."""
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 64) for number in descriptors]
    for target, number in enumerate(high, start=3):
        os.dup2(number, target, inheritable=False)
    kernel.close_range(3 + len(high))
