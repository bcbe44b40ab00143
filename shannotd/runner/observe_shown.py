"""What an observed program is shown that it may not look up itself.

The runner reads it with its own rights, in the host's namespaces, and lays a copy over the view:
names and numbers, never a file's content. Of processes a script is shown what its identity could
see on the host; the kernel's log goes to whom the rule shows it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Callable, Dict, Mapping, Optional, Sequence

from shannotd.runner import kernel

_KERNEL_LOG = "/run/kernel.log"
_LOG_RESTRICTED = "/proc/sys/kernel/dmesg_restrict"
_LIMITS = "/proc/sys/user"
_SOCKET = "socket:["


@dataclass(frozen=True)
class Shown:
    """Copies, ready to be laid over the view.

    `files` are new ones in the fresh /run, None one that may not be read; `links` and `copies`
    are what directories of the kernel's have then instead: names with the targets of symlinks, and
    with contents. `disks`: block devices can be looked at; `all_mounts`: the mount table has also
    those that the view has not, of which it would say another size; `once`: it has each filesystem
    once.
    """

    disks: bool = False
    all_mounts: bool = False
    once: bool = False

    files: Dict[str, Optional[bytes]] = field(default_factory=dict)
    links: Dict[str, Mapping[str, str]] = field(default_factory=dict)
    copies: Dict[str, Mapping[str, bytes]] = field(default_factory=dict)


def read(names: Sequence[str], uid: int) -> Shown:
    """What a rule shows by these names to a script with this uid; READERS has them all."""
    shown = Shown("disks" in names, "all mounts" in names, "filesystems once" in names)
    for name in names:
        reader = READERS[name]
        if reader is not None:
            reader(shown, uid)
    return shown


def _socket_owners(shown: Shown, uid: int) -> None:
    """Which processes hold which sockets (ss -p, netstat -p), by the links in /proc/PID/fd."""
    with os.scandir("/proc") as processes:
        for process in processes:
            if not process.name.isdigit():
                continue
            try:
                if uid in (0, process.stat().st_uid):
                    place = f"{process.path}/fd"
                    shown.links[place] = _sockets(place)
            except OSError:  # it is gone, or not ours to look into
                continue


def _sockets(directory: str) -> Dict[str, str]:
    found = {}
    for name in os.listdir(directory):
        try:
            target = os.readlink(f"{directory}/{name}")
        except OSError:  # closed
            continue
        if target.startswith(_SOCKET):
            found[name] = target
    return found


def _kernel_log(shown: Shown, uid: int) -> None:
    """What the kernel said (dmesg), where the script's account may read it on the host
    (kernel.dmesg_restrict, proc_sys_kernel(5))."""
    try:
        with open(_LOG_RESTRICTED, encoding="ascii") as file:
            is_restricted = file.read().strip() != "0"
        shown.files[_KERNEL_LOG] = None if uid != 0 and is_restricted else kernel.read_log()
    except PermissionError:
        shown.files[_KERNEL_LOG] = None


def _limits(shown: Shown, _: int) -> None:
    """The limits of the host's user namespace (sysctl): the program has one of its own."""
    entries = {}
    for name in os.listdir(_LIMITS):
        with open(f"{_LIMITS}/{name}", "rb") as file:
            entries[name] = file.read()
    shown.copies[_LIMITS] = entries


READERS: Mapping[str, Optional[Callable[[Shown, int], None]]] = {
    "disks": None,
    "all mounts": None,
    "filesystems once": None,
    "socket owners": _socket_owners,
    "kernel log": _kernel_log,
    "user limits": _limits,
}
