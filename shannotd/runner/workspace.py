"""What the parts of one batch share: open directories, looking at paths, and how it fails."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from typing import AbstractSet, Dict, Optional, Tuple

from shannotd.runner import expectation, filesystem, tree
from shannotd.runner.access_list import with_owner
from shannotd.runner.directories import Directories
from shannotd.runner.filesystem import Status
from shannotd.runner.frames import RunnerError
from shannotd.runner.given import Given
from shannotd.runner.plan import FileState, FileStep, Identity
from shannotd.runner.tree import Entry, MountInside

TEMPORARY = ".shannot-"
_KEPT_THERE = ", since a quota project or an overlay's lower layer keeps it where it is"
NOT_APPLIED = "not applied"
# Contents of so many bytes are kept in memory from the check to the checkpoint, and all together.
_KEPT_BYTES = 64 * 1024
_KEPT_IN_ALL_BYTES = 64 * 1024 * 1024


@dataclass
class Action:
    """A step with what was found out about it.

    `parent` and `name` are its path after the steps before it; `staged_in` is where its
    directory was before the batch, None if the batch makes it, `parent_identity` which it
    is (`old_identity` that of a renamed path's old one). `expected` is what is to be
    displaced, `found` just that as it was found, at the host's path `here`; None where a step
    of the batch makes it; `really` what is there, if steps have changed its metadata. `temporary`
    is the name of what takes its place (of a deleted path, where it waits), in the directory that
    was at `written_in`; `inode` that of what is new, `written_ns` the time of its content. `left`
    is what an append leaves, where the file had grown.
    """

    index: int
    step: FileStep
    parent: str
    name: str
    staged_in: Optional[str]
    parent_identity: Optional[filesystem.Identity] = None
    old_identity: Optional[filesystem.Identity] = None
    expected: Optional[FileState] = None
    found: Optional[Entry] = None
    here: Optional[str] = None
    really: Optional[Entry] = None
    temporary: Optional[str] = None
    written_in: Optional[str] = None
    inode: Optional[filesystem.Incarnation] = None
    written_ns: Optional[int] = None
    left: Optional[FileState] = None


class Workspace:
    """The directories of one batch, and looking at what is in them."""

    def __init__(self, identity: Identity, given: Optional[Given] = None) -> None:
        """`given` is what earlier batches gave to files; what this one gives is added."""
        self.identity = identity
        self.given = Given() if given is None else given
        self.directories = Directories()
        self.prefix = f"{TEMPORARY}{os.urandom(8).hex()}-"
        # Directories whose mode was widened for the batch: by inode, path and mode before.
        self.widened: Dict[filesystem.Identity, Tuple[str, int]] = {}
        # The modes that directories will have, which are open to their owner until all is done.
        self.kept_open: Dict[filesystem.Identity, Optional[int]] = {}
        self._names = 0
        self._room = _KEPT_IN_ALL_BYTES

    def name(self) -> str:
        """A new temporary name: a dot name that no include pattern matches."""
        self._names += 1
        return f"{self.prefix}{self._names}"

    def seen(self, path: str, expected: FileState, found: Entry) -> Entry:
        """What was `found` at `path`, without what this batch or the steps so far made of it."""
        return self.given.seen(path, expected, self.as_meant(found))

    def as_meant(self, found: Entry) -> Entry:
        """`found` with the mode that it has but for the batch, which needs access meanwhile."""
        if found.status is None:
            return found
        identity = found.status.identity
        if identity in self.kept_open:
            mode = self.kept_open[identity]
        elif identity in self.widened:
            _, mode = self.widened[identity]
        else:
            return found
        xattrs = found.state.xattrs
        if tree.ACCESS_ACL in xattrs and mode is not None:
            xattrs = {**xattrs, tree.ACCESS_ACL: with_owner(xattrs[tree.ACCESS_ACL], mode)}
        return replace(found, state=replace(found.state, mode=mode, xattrs=xattrs))

    def directory(self, path: str, index: int) -> Tuple[int, Status]:
        """The directory at `path`, for the step `index`.

        :raises RunnerError: `stale`: it is none, or a symlink leads to it.
        """
        try:
            return self.directories.get(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            found = "a symlink" if error.errno == errno.ELOOP else "no directory"
            raise stale(index, path or "/", "directory", found) from error

    def same_directory(
        self, path: str, identity: Optional[filesystem.Identity], index: int
    ) -> Tuple[int, Status]:
        """The directory at `path`, which must still be the inode `identity`."""
        directory, status = self.directory(path, index)
        if status.identity != identity:
            raise stale(index, path or "/", "the same directory", "another directory")
        return directory, status

    def entry(
        self,
        directory: int,
        name: str,
        path: str,
        expected: FileState,
        *,
        with_tree: bool,
        excluded: AbstractSet[str] = frozenset(),
        each: Optional[tree.Visit] = None,
        keep: bool = False,
        named: Optional[str] = None,
    ) -> Entry:
        """What is `seen` at `name` in `directory`, which is at `path`; not what the batch staged.
        Its plan calls it `named`, where it is elsewhere by then.

        `excluded` and `each` as for the tree's summary. With `keep` a small content comes along.
        """
        kept = min(_KEPT_BYTES, self._room) if keep else 0
        found = tree.entry(
            directory,
            name,
            identity=self.identity,
            keep=kept,
            hashed_size=expectation.hashed_size(expected),
        )
        if kept and found.data is not None:
            self._room -= len(found.data)
        found = self.seen(named or path, expected, found)
        if not with_tree or found.state.type != "directory":
            return found
        looked = os.open(name, filesystem.O_DIRECTORY_PATH, dir_fd=directory)
        try:
            summary = tree.summarise(
                looked,
                path,
                identity=self.identity,
                excluded=excluded,
                ignored_prefix=self.prefix,
                each=each,
                original=self.given.original,
            )
        finally:
            os.close(looked)
        return replace(found, state=replace(found.state, tree=summary))


def require(
    index: int, path: str, expected: FileState, found: Entry, *, renamed: bool = False
) -> None:
    """Check that `found` is `expected`; see expectation.met.

    :raises RunnerError: `stale`.
    """
    same_tree = expected.tree is None or expected.tree == found.state.tree
    if not same_tree or not expectation.met(expected, found, renamed=renamed):
        words = expectation.in_words
        raise stale(index, path, words(expected), words(found.state))


def stale(index: int, path: str, expected: str, found: str) -> RunnerError:
    """The host is not what the dry run saw."""
    return RunnerError("stale", path=path, expected=expected, found=found, step=index)


def apply_failed(index: int, path: str, reason: str, before: str = NOT_APPLIED) -> RunnerError:
    """A step cannot be done; `before` tells what became of those before it."""
    return RunnerError("apply_failed", step=index, path=path, reason=reason, before=before)


def as_runner_error(error: BaseException, action: Optional[Action]) -> RunnerError:
    """What went wrong in `action` as the error that the caller meets."""
    if isinstance(error, RunnerError):
        return error
    index = 0 if action is None else action.index
    path = "" if action is None else action.step.path
    if isinstance(error, MountInside):
        return apply_failed(index, path, f"something is mounted at {error}")
    if isinstance(error, OSError):
        return apply_failed(index, path, reason_of(error))
    return apply_failed(index, path, f"{type(error).__name__}: {error}")


def reason_of(error: OSError) -> str:
    """What went wrong in words, and in which system call where that is known."""
    call, _, reason = (error.strerror or str(error)).rpartition(": ")
    if error.errno == errno.EXDEV:  # within one mount (rename(2), overlayfs.rst, ext4(5))
        reason += _KEPT_THERE
    return f"{reason} ({call})" if call else reason
