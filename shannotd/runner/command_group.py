"""The control group of an apply's commands: limits one at a time, counts and kills all of it.

It is made with the runner's rights and used with those of the plan's identity: the kernel asks who
opened a file of it, not who writes there (since Linux 5.16 also where processes are moved). What a
command leaves running when it has ended by itself is moved out of it, to where nothing limits it
and nobody ends it.
"""

from __future__ import annotations

import os
from typing import Dict, List, Optional, Tuple

from shannotd.runner import cgroups
from shannotd.runner.cgroups import COMMAND, LEFT, Base

_PIDS_BYTES = 1 << 20
_ROUNDS = 100
_LIMITS = {"memory": "memory.max", "pids": "pids.max"}
_EVENTS = {"memory": "memory.events", "pids": "pids.events"}


class CommandGroup:
    """One control group for the commands of one apply, which it holds one after the other.

    :raises OSError: it cannot be made.
    """

    def __init__(self, base: Base) -> None:
        self._controllers = base.controllers
        self._cgroup = cgroups.create(base, COMMAND)
        self._files: Dict[str, int] = {}
        try:
            if "memory" in base.controllers:
                self._cgroup.write("memory.oom.group", "1")
            for controller in base.controllers.intersection(_LIMITS):
                self._open(_LIMITS[controller], os.O_WRONLY)
                self._open(_EVENTS[controller], os.O_RDONLY)
            self._open("cgroup.procs", os.O_RDWR)
            self._open("cgroup.kill", os.O_WRONLY)
            self._files["left"] = cgroups.keep_left(base)
            self._files[LEFT] = os.open(
                "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._files["left"]
            )
        except OSError:
            self.close()
            raise

    @classmethod
    def make(cls, base: Optional[Base]) -> Optional[CommandGroup]:
        """One below `base`; None where there is none, or it cannot be made."""
        try:
            return None if base is None else cls(base)
        except OSError:
            return None

    @property
    def descriptors(self) -> Tuple[int, ...]:
        """What it needs open."""
        return (self._cgroup.fileno(), *self._files.values())

    @property
    def limits_memory(self) -> bool:
        """Whether it can bound what all processes of a command together use."""
        return "memory" in self._controllers

    def limit(self, memory_bytes: Optional[int], processes: Optional[int]) -> None:
        """Bound what the next command may use, as far as there are controllers; None: nothing.

        :raises OSError: a limit could not be set.
        """
        for controller, limit in (("memory", memory_bytes), ("pids", processes)):
            if controller in self._controllers:
                self._write(_LIMITS[controller], "max" if limit is None else str(limit))

    def enter(self) -> None:
        """Put this process into it.

        :raises OSError: it is gone.
        """
        self._write("cgroup.procs", "0")

    def hits(self) -> Tuple[int, int]:
        """How often the limits of memory and of processes were hit so far."""
        counts = []
        for controller, key in (("memory", "oom_kill"), ("pids", "max")):
            counted = 0
            if controller in self._controllers:
                events = os.pread(self._files[_EVENTS[controller]], 4096, 0)
                counted = cgroups.pairs(events).get(key, 0)
            counts.append(counted)
        return counts[0], counts[1]

    def processes(self) -> List[int]:
        """Who is in it; zombies are not. 0 stands for one that cannot be seen from here."""
        descriptor = self._files["cgroup.procs"]
        return [int(line) for line in os.pread(descriptor, _PIDS_BYTES, 0).split()]

    def kill(self) -> None:
        """SIGKILL all in it, of whatever account.

        :raises OSError: it is gone.
        """
        self._write("cgroup.kill", "1")

    def release(self) -> int:
        """Move what is left in it to where nothing ends it; how many processes that were."""
        left = set()
        for _ in range(_ROUNDS):  # what they start before they are moved is there the next time
            found = [pid for pid in self.processes() if pid]
            if not found:
                break
            left.update(found)
            for pid in found:
                try:
                    self._write(LEFT, str(pid))
                except OSError:
                    continue  # ended meanwhile
        return len(left)

    def close(self) -> None:
        """Let go of it and remove it; where this process may not, the runner's next sweep does."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._cgroup.remove()

    def _open(self, name: str, flags: int) -> None:
        self._files[name] = self._cgroup.open(name, flags)

    def _write(self, name: str, text: str) -> None:
        os.write(self._files[name], text.encode("ascii"))
