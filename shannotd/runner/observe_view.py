"""What an observed program sees: the host's tree, read-only, without what is hidden.

One overlay without an upper layer for each of the host's mounts, never a bind: through a
bind mount, also a read-only one, a socket of the host's can be connected to, a FIFO written,
a lock or lease taken. An overlay has inodes of its own for all of these. Only /proc and /sys
are the host's mounts themselves.

In the order of calling, in the observation's own mount namespace: `enter`, `show`, `show_mounts`,
`seal`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Set, Tuple, Union

from shannotd.runner import kernel, layout, observe_shown, sandbox
from shannotd.runner.hiding import hidden_paths
from shannotd.runner.mounts import (
    PROTECTED,
    ROOT,
    STAGE,
    Directory,
    Empty,
    File,
    Node,
    Operation,
    Overlay,
    Skeleton,
    Symlink,
    Tmpfs,
    escape,
    give,
)

# Directories of /run that programs read and anybody may; /run is fresh but for these, the users'
# table and the sockets that a rule names.
_RUN_DIRECTORIES = ("/run/log/journal", "/run/udev/data")
_RUN_FILE = "/run/utmp"
_RUN_FILE_BYTES = 1 << 20
TEMPORARY = "/dev/shm"
_HIDDEN_FILE = "/run/.hidden"

# Not even to be read: uid 0 could, and reading some of it has effects.
_KERNEL_HIDDEN = (
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
    *(f"/proc/{name}" for name in layout.PROC_MASKED),
)
_DEVICES = ("null", "zero", "full", "random", "urandom")

_READ_ONLY = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID
_KERNEL_FILES = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True)
class Lower:
    """A read-only overlay of `lower` (a host path, or a skeleton) seen at `path`.

    The kernel wants two layers where none can be written: the other one is empty. An overlay says
    the free space of its first layer (statfs(2)): where `lower` is a skeleton, that must be an
    empty directory of the host's, `space`.
    """

    path: str
    lower: str
    user: bool
    optional: bool
    space: Optional[str] = None

    def execute(self) -> None:
        """Mount it."""
        target = ROOT + self.path if self.path != "/" else ROOT
        kind = "userxattr" if self.user else "redirect_dir=nofollow,metacopy=off,index=off"
        both = [self.lower, f"{STAGE}/empty"] if self.space is None else [self.space, self.lower]
        layers = "lowerdir=" + ":".join(map(escape, both))
        flags = PROTECTED | kernel.MS_RDONLY
        kernel.mount("shannot", target, "overlay", flags, f"{layers},{kind}")


@dataclass(frozen=True)
class KernelFiles:
    """The host's own /proc, /sys or /dev/pts with all that is mounted below.

    Names and numbers of terminals can be looked up, no device can be opened. `seal` makes it
    read-only.
    """

    path: str

    def execute(self) -> None:
        """Bind it, then take away what it allows."""
        target = ROOT + self.path
        kernel.mount(self.path, target, None, kernel.MS_BIND | kernel.MS_REC)
        kernel.set_mount_attributes(target, _KERNEL_FILES)


Mounting = Union[Operation, Lower, KernelFiles]


@dataclass(frozen=True)
class Found:
    """Something of the host's, held open since the stage covers the way to it."""

    path: str
    descriptor: int

    @property
    def source(self) -> str:
        """A path that leads to it."""
        return f"/proc/self/fd/{self.descriptor}"


def enter(
    builder: str,
    sockets: Sequence[str],
    hide: Sequence[str],
    always: Sequence[str],
    caller: Optional[int],
) -> Tuple[bytes, bytes]:
    """Make the view in this process's own mount namespace and enter it.

    `sockets` are the host's to be reached, `hide` patterns and `always` paths to be covered, and
    `caller` a process that is not to be seen. Returns the host's mountinfo and mounts, for
    `show_mounts`.

    :raises RunnerError: `sandbox_unavailable`, naming what failed.
    """
    step: object = "the stage"
    try:
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        hidden = hidden_paths(hide, always)
        operations = _operations(builder)
        tables = _mount_tables(operations)
        entries = layout.directories_of("/run", depth=2)
        open_sockets = _find(sockets, stat.S_ISSOCK)
        directories = _find(_RUN_DIRECTORIES, stat.S_ISDIR)
        users = _read_small(_RUN_FILE)
        kernel.mount("shannot", STAGE, "tmpfs", PROTECTED, "mode=700,size=64m")
        for name in ("root", "empty", "skeleton"):
            os.mkdir(f"{STAGE}/{name}")
        for operation in operations:
            step = operation
            _execute(operation)
        step = "/run"
        _fill_run(entries, users)
        user = builder == sandbox.ONE_UID
        for found in directories:
            Lower(found.path, found.source, user, optional=True).execute()
        for found in open_sockets:
            _bind_socket(found)
        step = "entering the root"
        os.chdir(ROOT)
        kernel.pivot_root(".", ".")
        kernel.unmount(".")
        os.chdir("/")
    except OSError as error:
        raise sandbox.unavailable(step, error) from error
    for found in (*open_sockets, *directories):
        os.close(found.descriptor)
    sandbox.mask([*hidden, *_KERNEL_HIDDEN], _HIDDEN_FILE)
    if caller is not None:
        _leave_out(caller)
    return tables


def _leave_out(process: int) -> None:
    """Make a process look as one does that has just ended.

    :raises RunnerError: `sandbox_unavailable`.
    """
    flags = PROTECTED | kernel.MS_RDONLY | kernel.MS_NOEXEC
    try:
        kernel.mount("shannot", f"/proc/{process}", "tmpfs", flags, "mode=555,size=4k")
    except FileNotFoundError:
        pass  # it has
    except OSError as error:
        raise sandbox.unavailable("leaving out who called", error) from error


def show(shown: observe_shown.Shown) -> None:
    """Lay over the view what the rule shows.

    :raises RunnerError: `sandbox_unavailable`.
    """
    try:
        observe_shown.lay(shown, TEMPORARY)
    except OSError as error:
        raise sandbox.unavailable("what the program is shown", error) from error


def show_mounts(process: int, tables: Tuple[bytes, bytes]) -> None:
    """Let the process that the host's /proc calls `process` see the host's mount table.

    df, mount and findmnt are asked about the host, not about the view.

    :raises RunnerError: `sandbox_unavailable`.
    """
    try:
        for name, content in zip(("mountinfo", "mounts"), tables):
            place = f"/run/.{name}"
            with open(place, "wb") as file:
                file.write(content)
            os.chmod(place, 0o444)
            kernel.mount(place, f"/proc/{process}/{name}", None, kernel.MS_BIND)
            os.unlink(place)
    except OSError as error:
        raise sandbox.unavailable("the host's mount table", error) from error


def _mount_tables(operations: Sequence[Mounting]) -> Tuple[bytes, bytes]:
    """The host's mountinfo and mounts, but for mounts whose place in the view is no such thing."""
    unlike = {"/run", "/dev"}
    for operation in operations:
        if isinstance(operation, (Empty, File)) or (
            isinstance(operation, Lower)
            and operation.lower.startswith(STAGE)
            and not operation.space
        ):
            unlike.add(operation.path)
    names = {_octal(path) for path in unlike}
    tables = []
    for name, column in (("mountinfo", 4), ("mounts", 1)):
        with open(f"/proc/self/{name}", "rb") as file:
            lines = file.readlines()
        tables.append(
            b"".join(line for line in lines if not _is_in(line.split(b" ")[column], names))
        )
    return tables[0], tables[1]


def _is_in(path: bytes, names: Set[bytes]) -> bool:
    return path in names or path.startswith((b"/run/", b"/dev/"))


def _octal(path: str) -> bytes:
    """A path as mount tables write it (proc_pid_mountinfo(5))."""
    for character in "\\ \t\n":
        path = path.replace(character, f"\\{ord(character):03o}")
    return os.fsencode(path)


def seal() -> None:
    """Make everything read-only but the program's temporary directory.

    :raises RunnerError: `sandbox_unavailable`.
    """
    try:
        os.unlink(_HIDDEN_FILE)
        kernel.set_mount_attributes("/", _READ_ONLY)
        flags = PROTECTED | kernel.MS_NOEXEC
        kernel.mount("shannot", TEMPORARY, "tmpfs", flags, "mode=1777,size=16m,nr_inodes=4096")
    except OSError as error:
        raise sandbox.unavailable("making the view read-only", error) from error


def _operations(builder: str) -> List[Mounting]:
    """The mounts of the view but for what `enter` adds to /run."""
    visible = layout.host_mounts(sandbox.read_mountinfo())
    points = {mount.path for mount in visible}
    user = builder == sandbox.ONE_UID
    given: List[Operation]
    if user:
        given, _, _ = layout.one_uid_operations(visible, [])
    else:
        given, _, _ = layout.privileged_operations(visible)
    operations: List[Mounting] = []
    for operation in given:
        if isinstance(operation, Overlay) and operation.path not in layout.FRESH:
            skeleton = operation.lower.startswith(STAGE) and operation.path in points
            space = _empty_directory(operation.path) if skeleton else None
            optional = operation.optional
            operations.append(Lower(operation.path, operation.lower, user, optional, space))
        elif isinstance(operation, (Empty, File, Skeleton)):
            operations.append(operation)
    return [
        *operations,
        Tmpfs("/dev", 0o755, "1m", kernel.MS_NOSUID),
        *(Node(name) for name in _DEVICES),
        Directory("/dev/pts"),
        KernelFiles("/dev/pts"),
        Directory(TEMPORARY),
        Symlink("/dev/fd", "/proc/self/fd"),
        Symlink("/dev/stdin", "/proc/self/fd/0"),
        Symlink("/dev/stdout", "/proc/self/fd/1"),
        Symlink("/dev/stderr", "/proc/self/fd/2"),
        KernelFiles("/proc"),
        KernelFiles("/sys"),
        Tmpfs("/run", 0o755, "4m"),
    ]


def _empty_directory(root: str) -> Optional[str]:
    """An empty directory near `root` and on its filesystem."""
    waiting, device = [root], os.stat(root).st_dev
    for _ in range(2):
        below = [f"{top.rstrip('/')}/{name}" for top in waiting for name in _directories(top)]
        waiting = [path for path in below if path not in layout.FRESH]
        for path in waiting:
            try:
                if os.stat(path).st_dev == device and not os.listdir(path):
                    return path
            except OSError:
                continue
    return None


def _directories(path: str) -> List[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _execute(operation: Mounting) -> None:
    try:
        operation.execute()
    except OSError as error:
        if not isinstance(operation, Lower):
            raise
        if isinstance(error, FileNotFoundError) and not operation.lower.startswith(STAGE):
            return  # a directory of the host's that was gone, if only for a moment
        if not operation.optional:
            raise
        Empty(operation.path).execute()


def _find(paths: Sequence[str], wanted: Callable[[int], bool]) -> List[Found]:
    """Those of `paths` that are there and of the wanted kind, by where links lead."""
    found = []
    for place in dict.fromkeys(map(os.path.realpath, paths)):
        try:
            descriptor = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        if wanted(os.fstat(descriptor).st_mode):
            found.append(Found(place, descriptor))
        else:
            os.close(descriptor)
    return found


def _read_small(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            return file.read(_RUN_FILE_BYTES)
    except OSError:
        return b""


def _fill_run(entries: Sequence[Tuple[str, int, int, int]], users: bytes) -> None:
    """The host's directories of /run, empty, and the table of who is logged in."""
    for relative, mode, uid, gid in entries:
        place = f"{ROOT}/run/{relative}"
        os.mkdir(place)
        give(place, uid, gid)
        os.chmod(place, mode)
    _write(ROOT + _RUN_FILE, users, 0o644)
    _write(ROOT + _HIDDEN_FILE, b"", 0o000)


def _write(path: str, content: bytes, mode: int) -> None:
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def _bind_socket(found: Found) -> None:
    """Put a socket of the host's where it is on the host."""
    target = ROOT + found.path
    if found.path.startswith("/run/"):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _write(target, b"", 0o000)
    kernel.mount(found.source, target, None, kernel.MS_BIND)
