"""Typed wrappers around the system calls that Python's library lacks.

Each raises OSError with the errno, the call's name and the object it was about. Numbers and
constants come from the kernel's uapi headers and hold for every architecture unless a
table says otherwise.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import lru_cache
from typing import Optional, Sequence, Union

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter lock: a clone must return in both processes without letting go of it.
_libc_locked = ctypes.PyDLL(None, use_errno=True)

PathLike = Union[str, bytes]

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17

# linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# linux/mount.h and linux/fcntl.h, for mount_setattr(2)
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SET_NAME = 15

# linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3

# linux/capability.h
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SYS_ADMIN": 21,
    "SETFCAP": 31,
}

# sys/inotify.h
IN_ATTRIB = 0x4
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_ONLYDIR = 0x01000000
IN_ONESHOT = 0x80000000

# Numbers that differ by architecture: asm/unistd_64.h and asm-generic/unistd.h.
_NUMBERS = {
    "x86_64": {"pivot_root": 155, "capset": 126, "seccomp": 317},
    "aarch64": {"pivot_root": 41, "capset": 91, "seccomp": 277},
}
_CLONE3, _CLOSE_RANGE, _PIDFD_GETFD = 435, 436, 438


def _number(name: str) -> int:
    machine = os.uname().machine
    if machine not in _NUMBERS:
        raise OSError(errno.ENOSYS, f"{name}: no system call number known for {machine}")
    return _NUMBERS[machine][name]


def _check(result: int, call: str, subject: Optional[PathLike] = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        name = os.fsdecode(subject) if subject is not None else None
        raise OSError(code, f"{call}: {os.strerror(code)}", name)
    return result


def mount(
    source: Optional[PathLike],
    target: PathLike,
    kind: Optional[str] = None,
    flags: int = 0,
    options: str = "",
) -> None:
    """mount(2).

    :raises OSError: with the target's path.
    """
    result = _libc.mount(
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(errors="surrogateescape") if options else None,
    )
    _check(result, f"mount {kind or 'bind'}", target)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace")]


def set_mount_attributes(target: PathLike, attributes: int) -> None:
    """mount_setattr(2), recursive: add `attributes` (MOUNT_ATTR_*) to all mounts of a tree."""
    given = _MountAttributes(attributes, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(target),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(given),
        ctypes.c_size_t(ctypes.sizeof(given)),
    )
    _check(result, "mount_setattr", target)


def unmount(target: PathLike, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new_root: PathLike, put_old: PathLike) -> None:
    """pivot_root(2)."""
    result = _libc.syscall(
        ctypes.c_long(_number("pivot_root")), os.fsencode(new_root), os.fsencode(put_old)
    )
    _check(result, "pivot_root", new_root)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def sethostname(name: str) -> None:
    """sethostname(2)."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, len(encoded)), "sethostname", name)


_SYSLOG_READ_ALL, _SYSLOG_SIZE_BUFFER = 3, 10  # syslog(2)


def read_log() -> bytes:
    """All of the kernel's log, as far as its buffer holds it.

    :raises OSError: PermissionError, where only root may read it.
    """
    size = _check(_libc.klogctl(_SYSLOG_SIZE_BUFFER, None, 0), "syslog")
    buffer = ctypes.create_string_buffer(size)
    length = _check(_libc.klogctl(_SYSLOG_READ_ALL, buffer, size), "syslog")
    return buffer.raw[:length]


def prctl(option: int, argument: int = 0, argument2: int = 0) -> int:
    """prctl(2) with integer arguments."""
    unsigned = ctypes.c_ulong
    result = _libc.prctl(option, unsigned(argument), unsigned(argument2), unsigned(0), unsigned(0))
    return _check(result, f"prctl {option}")


class _CloneArguments(ctypes.Structure):
    """struct clone_args of linux/sched.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def clone(flags: int, cgroup: Optional[int] = None, pids: Sequence[int] = ()) -> int:
    """fork(2) into the new namespaces of `flags` (CLONE_NEW*); 0 in the child.

    Unlike unshare and fork, only the child enters a new pid namespace. It is born in the cgroup
    whose directory is `cgroup`: moving it there later would stop every fork on the machine for
    some milliseconds. `pids` are the numbers that it gets, in the caller's pid namespace first and
    then in those around it, which takes CAP_SYS_ADMIN over each. Python's own fork hooks are run,
    so that the child's interpreter is as sound as after os.fork.

    :raises OSError: EEXIST: one of `pids` is taken; EINVAL: it is too large.
    """
    arguments = _CloneArguments(flags=flags, exit_signal=_SIGCHLD)
    numbers = (ctypes.c_int * len(pids))(*pids)
    if pids:
        arguments.set_tid, arguments.set_tid_size = ctypes.addressof(numbers), len(pids)
    if cgroup is not None:
        arguments.flags |= _CLONE_INTO_CGROUP
        arguments.cgroup = cgroup
    size = ctypes.c_size_t(ctypes.sizeof(arguments))
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = _libc_locked.syscall(ctypes.c_long(_CLONE3), ctypes.byref(arguments), size)
    code = ctypes.get_errno()
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone3: {os.strerror(code)}")
    return int(pid)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """close_range(2): close every descriptor from `first` to `last`."""
    arguments = (ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(0))
    _check(_libc.syscall(ctypes.c_long(_CLOSE_RANGE), *arguments), "close_range")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


_CAPABILITY_VERSION_3 = 0x20080522


@lru_cache(maxsize=None)
def last_capability() -> int:
    """The highest capability number that this kernel knows (proc(5))."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def drop_bounding(kept: int, last: int) -> None:
    """Empty the ambient set and reduce the bounding set to the bit mask `kept`.

    `last` is the highest capability of the kernel. Needs CAP_SETPCAP (capabilities(7)).
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(last + 1):
        if not kept >> capability & 1:
            prctl(PR_CAPBSET_DROP, capability)


def pidfd_getfd(process: int, number: int) -> int:
    """A duplicate of the descriptor `number` of the process that the pidfd `process` refers to."""
    result = _libc.syscall(ctypes.c_long(_PIDFD_GETFD), process, number, 0)
    return int(_check(result, "pidfd_getfd"))


def set_capabilities(kept: int) -> None:
    """Reduce the effective and permitted sets to the bit mask `kept`; inheritable becomes empty."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)()
    for index in (0, 1):
        word = kept >> (32 * index) & 0xFFFFFFFF
        data[index].effective = word
        data[index].permitted = word
    result = _libc.syscall(
        ctypes.c_long(_number("capset")), ctypes.byref(header), ctypes.byref(data)
    )
    _check(result, "capset")


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install_filter(program: bytes, *, listener: bool) -> int:
    """seccomp(2) SECCOMP_SET_MODE_FILTER of a compiled BPF `program`.

    Returns the notification descriptor where `listener` is asked for, else -1.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_program = _FilterProgram(len(program) // 8, ctypes.addressof(buffer))
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER if listener else 0
    result = _libc.syscall(
        ctypes.c_long(_number("seccomp")),
        ctypes.c_ulong(SECCOMP_SET_MODE_FILTER),
        ctypes.c_ulong(flags),
        ctypes.byref(filter_program),
    )
    _check(result, "seccomp")
    return int(result) if listener else -1


# linux/mount.h: the same numbers on every architecture.
_FSCONFIG, _FSPICK = 431, 433
_FSPICK_EMPTY_PATH = 8
_FSPICK_CLOEXEC = 1
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_RECONFIGURE = 7


def resize_tmpfs(directory: int, size: int, inodes: int) -> None:
    """Set the size in bytes, and in inodes, of the tmpfs whose root is `directory`.

    By fspick(2), since the tmpfs is not mounted at any path of the sandbox.
    """
    context = _libc.syscall(
        ctypes.c_long(_FSPICK),
        ctypes.c_int(directory),
        b"",
        ctypes.c_uint(_FSPICK_EMPTY_PATH | _FSPICK_CLOEXEC),
    )
    _check(context, "fspick")
    try:
        for name, number in ((b"size", size), (b"nr_inodes", inodes)):
            text = str(number).encode()
            _check(_fsconfig(context, _FSCONFIG_SET_STRING, name, text), "fsconfig")
        _check(_fsconfig(context, _FSCONFIG_CMD_RECONFIGURE, None, None), "fsconfig")
    finally:
        os.close(context)


def _fsconfig(context: int, command: int, key: Optional[bytes], value: Optional[bytes]) -> int:
    return int(
        _libc.syscall(
            ctypes.c_long(_FSCONFIG),
            ctypes.c_int(context),
            ctypes.c_uint(command),
            key,
            value,
            ctypes.c_int(0),
        )
    )


def inotify_init() -> int:
    """A new inotify(7) descriptor, which does not block and is closed at exec."""
    return _check(int(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)), "inotify_init1")


def inotify_add_watch(descriptor: int, path: PathLike, events: int) -> int:
    """inotify_add_watch(2) for `events` (IN_*); the watch's number."""
    result = _libc.inotify_add_watch(descriptor, os.fsencode(path), ctypes.c_uint32(events))
    return _check(int(result), "inotify_add_watch", path)
