"""What a sandbox of this host consists of: the list of mount operations, for both builders.

`privileged_operations` (root): one overlay for each of the host's mounts.
`one_uid_operations` (an ordinary user in a user namespace): one overlay for each directory
without mounts below it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from shannotd.runner import kernel, versions
from shannotd.runner.mounts import (
    PROTECTED,
    STAGE,
    Directories,
    Directory,
    Empty,
    File,
    Masked,
    Node,
    Operation,
    Overlay,
    Skeleton,
    Special,
    Symlink,
    Tmpfs,
)
from shannotd.runner.paths import above

# What the sandbox makes fresh. Nothing of the host is mounted at or below these.
FRESH = ("/proc", "/sys", "/dev", "/run")

# Filesystems without files of their own to overlay: they appear empty.
VIRTUAL = frozenset(
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl "
    "hugetlbfs mqueue nfsd nsfs proc pstore ramfs rpc_pipefs securityfs selinuxfs sysfs tracefs"
    " fuse.portal fuse.gvfsd-fuse fuse.lxcfs".split()
)

# Filesystems that nothing but this kernel changes: it hears of every change, and never waits long.
LOCAL = frozenset("ext2 ext3 ext4 xfs btrfs f2fs zfs tmpfs ramfs overlay squashfs erofs".split())

# Not even to be read: uid 0 could, without any capability.
PROC_MASKED = (
    "keys",
    "key-users",
    "latency_stats",
    "timer_list",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "vmallocinfo",
    "slabinfo",
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True)
class HostMount:
    """One line of mountinfo (proc_pid_mountinfo(5)).

    `reachable`: a path leads us there. If not, nobody of ours sees what is in it, but to the
    kernel it is a mount below the directories above it all the same. `is_directory` is None
    where the filesystem tells nobody of ours anything (FUSE: its owner only). `read_only`: by this
    mount, or as a whole.
    """

    path: str
    filesystem: str
    reachable: bool
    is_directory: Optional[bool]
    read_only: bool = False

    @property
    def opaque(self) -> bool:
        """Whether it can be no lower directory, and so appears empty."""
        return self.filesystem in VIRTUAL or self.is_directory is None


def _is_fresh(path: str) -> bool:
    return any(path == fresh or path.startswith(fresh + "/") for fresh in FRESH)


def host_mounts(mountinfo: str) -> List[HostMount]:
    """The mounts of this namespace, parents first.

    A mount that is covered by a later one (at its path or above) is left out. One below a
    directory that we may not search is kept: whether it is covered cannot be told.
    """
    found: Dict[str, HostMount] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        path = unescape(fields[4])
        filesystem = fields[fields.index("-") + 1]
        read_only = "ro" in (*fields[5].split(","), *fields[-1].split(","))
        if _is_fresh(path):
            continue
        try:
            identity, is_directory = _mount_at(path)
        except PermissionError:
            found[path] = HostMount(path, filesystem, reachable=False, is_directory=True)
            continue
        except OSError:
            continue
        if identity == int(fields[0]):
            found[path] = HostMount(path, filesystem, True, is_directory, read_only)
    return sorted(found.values(), key=lambda mount: mount.path)


def _mount_at(path: str) -> Tuple[int, Optional[bool]]:
    """The id of the mount that `path` leads to, and whether it is a directory, if that is told.

    :raises OSError: no path of ours leads there.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
            identity = next(int(line[7:]) for line in file if line.startswith("mnt_id:"))
        try:
            return identity, stat.S_ISDIR(os.fstat(descriptor).st_mode)
        except OSError:
            return identity, None
    finally:
        os.close(descriptor)


def held(mounts: Sequence[HostMount], extra: Sequence[str]) -> List[str]:
    """The directories that a sandbox of these holds on to: those above what is mounted in it, and
    the roots whose mode and owner it copies, where to look at them takes no time."""
    roots = {mount.path for mount in mounts if mount.is_directory and mount.filesystem in LOCAL}
    places = [*extra, *(mount.path for mount in mounts)]
    return sorted({*roots, *extra, *(directory for path in places for directory in above(path))})


def unescape(path: str) -> str:
    """Undo mountinfo's octal escapes of space, tab, newline and backslash."""
    for octal, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        path = path.replace(octal, character)
    return path


def common_operations(index: int, user: bool) -> Tuple[List[Operation], Overlay]:
    """What both builders put on top: /run, /dev, /proc, /sys. The overlay is that of /run."""
    owner = (os.geteuid(), os.getegid())
    run = Overlay("/run", f"{STAGE}/skeleton/{index}", index, user, 0o755, owner)
    operations: List[Operation] = [
        Directories(index, tuple(directories_of("/run", depth=2))),
        run,
        Tmpfs("/dev", 0o755, "16m", kernel.MS_NOSUID),
        *(Node(name) for name in DEVICES),
        Directory("/dev/pts"),
        Special(
            "devpts",
            "/dev/pts",
            kernel.MS_NOSUID | kernel.MS_NOEXEC,
            "newinstance,ptmxmode=0666,mode=620",
        ),
        Symlink("/dev/ptmx", "pts/ptmx"),
        Directory("/dev/shm"),
        Tmpfs("/dev/shm", 0o1777, "64m"),
        Symlink("/dev/fd", "/proc/self/fd"),
        Symlink("/dev/stdin", "/proc/self/fd/0"),
        Symlink("/dev/stdout", "/proc/self/fd/1"),
        Symlink("/dev/stderr", "/proc/self/fd/2"),
        Special("proc", "/proc", PROTECTED | kernel.MS_NOEXEC),
        Special("sysfs", "/sys", PROTECTED | kernel.MS_NOEXEC | kernel.MS_RDONLY, optional=True),
        *(Masked(f"/proc/{name}") for name in PROC_MASKED),
    ]
    return operations, run


def privileged_operations(
    mounts: Sequence[HostMount],
) -> Tuple[List[Operation], List[Overlay], List[str]]:
    """One overlay with trusted xattrs for each of the host's mounts.

    Returns the operations in order, the overlays among them, and the paths of mounts that cannot
    be lower directories and appear empty.
    """
    operations: List[Operation] = []
    overlays: List[Overlay] = []
    empty: List[str] = []
    for mount in mounts:
        if not mount.reachable:  # It is below one that is opaque.
            continue
        if mount.opaque:
            empty.append(mount.path)
            operations.append(Empty(mount.path))
        elif not mount.is_directory:
            operations.append(File(mount.path, versions.look(mount.path)))
        else:
            status = os.stat(mount.path)
            overlay = Overlay(
                mount.path,
                mount.path,
                len(overlays),
                user=False,
                root_mode=stat.S_IMODE(status.st_mode),
                root_owner=(status.st_uid, status.st_gid),
                optional=mount.path != "/",
                read_only=mount.read_only,
            )
            overlays.append(overlay)
            operations.append(overlay)
    fresh, run = common_operations(len(overlays), user=False)
    return operations + fresh, [*overlays, run], empty


def _mount_of(path: str, mounts: Sequence[HostMount]) -> HostMount:
    """That of `mounts` in which `path` lies."""
    above = (m for m in mounts if f"{path}/".startswith(m.path.rstrip("/") + "/"))
    return max(above, key=lambda mount: len(mount.path))


def one_uid_operations(
    mounts: Sequence[HostMount], extra: Sequence[str]
) -> Tuple[List[Operation], List[Overlay], List[str]]:
    """One userxattr overlay for each directory without mounts below it.

    `extra` are directories of other owners that this uid may write: a child made in one would
    need a copy-up of the directory to an owner that is not mapped (EOVERFLOW), so each gets
    an overlay whose root is the runner's own. Returns as `privileged_operations`.
    """
    by_path = {mount.path: mount for mount in mounts}
    barriers = set(by_path) | set(FRESH)
    operations: List[Operation] = []
    overlays: List[Overlay] = []
    empty = [mount.path for mount in mounts if mount.reachable and mount.opaque]

    def add(
        path: str, seen: Optional[Tuple[versions.Entry, ...]] = None, *, optional: bool = False
    ) -> None:
        owner = (os.geteuid(), os.getegid())
        index = len(overlays)
        lower = path
        try:
            mode = effective_mode(path)
        except OSError:  # The host has removed it meanwhile, or lets us list it only.
            return
        if seen is not None:
            lower = f"{STAGE}/skeleton/{index}"
            operations.append(Skeleton(path, index, seen))
        read_only = _mount_of(path, mounts).read_only
        overlay = Overlay(path, lower, index, True, mode, owner, optional, read_only)
        overlays.append(overlay)
        operations.append(overlay)

    def descend(path: str) -> None:
        prefix = path.rstrip("/") + "/"
        if not any(other.startswith(prefix) and other != path for other in barriers):
            add(path, optional=path in by_path)
            return
        if os.access(path, os.X_OK) and not os.access(path, os.R_OK):
            empty.append(path)  # What is in it can be reached by its name, but not listed.
            return
        seen = versions.entries(path)
        add(path, seen)
        for entry in seen:
            child = prefix + entry.name
            mount = by_path.get(child)
            if entry.is_directory and child not in FRESH and not (mount and mount.opaque):
                descend(child)

    descend("/")
    operations.extend(Empty(path) for path in empty)
    files = [mount.path for mount in mounts if mount.is_directory is False]
    operations.extend(File(path, versions.look(path)) for path in files)
    own = {overlay.path for overlay in overlays}
    for path in sorted(extra):
        if path not in own and path not in empty:
            add(path)
    fresh, run = common_operations(len(overlays), user=True)
    return operations + fresh, [*overlays, run], empty


def _subdirectories(path: str) -> List[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except OSError:
        return []


def effective_mode(path: str) -> int:
    """The host's mode of `path` with the owner bits that this uid really has there.

    The root of a one-uid overlay belongs to the runner, who must not gain by that.
    """
    status = os.stat(path, follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == os.geteuid():
        return mode
    mode &= ~0o6700
    for bit, right in ((os.R_OK, 0o400), (os.W_OK, 0o200), (os.X_OK, 0o100)):
        if os.access(path, bit):
            mode |= right
    return mode


def writable_directories_of_others(mounts: Sequence[HostMount], also: Sequence[str]) -> List[str]:
    """Directories of other owners, near the root or in `also`, in which this uid may create.

    Two levels are searched; deeper ones are named by doctor's limits.
    """
    uid = os.geteuid()
    found: List[str] = []
    roots = {"/", *(mount.path for mount in mounts if mount.is_directory)}
    candidates: List[str] = list(also)
    for root in sorted(roots):
        for name in _subdirectories(root):
            child = os.path.join(root, name)
            if child in FRESH:
                continue
            candidates.append(child)
            candidates.extend(os.path.join(child, below) for below in _subdirectories(child))
    for path in dict.fromkeys(candidates):
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError:
            continue
        if status.st_uid != uid and os.access(path, os.W_OK | os.X_OK):
            found.append(path)
    return found


def directories_of(path: str, depth: int, prefix: str = "") -> List[Tuple[str, int, int, int]]:
    """Relative path, mode and owner of the directories below `path`, parents first."""
    found: List[Tuple[str, int, int, int]] = []
    for name in _subdirectories(path):
        try:
            status = os.stat(f"{path}/{name}", follow_symlinks=False)
        except OSError:
            continue
        mode = stat.S_IMODE(status.st_mode)
        found.append((prefix + name, mode, status.st_uid, status.st_gid))
        if depth > 1:
            found.extend(directories_of(f"{path}/{name}", depth - 1, f"{prefix}{name}/"))
    return found
