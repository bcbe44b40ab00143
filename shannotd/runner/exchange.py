"""Which filesystems lack the ways of renaming that applying rests on: NOREPLACE and EXCHANGE.

Without the first something new could overwrite what came to its place meanwhile, without the
second nobody could look at what was displaced and put it back.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Dict, FrozenSet

from shannotd.runner import filesystem
from shannotd.runner.filesystem import RENAME_EXCHANGE, RENAME_NOREPLACE
from shannotd.runner.workspace import TEMPORARY

# Which flags of renameat2(2) filesystems lack, as of Linux 6.18 (their rename in fs/).
_NEITHER = frozenset((RENAME_NOREPLACE, RENAME_EXCHANGE))
_NO_EXCHANGE = frozenset((RENAME_EXCHANGE,))
_LACKING: Dict[str, FrozenSet[int]] = {
    **dict.fromkeys(("9p", "ceph", "nfs", "nfs4", "ocfs2", "vboxsf"), _NEITHER),
    **dict.fromkeys(("cifs", "exfat", "hfsplus", "ntfs3", "smb3", "udf"), _NO_EXCHANGE),
}
# Those that have both since Linux 6.1 at the latest.
_ABLE = frozenset(("btrfs", "ext4", "f2fs", "overlay", "tmpfs", "xfs"))
_NO_SUCH_FLAG = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def known_to_lack(kind: str) -> FrozenSet[int]:
    """The flags that every filesystem of type `kind` (as in /proc/filesystems) lacks."""
    return _LACKING.get(kind, frozenset())


def is_certain(kind: str) -> bool:
    """Whether what a filesystem of type `kind` has need not be tried."""
    return kind in _ABLE or kind in _LACKING


def found_to_lack(directory: int) -> FrozenSet[int]:
    """The flags that renaming in `directory` turns out to lack, tried on two empty files.

    :raises OSError: it cannot be tried here: not writable, no space.
    """
    prefix = f"{TEMPORARY}{os.urandom(8).hex()}-"
    names = [prefix + str(number) for number in range(3)]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    lacking = set()
    try:
        for name in names[:2]:
            os.close(os.open(name, flags, 0o600, dir_fd=directory))
        for new, flag in ((names[1], RENAME_EXCHANGE), (names[2], RENAME_NOREPLACE)):
            try:
                filesystem.rename(directory, names[0], directory, new, flag)
            except OSError as error:
                if error.errno not in _NO_SUCH_FLAG:
                    raise
                lacking.add(flag)
    finally:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
    return frozenset(lacking)
