"""Builds one sandbox: choose the builder, lay out the mounts, enter the new root.

`build` runs in fresh namespaces: it looks at the host in a mount namespace that nobody else
changes. Nothing of it shows on the host, and it is gone with its last process.
"""

from __future__ import annotations

import json
import os
import re
import select
from dataclasses import dataclass, replace
from typing import List, Optional, Tuple

from shannotd.runner import kernel, layout, mounts, shims, versions
from shannotd.runner.frames import RunnerError

PRIVILEGED = "privileged"
ONE_UID = "one-uid"

NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
)

# A ceiling above every profile's own limit; what it lets through does not harm a host.
MAX_TASKS = 4096

# Where the sandbox finds the submitted script: a mount of its own, so not captured.
SCRIPT_DIRECTORY = mounts.SCRIPT_DIRECTORY
HIDDEN_FILE = SCRIPT_DIRECTORY + "/.hidden"
# The one id that a script's user namespace does not have: not even its root may open what belongs
# to that (capabilities(7), user_namespaces(7)).
UNMAPPED = 2**32 - 2
ID_MAP = f"0 0 {UNMAPPED}"
# Room for the script and its standard input; the daemon limits both to less.
SCRIPT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Wanted:
    """What is to be built: `also_writable` are directories to be looked at for an overlay of
    their own (one-uid); the upper layers share a tmpfs of `size` bytes."""

    builder: str
    also_writable: Tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Blueprint:
    """What one sandbox looks like: its overlays, what appears empty, what it copied and which
    directories it holds on to."""

    builder: str
    overlays: Tuple[mounts.Overlay, ...]
    empty: Tuple[str, ...]
    copied: Tuple[Tuple[str, Tuple[versions.Entry, ...]], ...]
    held: Tuple[Tuple[str, Tuple[int, ...]], ...]

    def encode(self) -> bytes:
        """What `decode` takes, to be sent from inside the sandbox before any script is there."""
        overlays = [overlay.__dict__ for overlay in self.overlays]
        fields = {**self.__dict__, "overlays": overlays}
        return json.dumps(fields).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Blueprint:
        """The blueprint that `encode` made `data` of."""
        fields = json.loads(data)
        overlays = []
        for overlay in fields["overlays"]:
            owner = tuple(overlay.pop("root_owner"))
            overlays.append(mounts.Overlay(**overlay, root_owner=owner))
        copied = (
            (path, tuple(versions.Entry(*entry) for entry in seen))
            for path, seen in fields["copied"]
        )
        return cls(
            fields["builder"],
            tuple(overlays),
            tuple(fields["empty"]),
            tuple(copied),
            tuple((path, tuple(seen)) for path, seen in fields["held"]),
        )

    @property
    def outdated(self) -> bool:
        """Whether the host has changed what was copied or is held on to."""
        user = self.builder == ONE_UID
        return any(versions.look(path) != seen for path, seen in self.copied) or any(
            versions.place(path, user=user) != seen for path, seen in self.held
        )


def choose_builder() -> str:
    """`privileged` for root of the initial user namespace with CAP_SYS_ADMIN, else `one-uid`."""
    if os.geteuid() != 0:
        return ONE_UID
    with open("/proc/self/uid_map", encoding="ascii") as file:
        initial = file.read().split() == ["0", "0", "4294967295"]
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(int(line[7:], 16) for line in file if line.startswith("CapEff:"))
    admin = effective >> kernel.CAPABILITIES["SYS_ADMIN"] & 1
    return PRIVILEGED if initial and admin else ONE_UID


def read_mountinfo() -> str:
    """The mount table of this process's namespace."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


class MountWatch:
    """Tells whether the host's mount table changed since it was made (proc_pid_mounts(5)).

    The kernel marks an open mountinfo with POLLPRI after any change.
    """

    def __init__(self) -> None:
        self._file = open("/proc/self/mountinfo", "rb", buffering=0)  # noqa: SIM115
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)
        self._poll.poll(0)

    def changed(self) -> bool:
        """Whether a mount came, went or changed."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Stop watching."""
        self._file.close()


def build(wanted: Wanted) -> Tuple[Blueprint, int, int]:
    """Make the root of a sandbox of this host in this process's own namespaces and enter it.

    Returns what it looks like, a descriptor of the stage and one of the sandbox's /proc.

    :raises RunnerError: `sandbox_unavailable`, naming what failed.
    """
    step: object = "the stage"
    stage_options = f"mode=700,size={wanted.size},nr_inodes={inodes(0)}"
    try:
        # Its root is the cgroup that we are in: of a clone's it would be the parent's.
        kernel.unshare(kernel.CLONE_NEWCGROUP)
        # From here on no mount comes or goes between what we see and what we do.
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        operations, plan = _lay_out(wanted)
        _raise_loopback()
        kernel.sethostname("sandbox" if not os.uname().nodename else os.uname().nodename)
        kernel.mount("shannot", mounts.STAGE, "tmpfs", mounts.PROTECTED, stage_options)
        for name in ("upper", "work", "skeleton", "root"):
            os.mkdir(f"{mounts.STAGE}/{name}")
        stage = os.open(mounts.STAGE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for operation in operations:
            step = operation
            plan = _execute(operation, plan)
        step = "the script's place"
        _prepare_script_directory(wanted.builder)
        step = "entering the root"
        os.chdir(mounts.ROOT)
        kernel.pivot_root(".", ".")
        kernel.unmount(".")
        os.chdir("/")
        processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unavailable(step, error) from error
    return plan, stage, processes


def _lay_out(wanted: Wanted) -> Tuple[List[mounts.Operation], Blueprint]:
    """The sandbox of this host as it is now."""
    found = layout.host_mounts(read_mountinfo())
    user = wanted.builder == ONE_UID
    also = wanted.also_writable
    extra = layout.writable_directories_of_others(found, also) if user else []
    places = [(path, versions.place(path, user=user)) for path in layout.held(found, extra)]
    if user:
        operations, overlays, empty = layout.one_uid_operations(found, extra)
    else:
        operations, overlays, empty = layout.privileged_operations(found)
    copies = (each for each in operations if isinstance(each, (mounts.File, mounts.Skeleton)))
    copied = tuple((copy.path, copy.seen) for copy in copies)
    # What is listed there is looked at with it.
    listed = {path for path, _ in copied}
    held = tuple(place for place in places if os.path.dirname(place[0]) not in listed)
    plan = Blueprint(wanted.builder, tuple(overlays), tuple(empty), copied, held)
    return operations, plan


def _execute(operation: mounts.Operation, plan: Blueprint) -> Blueprint:
    """Do one of `plan`'s operations; the plan as it really is then.

    :raises OSError: a directory of the host cannot be shown. It is never silently left out.
    """
    try:
        operation.execute()
    except OSError:
        if not isinstance(operation, mounts.Overlay):
            raise
        if operation.optional:
            mounts.Empty(operation.path).execute()
            return replace(plan, empty=(*plan.empty, operation.path))
        if os.path.lexists(operation.lower):
            raise
        # The host has removed the directory meanwhile.
        overlays = tuple(each for each in plan.overlays if each is not operation)
        return replace(plan, overlays=overlays)
    return plan


def _limit_tasks() -> None:
    """Let there be only so many processes and threads in this pid namespace, as uid 0 too.

    RLIMIT_NPROC never holds for uid 0, and threads are in no list of processes. Before Linux
    6.14 that number is the whole host's and must not be touched.
    """
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    if (int(major), int(minor)) >= (6, 14):
        with open("/proc/sys/kernel/pid_max", "w", encoding="ascii") as file:
            file.write(str(MAX_TASKS))


def _open_ports() -> None:
    """Let everybody in this network namespace listen at every port, as programs that check the
    configuration of a server do (ip_sysctl.rst of Linux)."""
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w", encoding="ascii") as file:
            file.write("0")
    except FileNotFoundError:
        pass  # A kernel without IP.


def inodes(steps: int) -> int:
    """How many a stage may have for a plan of so many `steps`, with room for scratch.

    Each, and each 1024 bytes of attributes, is kernel memory that its size does not count.
    """
    return 2 * steps + 50_000


def unavailable(step: object, error: OSError) -> RunnerError:
    """The error of a sandbox that could not be built at `step`."""
    where = getattr(step, "path", None) or (step if isinstance(step, str) else "")
    name = f" ({error.filename})" if error.filename else ""
    reason = f"{type(step).__name__ if where != step else ''} {where}: {error.strerror}{name}"
    return RunnerError("sandbox_unavailable", reason=reason.strip(), remedy=remedy(error))


def remedy(error: OSError) -> str:
    """What to do about a sandbox that could not be built."""
    restriction = _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if os.geteuid() != 0 and restriction == "1":
        return (
            "AppArmor forbids user namespaces to ordinary programs here: install shannot's "
            "AppArmor profile, or set kernel.apparmor_restrict_unprivileged_userns=0."
        )
    if os.geteuid() != 0 and _read("/proc/sys/user/max_user_namespaces") == "0":
        return "User namespaces are switched off: set user.max_user_namespaces above 0."
    if _read("/proc/sys/kernel/unprivileged_userns_clone") == "0" and os.geteuid() != 0:
        return "User namespaces are switched off: set kernel.unprivileged_userns_clone=1."
    if "overlay" not in (_read("/proc/filesystems") or ""):
        return "The kernel has no overlayfs: load the module overlay."
    return "Run `shannotctl doctor` for the details of this machine."


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _raise_loopback() -> None:
    """Bring lo up, so that a script may talk to servers of its own (netdevice(7))."""
    import fcntl
    import socket
    import struct

    up, get_flags, set_flags = 1, 0x8913, 0x8914
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as handle:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(handle, get_flags, request))[1]
        fcntl.ioctl(handle, set_flags, struct.pack("16sh22x", b"lo", flags | up))


def seal_proc() -> None:
    """Make /proc read-only, once the maps of user namespaces are written.

    What in it belongs to no process is the kernel's one copy for all, and uid 0 owns it: it
    could write there without any capability, and a chmod or chown would hold on the host.
    """
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
    try:
        _limit_tasks()
        _open_ports()
        kernel.mount(None, "/proc", None, flags | kernel.MS_NOEXEC | mounts.PROTECTED)
    except OSError as error:
        raise unavailable("/proc", error) from error


def refresh(plan: Blueprint) -> None:
    """Drop what the overlays cached of the host, and have those read-only that the host has so.

    A remount shrinks the superblock's dentry cache; without it a name that was absent stays
    absent and a replaced file keeps its old content.

    :raises RunnerError: an overlay could not be remounted.
    """
    flags = kernel.MS_REMOUNT | mounts.PROTECTED
    for overlay in plan.overlays:
        # What we copied to the stage is nobody else's to change.
        copied = overlay.lower.startswith(mounts.STAGE + "/")
        is_current = copied and not overlay.read_only
        if overlay.path not in plan.empty and not is_current:
            wanted = flags | kernel.MS_RDONLY if overlay.read_only else flags
            try:
                kernel.mount(None, overlay.path, None, wanted)
            except OSError as error:
                raise unavailable(overlay.path, error) from error


# Where the tree is within the script's place, while that is the root.
_TREE = "/sandbox"


def step_out() -> None:
    """Make the script's place, which is empty yet, the root of all processes of the sandbox.

    Who reads what is below /proc/PID/root of every process, as scanners do that look for files of
    packages, would have the overlays cache it, or hold on to it. They find nothing there now
    (pivot_root(2)).

    :raises OSError: it cannot be done.
    """
    os.mkdir(SCRIPT_DIRECTORY + _TREE, 0o700)
    kernel.pivot_root(SCRIPT_DIRECTORY, SCRIPT_DIRECTORY + _TREE)


def step_back() -> None:
    """Make the tree the root again.

    :raises OSError: it cannot be done.
    """
    kernel.pivot_root(_TREE, _TREE + SCRIPT_DIRECTORY)
    os.rmdir(SCRIPT_DIRECTORY + _TREE)


def _prepare_script_directory(builder: str) -> None:
    """Mount the place of the submitted bytes, with the empty file that covers hidden ones."""
    size = f"mode=755,size={SCRIPT_BYTES}"
    place = mounts.ROOT + SCRIPT_DIRECTORY
    kernel.mount("shannot", place, "tmpfs", mounts.PROTECTED, size)
    hidden = mounts.ROOT + HIDDEN_FILE
    os.close(os.open(hidden, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o000))
    if builder == PRIVILEGED:
        os.chown(hidden, UNMAPPED, UNMAPPED)
    library = mounts.ROOT + shims.LIBRARY
    for directory in (f"{place}/script", f"{place}/input", library, f"{library}/__pycache__"):
        os.mkdir(directory)
        os.chmod(directory, 0o755)
    for name, content, mode in shims.library():
        with open(f"{library}/{name}", "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)


def place_script(name: str, script: bytes, stdin: bytes) -> None:
    """Put the submitted bytes where every identity can read them and nobody write them."""
    try:
        for path, content, mode in (
            (f"{SCRIPT_DIRECTORY}/script/{name}", script, 0o555),
            (f"{SCRIPT_DIRECTORY}/input/stdin", stdin, 0o444),
        ):
            with open(path, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
        flags = kernel.MS_REMOUNT | kernel.MS_BIND | mounts.PROTECTED | kernel.MS_RDONLY
        kernel.mount(None, SCRIPT_DIRECTORY, None, flags)
    except OSError as error:
        raise unavailable("the script's place", error) from error
