"""The upper layer of an overlay mount, read into memory: names, inodes and the kernel's marks.

Facts from Documentation/filesystems/overlayfs.rst: a whiteout is a character device 0:0;
an opaque directory has the attribute "opaque" = "y"; a renamed directory has "redirect", the
path in the lower layer from the overlay's root if it begins with "/", else a name beside it.
With userxattr the attributes are `user.overlay.*`, and what is set through the mount under
such a name is stored as `user.overlay.overlay.*`.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import AbstractSet, Dict, List, Mapping, Optional, Tuple

from shannotd.runner import filesystem
from shannotd.runner.filesystem import Descent
from shannotd.runner.frames import MAX_PAYLOAD_BYTES, RunnerError
from shannotd.runner.tree import read_xattrs

TRUSTED = "trusted.overlay."
USER = "user.overlay."
_ESCAPED_USER = "user.overlay.overlay."


@dataclass(frozen=True)
class Layer:
    """One overlay of a sandbox.

    `upper` is a descriptor of its upper directory, `prefix` that of the kernel's attributes.
    `root_mode`, `root_owner` and `root_xattrs` are what the builder gave to the upper directory
    itself: a difference from them is the script's; where mode or owner are None they are not looked
    at.
    """

    mountpoint: str
    upper: int
    prefix: str
    root_mode: Optional[int] = None
    root_owner: Optional[Tuple[int, int]] = None
    root_xattrs: Mapping[str, str] = field(default_factory=dict)

    def path(self, relative: str) -> str:
        """The host path of `relative` in this layer."""
        if not relative:
            return self.mountpoint
        return self.mountpoint.rstrip("/") + "/" + relative


@dataclass
class Folder:
    """One directory of an upper layer with what is in it; `relative` to the layer's root.

    `source` is the host directory that is merged with it, or that it stands in for (opaque):
    a path as it was before the script; None where there cannot be one.
    """

    name: str
    relative: str
    path: str
    status: os.stat_result
    opaque: bool = False
    redirect: Optional[str] = None
    xattrs: Dict[str, str] = field(default_factory=dict)
    source: Optional[str] = None
    parent: Optional[Folder] = None
    files: List[Tuple[str, os.stat_result]] = field(default_factory=list)
    whiteouts: List[str] = field(default_factory=list)
    folders: List[Folder] = field(default_factory=list)

    def below(self, name: str) -> str:
        """The path of `name` in this directory after the script."""
        return f"{self.path.rstrip('/')}/{name}"

    def source_below(self, name: str) -> Optional[str]:
        """Where `name` in this directory was on the host, if it was."""
        return None if self.source is None else f"{self.source.rstrip('/')}/{name}"


class Opened:
    """Modes in upper layers that were widened so that their owner can read them.

    A script may take away its own right to read; without privileges the runner has no more
    rights than the script. Closing it gives the modes back, and closes what was to be kept open
    as long.
    """

    def __init__(self) -> None:
        self._kept: List[int] = []
        self._changed: List[Tuple[int, str, int]] = []

    def open(self, layer: Layer, directory: int, name: str, relative: str, flags: int) -> int:
        """`name` in `directory`, which is `relative` in `layer`, opened for reading."""
        if os.geteuid() != 0:
            self._widen(layer, directory, name, relative)
        return os.open(name, flags, dir_fd=directory)

    def _widen(self, layer: Layer, directory: int, name: str, relative: str) -> None:
        looked = os.open(name, filesystem.O_PATH, dir_fd=directory)
        try:
            status = os.fstat(looked)
            needed = 0o500 if stat.S_ISDIR(status.st_mode) else 0o400
            if status.st_mode & needed != needed and status.st_uid == os.geteuid():
                mode = stat.S_IMODE(status.st_mode)
                os.chmod(filesystem.by_descriptor(looked), mode | needed)
                self._changed.append((layer.upper, relative, mode))
        finally:
            os.close(looked)

    def keep(self, descriptor: int) -> int:
        """Have `descriptor` closed at the end."""
        self._kept.append(descriptor)
        return descriptor

    def close(self) -> None:
        """Give every widened mode back, the deepest first."""
        while self._kept:
            os.close(self._kept.pop())
        while self._changed:
            upper, relative, mode = self._changed.pop()
            looked = filesystem.open_below(upper, relative, filesystem.O_PATH)
            try:
                os.chmod(filesystem.by_descriptor(looked), mode)
            finally:
                os.close(looked)


def read_layer(
    layer: Layer, mountpoints: AbstractSet[str], opened: Opened, limit: Optional[int] = None
) -> Folder:
    """All of `layer`'s upper directory; not what is at other layers' `mountpoints`.

    :raises RunnerError: `capture_failed` where it holds what cannot be understood,
        `limit_exceeded` where it holds far more than `limit` steps would leave.
    """
    most = None if limit is None else 2 * limit + 10_000
    top = os.open(".", filesystem.O_DIRECTORY_READ, dir_fd=layer.upper)
    root = Folder("", "", layer.mountpoint, os.fstat(top), source=layer.mountpoint)
    with Descent(top) as descent:
        _read_marks(layer, root, top)
        count = _list(root, top, mountpoints)
        length = 0
        # None stands for the way back up to the directory above.
        pending: List[Optional[Folder]] = list(root.folders)
        while pending:
            folder = pending.pop()
            if folder is None:
                descent.leave()
                continue
            flags = filesystem.O_DIRECTORY_READ
            current = opened.open(layer, descent.current, folder.name, folder.relative, flags)
            descent.enter(current)
            pending.append(None)
            _read_marks(layer, folder, current)
            found = _list(folder, current, mountpoints)
            count += found
            if most is not None and count > most:
                raise RunnerError("limit_exceeded", name="steps", limit=limit)
            # A chain of directories has paths that are long in all, whatever their number.
            length += len(folder.path) * (1 + found)
            if length > MAX_PAYLOAD_BYTES:
                raise RunnerError("limit_exceeded", name="plan_bytes", limit=MAX_PAYLOAD_BYTES)
            pending.extend(folder.folders)
    return root


def _list(folder: Folder, directory: int, mountpoints: AbstractSet[str]) -> int:
    """Read the names in `directory` into `folder`; returns how many there are."""
    prefix = folder.relative + "/" if folder.relative else ""
    with os.scandir(directory) as entries:
        ordered = sorted((entry.name, entry) for entry in entries)
    for name, entry in ordered:
        status = entry.stat(follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            path = folder.below(name)
            if path not in mountpoints:
                folder.folders.append(Folder(name, prefix + name, path, status, parent=folder))
        elif stat.S_ISCHR(mode) and status.st_rdev == 0:
            folder.whiteouts.append(name)
        elif folder.below(name) not in mountpoints:
            folder.files.append((name, status))
    return len(ordered)


def _read_marks(layer: Layer, folder: Folder, directory: int) -> None:
    names = os.listxattr(directory)
    if not names:
        return
    if layer.prefix + "opaque" in names:
        value = os.getxattr(directory, layer.prefix + "opaque")
        if value != b"y":
            # "x" announces whiteouts of another form, which no kernel writes to an upper layer.
            raise failed(folder.path, f"unknown overlay mark opaque={value!r}")
        folder.opaque = True
    if layer.prefix + "redirect" in names and not folder.opaque:
        folder.redirect = os.fsdecode(os.getxattr(directory, layer.prefix + "redirect"))
    folder.xattrs = script_xattrs(layer, directory)


def is_overlays(name: str, prefix: str) -> bool:
    """Whether an attribute in an upper layer is the kernel's own, which no script set."""
    return name.startswith(prefix) and not name.startswith(_ESCAPED_USER)


def script_xattrs(layer: Layer, descriptor: int) -> Dict[str, str]:
    """The recorded attributes of an inode in the upper layer, as the script sees them."""
    names = os.listxattr(descriptor)
    if not names:
        return {}
    if layer.prefix + "metacopy" in names:
        # Its content is not in the upper layer: the mount lacks metacopy=off.
        raise failed(layer.mountpoint, "the overlay is mounted with metacopy")
    found = read_xattrs(filesystem.by_descriptor(descriptor))
    if layer.prefix != USER:
        return found
    seen: Dict[str, str] = {}
    for name, value in found.items():
        if name.startswith(_ESCAPED_USER):
            seen[USER + name[len(_ESCAPED_USER) :]] = value
        elif not name.startswith(USER):
            seen[name] = value
    return seen


def failed(path: str, reason: str) -> RunnerError:
    """The error of a script's effects that cannot be recorded."""
    return RunnerError("capture_failed", path=path, reason=reason)


def failed_by(error: OSError, path: str) -> RunnerError:
    """The same, because of a system call."""
    number = error.errno if error.errno is not None else errno.EIO
    reason = error.strerror or os.strerror(number)
    return failed(path, reason)
