"""Control groups (version 2): one for each sandbox, to limit, freeze and kill it as a whole, and
one for the commands of each apply (command_group.py).

What is said here of the kernel is from its admin-guide/cgroup-v2.

    base                    what the runner was given (delegated), else nothing is done at all
    |- shannot-runner       the runner, its zygote and supervisors, the daemon that started it
    |- shannot-session-...  one sandbox; whoever made it holds a lock on it as long as it is used
    |- shannot-command-...  a command that is applied, likewise
    `- shannot-left         what commands left running that ended by themselves
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from dataclasses import dataclass
from typing import Dict, FrozenSet, Optional, Set

RUNNER = "shannot-runner"
SESSION = "shannot-session-"
COMMAND = "shannot-command-"
LEFT = "shannot-left"
CONTROLLERS = frozenset({"memory", "pids", "cpu"})
# Freezing and dying take a kernel microseconds; this is for a machine that swaps.
PATIENCE_SECONDS = 10.0
_ATTEMPTS = 5


class Unavailable(Exception):
    """There is no cgroup that this process may make others in; the text says why."""


@dataclass(frozen=True)
class Base:
    """Where sandboxes get their cgroups, and which controllers these have."""

    path: str
    controllers: FrozenSet[str]


def find() -> str:
    """The path of the cgroup in which this process may make others.

    :raises Unavailable: there is none.
    """
    own = _own_path()
    base = os.path.dirname(own) if os.path.basename(own) == RUNNER else own
    files = ("", "/cgroup.procs", "/cgroup.subtree_control")
    if not all(os.access(base + name, os.W_OK) for name in files):
        raise Unavailable(f"{base} is not delegated to this account")
    # Root may write everywhere, but systemd wants what it has not delegated for itself.
    if os.geteuid() == 0 and os.path.isdir("/run/systemd/system") and not _is_delegated(base):
        raise Unavailable(f"{base} is not delegated by systemd")
    return base


def arrange() -> Optional[Base]:
    """Make ready the cgroup that this runner was given; None where it was given none.

    A cgroup whose children have controllers may hold no process itself: the runner and the daemon
    that started it move into a leaf. Where other processes share the cgroup they are left alone,
    and no controllers can be had. Doing it again changes nothing.
    """
    try:
        base = find()
        if not _is_root(base) and not _is_shared(base):
            _settle(base)
        return Base(base, _named(f"{base}/cgroup.subtree_control"))
    except (OSError, Unavailable):
        return None


def prospect(base: str) -> FrozenSet[str]:
    """The controllers that sandboxes would get below `base`; changes nothing.

    :raises OSError: it is gone.
    """
    fixed = _is_root(base) or _is_shared(base)
    return _named(f"{base}/cgroup.{'subtree_control' if fixed else 'controllers'}")


def sweep(base: Base) -> None:
    """Remove the cgroups of sandboxes and commands whose owner is gone, with whatever still runs in
    them, and that of what was left behind if nothing is in it any more."""
    for name in os.listdir(base.path):
        if name == LEFT:
            _remove_left(f"{base.path}/{name}")
        if name.startswith((SESSION, COMMAND)):
            try:
                abandoned = Cgroup(f"{base.path}/{name}", base.controllers)
            except OSError:
                continue  # in use, or just removed by its owner
            abandoned.remove()


def keep_left(base: Base) -> int:
    """A descriptor of the cgroup for what commands leave running, which stays while it is open.

    :raises OSError: it cannot be made.
    """
    path = f"{base.path}/{LEFT}"
    while True:
        os.makedirs(path, mode=0o755, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # a sweep was there before
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            os.stat("cgroup.procs", dir_fd=descriptor)
            return descriptor
        except OSError:
            os.close(descriptor)  # so it was here


def _remove_left(path: str) -> None:
    """Remove it unless something is in it, or may come into it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rmdir(path)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def create(base: Base, prefix: str = SESSION) -> Cgroup:
    """A new cgroup, without limits as yet, whose name begins with `prefix`.

    :raises OSError: it could not be made.
    """
    for attempt in range(_ATTEMPTS):
        path = f"{base.path}/{prefix}{os.urandom(8).hex()}"
        os.mkdir(path, 0o755)
        try:
            cgroup = Cgroup(path, base.controllers)
        except OSError:
            # Another runner's sweep was there before the lock was.
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            break
    if prefix == SESSION and "memory" in base.controllers:
        cgroup.prepare()
    return cgroup


class Cgroup:
    """A cgroup of one owner; a descriptor of it, with a lock on it, is held until `remove`.

    :raises OSError: there is none at `path` (any more), or it is another's.
    """

    def __init__(self, path: str, controllers: FrozenSet[str]) -> None:
        self.path = path
        self._controllers = controllers
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.stat(path)  # it may have been removed between the two
        except OSError:
            os.close(self._directory)
            raise

    def fileno(self) -> int:
        """What clone3(2) takes."""
        return self._directory

    @property
    def counts_processes(self) -> bool:
        """Whether `limit` bounds the number of processes and threads."""
        return "pids" in self._controllers

    def prepare(self) -> None:
        """What holds whatever the limits will be: nothing is swapped out, all die together."""
        try:
            self.write("memory.swap.max", "0")
        except FileNotFoundError:
            pass  # the kernel does not account for swap
        self.write("memory.oom.group", "1")

    def limit(self, memory_bytes: int, processes: int) -> None:
        """Bound what all in it together may use, as far as there are controllers.

        Memory is that of processes and of the kernel for them, files of memory filesystems, memfds
        and System V segments, used or not. Threads count as processes; the sandbox's init does not.

        :raises OSError: a limit could not be set.
        """
        if "memory" in self._controllers:
            self.write("memory.max", str(memory_bytes))
        if "pids" in self._controllers:
            self.write("pids.max", str(processes + 1))

    def exceeded(self) -> Optional[str]:
        """`memory_bytes` or `processes` where that limit was hit, else None."""
        if "memory" in self._controllers:
            events = self._events("memory.events")
            # A kill alone may be the whole host's want of memory.
            if events["oom"] and events["oom_kill"]:
                return "memory_bytes"
        if "pids" in self._controllers and self._events("pids.events")["max"]:
            return "processes"
        return None

    def freeze(self) -> None:
        """Stop all in it, processes that start meanwhile too; returns when nothing moves.

        A system call that waits is interrupted and begun again by `thaw`.

        :raises TimeoutError: something in it could not be stopped; all of it runs on.
        :raises OSError: it is gone.
        """
        self.write("cgroup.freeze", "1")
        try:
            self._await("frozen", 1)
        except TimeoutError:
            self.thaw()
            raise

    def thaw(self) -> None:
        """Undo `freeze`.

        :raises OSError: it is gone.
        """
        self.write("cgroup.freeze", "0")

    def kill(self) -> None:
        """SIGKILL all in it at once, frozen or not (since Linux 5.14).

        :raises OSError: it is gone.
        """
        self.write("cgroup.kill", "1")

    def remove(self) -> None:
        """Remove it, with whatever still runs in it, and let go of it."""
        try:
            if self._events("cgroup.events")["populated"]:
                self.kill()
                self._await("populated", 0)
            os.rmdir(self.path)
        except OSError:
            pass  # what does not die, or comes in meanwhile, is for the next sweep
        finally:
            os.close(self._directory)

    def open(self, name: str, flags: int) -> int:
        """A descriptor of one of its files, the caller's."""
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._directory)

    def write(self, name: str, text: str) -> None:
        """Write to one of its files.

        :raises OSError: naming it.
        """
        descriptor = self.open(name, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode("ascii"))
        except OSError as error:
            raise type(error)(error.errno, error.strerror, f"{self.path}/{name}") from None
        finally:
            os.close(descriptor)

    def _events(self, name: str) -> Dict[str, int]:
        descriptor = self.open(name, os.O_RDONLY)
        try:
            return pairs(os.read(descriptor, 4096))
        finally:
            os.close(descriptor)

    def _await(self, key: str, value: int) -> None:
        """Wait until `key` of cgroup.events is `value`: every change of it wakes who polls."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        descriptor = self.open("cgroup.events", os.O_RDONLY)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLPRI)
            while pairs(os.pread(descriptor, 4096, 0))[key] != value:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(0, f"{key} is not {value}", self.path)
                poll.poll(left * 1000)
        finally:
            os.close(descriptor)


def _own_path() -> str:
    """Where this process's cgroup is in the file system (cgroups(7), proc_pid_mountinfo(5))."""
    lines = _read("/proc/self/cgroup").splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "")
    for line in _read("/proc/self/mountinfo").splitlines():
        fields = line.split(" ")
        root, mountpoint, kind = fields[3], fields[4], fields[fields.index("-") + 1]
        if kind != "cgroup2" or not own:
            continue
        inside = os.path.relpath(own, root)
        # A cgroup above the root of our cgroup namespace is shown as /.. and cannot be reached.
        if not inside.startswith(".."):
            return os.path.normpath(f"{mountpoint}/{inside}")
    raise Unavailable("no cgroup2 filesystem with our cgroup is mounted")


def _is_delegated(path: str) -> bool:
    """Whether systemd says so (systemd's cgroup delegation): to root by `trusted` before 251."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _is_root(base: str) -> bool:
    """Whether it is the machine's own root: only that lacks this file.

    It may hold processes, and which controllers there are below it is not ours to say.
    """
    return not os.path.exists(f"{base}/cgroup.events")


def _is_shared(base: str) -> bool:
    """Whether it holds processes other than this one and the one that started it."""
    return not _processes(base).issubset((os.getppid(), os.getpid()))


def _settle(base: str) -> None:
    """Move out of `base` and enable what controllers there are."""
    leaf = f"{base}/{RUNNER}"
    os.makedirs(leaf, mode=0o755, exist_ok=True)
    for pid in _processes(base):
        _write(f"{leaf}/cgroup.procs", str(pid))
    for name in sorted(_named(f"{base}/cgroup.controllers")):
        _write(f"{base}/cgroup.subtree_control", f"+{name}")


def _processes(base: str) -> Set[int]:
    return {int(pid) for pid in _read(f"{base}/cgroup.procs").split()}


def _named(file: str) -> FrozenSet[str]:
    """Those controllers in `file` that we have a use for."""
    return frozenset(_read(file).split()).intersection(CONTROLLERS)


def pairs(content: bytes) -> Dict[str, int]:
    """The content of a file of lines "name number"."""
    words = content.split()
    return {key.decode(): int(value) for key, value in zip(words[::2], words[1::2])}


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
