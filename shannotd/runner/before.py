"""What was at a path before the script, or at the last barrier: on the host, or left by a delta."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import AbstractSet, Mapping, Optional

from shannotd.runner import filesystem, tree
from shannotd.runner.compare import SHOWN_BYTES
from shannotd.runner.delta import History, can_be_checked
from shannotd.runner.layer import Folder, failed
from shannotd.runner.plan import FileState, Identity, TreeSummary
from shannotd.runner.tree import Entry, MountInside

# What is left of a directory in which earlier deltas made everything, when that is gone.
_EMPTY_TREE = TreeSummary(0, 0, hashlib.sha256().hexdigest())


class Before:
    """Tells it as the applying `identity` would find it; looked at layer by layer.

    `moved` has the directories that were renamed in the layer at hand, by their old paths.
    """

    def __init__(self, history: History, identity: Identity) -> None:
        self.history = history
        self._identity = identity
        self.moved: Mapping[str, Folder] = {}
        # What is no part of the host's trees.
        self._excluded: AbstractSet[str] = frozenset()

    def begin(self, moved: Mapping[str, Folder]) -> None:
        """Go on with another layer, in which those directories were renamed."""
        self.moved = moved
        self._excluded = moved.keys() | self.history.known.keys()

    def entry(self, directory: int, name: str) -> Entry:
        """What the host has at `name` in its directory."""
        return tree.entry(directory, name, identity=self._identity, keep=SHOWN_BYTES)

    def described(self, descriptor: int) -> FileState:
        """The host's directory itself."""
        status = filesystem.status(descriptor)
        return tree.describe(descriptor, status, identity=self._identity).state

    def beside(self, folder: Folder, host: int, name: str) -> Entry:
        """What the host has at `name` beside the layer's `folder`, a directory with its tree.

        :raises RunnerError: `capture_failed`: nobody can tell what it was at the last barrier.
        """
        found = self.entry(host, name)
        if found.state.type != "directory":
            return found
        source = folder.source_below(name)
        assert source is not None
        self.check_moved(source, folder.below(name))
        return self.whole(host, name, source)

    def check_moved(self, source: str, path: str) -> None:
        """See that no delta named anything in the directory `path`, if it was once at `source`.

        :raises RunnerError: `capture_failed`: one did.
        """
        if source != path and self.history.below(path):
            raise failed(path, "its directory was renamed, and it changed around a command")

    def known(self, path: str) -> Optional[Entry]:
        """What an earlier delta leaves at `path`, None where it is the host's that counts."""
        known = self.history.known.get(path)
        return None if known is None else Entry(known.state, data=known.data)

    def check_known(self, path: str) -> None:
        """See that a change of what an earlier delta leaves at `path` can be told.

        :raises RunnerError: `capture_failed`: nobody could tell that it is there.
        """
        known = self.history.known.get(path)
        if known is not None and not can_be_checked(known.state, self._identity.uid):
            raise failed(path, "it changed on both sides of a command, and cannot be read")

    def known_whole(self, path: str) -> Optional[Entry]:
        """The same as `known`, a directory with the tree of what is the host's own in it."""
        found = self.known(path)
        if found is None or found.state.type != "directory":
            return found
        for folder in self.moved.values():
            if path.startswith(folder.path + "/"):
                raise failed(path, "its directory was renamed, and it changed around a command")
        summary: Optional[TreeSummary] = _EMPTY_TREE
        if not self.history.is_cut(path) and self.kind(path) == "directory":
            summary = self.state(path).tree
        return replace(found, state=replace(found.state, tree=summary))

    def kind(self, path: str) -> str:
        """The type of the host's file at `path`, "absent" for none."""
        parent, _, name = path.rpartition("/")
        try:
            directory = filesystem.open_directory(parent or "/")
        except (FileNotFoundError, NotADirectoryError):
            return "absent"
        try:
            return tree.file_type(filesystem.status_at(directory, name).mode)
        except FileNotFoundError:
            return "absent"
        finally:
            os.close(directory)

    def state(self, path: str) -> FileState:
        """What was at `path` before the script, a directory with its tree."""
        parent, _, name = path.rpartition("/")
        directory = filesystem.open_directory(parent or "/")
        try:
            return self.whole(directory, name, path).state
        finally:
            os.close(directory)

    def whole(self, directory: int, name: str, source: str) -> Entry:
        """What is at `name`, which is at `source` on the host, a directory with its tree."""
        found = self.entry(directory, name)
        if found.status is not None and found.status.mount_root:
            raise MountInside(source)
        if found.state.type != "directory":
            return found
        looked = os.open(name, filesystem.O_DIRECTORY_PATH, dir_fd=directory)
        try:
            summary = tree.summarise(
                looked, source, identity=self._identity, excluded=self._excluded
            )
        finally:
            os.close(looked)
        return replace(found, state=replace(found.state, tree=summary))
