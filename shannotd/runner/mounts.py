"""The sandbox's root as a list of mount operations, each with an `execute`.

layout.py makes the list. All are executed in the sandbox's own mount namespace, so that none
of it ever shows on the host.

Under the stage (a tmpfs of limited size) stand `upper/N`, `work/N`, `skeleton/N` and `root`.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Container, Tuple, Union

from shannotd.runner import kernel, versions

# Hidden by the stage in the sandbox's namespace and made anew in its root: always there, and
# nothing below it is used as a lower directory.
STAGE = "/run"
ROOT = STAGE + "/root"
SCRIPT_DIRECTORY = "/run/shannot"
PROTECTED = kernel.MS_NOSUID | kernel.MS_NODEV

# Each costs kernel memory that no size limit counts (tmpfs(5): the default is half of it all).
TMPFS_INODES = 16384

# A synthesised directory holds copies of the regular files beside its mounts.
SKELETON_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Overlay:
    """One overlay of the sandbox: `lower` (a host path, or a skeleton) seen at `path`.

    `root_mode` and `root_owner` are what the merged root directory gets: the host's, but in the
    one-uid builder it belongs to the runner, with the rights that the runner has on the host.
    `optional`: a mount of the host's, whose filesystem may refuse to be a lower directory.
    It is `read_only` where the host's mount is, once it is warm.
    """

    path: str
    lower: str
    index: int
    user: bool
    root_mode: int
    root_owner: Tuple[int, int]
    optional: bool = False
    read_only: bool = False

    def execute(self) -> None:
        """Make the upper and work directories and mount the overlay.

        :raises OSError: naming the path.
        """
        upper = f"{STAGE}/upper/{self.index}"
        work = f"{STAGE}/work/{self.index}"
        os.mkdir(upper, 0o755)
        os.mkdir(work, 0o755)
        target = ROOT + self.path if self.path != "/" else ROOT
        if self.user:
            options = "userxattr"
        else:
            options = "redirect_dir=on,metacopy=off,index=off"
            copy_attributes(self.lower, upper)
            os.chown(upper, *self.root_owner)
        lower = escape(self.lower)
        kernel.mount(
            "shannot",
            target,
            "overlay",
            PROTECTED,
            f"lowerdir={lower},upperdir={upper},workdir={work},{options}",
        )
        # Through the overlay: a chmod of the upper behind its back would be undefined.
        os.chmod(target, self.root_mode)


@dataclass(frozen=True)
class Tmpfs:
    """A fresh tmpfs at `path`."""

    path: str
    mode: int
    size: str
    flags: int = PROTECTED

    def execute(self) -> None:
        """Mount it."""
        options = f"mode={self.mode:o},size={self.size},nr_inodes={TMPFS_INODES}"
        kernel.mount("shannot", ROOT + self.path, "tmpfs", self.flags, options)


@dataclass(frozen=True)
class Empty:
    """What of the host cannot be a lower directory: an empty directory that nobody may fill.

    Without it the directory under the mount would show, and its changes be taken for changes
    of the mounted filesystem.
    """

    path: str

    def execute(self) -> None:
        """Cover it."""
        if os.path.isdir(ROOT + self.path):
            flags = PROTECTED | kernel.MS_RDONLY
            kernel.mount("shannot", ROOT + self.path, "tmpfs", flags, "mode=555,size=4k")


@dataclass(frozen=True)
class Directory:
    """A directory that the sandbox needs as a mount point in a fresh filesystem."""

    path: str
    mode: int = 0o755

    def execute(self) -> None:
        """Make it; the mode holds whatever the umask is."""
        os.mkdir(ROOT + self.path)
        os.chmod(ROOT + self.path, self.mode)


@dataclass(frozen=True)
class Symlink:
    """A symbolic link in a fresh filesystem."""

    path: str
    target: str

    def execute(self) -> None:
        """Make it."""
        os.symlink(self.target, ROOT + self.path)


@dataclass(frozen=True)
class Node:
    """One of the host's harmless device nodes: mknod is not for user namespaces.

    It is the host's own inode, whose mode, owner and times belong to the host: so the bind is
    read-only, which does not keep anybody from reading and writing the device.
    """

    name: str

    def execute(self) -> None:
        """Bind it onto an empty file, then make the bind read-only."""
        target = f"{ROOT}/dev/{self.name}"
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        kernel.mount(f"/dev/{self.name}", target, None, kernel.MS_BIND)
        flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NOEXEC
        kernel.mount(None, target, None, kernel.MS_REMOUNT | kernel.MS_BIND | flags)


@dataclass(frozen=True)
class File:
    """A regular file that is a mount of its own on the host: a copy of it, read-only.

    Never the file itself: locks and leases on it would hold on the host, and a FIFO could be
    written and a socket reached through any bind. What cannot be copied (too large, no right
    to it, leased) cannot be read inside either.
    """

    path: str
    seen: Tuple[versions.Entry, ...]

    def execute(self) -> None:
        """Copy it to the stage and bind the copy."""
        target = ROOT + self.path
        status = os.lstat(self.path)
        if not stat.S_ISREG(status.st_mode) or not os.path.isfile(target):
            return
        store = f"{STAGE}/files"
        os.makedirs(store, exist_ok=True)
        copy = f"{store}/{len(os.listdir(store))}"
        mode = stat.S_IMODE(status.st_mode)
        os.close(os.open(copy, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            readable = status.st_size <= SKELETON_BYTES and _copy_file(self.path, copy) >= 0
        except OSError:  # no right to it, or a lease on it
            readable = False
        if not readable:
            mode = 0
        give(copy, status.st_uid, status.st_gid)
        os.chmod(copy, mode)
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        kernel.mount(copy, target, None, kernel.MS_BIND)
        flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | PROTECTED
        kernel.mount(None, target, None, flags)


@dataclass(frozen=True)
class Special:
    """A fresh kernel filesystem: proc, sysfs or devpts. `optional`: its absence harms nobody."""

    filesystem: str
    path: str
    flags: int
    options: str = ""
    optional: bool = False

    def execute(self) -> None:
        """Mount it."""
        try:
            kernel.mount(
                self.filesystem, ROOT + self.path, self.filesystem, self.flags, self.options
            )
        except PermissionError:
            if not self.optional:
                raise


@dataclass(frozen=True)
class Masked:
    """A file of /proc that nobody in the sandbox may read."""

    path: str

    def execute(self) -> None:
        """Bind /dev/null over it."""
        target = ROOT + self.path
        if os.path.lexists(target):
            kernel.mount(ROOT + "/dev/null", target, None, kernel.MS_BIND)


@dataclass(frozen=True)
class Skeleton:
    """The lower directory of a synthesised directory: placeholders for what stands in it.

    Subdirectories are empty (an overlay of their own goes on top), symlinks are symlinks,
    regular files copies while they fit; what cannot be copied is left out. So is a subdirectory
    that came after the layout had `seen` the directory: it has no overlay.
    """

    path: str
    index: int
    seen: Tuple[versions.Entry, ...]

    def execute(self) -> None:
        """Make it from the host's directory."""
        target = f"{STAGE}/skeleton/{self.index}"
        os.mkdir(target)
        fill_skeleton(self.path, target, {e.name for e in self.seen if e.is_directory})


@dataclass(frozen=True)
class Directories:
    """The lower directory of /run: the host's directories without anything in them.

    `entries` are relative paths, modes and owners, read before the stage covered /run.
    """

    index: int
    entries: Tuple[Tuple[str, int, int, int], ...]

    def execute(self) -> None:
        """Make them, and the mount point of the submitted script."""
        target = f"{STAGE}/skeleton/{self.index}"
        os.mkdir(target)
        for relative, mode, uid, gid in self.entries:
            os.mkdir(f"{target}/{relative}")
            give(f"{target}/{relative}", uid, gid)
            os.chmod(f"{target}/{relative}", mode)
        os.makedirs(target + SCRIPT_DIRECTORY[len("/run") :], exist_ok=True)


def give(path: str, uid: int, gid: int) -> None:
    """Make an owner of the host's that of a copy, where root does so and the ids are mapped.

    Root of a container has a user namespace without most of them (EINVAL).
    """
    if os.geteuid() != 0:
        return
    try:
        os.chown(path, uid, gid, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def fill_skeleton(source: str, target: str, directories: Container[str]) -> None:
    """Copy the directory `source` to `target`, with those of its `directories`, but empty."""
    room = SKELETON_BYTES
    try:
        entries = sorted(os.scandir(source), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        place = f"{target}/{entry.name}"
        try:
            if entry.name in directories:
                os.mkdir(place)
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if entry.name not in directories:
                    continue
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(entry.path), place)
            elif stat.S_ISREG(status.st_mode) and status.st_size <= room:
                room -= _copy_file(entry.path, place)
            else:
                continue
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(place, stat.S_IMODE(status.st_mode))
            give(place, status.st_uid, status.st_gid)
            os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
        except (PermissionError, FileNotFoundError):
            continue


def _copy_file(source: str, target: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(source, flags), "rb") as reader, open(target, "wb") as writer:
        data = reader.read(SKELETON_BYTES)
        writer.write(data)
    return len(data)


def copy_attributes(source: str, upper: str) -> None:
    """Give an upper directory the attributes (ACLs among them) and times of the host's.

    The merged root shows those of the upper (overlayfs documentation, "Upper and Lower").
    """
    status = os.stat(source)
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay."):
            try:
                os.setxattr(upper, name, os.getxattr(source, name))
            except OSError:
                continue
    os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))


def escape(path: str) -> str:
    """A path as one overlay lower directory: colon, comma and backslash are separators there."""
    for character in "\\:,":
        path = path.replace(character, "\\" + character)
    return path


Operation = Union[
    Overlay,
    Tmpfs,
    Empty,
    Directory,
    Symlink,
    Node,
    File,
    Special,
    Masked,
    Skeleton,
    Directories,
]
