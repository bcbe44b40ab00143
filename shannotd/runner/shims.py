"""Shims: which programs of the host have one, and the directory tree that holds them.

A shim is a small script that stands, in a sandbox, where a program of a PATH directory is on the
host (shim_program.py is what it runs). All of them are in one tree, made once for a set of
names and for the PATH directories as they are (shim_store.py); sandboxes lay it over the host's
as one more lower layer. Each shim knows the path of its program and has a token of its own, so that
what was copied from it is known again (shim_copies.py), and none can be guessed.
"""

from __future__ import annotations

import errno
import os
import py_compile
import secrets
import shutil
import stat
from dataclasses import dataclass
from typing import Collection, Dict, FrozenSet, Iterator, List, Sequence, Tuple

from shannotd.runner.mounts import SCRIPT_DIRECTORY
from shannotd.runner.paths import resolved

# The PATH of every script.
DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
PATH = ":".join(DIRECTORIES)
INTERPRETER = "/usr/bin/python3"
# Where a sandbox has what shims run, and the programs themselves.
LIBRARY = SCRIPT_DIRECTORY + "/shim"
REAL = SCRIPT_DIRECTORY + "/host"

# What a sandbox makes anew: no program of the host's is there.
_FRESH = ("/proc/", "/sys/", "/dev/", "/run/")
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim_program.py")
_MODULE = "shim_program"
MARKER = "marker"
_FORMAT = b"1"
_EXECUTABLE = 0o111

Witness = Tuple[Tuple[object, ...], ...]


@dataclass(frozen=True)
class Shims:
    """The tree of shims for `names`, in the directory `path`; `descriptor` keeps it from removal.

    `directories` are the PATH directories, links resolved; `witness` is how they were. All bytes
    of shims begin with the line that holds `marker`.
    """

    path: str
    names: FrozenSet[str]
    directories: Tuple[str, ...]
    witness: Witness
    marker: bytes
    descriptor: int

    @property
    def tree(self) -> str:
        """Where `/` of the tree is."""
        return self.path + "/tree"

    def outdated(self) -> bool:
        """Whether a PATH directory is no longer what it was."""
        return witness() != self.witness

    def close(self) -> None:
        """Let somebody remove it who needs another."""
        os.close(self.descriptor)


def programs() -> List[str]:
    """The names of all programs in the PATH directories of this host, sorted."""
    return sorted({name for directory in directories() for name, _ in _programs(directory)})


def directories() -> Tuple[str, ...]:
    """The PATH directories of this host, links resolved, each once, in the order of PATH."""
    found: Dict[str, None] = {}
    for directory in DIRECTORIES:
        place = resolved(directory)
        if place and os.path.isdir(place) and not f"{place}/".startswith(_FRESH):
            found[place] = None
    return tuple(found)


def witness() -> Witness:
    """The versions of the PATH directories and of those above them."""
    paths = {*DIRECTORIES, *ancestors(directories())}
    found: List[Tuple[object, ...]] = []
    for path in sorted(paths):
        try:
            status = os.lstat(path)
        except OSError:
            found.append((path,))
            continue
        found.append(
            (
                path,
                status.st_dev,
                status.st_ino,
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
        )
    return tuple(found)


def ancestors(paths: Sequence[str]) -> List[str]:
    """`paths` and all directories above them but `/`, parents first."""
    found = set()
    for path in paths:
        while path != "/":
            found.add(path)
            path = os.path.dirname(path)
    return sorted(found)


def make(path: str, names: Collection[str]) -> None:
    """Make the tree for `names` in the new directory `path`, with its marker and its library."""
    marker = secrets.token_hex(16).encode("ascii")
    with open(f"{path}/{MARKER}", "wb") as file:
        file.write(marker)
    _make_library(f"{path}/library")
    _make_tree(f"{path}/tree", names, marker)


def version() -> bytes:
    """What differs where trees made by another version of us differ."""
    with open(_PROGRAM, "rb") as file:
        return _FORMAT + file.read()


def _make_library(path: str) -> None:
    """What all shims run, compiled: an interpreter of another version compiles it anew."""
    os.mkdir(path)
    source = shutil.copyfile(_PROGRAM, f"{path}/{_MODULE}.py")
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compiled = py_compile.compile(source, doraise=True, invalidation_mode=unchecked)
    for place, mode in ((path, 0o755), (f"{path}/__pycache__", 0o755), (source, 0o644)):
        os.chmod(place, mode)
    os.chmod(str(compiled), 0o644)


def _make_tree(top: str, names: Collection[str], marker: bytes) -> None:
    places = directories()
    os.mkdir(top, 0o755)
    parents = ancestors(places)
    for directory in parents:
        os.mkdir(top + directory)
    for directory in places:
        for name, status in _programs(directory):
            path = f"{directory}/{name}"
            if name in names and _needs_own(path, places, names):
                _write(top + path, path, status, marker)
    if os.geteuid() != 0:
        return  # Each PATH directory is an overlay of its own, whose root does not show these.
    for directory in reversed(parents):
        _mirror(directory, top + directory, os.stat(directory))


def _programs(directory: str) -> Iterator[Tuple[str, os.stat_result]]:
    """Names and what they lead to, of the programs in a directory that anybody may run."""
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:
                continue  # a link that leads nowhere
            if stat.S_ISREG(status.st_mode) and status.st_mode & _EXECUTABLE:
                yield entry.name, status


def _needs_own(path: str, places: Collection[str], names: Collection[str]) -> bool:
    """Whether a shim stands at `path`: not for a link to what has one, nor for our interpreter.

    The link must lead there within the PATH directories; other links may change.
    """
    if os.path.realpath(path) == os.path.realpath(INTERPRETER):
        return False
    while os.path.islink(path):
        target = os.path.join(os.path.dirname(path), os.readlink(path))
        place, name = os.path.realpath(os.path.dirname(target)), os.path.basename(target)
        if place not in places or name not in names:
            return True
        if os.path.realpath(f"{place}/{name}") == f"{place}/{name}":
            return False
        path = f"{place}/{name}"
    return True


def text(path: str, marker: bytes) -> bytes:
    """A new shim for the program at `path`."""
    token = secrets.token_hex(16).encode("ascii")
    return (
        b"#!%b -IS\n# shannot %b %b\nimport sys\nsys.path.insert(0, %r)\n"
        b"import shim_program\nshim_program.main(%r)\n"
    ) % (INTERPRETER.encode(), marker, token, LIBRARY, os.fsencode(path))


def _write(place: str, path: str, status: os.stat_result, marker: bytes) -> None:
    with open(place, "xb") as file:
        file.write(text(path, marker))
    _mirror(path, place, status)


def _mirror(source: str, place: str, status: os.stat_result) -> None:
    """Give `place` owner, mode, attributes and times of the host's `source`.

    Without privileges the owner is ourselves, who must not gain by that.
    """
    mode = stat.S_IMODE(status.st_mode)
    if os.geteuid() == 0:
        try:
            os.chown(place, status.st_uid, status.st_gid)
        except OSError as error:
            if error.errno != errno.EINVAL:  # not mapped in a container
                raise
    elif status.st_uid != os.geteuid():
        mode = own_rights(source, mode)
    os.chmod(place, mode)
    for name in os.listxattr(source):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            try:
                os.setxattr(place, name, os.getxattr(source, name))
            except OSError:
                continue
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))


def own_rights(path: str, mode: int) -> int:
    """`mode` with the owner's bits that this uid, another than the owner, has at `path`."""
    mode &= ~0o6700
    for bit, right in ((os.R_OK, 0o400), (os.W_OK, 0o200), (os.X_OK, 0o100)):
        if os.access(path, bit):
            mode |= right
    return mode
