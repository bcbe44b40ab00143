"""System calls of a process as another one meets them: seccomp's user notification.

A process installs a filter over the calls of some kinds; each of its calls (and of its
children's, which inherit the filter) then waits until who holds the listener has answered.
Nothing in the process knows of it. See seccomp_unotify(2); this is for tests: a call that is let
go on is read again by the kernel, which would decide nothing about security.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from shannotd.runner import kernel, seccomp

# What changes a filesystem; opening counts where its flags say that it makes or writes.
CHANGING = (
    "creat rename renameat renameat2 link linkat symlink symlinkat mkdir mkdirat mknod mknodat "
    "rmdir unlink unlinkat truncate ftruncate fallocate write pwrite64 writev pwritev pwritev2 "
    "copy_file_range sendfile splice chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat "
    "setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr utime utimes futimesat "
    "utimensat"
).split()
SYNCING = "fsync fdatasync syncfs sync sync_file_range msync".split()
LOCKING = ["flock"]
OPENING = ["open", "openat", "openat2"]
STARTING = "fork vfork clone clone3 execve execveat".split()
# What a process tells others, and its end. Not sendmsg: by that the listener itself is passed on.
TELLING = "sendto exit_group".split()
READING = (
    "read pread64 readv lseek stat lstat newfstatat fstat statx statfs fstatfs access faccessat "
    "faccessat2 getdents64 readlink readlinkat getxattr lgetxattr fgetxattr listxattr llistxattr "
    "flistxattr"
).split()
WRITING = ("write", "pwrite64")
# linux/fs.h: _IOW(0x94, 9, int), _IOW(0x94, 13, ...), FS_IOC_SETFLAGS.
_CHANGING_IOCTLS = (0x40049409, 0x4020940D, 0x40086602)
_OPEN_CHANGES = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR | (os.O_TMPFILE & ~os.O_DIRECTORY)
# Which argument has the flags of a call that opens; openat2's are in memory.
_FLAGS_ARGUMENT = {"open": 1, "openat": 2}

# linux/seccomp.h: struct seccomp_notif, seccomp_notif_resp, their ioctls and flags.
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_RECEIVE, _SEND, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082104
_SYNC_WAKE_UP = 1
_CONTINUE = 1
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000

# linux/bpf_common.h
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_OFFSET, _ARGUMENTS_OFFSET = 0, 16  # of struct seccomp_data
_PIDFD_GETFD = 438
_AT_FDCWD = -100


@cache
def number(name: str) -> int:
    """The number of a system call on this machine; negative where it has none."""
    found: int = seccomp.load_library().seccomp_syscall_resolve_name(name.encode())
    return found


@cache
def _names() -> dict[int, str]:
    kinds = (CHANGING, SYNCING, LOCKING, OPENING, STARTING, TELLING, READING, ["ioctl"])
    return {number(name): name for kind in kinds for name in kind if number(name) >= 0}


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


@cache
def compile_filter(*, opening: bool, reading: bool = False) -> bytes:
    """A BPF program that holds all that changes something, syncs, locks, starts or tells.

    With `opening` also what opens for reading, with `reading` what looks.
    """
    assert platform.machine() in ("x86_64", "aarch64"), "the offset of an argument's lower half"
    program = _instruction(_LOAD, _NUMBER_OFFSET)
    for name, argument in _FLAGS_ARGUMENT.items():
        if number(name) >= 0 and not opening:
            program += _instruction(_EQUAL, number(name), 0, 4)
            program += _instruction(_LOAD, _ARGUMENTS_OFFSET + 8 * argument)
            program += _instruction(_ANY_BIT, _OPEN_CHANGES, 0, 1)
            program += _instruction(_RETURN, _NOTIFY)
            program += _instruction(_RETURN, _ALLOW)
    program += _instruction(_EQUAL, number("ioctl"), 0, 3 + len(_CHANGING_IOCTLS))
    program += _instruction(_LOAD, _ARGUMENTS_OFFSET + 8)
    for position, request in enumerate(_CHANGING_IOCTLS):
        program += _instruction(_EQUAL, request, len(_CHANGING_IOCTLS) - position)
    program += _instruction(_RETURN, _ALLOW)
    program += _instruction(_RETURN, _NOTIFY)
    held = [*CHANGING, *SYNCING, *LOCKING, *STARTING, *TELLING]
    held += OPENING if opening else []
    held += READING if reading else []
    for name in held:
        if number(name) >= 0:
            program += _instruction(_EQUAL, number(name), 0, 1) + _instruction(_RETURN, _NOTIFY)
    return program + _instruction(_RETURN, _ALLOW)


def install(program: bytes) -> int:
    """Have `program` hold this process's calls from now on; the listener's descriptor."""
    if os.geteuid() != 0:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    return kernel.install_filter(program, listener=True)


@dataclass(frozen=True)
class Held:
    """A call that waits for its answer; `arguments` as they are in its registers."""

    listener: int
    identifier: int
    pid: int
    name: str
    arguments: Sequence[int]

    def go(self) -> None:
        """Let it happen."""
        self._answer(0, 0, _CONTINUE)

    def fail(self, code: int) -> None:
        """Have it return the error `code`; it does not happen."""
        self._answer(0, -code, 0)

    def write_half(self) -> int | None:
        """Write half of what it would write, and return how much; None where it writes none."""
        if self.name not in WRITING:
            return None
        descriptor, address, size, offset = self.arguments[:4]
        data = self._memory(address, size)[: size // 2]
        process = os.pidfd_open(self.pid)
        try:
            copy = _descriptor_of(process, _signed(descriptor))
            try:
                if self.name == "write":
                    return os.write(copy, data) if data else 0
                return os.pwrite(copy, data, offset)
            finally:
                os.close(copy)
        finally:
            os.close(process)

    def returned(self, value: int) -> None:
        """Have it return `value`; it does not happen."""
        self._answer(value, 0, 0)

    @property
    def changes(self) -> bool:
        """Whether it changes a filesystem (a descriptor that it writes to may be no file)."""
        if self.name in _FLAGS_ARGUMENT:
            return bool(self.arguments[_FLAGS_ARGUMENT[self.name]] & _OPEN_CHANGES)
        if self.name == "openat2":
            (flags,) = struct.unpack("=Q", self._memory(self.arguments[2], 8))
            return bool(flags & _OPEN_CHANGES)
        return self.name in CHANGING or self.name == "ioctl"

    @property
    def path(self) -> str:
        """The path that it is about, as far as that can be told; of two, the last."""
        found = self._path()
        magic = "/proc/self/fd/"
        if found.startswith(magic):
            return self._link(f"fd/{found.removeprefix(magic)}")
        return found

    def _path(self) -> str:
        name, arguments = self.name, self.arguments
        if name in ("renameat", "renameat2", "linkat"):
            return self._below(_signed(arguments[2]), self._string(arguments[3]))
        if name == "symlinkat":
            return self._below(_signed(arguments[1]), self._string(arguments[2]))
        if name.endswith(("at", "at2")) or name == "statx":
            path = self._string(arguments[1]) if arguments[1] else ""
            return self._below(_signed(arguments[0]), path)
        if name in ("rename", "link", "symlink"):
            return self._below(_AT_FDCWD, self._string(arguments[1]))
        if name in _BY_PATH:
            return self._below(_AT_FDCWD, self._string(arguments[0]))
        if name == "copy_file_range":
            return self._link(f"fd/{_signed(arguments[2])}")
        if name in (*STARTING, "exit_group", "sync"):
            return ""
        return self._link(f"fd/{_signed(arguments[0])}")

    def _below(self, directory: int, path: str) -> str:
        if path.startswith("/"):
            return path
        base = self._link("cwd" if directory == _AT_FDCWD else f"fd/{directory}")
        return f"{base.rstrip('/')}/{path}" if path else base

    def _link(self, name: str) -> str:
        try:
            return os.readlink(f"/proc/{self.pid}/{name}")
        except OSError:
            return ""

    def _string(self, address: int) -> str:
        data = self._memory(address, 4096)
        return os.fsdecode(data.split(b"\0")[0])

    def _memory(self, address: int, size: int) -> bytes:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            parts = b""
            while len(parts) < size:
                # To the end of the page: what follows may not be mapped.
                step = min(size - len(parts), 4096 - (address + len(parts)) % 4096)
                memory.seek(address + len(parts))
                try:
                    parts += memory.read(step)
                except OSError:
                    break
            return parts

    def _answer(self, value: int, error: int, flags: int) -> None:
        response = _RESPONSE.pack(self.identifier, value, error, flags)
        try:
            fcntl.ioctl(self.listener, _SEND, response)
        except OSError as failure:
            if failure.errno != errno.ENOENT:  # It was killed meanwhile.
                raise


_BY_PATH = (
    "open creat mkdir mknod rmdir unlink truncate chmod chown lchown setxattr lsetxattr "
    "removexattr lremovexattr utime utimes stat lstat statfs access readlink getxattr lgetxattr "
    "listxattr llistxattr"
).split()


def listen(listener: int) -> None:
    """Prepare a listener: who waits runs next on this processor (since Linux 6.6)."""
    try:
        fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)
    except OSError:
        pass


def receive(listener: int) -> Held | None:
    """The next call that waits; None if its process was killed in between."""
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identifier, pid, _, call, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Held(listener, identifier, pid, _names().get(call, str(call)), arguments)


def _signed(value: int) -> int:
    return ctypes.c_int(value & 0xFFFFFFFF).value


def _descriptor_of(process: int, descriptor: int) -> int:
    """A copy of another process's descriptor, which shares its position (pidfd_getfd(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    copy = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return int(copy)
