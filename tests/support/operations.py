"""Operations on a directory as data; works without the rest, also inside of a sandbox."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Sequence

# An operation on paths below a directory: its name and its arguments.
Operation = tuple[object, ...]
Phase = Sequence[Operation]
OLD_NS = 1_500_000_000 * 10**9


def perform(top: str, operations: Phase, *, strict: bool = False) -> None:
    """Do `operations` below `top`; what cannot be done is left out, or raised if `strict`."""
    for name, *arguments in operations:
        try:
            _DOES[str(name)](top, *arguments)
        except OSError:
            if strict:
                raise


def _write(top: str, path: str, text: str) -> None:
    with open(f"{top}/{path}", "w", encoding="utf-8") as file:
        file.write(text)


def _append(top: str, path: str, text: str) -> None:
    with open(f"{top}/{path}", "a", encoding="utf-8") as file:
        file.write(text)


def _large(top: str, path: str, letter: str) -> None:
    _write(top, path, f"{letter} and so on\n" * 20_000)


def _mode(top: str, path: str, mode: int) -> None:
    """Its owner keeps all access to a directory."""
    os.chmod(f"{top}/{path}", mode | (0o700 if os.path.isdir(f"{top}/{path}") else 0))


def _replace(top: str, path: str, text: str) -> None:
    _write(top, "temporary", text)
    try:
        os.rename(f"{top}/temporary", f"{top}/{path}")
    except OSError:
        os.unlink(f"{top}/temporary")


def _rename(top: str, old: str, new: str) -> None:
    os.rename(f"{top}/{old}", f"{top}/{new}")


def _rename_file(top: str, old: str, new: str) -> None:
    if not os.path.isdir(f"{top}/{old}"):
        os.rename(f"{top}/{old}", f"{top}/{new}")


def _remove(top: str, path: str) -> None:
    if os.path.isdir(f"{top}/{path}") and not os.path.islink(f"{top}/{path}"):
        shutil.rmtree(f"{top}/{path}")
    else:
        os.unlink(f"{top}/{path}")


def _age(top: str, path: str) -> None:
    os.utime(f"{top}/{path}", ns=(OLD_NS, OLD_NS), follow_symlinks=False)


def _age_all(top: str) -> None:
    for base, directories, files in os.walk(top):
        for name in directories + files:
            os.utime(f"{base}/{name}", ns=(OLD_NS, OLD_NS), follow_symlinks=False)


def _acl(top: str, path: str, uid: int) -> None:
    """Let `uid` read and write a file of mode 0644 (linux/posix_acl_xattr.h)."""
    nobody = 0xFFFFFFFF
    entries = [(1, 6, nobody), (2, 6, uid), (4, 4, nobody), (16, 6, nobody), (32, 4, nobody)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(f"{top}/{path}", "system.posix_acl_access", value)


_DOES: dict[str, Callable[..., None]] = {
    "write": _write,
    "append": _append,
    "large": _large,
    "mode": _mode,
    "replace": _replace,
    "rename": _rename,
    "rename-file": _rename_file,
    "remove": _remove,
    "age": _age,
    "age-all": _age_all,
    "acl": _acl,
    "own": lambda top, path, uid, gid: os.chown(f"{top}/{path}", uid, gid, follow_symlinks=False),
    "mkdir": lambda top, path: os.mkdir(f"{top}/{path}"),
    "chmod": lambda top, path, mode: os.chmod(f"{top}/{path}", mode),
    "symlink": lambda top, path, target: os.symlink(target, f"{top}/{path}"),
    "link": lambda top, old, new: os.link(f"{top}/{old}", f"{top}/{new}"),
    "attribute": lambda top, path, value: os.setxattr(f"{top}/{path}", "user.test", value.encode()),
}
