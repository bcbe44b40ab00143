"""Where deleted paths wait until their batch is done: one directory on each mount.

It is as far up as the identity can write, so that no program that scans a configuration
directory sees what was deleted from it.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Dict, List, Optional

from shannotd.runner import filesystem
from shannotd.runner.directories import remove, writable
from shannotd.runner.filesystem import RENAME_NOREPLACE, Status
from shannotd.runner.obstacles import flagged
from shannotd.runner.removal import told
from shannotd.runner.tree import MountInside
from shannotd.runner.workspace import Workspace


@dataclass(frozen=True)
class Place:
    """A directory (`descriptor`) that waits under `name` in `parent`, which is at `path`."""

    descriptor: int
    parent: int
    name: str
    path: str


class Quarantine:
    """The places of one batch, made when they are needed first."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._places: Dict[int, Place] = {}

    def prepare(self, path: str) -> Optional[str]:
        """Make a place for what will be deleted from the directory at `path`; where it is.

        None where there can be none.
        """
        _, status = self._workspace.directories.get(path)
        if status.mount not in self._places:
            self._find(status.mount, path)
        place = self._places.get(status.mount)
        return None if place is None else place.path

    @property
    def paths(self) -> List[str]:
        """Where the places are."""
        return [place.path for place in self._places.values()]

    def take(self, directory: int, status: Status, name: str, temporary: str) -> Optional[int]:
        """Move `name` away from `directory`, under the name `temporary`.

        Returns the descriptor of the directory that holds it now (this object's); None where
        no place can take it and nothing was moved.
        """
        place = self._places.get(status.mount)
        if place is None:
            return None
        try:
            filesystem.rename(directory, name, place.descriptor, temporary, RENAME_NOREPLACE)
        except OSError as error:
            # A directory that is not writable cannot change its parent, nor can anything
            # leave its project quota (rename(2)).
            if error.errno in (errno.EACCES, errno.EPERM, errno.EXDEV):
                return None
            raise
        return place.descriptor

    def _find(self, mount: int, path: str) -> None:
        names = path.split("/")
        for depth in range(1, len(names) + 1):
            above = "/".join(names[:depth])
            directory, status = self._workspace.directories.get(above)
            if status.mount == mount and flagged(status) is None and writable(directory):
                try:
                    self._places[mount] = self._make(directory, above)
                except OSError as error:
                    # Who makes room on a full filesystem cannot make a directory first.
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                break

    def _make(self, directory: int, path: str) -> Place:
        name = self._workspace.name()
        parent = os.dup(directory)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            try:
                descriptor = os.open(name, filesystem.O_DIRECTORY_PATH, dir_fd=parent)
            except BaseException:
                os.rmdir(name, dir_fd=parent)
                raise
        except BaseException:
            os.close(parent)
            raise
        return Place(descriptor, parent, name, f"{path}/{name}")

    def discard(self) -> List[str]:
        """Remove the places with all that is in them; those that are left, and why."""
        left: List[str] = []
        for place in self._places.values():
            try:
                remove(place.parent, place.name, place.path.rpartition("/")[0])
            except (OSError, MountInside) as error:
                left.append(told(place.path, error))
        return left

    def discard_empty(self) -> List[str]:
        """Remove the places; those that could not be emptied, or are left otherwise."""
        left: List[str] = []
        for place in self._places.values():
            try:
                os.rmdir(place.name, dir_fd=place.parent)
            except FileNotFoundError:
                pass
            except OSError as error:
                left.append(told(place.path, error))
        return left

    def close(self) -> None:
        """Close the descriptors."""
        while self._places:
            _, place = self._places.popitem()
            os.close(place.descriptor)
            os.close(place.parent)
