"""The checkpoints of a runner: one directory for each session that was applied."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import List

from shannotd.runner import directories, filesystem
from shannotd.runner.checkpoint import Checkpoint
from shannotd.runner.frames import RunnerError
from shannotd.runner.sealed import SESSION

_CHECKPOINTS = "checkpoints"
_APPLIED = "applied"
_DROPPED = ".dropped-"
# So much is set aside for a journal, beyond what its plan needs: a full disk must not hinder
# taking back.
_RESERVED_BYTES = 64 * 1024
_CLOSED = b'{"point":"closed"}\n'


@dataclass(frozen=True)
class Kept:
    """One checkpoint: `size` in bytes on disk, `created_at` in seconds since the epoch;
    `finished` says that nothing of its apply is in doubt."""

    session: str
    created_at: float
    size: int
    finished: bool


def create(state: str, session: str, plan: bytes, digest: str) -> Checkpoint:
    """Begin the apply of `session`, once and never again, with all of it on disk.

    :raises RunnerError: `wrong_state`: it was applied before.
    :raises OSError: it could not be written.
    """
    _register(state, session)
    top = _open(state, _CHECKPOINTS)
    try:
        os.mkdir(session, 0o700, dir_fd=top)
        directory = os.open(session, filesystem.O_DIRECTORY_READ, dir_fd=top)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open("plan", flags, 0o600, dir_fd=directory), "wb") as file:
                file.write(plan)
                file.flush()
                os.fsync(file.fileno())
            checkpoint = Checkpoint(os.dup(directory), created=True)
            checkpoint.journal.reserve(_RESERVED_BYTES + len(plan) // 4)
            checkpoint.journal.write("begun", session=session, digest=digest)
            os.fsync(directory)
        finally:
            os.close(directory)
        os.fsync(top)
    finally:
        os.close(top)
    return checkpoint


def _register(state: str, session: str) -> None:
    """Remember for good that `session` was applied; its checkpoint does not stay for good."""
    register = _open(state, _APPLIED)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(session, flags, 0o600, dir_fd=register))
        os.fsync(register)
    except FileExistsError as error:
        raise RunnerError("wrong_state", id=session, state="executed", action="applied") from error
    finally:
        os.close(register)


def _open(state: str, name: str) -> int:
    path = os.path.join(state, name)
    os.makedirs(path, mode=0o700, exist_ok=True)
    return os.open(path, filesystem.O_DIRECTORY_READ)


def was_begun(state: str, session: str) -> bool:
    """Whether the apply of `session` ever began."""
    return os.path.lexists(os.path.join(state, _APPLIED, session))


def reopen(state: str, session: str) -> Checkpoint:
    """The checkpoint of `session`, to go on with or to read.

    :raises RunnerError: `checkpoint_unknown`: there is none.
    """
    path = os.path.join(state, _CHECKPOINTS, session)
    try:
        return Checkpoint(os.open(path, filesystem.O_DIRECTORY_READ), created=False)
    except FileNotFoundError as error:
        raise RunnerError("checkpoint_unknown", id=session) from error


def sessions(state: str) -> List[str]:
    """Whose checkpoints there are."""
    try:
        names = os.listdir(os.path.join(state, _CHECKPOINTS))
    except FileNotFoundError:
        return []
    return sorted(name for name in names if SESSION.fullmatch(name))


def unfinished(state: str) -> List[str]:
    """The sessions whose apply was cut short, and not brought to an end since."""
    return [session for session in sessions(state) if not is_finished(state, session)]


def is_finished(state: str, session: str) -> bool:
    """Whether nothing of the session's apply is in doubt."""
    path = os.path.join(state, _CHECKPOINTS, session, "journal")
    try:
        with open(os.open(path, filesystem.O_READ), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_CLOSED)))
            return file.read() == _CLOSED
    except FileNotFoundError:
        return False


def kept(state: str) -> List[Kept]:
    """All checkpoints, the oldest first."""
    found: List[Kept] = []
    for session in sessions(state):
        directory = os.path.join(state, _CHECKPOINTS, session)
        try:
            sizes = [entry.stat().st_blocks * 512 for entry in os.scandir(directory)]
            created = os.stat(os.path.join(directory, "plan")).st_mtime
        except FileNotFoundError:
            created, sizes = os.stat(directory).st_mtime, []
        found.append(Kept(session, created, sum(sizes), is_finished(state, session)))
    return sorted(found, key=lambda one: one.created_at)


def drop(state: str, session: str) -> None:
    """Remove a checkpoint: the session cannot be rolled back any more.

    :raises RunnerError: `checkpoint_unknown`; `checkpoint_in_use`: its apply is not over.
    """
    if session not in sessions(state):
        raise RunnerError("checkpoint_unknown", id=session)
    if not is_finished(state, session):
        raise RunnerError("checkpoint_in_use", id=session)
    top = _open(state, _CHECKPOINTS)
    try:
        # From here on it is none, whatever becomes of what is in it.
        os.rename(session, _DROPPED + session, src_dir_fd=top, dst_dir_fd=top)
        os.fsync(top)
        _sweep(top, os.path.join(state, _CHECKPOINTS))
    finally:
        os.close(top)


def _sweep(top: int, path: str) -> None:
    """Remove what was dropped, also what was dropped before and is left."""
    for name in os.listdir(top):
        if name.startswith(_DROPPED):
            directories.remove(top, name, path)
