"""Whether a script has ended for good, told before the kernel has taken its process apart.

An exiting process gives up its filter, the last writes to its memory are made (robust futexes,
which may lie in a mapped file), its memory is let go of, then its descriptors, and only then is
its end told (kernel/exit.c: do_exit). Letting go of an interpreter's memory takes a millisecond,
in which nothing of the sandbox's files can change any more.
"""

from __future__ import annotations

import os
from typing import Dict, List

_EXITING = 0x4  # PF_EXITING of linux/sched.h
# Fields of proc_pid_stat(5), counted from the state, which comes after the name.
_FLAGS, _THREADS, _MEMORY, _EXIT_STATUS = 6, 17, 20, 49


def has_succeeded(processes: int, script: int) -> bool:
    """Whether the process `script` ended with status 0 and no process but the init can do a thing.

    `processes` is a descriptor of the sandbox's /proc. To be asked when nobody is left who runs
    under the filter. In doubt it says no: then the init tells, a little later, how it ended.
    """
    try:
        if not _may_know(processes, script):
            return False
        names = [name for name in os.listdir(processes) if name.isdigit() and name != "1"]
        fields: Dict[str, List[bytes]] = {name: _fields(processes, name) for name in names}
        own = fields.get(str(script))
        if own is None or not all(map(_is_powerless, fields.values())):
            return False
        return own[_EXIT_STATUS] == b"0"
    except (OSError, IndexError, ValueError):
        return False  # gone meanwhile


def _fields(processes: int, name: str) -> List[bytes]:
    descriptor = os.open(f"{name}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=processes)
    try:
        return os.read(descriptor, 4096).rpartition(b")")[2].split()
    finally:
        os.close(descriptor)


def _is_powerless(fields: List[bytes]) -> bool:
    """Whether a process only waits for the kernel to take it apart."""
    exiting = int(fields[_FLAGS]) & _EXITING
    return bool(exiting) and fields[_THREADS] == b"1" and fields[_MEMORY] == b"0"


def _may_know(processes: int, script: int) -> bool:
    """Whether we are told the exit status: who may not know it is told 0 (proc_pid_stat(5), PT).

    A link in /proc is kept from the same ones. A process that is ending may become known, since
    what is not dumpable is its memory, but not unknown: so this is asked first.
    """
    try:
        os.readlink(f"{script}/cwd", dir_fd=processes)
    except FileNotFoundError:
        return True  # it has no directory any more
    except OSError:
        return False
    return True
