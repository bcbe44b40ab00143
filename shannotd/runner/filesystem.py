"""Typed wrappers of the system calls on files that the standard library lacks.

Each raises OSError with the call's name and the path. Nothing here follows a symlink:
paths resolve with openat2(2) and RESOLVE_NO_SYMLINKS, names relative to descriptors.
Descriptors are close-on-exec and the caller's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from typing import Any, List, NamedTuple, Tuple

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000

# openat2(2); the number is the same on every architecture.
SYS_OPENAT2 = 437
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

RENAME_NOREPLACE = 1  # renameat2(2)
RENAME_EXCHANGE = 2

# statx(2): STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, and the attribute bits.
_STATX_MASK = 0x7FF | 0x800 | 0x1000
_STATX_ATTR_IMMUTABLE = 0x10
_STATX_ATTR_APPEND = 0x20
_STATX_ATTR_MOUNT_ROOT = 0x2000
_STATX = struct.Struct("=IIQIIIHxxQQQQqIxxxxqIxxxxqIxxxxqIxxxxIIIIQ")
_STATX_SIZE = 256

O_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
O_DIRECTORY_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
O_DIRECTORY_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
O_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# A path is opened in pieces shorter than PATH_MAX (4096 with the final NUL).
_PIECE_BYTES = 4000
# So many directories of a chain are held open; those above are reached again by "..".
_OPEN_LEVELS = 48

Identity = Tuple[int, int]  # device and inode
Incarnation = Tuple[int, int, int]  # and when it was made
Lasting = Tuple[int, int]  # inode and when it was made


class Status(NamedTuple):
    """What statx(2) tells of one inode and of the mount that it was reached by."""

    mode: int
    uid: int
    gid: int
    size: int
    links: int
    device: int
    inode: int
    mtime_ns: int
    ctime_ns: int
    born_ns: int
    special: Tuple[int, int]
    mount: int
    mount_root: bool
    immutable: bool
    append_only: bool

    @property
    def identity(self) -> Identity:
        """Device and inode."""
        return self.device, self.inode

    @property
    def incarnation(self) -> Incarnation:
        """What no later file has: numbers of inodes that are gone are used again.

        Not for a file that an overlay may still copy up, which is born a second time.
        """
        return self.device, self.inode, self.born_ns

    @property
    def lasting(self) -> Lasting:
        """Which it is on its filesystem, also after a restart, when devices have other numbers."""
        return self.inode, self.born_ns


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_long)]


_libc = ctypes.CDLL(None, use_errno=True)


def _function(name: str, *arguments: Any) -> Any:
    function = getattr(_libc, name)
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function


_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(_OpenHow),
    ctypes.c_size_t,
]
_renameat2 = _function(
    "renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)
_statx = _function(
    "statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p
)
_syncfs = _function("syncfs", ctypes.c_int)
_fallocate = _function("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fchownat = _function(
    "fchownat", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_int
)
_utimensat = _function(
    "utimensat", ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_Timespec), ctypes.c_int
)


def _failure(call: str, path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}", path)


def openat2(directory: int, path: str, flags: int, *, resolve: int) -> int:
    """A descriptor of `path` below `directory`, as openat2(2) resolves it.

    :raises OSError: among them ELOOP where a component is a symlink.
    """
    if flags & os.O_DIRECTORY:
        # With O_PATH it would open the symlink itself, and ENOTDIR hide that it is one.
        flags &= ~os.O_NOFOLLOW
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(64):
        descriptor = int(
            _syscall(
                SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
            )
        )
        # EAGAIN: the kernel could not be sure because of a rename beside it (openat2(2)).
        if descriptor >= 0 or ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    if descriptor < 0:
        raise _failure("openat2", path)
    return descriptor


def open_directory(path: str, flags: int = O_DIRECTORY_PATH) -> int:
    """The directory at the absolute `path`, of any length, no component a symlink."""
    if not path.startswith("/"):
        raise OSError(errno.EINVAL, "openat2: not an absolute path", path)
    root = os.open("/", O_DIRECTORY_PATH)
    try:
        return open_below(root, path.lstrip("/"), flags)
    finally:
        os.close(root)


def open_below(directory: int, path: str, flags: int) -> int:
    """What is at the relative `path` (of any length) below `directory`, by openat2.

    No component may be a symlink and none may lead out of `directory`.
    """
    resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH
    pieces = _pieces(path)
    current = directory
    try:
        for piece in pieces[:-1]:
            below = openat2(current, piece, O_DIRECTORY_PATH, resolve=resolve)
            if current != directory:
                os.close(current)
            current = below
        return openat2(current, pieces[-1], flags, resolve=resolve)
    except OSError as error:
        error.filename = path
        raise
    finally:
        if current != directory:
            os.close(current)


def _pieces(path: str) -> List[str]:
    if len(path) * 3 < _PIECE_BYTES:
        return [path or "."]
    pieces = []
    piece: List[str] = []
    length = 0
    for name in path.split("/"):
        size = len(os.fsencode(name)) + 1
        if piece and length + size > _PIECE_BYTES:
            pieces.append("/".join(piece))
            piece, length = [], 0
        piece.append(name)
        length += size
    pieces.append("/".join(piece))
    return pieces


def status(descriptor: int) -> Status:
    """statx(2) of an open descriptor (O_PATH suffices)."""
    return _status(descriptor, b"", AT_EMPTY_PATH, "")


def status_at(directory: int, name: str) -> Status:
    """statx(2) of `name` in `directory`, a symlink as itself.

    :raises FileNotFoundError: there is none.
    """
    return _status(directory, os.fsencode(name), AT_SYMLINK_NOFOLLOW, name)


def _status(directory: int, name: bytes, flags: int, path: str) -> Status:
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if _statx(directory, name, flags, _STATX_MASK, buffer) != 0:
        raise _failure("statx", path)
    (
        _mask,
        _block,
        attributes,
        links,
        uid,
        gid,
        mode,
        inode,
        size,
        _blocks,
        _attributes_mask,
        _atime,
        _atime_ns,
        born,
        born_ns,
        ctime,
        ctime_ns,
        mtime,
        mtime_ns,
        rdev_major,
        rdev_minor,
        dev_major,
        dev_minor,
        mount,
    ) = _STATX.unpack_from(buffer)
    return Status(
        mode,
        uid,
        gid,
        size,
        links,
        os.makedev(dev_major, dev_minor),
        inode,
        mtime * 10**9 + mtime_ns,
        ctime * 10**9 + ctime_ns,
        born * 10**9 + born_ns,
        (rdev_major, rdev_minor),
        mount,
        bool(attributes & _STATX_ATTR_MOUNT_ROOT),
        bool(attributes & _STATX_ATTR_IMMUTABLE),
        bool(attributes & _STATX_ATTR_APPEND),
    )


def rename(
    old_directory: int, old_name: str, new_directory: int, new_name: str, flags: int
) -> None:
    """renameat2(2) with RENAME_NOREPLACE or RENAME_EXCHANGE."""
    if (
        _renameat2(
            old_directory, os.fsencode(old_name), new_directory, os.fsencode(new_name), flags
        )
        != 0
    ):
        raise _failure("renameat2", new_name)


def sync_filesystem(descriptor: int) -> None:
    """syncfs(2): all of the filesystem that `descriptor` (not O_PATH) is on, to disk."""
    if _syncfs(descriptor) != 0:
        raise _failure("syncfs", "")


def reserve(descriptor: int, size: int) -> None:
    """fallocate(2) with FALLOC_FL_KEEP_SIZE: have room for `size` bytes, where that can be had.

    :raises OSError: the disk is full.
    """
    if _fallocate(descriptor, 1, 0, size) != 0 and ctypes.get_errno() != errno.EOPNOTSUPP:
        raise _failure("fallocate", "")


def change_owner(descriptor: int, uid: int, gid: int) -> None:
    """fchownat(2) of just this inode, a symlink itself where O_PATH holds one."""
    if _fchownat(descriptor, b"", uid & 0xFFFFFFFF, gid & 0xFFFFFFFF, AT_EMPTY_PATH) != 0:
        raise _failure("fchownat", "")


def change_time(descriptor: int, mtime_ns: int) -> None:
    """Set the modification time of just this inode; the access time stays (UTIME_OMIT)."""
    omit = (1 << 30) - 2
    times = (_Timespec * 2)(_Timespec(0, omit), _Timespec(mtime_ns // 10**9, mtime_ns % 10**9))
    if _utimensat(descriptor, b"", times, AT_EMPTY_PATH) != 0:
        raise _failure("utimensat", "")


def by_descriptor(descriptor: int) -> str:
    """A path of just this inode for calls that take no O_PATH descriptor (proc(5))."""
    return f"/proc/self/fd/{descriptor}"


def open_content(descriptor: int) -> int:
    """A readable descriptor of the regular file or directory that `descriptor` (O_PATH) holds.

    :raises PermissionError: it is not readable.
    :raises OSError: EINVAL where it is neither, and then nothing was opened.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "open: neither a regular file nor a directory")
    # Through /proc it is the inode whose type was just looked at, whatever its name is now.
    return os.open(
        by_descriptor(descriptor), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    )


class Descent:
    """The way from a directory down and back up, in trees of any depth.

    Only the lowest levels are held open; a level above is reached again through ".." and
    compared with what it was.
    """

    def __init__(self, root: int) -> None:
        """`root` is a directory descriptor, from now on the Descent's."""
        self._levels: List[int] = [root]
        self._closed: List[Identity] = []

    def __enter__(self) -> Descent:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._levels:
            os.close(descriptor)
        self._levels.clear()

    @property
    def current(self) -> int:
        """The descriptor of the level that was reached last; not the caller's to close."""
        return self._levels[-1]

    def enter(self, descriptor: int) -> None:
        """Go down to `descriptor`, a directory in the current one; the Descent's from now on."""
        self._levels.append(descriptor)
        if len(self._levels) > _OPEN_LEVELS:
            highest = self._levels.pop(0)
            try:
                self._closed.append(status(highest).identity)
            finally:
                os.close(highest)

    def leave(self) -> None:
        """Go back up one level.

        :raises OSError: ESTALE where the level above is another directory than before.
        """
        if len(self._levels) > 1 or not self._closed:
            os.close(self._levels.pop())
            return
        expected = self._closed.pop()
        above = os.open("..", O_DIRECTORY_PATH, dir_fd=self._levels[0])
        os.close(self._levels.pop())
        self._levels.append(above)
        if status(above).identity != expected:
            raise OSError(errno.ESTALE, "open: the directory was moved while it was read", "..")
