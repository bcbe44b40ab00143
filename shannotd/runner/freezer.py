"""Holding a whole sandbox still while it is looked at.

By its control group where it has one. Else by SIGSTOP, which a program can undo (a timer of its
own may send it SIGCONT), so it is proven afterwards that nothing moved: a thread that did
anything was switched to, and the kernel counts that (proc_pid_status(5), ctxt_switches).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from shannotd.runner.frames import RunnerError
from shannotd.runner.layer import failed

if TYPE_CHECKING:
    from shannotd.runner.warm import Warm

# How long a system call that cannot be interrupted is waited for.
PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.0005
# Stopped, traced, dead and not yet reaped: proc_pid_stat(5).
_STILL = frozenset("TtZXx")


class Thread(NamedTuple):
    """One thread as /proc shows it: its state's letter, and how often it was switched from."""

    state: str
    switches: Tuple[int, int]
    children: Tuple[int, ...]


Threads = Dict[Tuple[int, int], Thread]  # by the host's ids of process and thread


@contextmanager
def frozen(warm: Warm) -> Iterator[None]:
    """Nothing in the sandbox runs meanwhile, except for its init, which only waits.

    What the script itself had stopped stays so.

    :raises RunnerError: `capture_failed`: something in it could not be stopped, or moved.
    """
    if warm.cgroup is None:
        with _Stopping(warm) as stopping:
            yield
            stopping.verify()
        return
    try:
        warm.cgroup.freeze()
    except OSError as error:
        raise _moving(error.strerror or str(error)) from error
    try:
        yield
    finally:
        warm.cgroup.thaw()


def shares_files(warm: Warm) -> bool:
    """Whether a process of the frozen sandbox has a file mapped so that it can change it.

    Such a change leaves no trace in the file's times.
    """
    for name in os.listdir(warm.processes):
        if name.isdigit() and name != "1" and _maps_shared(warm.processes, name):
            return True
    return False


def _maps_shared(processes: int, name: str) -> bool:
    try:
        # address, permissions, offset, device, inode: proc_pid_maps(5)
        mappings = _inside(processes, f"{name}/maps")
        shared = [line for line in mappings if line.split(None, 2)[1].endswith("s")]
        if not shared:
            return False
        # Those of files that were opened for reading only are shared in name only: "sh" they lack.
        flags = _inside(processes, f"{name}/smaps")
        return any(line.startswith("VmFlags:") and " sh " in line for line in flags)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True  # whoever hides it may have anything


def _inside(processes: int, name: str) -> List[str]:
    """The lines of a file in the sandbox's /proc."""
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=processes)
    with open(descriptor, encoding="utf-8", errors="surrogateescape") as file:
        return file.readlines()


class _Stopping:
    """Stops every descendant of a sandbox's init, and lets them go on."""

    def __init__(self, warm: Warm) -> None:
        self._init = warm.init
        self._processes = warm.processes
        # Those that are to go on, and those that were stopped before us.
        self._stopped: Dict[int, int] = {}
        self._left: Set[int] = set()
        self._threads: Threads = {}

    def __enter__(self) -> _Stopping:
        try:
            self._stop_all()
        except BaseException:
            self._continue_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._continue_all()

    def verify(self) -> None:
        """Make sure that nothing ran since all was stopped.

        :raises RunnerError: something did.
        """
        if _alive(self._look()) != _alive(self._threads):
            raise _moving("a process went on although it was stopped")

    def _stop_all(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            threads = self._look()
            new = {pid for pid, _ in threads} - self._stopped.keys() - self._left
            for pid in new:
                self._stop(pid, [one for (of, _), one in threads.items() if of == pid])
            # Twice the same, and still: at a moment between the two nothing ran at all.
            same = not new and _alive(threads) == _alive(self._threads)
            if same and _are_still(threads) and self._all(threads):
                return
            self._threads = threads
            if time.monotonic() > deadline:
                raise _moving("a process could not be stopped")
            if not new and not _are_still(threads):
                time.sleep(_PAUSE_SECONDS)
                self._stop_again(threads)

    def _all(self, threads: Threads) -> bool:
        """Whether these are all processes of the sandbox: its own /proc knows how many."""
        inside = sum(name.isdigit() for name in os.listdir(self._processes))
        return inside - 1 == len({pid for pid, _ in threads})

    def _stop(self, pid: int, threads: List[Thread]) -> None:
        """Stop a process, unless it is stopped: then somebody else is to continue it."""
        if threads and all(thread.state in _STILL for thread in threads):
            self._left.add(pid)
            return
        try:
            descriptor = os.pidfd_open(pid)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.EINVAL):  # the latter: just being released
                raise
            return
        # The number may be another's by now; what the descriptor holds stays what it is.
        if not self._is_inside(pid):
            os.close(descriptor)
            return
        self._stopped[pid] = descriptor
        self._signal(pid, signal.SIGSTOP)

    def _stop_again(self, threads: Threads) -> None:
        """Stop those once more that somebody in the sandbox has continued."""
        for pid in {pid for (pid, _), thread in threads.items() if thread.state in "RS"}:
            if pid in self._left:
                self._left.remove(pid)  # it runs: so it is to go on running
            elif pid in self._stopped and not self._signal(pid, signal.SIGSTOP):
                os.close(self._stopped.pop(pid))  # the number is another's already

    def _signal(self, pid: int, number: signal.Signals) -> bool:
        """Send it to the process that was found there; False if that is gone."""
        try:
            signal.pidfd_send_signal(self._stopped[pid], number)
        except ProcessLookupError:
            return False
        return True

    def _continue_all(self) -> None:
        for pid in self._stopped:
            self._signal(pid, signal.SIGCONT)
        while self._stopped:
            os.close(self._stopped.popitem()[1])

    def _is_inside(self, pid: int) -> bool:
        """Whether a process is a descendant of the init, by its parents."""
        while pid > 1 and pid != self._init:
            pid = _parent(pid)
        return pid == self._init

    def _look(self) -> Threads:
        """Every thread below the init."""
        found: Threads = {}
        pending = [self._init]
        while pending:
            pid = pending.pop()
            for thread_id in _names(f"/proc/{pid}/task"):
                thread = _thread(pid, thread_id)
                if thread is None:
                    continue
                pending.extend(thread.children)
                if pid != self._init:
                    found[pid, thread_id] = thread
        return found


def _alive(threads: Threads) -> Threads:
    """Without the dead, which go whenever they are reaped."""
    return {
        key: thread._replace(children=())
        for key, thread in threads.items()
        if thread.state not in "ZXx"
    }


def _are_still(threads: Threads) -> bool:
    """Whether all are stopped, or wait for a child that is: after vfork(2) nothing else wakes."""
    processes: Dict[int, List[str]] = {}
    for (pid, _), thread in threads.items():
        processes.setdefault(pid, []).append(thread.state)

    def is_still(thread: Thread) -> bool:
        if thread.state in _STILL:
            return True
        return thread.state == "D" and any(
            all(state in _STILL for state in processes.get(child, "R")) for child in thread.children
        )

    return all(map(is_still, threads.values()))


def _thread(pid: int, thread_id: int) -> Optional[Thread]:
    """What /proc tells of a thread, None where it is gone."""
    base = f"/proc/{pid}/task/{thread_id}"
    try:
        children = tuple(int(child) for child in _read(f"{base}/children").split())
        lines = _read(f"{base}/status").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    switches = fields["voluntary_ctxt_switches"], fields["nonvoluntary_ctxt_switches"]
    return Thread(fields["State"].strip()[0], (int(switches[0]), int(switches[1])), children)


def _parent(pid: int) -> int:
    try:
        lines = _read(f"/proc/{pid}/status").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next(int(line[5:]) for line in lines if line.startswith("PPid:"))


def _names(directory: str) -> List[int]:
    try:
        return sorted(map(int, os.listdir(directory)))
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _moving(reason: str) -> RunnerError:
    return failed("/", f"the sandbox could not be held still: {reason}")
