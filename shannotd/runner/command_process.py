"""The processes of one command at apply: its keeper, and the program as the keeper's child.

All that a program starts is in its control group, where it has one, and what it leaves behind
when it exits becomes the keeper's (PR_SET_CHILD_SUBREAPER), in whatever session it hides: so the
keeper can end all of a command, and only of that one. A program that ended by itself may leave a
daemon behind; whose output somebody must go on reading, or SIGPIPE would end it: the keeper stays
for that, and for nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import termios
import time
from dataclasses import dataclass
from typing import Dict, List, NoReturn, Optional, Sequence, Tuple

from shannotd.runner import kernel
from shannotd.runner.command_group import CommandGroup
from shannotd.runner.frames import Channel, Closed, Header
from shannotd.runner.permission import become_wholly

# What a program gets to end by itself (SIGTERM) before everything of it is killed.
GRACE_SECONDS = 5.0
# A program that prints so many times more than is kept never comes to an end by itself.
FLOOD_FACTOR = 64
_COALESCED_SECONDS = 0.005
_CHUNK = 65536
_DYING_SECONDS = 10.0
_NOT_STARTED = 125


@dataclass(frozen=True)
class Start:
    """How a program is started.

    `program` is its descriptor, `path` where it stands if it cannot be executed by that; `cwd`
    and `stdin` are descriptors too. `seconds` and `output_bytes` (of each stream) are limits. The
    identity and the umask are those of this process. The keeper has the descriptors `held` open
    until the program has ended.

    `memory_bytes` and `processes` bound all that it starts together where it has a `group`, which
    is nobody else's meanwhile; else memory is bounded for each process.
    """

    program: int
    path: Optional[str]
    argv: Tuple[str, ...]
    environment: Dict[str, str]
    cwd: int
    stdin: int
    seconds: float
    output_bytes: int
    held: Tuple[int, ...] = ()
    group: Optional[CommandGroup] = None
    memory_bytes: Optional[int] = None
    processes: Optional[int] = None


def keep(start: Start) -> Channel:
    """Start a keeper with its program; the channel tells of it:

        {event: "output", stream: "stdout"|"stderr"}  payload: bytes
        {event: "ended", exit_status: int|null, signal: int|null,
         stopped: null|"seconds"|"output_bytes"|"memory_bytes"|"cancelled", duration,
         truncated: [stream], left: int, hindered: bool}
            (`left`: processes that it left behind; after `stopped` those that could not be ended;
             `hindered`: it could not start as many as it wanted)
        {event: "not_started", errno}

    {op: "stop"} ends the program; so does closing the channel.
    """
    ours, theirs = socket.socketpair()
    # Keepers need no waiting for: what they say is all that counts.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork() == 0:
        try:
            ours.close()
            _keep(Channel(theirs), start)
        except BaseException:
            pass  # The channel closes: that says it.
        finally:
            os._exit(1)
    theirs.close()
    return Channel(ours)


def _keep(channel: Channel, start: Start) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    group = () if start.group is None else start.group.descriptors
    _close_others((channel.fileno(), start.program, start.cwd, start.stdin, *start.held, *group))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    outputs = [os.pipe(), os.pipe()]
    result, report = os.pipe()
    started = time.monotonic()
    hits = (0, 0) if start.group is None else start.group.hits()
    child = os.fork()
    if child == 0:
        _become(start, report, [write for _, write in outputs])
    os.chdir("/")
    for descriptor in (report, start.program, start.cwd, start.stdin, *(w for _, w in outputs)):
        os.close(descriptor)
    with open(result, "rb") as pipe:
        failure = pipe.read()  # until execve closes it
    if failure:
        channel.send({"event": "not_started", "errno": int(failure)})
        return
    streams = [
        _Stream(name, read, start.output_bytes)
        for name, (read, _) in zip(("stdout", "stderr"), outputs)
    ]
    _Keeper(channel, child, streams, started, start.seconds, start.group, hits).run()
    channel.close()
    for descriptor in (*start.held, *group):
        os.close(descriptor)
    # From here on nobody counts what is left; nothing of it shall become a zombie.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _drain(streams)


def _become(start: Start, report: int, outputs: Sequence[int]) -> NoReturn:
    """Become the program; its errno goes to `report` if it cannot be."""
    try:
        _limit(start)
        become_wholly()
        os.setsid()
        # The keeper lives as long as the program: if it was killed nobody would limit it.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.fchdir(start.cwd)
        for descriptor, standard in ((start.stdin, 0), (outputs[0], 1), (outputs[1], 2)):
            os.dup2(descriptor, standard, inheritable=True)
        _close_others((start.program, report))
        target = start.program if start.path is None else start.path
        os.execve(target, start.argv, start.environment)
    except OSError as error:
        os.write(report, str(error.errno or errno.EIO).encode("ascii"))
    except BaseException:
        os.write(report, str(errno.EINVAL).encode("ascii"))
    finally:
        os._exit(_NOT_STARTED)


def _limit(start: Start) -> None:
    """Bound this process, and all that comes of it.

    :raises OSError: it cannot be.
    """
    group = start.group
    if group is not None:
        group.limit(start.memory_bytes, start.processes)
        group.enter()
    if start.memory_bytes is not None and (group is None or not group.limits_memory):
        resource.setrlimit(resource.RLIMIT_AS, (start.memory_bytes, start.memory_bytes))


def _close_others(kept: Sequence[int]) -> None:
    """Close every descriptor above 2 that is not `kept`."""
    first = 3
    for descriptor in sorted(kept):
        if descriptor > first:
            kernel.close_range(first, descriptor - 1)
        first = max(first, descriptor + 1)
    kernel.close_range(first)


class _Stream:
    """One output of the program: what was read and not yet told, as far as it is kept."""

    def __init__(self, name: str, descriptor: int, limit: int) -> None:
        self.name = name
        self.descriptor: Optional[int] = descriptor
        self.total = 0
        self.waiting = bytearray()
        self._limit = limit
        os.set_blocking(descriptor, False)

    @property
    def truncated(self) -> bool:
        return self.total > self._limit

    @property
    def floods(self) -> bool:
        return self.total > self._limit * FLOOD_FACTOR

    def read(self, size: int = _CHUNK) -> int:
        """Read once; how much there was. At the end the descriptor is closed."""
        assert self.descriptor is not None
        try:
            data = os.read(self.descriptor, size)
        except BlockingIOError:
            return 0
        if not data:
            os.close(self.descriptor)
            self.descriptor = None
        self.waiting += data[: max(0, self._limit - self.total)]
        self.total += len(data)
        return len(data)

    def read_rest(self) -> None:
        """Read what is there now: no more, since others may go on writing."""
        if self.descriptor is None:
            return
        answer = fcntl.ioctl(self.descriptor, termios.FIONREAD, struct.pack("i", 0))
        left: int = struct.unpack("i", answer)[0]
        while left > 0 and self.descriptor is not None:
            count = self.read(min(left, _CHUNK))
            if not count:
                break
            left -= count


class _Keeper:
    """Follows the program to its end and tells of it."""

    def __init__(
        self,
        channel: Channel,
        child: int,
        streams: Sequence[_Stream],
        started: float,
        seconds: float,
        group: Optional[CommandGroup],
        hits: Tuple[int, int],
    ) -> None:
        """`group` is the program's, whose limits were hit so often before."""
        self._channel = channel
        self._child = child
        self._process = os.pidfd_open(child)
        self._streams = streams
        self._started = started
        self._deadline = started + seconds
        self._flush_at: Optional[float] = None
        self._stopped: Optional[str] = None
        self._status: Optional[int] = None
        self._group = group
        self._hits = hits
        self._watched = True  # somebody is at the other end

    def run(self) -> None:
        """Until the program has exited, or was stopped with all that it started."""
        while not self._step():
            pass
        os.close(self._process)
        if self._stopped is None:
            self._status = os.waitpid(self._child, 0)[1]
            if self._counts()[0]:
                self._stopped = "memory_bytes"
        if self._stopped is None:
            left = len(_children()) if self._group is None else self._group.release()
        else:
            left = self._kill_all()
        for stream in self._streams:
            stream.read_rest()
        self._flush()
        self._tell(self._ending(left))

    def _step(self) -> bool:
        """Wait for something, and deal with it; whether the program has come to its end."""
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        if self._watched:
            poll.register(self._channel.fileno(), select.POLLIN)
        open_streams = [stream for stream in self._streams if stream.descriptor is not None]
        for stream in open_streams:
            assert stream.descriptor is not None
            poll.register(stream.descriptor, select.POLLIN)
        until = self._deadline if self._flush_at is None else min(self._deadline, self._flush_at)
        wait = max(0.0, until - time.monotonic()) * 1000
        ready = {descriptor for descriptor, _ in poll.poll(wait + 1)}
        if self._process in ready:
            return True
        for stream in open_streams:
            if stream.descriptor in ready and stream.read():
                if self._flush_at is None:
                    self._flush_at = time.monotonic() + _COALESCED_SECONDS
                if stream.floods:
                    self._stop("output_bytes")
        now = time.monotonic()
        if any(len(stream.waiting) >= _CHUNK for stream in self._streams) or (
            self._flush_at is not None and now >= self._flush_at
        ):
            self._flush()
        if self._watched and self._channel.fileno() in ready:
            self._obey()
        if now < self._deadline:
            return False
        if self._stopped is not None:
            return True  # It had its time to end.
        self._stop("seconds")
        return False

    def _obey(self) -> None:
        try:
            self._channel.receive()
        except Closed:
            self._watched = False
        self._stop("cancelled")

    def _stop(self, reason: str) -> None:
        if self._stopped is None:
            self._stopped = reason
            self._deadline = time.monotonic() + GRACE_SECONDS
            try:
                os.killpg(self._child, signal.SIGTERM)
            except (PermissionError, ProcessLookupError):
                pass  # not ours any more (a setuid program): as much as can be done

    def _counts(self) -> Tuple[int, int]:
        """How often the limits of memory and of processes were hit meanwhile."""
        if self._group is None:
            return 0, 0
        memory, processes = self._group.hits()
        return memory - self._hits[0], processes - self._hits[1]

    def _kill_all(self) -> int:
        """Kill the program and all that it started; how many processes could not be."""
        patience = time.monotonic() + _DYING_SECONDS
        while True:
            if self._group is not None:
                self._group.kill()  # also who is of another account
            children = _children()
            for child in (-self._child, *children):
                try:
                    os.kill(child, signal.SIGKILL)
                except (PermissionError, ProcessLookupError):
                    continue
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 0
            if pid == self._child:
                self._status = status
            if pid == 0:
                if time.monotonic() > patience:
                    return len(children)
                # Who dies says so by no descriptor that we hold: look again in a moment.
                select.select([], [], [], 0.002)

    def _ending(self, left: int) -> Header:
        status = self._status
        exited = status is not None and os.WIFEXITED(status)
        signaled = status is not None and os.WIFSIGNALED(status)
        return {
            "event": "ended",
            "exit_status": os.WEXITSTATUS(status) if status is not None and exited else None,
            "signal": os.WTERMSIG(status) if status is not None and signaled else None,
            "stopped": self._stopped,
            "duration": time.monotonic() - self._started,
            "truncated": [stream.name for stream in self._streams if stream.truncated],
            "left": left,
            "hindered": self._counts()[1] > 0,
        }

    def _flush(self) -> None:
        self._flush_at = None
        for stream in self._streams:
            if stream.waiting:
                self._tell({"event": "output", "stream": stream.name}, bytes(stream.waiting))
                stream.waiting.clear()

    def _tell(self, header: Header, payload: bytes = b"") -> None:
        if self._watched:
            try:
                self._channel.send(header, payload)
            except Closed:
                self._watched = False
                self._stop("cancelled")


def _children() -> List[int]:
    """The children of this process, those that it inherited among them (proc(5))."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []  # a kernel that does not tell


def _drain(streams: Sequence[_Stream]) -> None:
    """Read and drop what is still written, until nobody can write any more."""
    poll = select.poll()
    open_streams = {s.descriptor: s for s in streams if s.descriptor is not None}
    for descriptor in open_streams:
        poll.register(descriptor, select.POLLIN)
    while open_streams:
        for descriptor, _ in poll.poll():
            stream = open_streams[descriptor]
            stream.read()
            stream.waiting.clear()
            if stream.descriptor is None:
                poll.unregister(descriptor)
                del open_streams[descriptor]
