"""A process whose every system call can be made to fail, or be its last.

No part of what is tested knows of it: the process runs under a seccomp filter, and this process
answers each call that the filter holds (syscalls.py). Calls of the process itself are counted
from 0; those of what it starts (commands) go on uncounted.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shannotd.runner import kernel
from tests.support import syscalls
from tests.support.syscalls import Held

# What becomes of a call, by its number: it must answer it, or kill the process.
Decide = Callable[[int, Held], None]
# The same for one call.
Answer = Callable[[Held], None]
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EXDEV, errno.EBUSY)


@dataclass(frozen=True)
class Call:
    """A call that a process made."""

    name: str
    path: str
    changes: bool

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


class Supervised:
    """A forked process that does `work`; `decide` answers its calls, from a thread of ours.

    It is alone with what it starts in a pid namespace, so that what it does is not another thing
    each time that it looks at all processes. Root's privilege.
    """

    def __init__(self, work: Callable[[], None], decide: Decide, program: bytes) -> None:
        ours, theirs = socket.socketpair()
        self._init = kernel.clone(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
        if self._init == 0:
            try:
                ours.close()
                _be_init(lambda: _be_supervised(work, theirs, program))
            finally:
                os._exit(1)
        theirs.close()
        with ours:
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        (self._listener,) = descriptors
        children = Path(f"/proc/{self._init}/task/{self._init}/children").read_text()
        self.pid = int(children.split()[0])
        syscalls.listen(self._listener)
        self._decide = decide
        self._failure: BaseException | None = None
        self._own = {self.pid: True}
        self._count = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def finish(self) -> int:
        """Wait for it and all that it started; a wait status.

        What `decide` raised is raised here.
        """
        _, status = os.waitpid(self._init, 0)
        self._thread.join()
        os.close(self._listener)
        if self._failure is not None:
            raise self._failure
        return status

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while True:
            ((_, event),) = poll.poll()
            if not event & select.POLLIN:
                return  # Nobody is left under the filter.
            held = syscalls.receive(self._listener)
            if held is None:
                continue
            if self._failure is not None or not self._is_own(held.pid):
                held.go()
                continue
            number = self._count
            self._count += 1
            try:
                self._decide(number, held)
            except BaseException as failure:
                self._failure = failure
                os.kill(self.pid, signal.SIGKILL)

    def _is_own(self, pid: int) -> bool:
        """Whether a thread is the process's own."""
        if pid not in self._own:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                return False
            self._own[pid] = f"\nTgid:\t{self.pid}\n" in status
        return self._own[pid]


def _be_supervised(work: Callable[[], None], answer: socket.socket, program: bytes) -> None:
    os.setsid()
    listener = syscalls.install(program)
    socket.send_fds(answer, [b"x"], [listener])
    os.close(listener)
    answer.close()
    work()


def _be_init(main: Callable[[], None]) -> None:
    """Do `main` in a child, and end when no process of the namespace is left."""
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("proc", "/proc", "proc", 0)
    if os.fork() == 0:
        status = 1
        try:
            main()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    # What others hold to see that a process is gone must go with it: as the other end of channels.
    kernel.close_range(3)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            os._exit(0)


@contextmanager
def supervised(work: Callable[[], None], decide: Decide, program: bytes) -> Iterator[Supervised]:
    """Have `work` done by a process under supervision; it is waited for at the end."""
    process = Supervised(work, decide, program)
    try:
        yield process
    except BaseException:
        os.kill(process.pid, signal.SIGKILL)
        process.finish()
        raise
    process.finish()


# What a call can be answered with.


def go(held: Held) -> None:
    """It happens."""
    held.go()


def kill(held: Held) -> None:
    """The process dies before it happens: that is also right after the one before."""
    os.kill(held.pid, signal.SIGKILL)


def failing(code: int) -> Answer:
    """It fails with `code`."""
    return lambda held: held.fail(code)


def half(held: Held) -> None:
    """A write that writes only the first half; any other call happens."""
    written = held.write_half()
    if written is None:
        held.go()
    else:
        held.returned(written)


def torn(held: Held) -> None:
    """The process dies in the middle of a write, before any other call."""
    held.write_half()
    kill(held)


# What answers all calls.


class Recorder:
    """Lets everything happen and keeps it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, number: int, held: Held) -> None:
        assert number == len(self.calls)
        self.calls.append(Call(held.name, held.path, held.changes))
        held.go()


class Once:
    """One call is answered by `answer`, all others happen."""

    def __init__(self, number: int, answer: Answer, expected: str) -> None:
        """`expected` is the name of the call with that number in the run that was recorded."""
        self._number = number
        self._answer = answer
        self._expected = expected
        self.reached = False

    def __call__(self, number: int, held: Held) -> None:
        if number != self._number:
            held.go()
            return
        assert held.name == self._expected, f"call {number} is {held.name}"
        self.reached = True
        self._answer(held)


class HalfThen:
    """A write writes half of its bytes, and the next one is answered by `answer`: a full disk."""

    def __init__(self, number: int, answer: Answer) -> None:
        self._number = number
        self._answer = answer

    def __call__(self, number: int, held: Held) -> None:
        if number == self._number:
            half(held)
        elif number == self._number + 1 and held.name in syscalls.WRITING:
            self._answer(held)
        else:
            held.go()


class Lasting:
    """From one call on all are answered by `answer`, or those of some names."""

    def __init__(self, number: int, answer: Answer, names: Collection[str] = ()) -> None:
        self._number = number
        self._answer = answer
        self._names = names

    def __call__(self, number: int, held: Held) -> None:
        if number >= self._number and (not self._names or held.name in self._names):
            self._answer(held)
        else:
            held.go()
