"""What an observed program sees: the host's tree, read-only, without what is hidden.

One overlay without an upper layer for each of the host's mounts, never a bind: through a
bind mount, also a read-only one, a socket of the host's can be connected to, a FIFO written,
a lock or lease taken. An overlay has inodes of its own for all of these. Only /proc, /sys and a
few device nodes are the host's themselves.

In the order of calling, in the observation's own mount namespace: `enter`, `show_mounts`, `seal`.
"""

from __future__ import annotations

import os
from typing import List, Optional, Sequence, Set, Union

from shannotd.runner import (
    kernel,
    layout,
    masks,
    observe_run,
    observe_shown,
    observe_tables,
    sandbox,
)
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
)
from shannotd.runner.observe_mounts import Disks, KernelFiles, Lower, empty_directory
from shannotd.runner.observe_run import TEMPORARY

_HIDDEN_FILE = TEMPORARY + "/hidden"

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

Mounting = Union[Operation, Lower, KernelFiles, Disks]


def enter(
    builder: str,
    sockets: Sequence[str],
    hide: Sequence[str],
    always: Sequence[str],
    caller: Optional[int],
    shown: observe_shown.Shown,
    tables: observe_tables.Tables,
) -> observe_tables.Tables:
    """Make the view in this process's own mount namespace and enter it.

    `sockets` are the host's to be reached, `hide` patterns and `always` paths to be covered,
    `caller` is a process that is not to be seen, `shown` what the rule shows, and `tables` are the
    host's mount tables. Returns these for `show_mounts`.

    :raises RunnerError: `sandbox_unavailable`, naming what failed.
    """
    step: object = "the stage"
    user = builder == sandbox.ONE_UID
    try:
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        hidden = hidden_paths(hide, always)
        operations = _operations(user, shown.disks)
        run = observe_run.look(sockets, tables.paths("tmpfs"))
        kernel.mount("shannot", STAGE, "tmpfs", PROTECTED, "mode=700,size=64m")
        for name in ("root", "empty", "skeleton"):
            os.mkdir(f"{STAGE}/{name}")
        for operation in operations:
            step = operation
            _execute(operation)
        step = "/run"
        observe_run.mount(run, shown.files, user)
        if not shown.all_mounts:
            tables = tables.leave_out({*_unlike(operations), *hidden, *_KERNEL_HIDDEN})
        if shown.once:
            tables = tables.once()
        step = "entering the root"
        os.chdir(ROOT)
        kernel.pivot_root(".", ".")
        kernel.unmount(".")
        os.chdir("/")
        step = "what the program is shown"
        _lay(shown)
        observe_run.write(_HIDDEN_FILE, b"", 0o000)
    except OSError as error:
        raise sandbox.unavailable(step, error) from error
    run.close()
    masks.mask([*hidden, *_KERNEL_HIDDEN], _HIDDEN_FILE)
    if caller is not None:
        _leave_out(caller)
    return tables


def _lay(shown: observe_shown.Shown) -> None:
    """Put links and copies into the view; they are made in a filesystem of their own.

    :raises OSError: it cannot be made or mounted.
    """
    links = dict(shown.links)
    if links:
        # This process, an init, was not there when they were read.
        links[f"/proc/{os.readlink('/proc/self')}/fd"] = {}
    if not (links or shown.copies):
        return
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("shannot", TEMPORARY, "tmpfs", flags, "mode=755,size=64m")
    try:
        os.mkdir(f"{TEMPORARY}/none")
        for number, (path, targets) in enumerate(links.items()):
            place = f"{TEMPORARY}/{number}" if targets else f"{TEMPORARY}/none"
            if targets:
                os.mkdir(place)
            for name, target in targets.items():
                os.symlink(target, f"{place}/{name}")
            _cover(path, place)
        for path, contents in shown.copies.items():
            place = f"{TEMPORARY}/{os.path.basename(path)}"
            os.mkdir(place)
            for name, content in contents.items():
                with open(f"{place}/{name}", "wb") as file:
                    file.write(content)
            _cover(path, place)
    finally:
        kernel.unmount(TEMPORARY)  # what covers something stays


def _cover(path: str, copy: str) -> None:
    try:
        kernel.mount(copy, path, None, kernel.MS_BIND)
    except FileNotFoundError:
        pass  # the process is gone


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


def show_mounts(process: int, tables: observe_tables.Tables) -> None:
    """Let the process that the host's /proc calls `process` see the host's mount tables.

    :raises RunnerError: `sandbox_unavailable`.
    """
    try:
        for name, _ in observe_tables.FILES:
            place = f"{TEMPORARY}/{name}"
            observe_run.write(place, b"".join(tables.lines[name]), 0o444)
            kernel.mount(place, f"/proc/{process}/{name}", None, kernel.MS_BIND)
    except OSError as error:
        raise sandbox.unavailable("the host's mount table", error) from error


def _unlike(operations: Sequence[Mounting]) -> Set[str]:
    """Where the view has something else than the host, which says another size."""
    return {
        operation.path
        for operation in operations
        if isinstance(operation, (Empty, File))
        or (
            isinstance(operation, Lower)
            and operation.lower.startswith(STAGE)
            and not operation.space
        )
    }


def seal() -> None:
    """Make everything read-only but the program's temporary directory.

    :raises RunnerError: `sandbox_unavailable`.
    """
    try:
        kernel.unmount(TEMPORARY)  # what was made in it and covers something stays
        kernel.set_mount_attributes("/", _READ_ONLY)
        observe_run.seal()
    except OSError as error:
        raise sandbox.unavailable("making the view read-only", error) from error


def _operations(user: bool, disks: bool) -> List[Mounting]:
    """The mounts of the view but for /run."""
    visible = layout.host_mounts(sandbox.read_mountinfo())
    points = {mount.path for mount in visible}
    given: List[Operation]
    if user:
        given, _, _ = layout.one_uid_operations(visible, [])
    else:
        given, _, _ = layout.privileged_operations(visible)
    operations: List[Mounting] = []
    for operation in given:
        if isinstance(operation, Overlay) and operation.path not in layout.FRESH:
            skeleton = operation.lower.startswith(STAGE) and operation.path in points
            space = empty_directory(operation.path) if skeleton else None
            optional = operation.optional
            operations.append(Lower(operation.path, operation.lower, user, optional, space))
        elif isinstance(operation, (Empty, File, Skeleton)):
            operations.append(operation)
    return [
        *operations,
        Tmpfs("/dev", 0o755, "1m", kernel.MS_NOSUID),
        *(Node(name) for name in _DEVICES),
        *([Disks()] if disks else ()),
        Directory("/dev/pts"),
        KernelFiles("/dev/pts"),
        Directory("/dev/shm"),
        Lower("/dev/shm", "/dev/shm", user, optional=True),
        Symlink("/dev/fd", "/proc/self/fd"),
        Symlink("/dev/stdin", "/proc/self/fd/0"),
        Symlink("/dev/stdout", "/proc/self/fd/1"),
        Symlink("/dev/stderr", "/proc/self/fd/2"),
        KernelFiles("/proc"),
        KernelFiles("/sys"),
    ]


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
