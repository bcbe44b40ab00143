"""The files of one directory of an upper layer, beside the host's directory."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import AbstractSet, Dict, List, Optional, Set

from shannotd.runner import filesystem, tree
from shannotd.runner.before import Before
from shannotd.runner.clock import Clock
from shannotd.runner.compare import Change, Comparer
from shannotd.runner.delta import Version, version
from shannotd.runner.findings import Findings
from shannotd.runner.layer import Folder, Layer, Opened, script_xattrs
from shannotd.runner.plan import ABSENT, FileState, FileStep
from shannotd.runner.tree import Entry


class Files:
    """Finds what became of them, layer by layer.

    `present` are the paths where the script has something, `versions` those of its files.
    """

    def __init__(
        self,
        before: Before,
        findings: Findings,
        comparer: Comparer,
        opened: Opened,
        clock: Clock,
        mountpoints: AbstractSet[str],
    ) -> None:
        self._before = before
        self._findings = findings
        self._comparer = comparer
        self._opened = opened
        self._clock = clock
        self._mountpoints = mountpoints
        self._layer: Layer
        self.present: Set[str] = set(mountpoints)
        self.versions: Dict[str, Version] = {}

    def begin(self, layer: Layer) -> None:
        """Go on with another layer."""
        self._layer = layer

    def compare(self, folder: Folder, upper: int, host: Optional[int]) -> None:
        """Find what became of the files in `folder`, which is `upper` in its layer and `host` on
        the host, if anything is there.

        :raises RunnerError: `capture_failed` or `limit_exceeded`.
        """
        for name, status in folder.files:
            self._file(folder, upper, host, name, status)
        if host is None:
            return
        gone = folder.whiteouts
        if folder.opaque:
            gone = self._replaced(folder, host)
        for name in gone:
            self._gone(folder, host, name)

    def _replaced(self, folder: Folder, host: int) -> List[str]:
        """The names in the host's directory that the one in its place does not have."""
        kept = {name for name, _ in folder.files}
        kept.update(below.name for below in folder.folders)
        listed = os.open(".", filesystem.O_DIRECTORY_READ, dir_fd=host)
        try:
            names = os.listdir(listed)
        finally:
            os.close(listed)
        return sorted(
            name
            for name in names
            if name not in kept and folder.below(name) not in self._mountpoints
        )

    def _gone(self, folder: Folder, host: int, name: str) -> None:
        source = folder.source_below(name)
        if source is None or source in self._before.moved:
            return
        path = folder.below(name)
        if path in self._before.history.known:
            return  # what earlier deltas made is looked for at the end
        self._before.check_moved(source, path)
        before = self._before.whole(host, name, source)
        if before.status is None:
            return
        note = self._comparer.deleted(path, before)
        step = FileStep("delete", path, before.state, ABSENT)
        change = Change(step, note, self._findings.mount, mtime_ns=before.status.mtime_ns)
        self._findings.add(self._findings.deleted, change)

    def _file(
        self, folder: Folder, upper: int, host: Optional[int], name: str, status: os.stat_result
    ) -> None:
        path = folder.below(name)
        kind = tree.file_type(status.st_mode)
        self.present.add(path)
        if kind == "file" and self._before.history.unchanged(path, version(status)):
            self._unchanged(path, status)
            return
        if kind != "file":
            self._before.check_known(path)
        before = self._before.known_whole(path)
        if before is None:
            before = tree.NOTHING
            if host is not None and folder.source_below(name) not in self._before.moved:
                before = self._before.beside(folder, host, name)
        if kind == "file":
            self._regular(folder, upper, host, name, status, before)
        elif kind == "symlink":
            target = os.readlink(name, dir_fd=upper)
            after = FileState(kind, 0o777, status.st_uid, status.st_gid, target=target)
            if before.state.type == "symlink" and before.state.target == target:
                self._same_link(path, before, replace(after, mode=before.state.mode), status)
                return
            if self._clock.promised(status.st_mtime_ns):
                after = replace(after, mtime_ns=status.st_mtime_ns)
            change = "create" if before.state.type == "absent" else "modify"
            note = self._comparer.deleted(path, before)
            self._findings.add(
                self._findings.body,
                Change(FileStep(change, path, before.state, after), note, self._findings.mount),
            )
        else:
            self._special(path, kind, status, before)

    def _unchanged(self, path: str, status: os.stat_result) -> None:
        """A file that is as it was at the last barrier."""
        self.versions[path] = version(status)
        if status.st_nlink > 1:
            self._findings.kept_inodes.setdefault((status.st_dev, status.st_ino), path)

    def _same_link(
        self, path: str, before: Entry, after: FileState, status: os.stat_result
    ) -> None:
        """A symlink to the same target: at most its owner or time is another."""
        known = self._before.history.known.get(path)
        old_ns, new_ns = self._comparer.times(path, before, known, status.st_mtime_ns)
        was = replace(before.state, links=None, mtime_ns=old_ns)
        after = replace(after, mtime_ns=new_ns)
        if was != after:
            self._findings.change("metadata", path, was, after)

    def _special(self, path: str, kind: str, status: os.stat_result, before: Entry) -> None:
        """A FIFO, socket or device: the script's own are reported and made by no plan."""
        device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        if before.state.type != kind or before.state.target not in (None, device):
            what = kind if kind in ("fifo", "socket") else "device"
            self._findings.block(what, path)
            return
        mode = stat.S_IMODE(status.st_mode)
        after = replace(before.state, mode=mode, uid=status.st_uid, gid=status.st_gid)
        if before.state != after:
            self._findings.change("metadata", path, before.state, after)

    def _regular(
        self,
        folder: Folder,
        upper: int,
        host: Optional[int],
        name: str,
        status: os.stat_result,
        before: Entry,
    ) -> None:
        relative = f"{folder.relative}/{name}" if folder.relative else name
        path = folder.below(name)
        flags = filesystem.O_READ
        descriptor = self._opened.open(self._layer, upper, name, relative, flags)
        try:
            change = self._comparer.file(
                self._layer,
                relative,
                descriptor,
                status,
                path,
                script_xattrs(self._layer, descriptor),
                before,
                self._before.history.known.get(path),
                host,
                self._findings.mount,
                parted=self._before.history.is_parted(path, version(status)),
            )
        finally:
            os.close(descriptor)
        if change is not None:
            self._before.check_known(path)
        self.versions[path] = version(status)
        inode = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
        if change is not None and change.step.change != "metadata":
            change.inode = inode
        elif inode is not None:
            self._findings.kept_inodes.setdefault(inode, path)
        if change is not None:
            self._findings.add(self._findings.body, change)
