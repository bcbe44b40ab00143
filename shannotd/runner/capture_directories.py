"""The directories of an upper layer, beside the host's."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import AbstractSet, Dict, List, Mapping, Optional

from shannotd.runner import filesystem
from shannotd.runner.before import Before
from shannotd.runner.capture_files import Files
from shannotd.runner.clock import Clock
from shannotd.runner.filesystem import Descent
from shannotd.runner.findings import Findings
from shannotd.runner.host import Host
from shannotd.runner.layer import USER, Folder, Layer, failed
from shannotd.runner.plan import ABSENT, FileState


class Directories:
    """Finds what became of them, and has `files` find the same of the files in each."""

    def __init__(self, before: Before, findings: Findings, files: Files, clock: Clock) -> None:
        self._before = before
        self._findings = findings
        self._files = files
        self._clock = clock
        self._layer: Layer
        self._placed: AbstractSet[str] = frozenset()

    def walk(self, layer: Layer, root: Folder, placed: AbstractSet[str]) -> None:
        """Look at the directories of `layer` from its `root` on, and the files in them.

        Those that are `placed` are found already.

        :raises RunnerError: `capture_failed` or `limit_exceeded`.
        """
        self._layer = layer
        self._placed = placed
        self._files.begin(layer)
        top = os.open(".", filesystem.O_DIRECTORY_PATH, dir_fd=layer.upper)
        with Descent(top) as upper, Host(root.path) as host:
            assert host.current is not None
            self._findings.mount = filesystem.status(host.current).mount
            self._compare_root(root, host.current)
            self._files.compare(root, upper.current, host.current)
            # None stands for the way back up to the directory above.
            pending: List[Optional[Folder]] = list(reversed(root.folders))
            while pending:
                folder = pending.pop()
                if folder is None:
                    upper.leave()
                    host.leave()
                    continue
                if not self._enter(folder, host):
                    continue
                flags = filesystem.O_DIRECTORY_PATH
                upper.enter(os.open(folder.name, flags, dir_fd=upper.current))
                self._files.compare(folder, upper.current, host.current)
                pending.append(None)
                pending.extend(reversed(folder.folders))

    def _compare_root(self, root: Folder, host: int) -> None:
        """The mount's own directory: the builder made the upper one, so only what differs
        from how it was made is the script's."""
        before = self._before.described(host)
        after = before
        if self._layer.root_mode is not None:
            mode = stat.S_IMODE(root.status.st_mode)
            if mode != self._layer.root_mode:
                after = replace(after, mode=mode)
        if self._layer.root_owner is not None:
            owner = root.status.st_uid, root.status.st_gid
            if owner != self._layer.root_owner:
                after = replace(after, uid=owner[0], gid=owner[1])
        given = self._layer.root_xattrs
        if root.xattrs != given:
            kept = {n: v for n, v in before.xattrs.items() if n in root.xattrs or n not in given}
            new = {n: v for n, v in root.xattrs.items() if given.get(n) != v}
            after = replace(after, xattrs={**kept, **new})
        known = self._before.known(root.path)
        if known is not None:
            before = known.state
        if before != after:
            self._findings.change("metadata", root.path, before, after)

    def _enter(self, folder: Folder, host: Host) -> bool:
        """Record what became of the directory itself and go to the host's one, if any.

        False where nothing in it can be the script's.
        """
        self._files.present.add(folder.path)
        known = self._before.known(folder.path)
        if folder.redirect is not None:
            assert folder.source is not None
            descriptor = filesystem.open_directory(folder.source)
            host.jump(descriptor)
            before = self._before.described(descriptor)
            self._compare_directory(folder, before if known is None else known.state)
            return True
        current = host.current
        before = ABSENT
        if folder.source is not None and current is not None:
            before = self._before.entry(current, folder.name).state
        if known is not None:
            hosts = before.type == "directory" and folder.path not in self._before.history.cut
            before = known.state
            if before.type == "directory" and not hosts:
                host.jump(None)
                self._compare_directory(folder, before)
                return True
        if before.type == "directory":
            assert current is not None
            descriptor = os.open(folder.name, filesystem.O_DIRECTORY_PATH, dir_fd=current)
            host.enter(descriptor)
            if filesystem.status(descriptor).mount_root:
                return self._uncovered(folder, host)
            self._compare_directory(folder, before)
            return True
        host.jump(None)
        if folder.path not in self._placed:
            change = "create" if before.type == "absent" else "modify"
            self._findings.change(change, folder.path, before, self.made(folder))
        return True

    def _uncovered(self, folder: Folder, host: Host) -> bool:
        """A host's mount point that has no layer: the sandbox showed what is beneath it."""
        host.leave()
        pending = [folder]
        while pending:
            below = pending.pop()
            if below.files or below.whiteouts or below.opaque or below.redirect:
                raise failed(below.path, f"{folder.path} is a mount that the sandbox lacks")
            pending.extend(below.folders)
        return False

    def _compare_directory(self, folder: Folder, before: FileState) -> None:
        xattrs = folder.xattrs
        if self._layer.prefix == USER:
            xattrs = {**_hidden(before.xattrs), **xattrs}
        after = replace(
            before,
            mode=stat.S_IMODE(folder.status.st_mode),
            uid=folder.status.st_uid,
            gid=folder.status.st_gid,
            xattrs=xattrs,
        )
        if before != after:
            self._findings.change("metadata", folder.path, before, after)

    def made(self, folder: Folder) -> FileState:
        """A directory of the script's own."""
        time_ns = folder.status.st_mtime_ns
        return FileState(
            "directory",
            stat.S_IMODE(folder.status.st_mode),
            folder.status.st_uid,
            folder.status.st_gid,
            xattrs=folder.xattrs,
            mtime_ns=time_ns if self._clock.is_old(time_ns) else None,
        )


def _hidden(xattrs: Mapping[str, str]) -> Dict[str, str]:
    """What a mount with userxattr hides of a host file's attributes."""
    return {name: value for name, value in xattrs.items() if name.startswith(USER)}
