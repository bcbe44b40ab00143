"""Where the trees of shims are: in memory, one for each set of names, shared by sandboxes.

Who uses a tree holds a lock on it, and what nobody uses is removed as soon as another is made.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager
from typing import Collection, Iterator, Optional

from shannotd.runner.frames import RunnerError
from shannotd.runner.shims import MARKER, Shims, Witness, directories, make, version, witness

_LINK = "shims"
_MEMORY = "/dev/shm"
_OWNER = "runner"
_END_SECONDS = 2.0


def take(state: str, names: Collection[str]) -> Optional[Shims]:
    """The tree for `names` in the runner's directory `state`, made where it is not there yet.

    None without any names.

    :raises RunnerError: `sandbox_unavailable`.
    """
    if not names:
        return None
    wanted = frozenset(names)
    try:
        base = _base(state)
        while True:
            seen = witness()
            path = os.path.join(base, _key(wanted, seen))
            found = _open(path)
            if found is None:
                with _alone(base):
                    _remove_others(base, path)
                    if not os.path.exists(path):
                        made = tempfile.mkdtemp(prefix=".", dir=base)
                        make(made, wanted)
                        os.rename(made, path)
                continue
            with open(f"{path}/{MARKER}", "rb") as file:
                return Shims(path, wanted, directories(), seen, file.read(), found)
    except OSError as error:
        reason = f"the shims of programs: {error.strerror} ({error.filename})"
        remedy = f"See that the runner's directory and {_MEMORY} can be written."
        raise RunnerError("sandbox_unavailable", reason=reason, remedy=remedy) from error


def remove(state: str) -> None:
    """Remove the trees of the runner's directory `state`; the last sandboxes are just ending."""
    base = _existing(os.path.join(state, _LINK))
    if base is None:
        return
    until = time.monotonic() + _END_SECONDS
    while not _discard(base) and time.monotonic() < until:
        time.sleep(0.01)
    if not os.path.exists(base):
        os.unlink(os.path.join(state, _LINK))


def _discard(base: str) -> bool:
    """Remove all trees in `base` that no sandbox uses; whether none is left, and it is gone."""
    try:
        with _alone(base):
            _remove_others(base)
            if os.listdir(base) != [_OWNER]:
                return False
            os.unlink(f"{base}/{_OWNER}")
            os.rmdir(base)
    except OSError:
        return False
    return True


def _remove_abandoned() -> None:
    """Remove what killed runners of ours left: their directory is gone, or leads elsewhere."""
    for name in os.listdir(_MEMORY):
        base = f"{_MEMORY}/{name}"
        try:
            link = os.path.join(os.readlink(f"{base}/{_OWNER}"), _LINK)
        except OSError:
            continue  # not ours
        if os.lstat(base).st_uid == os.geteuid() and _existing(link) != base:
            _discard(base)


def _base(state: str) -> str:
    """Where the trees are: a directory of our own, to which a link in `state` leads.

    It must be on another filesystem than the programs: no lower layer may be within another
    (overlayfs documentation, "Overlapping layers").
    """
    link = os.path.join(state, _LINK)
    with _alone(state):
        base = _existing(link)
        if base is None:
            _remove_abandoned()
            base = tempfile.mkdtemp(prefix="shannot-", dir=_MEMORY)
            if os.path.islink(link):
                os.unlink(link)
            os.symlink(base, link)
            os.symlink(os.path.abspath(state), f"{base}/{_OWNER}")  # last: who sees it may judge
    return base


def _existing(link: str) -> Optional[str]:
    """The directory that `link` leads to, if it is there and nobody's but ours."""
    try:
        base = os.readlink(link)
        status = os.lstat(base)
    except OSError:
        return None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return base if ours and not status.st_mode & 0o077 else None


def _key(names: Collection[str], seen: Witness) -> str:
    described = repr((version(), os.geteuid(), sorted(names), seen))
    return hashlib.sha256(described.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _open(path: str) -> Optional[int]:
    """The directory at `path`, held against removal; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        if os.path.samestat(os.stat(path), os.fstat(descriptor)):
            return descriptor
    except FileNotFoundError:
        pass  # removed before we held it
    os.close(descriptor)
    return None


@contextmanager
def _alone(base: str) -> Iterator[None]:
    """Nobody else makes or removes a tree in `base` meanwhile."""
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_others(base: str, path: str = "") -> None:
    """Remove the trees that no sandbox uses any more, and what was not finished."""
    for name in os.listdir(base):
        other = os.path.join(base, name)
        if other == path or name == _OWNER:
            continue
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(other, flags)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leaving = tempfile.mkdtemp(prefix=".", dir=base)
            os.rename(other, leaving)  # at once, or whoever comes would find half of it
            shutil.rmtree(leaving)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
