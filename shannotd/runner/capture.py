"""From the upper layers of a sandbox's overlays to the steps of a plan.

What was before always comes from the host's own tree, never through an overlay, or from what
was recorded at a barrier before (see delta.py). The layers must not change meanwhile: the sandbox
is frozen or gone.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from dataclasses import dataclass, replace
from typing import AbstractSet, Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from shannotd.runner import filesystem, moves, scratch, tree
from shannotd.runner.arrange import arrange
from shannotd.runner.compare import SHOWN_BYTES, Change, Comparer, Content
from shannotd.runner.delta import (
    CLOCK_LAG_NS,
    History,
    Known,
    Version,
    can_be_checked,
    follow,
    gone,
    lineage,
    overlapping,
    version,
)
from shannotd.runner.filesystem import Descent
from shannotd.runner.frames import RunnerError
from shannotd.runner.host import Host
from shannotd.runner.layer import (
    USER,
    Folder,
    Layer,
    Opened,
    failed,
    failed_by,
    read_layer,
    script_xattrs,
)
from shannotd.runner.plan import (
    ABSENT,
    BlockedStep,
    FileState,
    FileStep,
    Identity,
    StepNote,
    TreeSummary,
)
from shannotd.runner.shim_copies import Copies, Found
from shannotd.runner.shims import Shims
from shannotd.runner.tree import Entry, MountInside

__all__ = ["Content", "Layer", "Recorded", "capture"]

# What is left of a directory in which earlier deltas made everything, when that is gone.
_EMPTY_TREE = TreeSummary(0, 0, hashlib.sha256().hexdigest())

Step = Union[FileStep, BlockedStep]


@dataclass(frozen=True)
class Recorded:
    """The steps in the order in which they are to be applied, what to show beside each, and
    the contents that they need. Close it when the contents have been read.

    `history` is the one that the next capture of the same session is to go by.
    """

    steps: Tuple[Step, ...]
    notes: Tuple[StepNote, ...]
    contents: Dict[str, Content]
    opened: Opened
    history: History

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Undo what reading the layers needed."""
        self.opened.close()


def capture(
    layers: Sequence[Layer],
    *,
    started_ns: int,
    scratch: Sequence[str],
    identity: Identity,
    limits: Mapping[str, Any],
    history: Optional[History] = None,
    keep_scratch: bool = False,
    shims: Optional[Shims] = None,
) -> Recorded:
    """What the script did to the host's files, seen through `layers`.

    `started_ns` is when the script began (time.time_ns): older times on what it made were set
    on purpose. `scratch` are glob patterns (see scratch.py). `identity` will apply the plan:
    what it cannot read is not hashed. Of `limits`, `steps` and `written_bytes` are used. With the
    `history` of earlier captures it is what was done since the last of them. `keep_scratch` has
    the contents of scratch come along. What came of the sandbox's `shims` shows as what came of
    their programs.

    :raises RunnerError: `capture_failed` or `limit_exceeded`.
    """
    opened = Opened()
    try:
        found = history or History()
        copies = Copies(shims, opened, () if keep_scratch else scratch, limits)
        work = _Capture(layers, started_ns, scratch, identity, limits, opened, found, copies)
        return work.run(keep_scratch)
    except BaseException:
        opened.close()
        raise


class _Capture:
    def __init__(
        self,
        layers: Sequence[Layer],
        started_ns: int,
        patterns: Sequence[str],
        identity: Identity,
        limits: Mapping[str, Any],
        opened: Opened,
        history: History,
        copies: Copies,
    ) -> None:
        self._layers = sorted(layers, key=lambda layer: layer.mountpoint)
        self._mountpoints = frozenset(layer.mountpoint for layer in layers)
        self._earliest_ns = started_ns - CLOCK_LAG_NS
        self._now_ns = time.time_ns()
        self._is_scratch = scratch.matcher(patterns)
        self._identity = identity
        self._limit: Optional[int] = limits.get("steps")
        self._opened = opened
        self._history = history
        written = limits.get("written_bytes")
        self._comparer = Comparer(self._promised, started_ns, written, history)
        self._copies = copies
        self._moved: Dict[str, Folder] = {}
        # Old path to new of each layer's renamed directories; what is no part of host's trees.
        self._places: Dict[str, Dict[str, str]] = {}
        self._excluded: AbstractSet[str] = frozenset()
        # Where the script has something, and the versions of its files.
        self._present: Set[str] = set(self._mountpoints)
        self._versions: Dict[str, Version] = {}
        self._placed: Set[str] = set()
        self._head: List[Change] = []
        self._body: List[Change] = []
        self._deleted: List[Change] = []
        self._blocked: List[BlockedStep] = []
        # Files with several names in an upper layer that are one of the host's own.
        self._kept_inodes: Dict[Tuple[int, int], str] = {}
        self._layer: Layer
        self._mount = 0

    def run(self, keep_scratch: bool) -> Recorded:
        """Look at all layers."""
        for layer in self._layers:
            self._layer = layer
            path = layer.mountpoint
            try:
                root = read_layer(layer, self._mountpoints, self._opened, self._limit)
                moved = moves.find_sources(layer, root)
                self._moved = moved
                self._excluded = moved.keys() | self._history.known.keys()
                self._placed = set()
                if self._moves_are_new(root):
                    self._move(root)
                self._walk(root)
            except MountInside as error:
                raise failed(str(error), "something is mounted there") from error
            except OSError as error:
                name = error.filename if isinstance(error.filename, str) else path
                raise failed_by(error, name) from error
        self._find_gone()
        return self._recorded(keep_scratch)

    def _recorded(self, keep_scratch: bool) -> Recorded:
        ordered = arrange(
            self._head,
            self._body,
            self._deleted,
            self._kept_inodes,
            self._is_scratch,
            renames=not self._history.begun,
        )
        contents: Dict[str, Content] = {}
        for change in ordered:
            step = change.step
            wanted = keep_scratch or not step.scratch
            if change.content is not None and wanted and step.link_to is None:
                contents.setdefault(change.content.sha256, change.content)
        steps: List[Step] = [change.step for change in ordered]
        notes = [change.note for change in ordered]
        blocked = [step for step in self._blocked if step not in self._history.blocked]
        steps.extend(blocked)
        notes.extend(StepNote() for _ in blocked)
        history = follow(
            self._history,
            steps,
            data={change.step.path: change.data for change in ordered if change.data is not None},
            moved=self._places,
            versions=self._versions,
            captured_ns=self._now_ns,
        )
        return Recorded(tuple(steps), tuple(notes), contents, self._opened, history)

    # What earlier deltas made.

    def _known(self, path: str) -> Optional[Entry]:
        """What an earlier delta leaves at `path`, None where it is the host's that counts.

        :raises RunnerError: `capture_failed`: nobody could tell that it is there.
        """
        known = self._history.known.get(path)
        if known is None:
            return None
        if not can_be_checked(known.state, self._identity.uid):
            raise failed(path, "it changed on both sides of a command, and cannot be read")
        return Entry(known.state, data=known.data)

    def _known_whole(self, path: str) -> Optional[Entry]:
        """The same, a directory with the tree of what is the host's own in it."""
        found = self._known(path)
        if found is None or found.state.type != "directory":
            return found
        for folder in self._moved.values():
            if path.startswith(folder.path + "/"):
                raise failed(path, "its directory was renamed, and it changed around a command")
        summary: Optional[TreeSummary] = _EMPTY_TREE
        if not self._history.is_cut(path) and self._kind(path) == "directory":
            summary = self._state(path).tree
        return replace(found, state=replace(found.state, tree=summary))

    def _find_gone(self) -> None:
        """What earlier deltas made and the script then removed leaves no mark in any layer."""
        turned = {
            change.step.path
            for change in self._body
            if change.step.before.type == "directory" and change.step.after.type != "directory"
        }
        first: List[Change] = []
        last: List[Change] = []
        for path in gone(self._history, self._present):
            before = self._known_whole(path)
            assert before is not None
            note = self._comparer.deleted(path, before)
            change = Change(FileStep("delete", path, before.state, ABSENT), note, 0)
            inside = turned and not turned.isdisjoint(lineage(path))
            self._add(first if inside else last, change)
        self._head[:0] = first
        self._deleted[:0] = last

    def _moves_are_new(self, root: Folder) -> bool:
        """Whether the renamed directories of a layer are to be told, as they were not before.

        :raises RunnerError: `capture_failed`: some were, or deltas changed something in them.
        """
        places = {source: folder.path for source, folder in self._moved.items()}
        before = self._history.moved.get(root.path, {})
        self._places[root.path] = places
        if not self._history.begun or places == before:
            return not self._history.begun and bool(places)
        changed = sorted({*places.items()} ^ {*before.items()})[0]
        both = [*places, *places.values()]
        if before or overlapping(self._history, both) is not None:
            raise failed(changed[1], "a directory was renamed on both sides of a command")
        return True

    # Directories that were renamed.

    def _move(self, root: Folder) -> None:
        for operation in moves.order(root, self._moved, self._kind):
            path, folder, source = operation.path, operation.folder, operation.source
            before = ABSENT
            if operation.kind != "create" and source is not None:
                before = self._state(source)
            if operation.kind == "move":
                after = replace(before, tree=None)
                step = FileStep("rename", path, before, after, operation.old_path)
            elif operation.kind == "delete":
                step = FileStep("delete", path, before, ABSENT)
            else:
                assert folder is not None
                change = "create" if operation.kind == "create" else "modify"
                step = FileStep(change, path, before, self._made(folder))
            if folder is not None:
                self._placed.add(path)
            self._add(self._head, Change(step, StepNote(), self._mount))

    def _kind(self, path: str) -> str:
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

    def _state(self, path: str) -> FileState:
        """What was at `path` before the script, a directory with its tree."""
        parent, _, name = path.rpartition("/")
        directory = filesystem.open_directory(parent or "/")
        try:
            return self._whole(directory, name, path).state
        finally:
            os.close(directory)

    def _whole(self, directory: int, name: str, source: str) -> Entry:
        """What is at `name`, which is at `source` on the host, a directory with its tree."""
        found = tree.entry(directory, name, identity=self._identity, keep=SHOWN_BYTES)
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

    # The walk over one layer, the host's directories beside it.

    def _walk(self, root: Folder) -> None:
        top = os.open(".", filesystem.O_DIRECTORY_PATH, dir_fd=self._layer.upper)
        with Descent(top) as upper, Host(root.path) as host:
            assert host.current is not None
            self._mount = filesystem.status(host.current).mount
            self._compare_root(root, host.current)
            self._entries(root, upper.current, host.current)
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
                self._entries(folder, upper.current, host.current)
                pending.append(None)
                pending.extend(reversed(folder.folders))

    def _compare_root(self, root: Folder, host: int) -> None:
        """The mount's own directory: the builder made the upper one, so only what differs
        from how it was made is the script's."""
        before = tree.describe(host, filesystem.status(host), identity=self._identity).state
        after = before
        if self._layer.root_mode is not None:
            mode = stat.S_IMODE(root.status.st_mode)
            if mode != self._layer.root_mode:
                after = replace(after, mode=mode)
        if self._layer.root_owner is not None:
            owner = root.status.st_uid, root.status.st_gid
            if owner != self._layer.root_owner:
                after = replace(after, uid=owner[0], gid=owner[1])
        if root.xattrs:
            after = replace(after, xattrs={**before.xattrs, **root.xattrs})
        known = self._known(root.path)
        if known is not None:
            before = known.state
        if before != after:
            self._change("metadata", root.path, before, after)

    def _enter(self, folder: Folder, host: Host) -> bool:
        """Record what became of the directory itself and go to the host's one, if any.

        False where nothing in it can be the script's.
        """
        self._present.add(folder.path)
        known = self._known(folder.path)
        if folder.redirect is not None:
            assert folder.source is not None
            descriptor = filesystem.open_directory(folder.source)
            host.jump(descriptor)
            before = tree.describe(
                descriptor, filesystem.status(descriptor), identity=self._identity
            ).state
            self._compare_directory(folder, before if known is None else known.state)
            return True
        current = host.current
        before = ABSENT
        if folder.source is not None and current is not None:
            before = tree.entry(
                current, folder.name, identity=self._identity, keep=SHOWN_BYTES
            ).state
        if known is not None:
            hosts = before.type == "directory" and folder.path not in self._history.cut
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
            self._change(change, folder.path, before, self._made(folder))
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
            self._change("metadata", folder.path, before, after)

    def _made(self, folder: Folder) -> FileState:
        time_ns = folder.status.st_mtime_ns
        return FileState(
            "directory",
            stat.S_IMODE(folder.status.st_mode),
            folder.status.st_uid,
            folder.status.st_gid,
            xattrs=folder.xattrs,
            mtime_ns=time_ns if time_ns < self._earliest_ns else None,
        )

    # What is in one directory.

    def _entries(self, folder: Folder, upper: int, host: Optional[int]) -> None:
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
        if source is None or source in self._moved:
            return
        path = folder.below(name)
        if path in self._history.known:
            return  # see _find_gone
        if source != path and self._history.below(path):
            raise failed(path, "its directory was renamed, and it changed around a command")
        before = self._whole(host, name, source)
        if before.status is None:
            return
        note = self._comparer.deleted(path, before)
        step = FileStep("delete", path, before.state, ABSENT)
        change = Change(step, note, self._mount, mtime_ns=before.status.mtime_ns)
        self._add(self._deleted, change)

    def _file(
        self, folder: Folder, upper: int, host: Optional[int], name: str, status: os.stat_result
    ) -> None:
        path = folder.below(name)
        kind = tree.file_type(status.st_mode)
        self._present.add(path)
        if kind == "file" and self._history.unchanged(path, version(status)):
            self._unchanged(path, status)
            return
        before = self._known_whole(path)
        if before is None:
            before = tree.NOTHING
            if host is not None and folder.source_below(name) not in self._moved:
                before = self._before(folder, host, name, kind)
        if kind == "file":
            self._regular(folder, upper, host, name, status, before)
        elif kind == "symlink":
            target = os.readlink(name, dir_fd=upper)
            after = FileState(kind, 0o777, status.st_uid, status.st_gid, target=target)
            if before.state.type == "symlink" and before.state.target == target:
                self._same_link(path, before, replace(after, mode=before.state.mode), status)
                return
            if self._promised(status.st_mtime_ns):
                after = replace(after, mtime_ns=status.st_mtime_ns)
            change = "create" if before.state.type == "absent" else "modify"
            note = self._comparer.deleted(path, before)
            self._add(
                self._body, Change(FileStep(change, path, before.state, after), note, self._mount)
            )
        else:
            self._special(path, kind, status, before)

    def _unchanged(self, path: str, status: os.stat_result) -> None:
        """A file that is as it was at the last barrier."""
        self._versions[path] = version(status)
        if status.st_nlink > 1:
            self._kept_inodes.setdefault((status.st_dev, status.st_ino), path)

    def _same_link(
        self, path: str, before: Entry, after: FileState, status: os.stat_result
    ) -> None:
        """A symlink to the same target: at most its owner or time is another."""
        known = self._history.known.get(path)
        old_ns, new_ns = self._comparer.times(before, known, status.st_mtime_ns)
        was = replace(before.state, links=None, mtime_ns=old_ns)
        after = replace(after, mtime_ns=new_ns)
        if was != after:
            self._change("metadata", path, was, after)

    def _before(self, folder: Folder, host: int, name: str, kind: str) -> Entry:
        source = folder.source_below(name)
        assert source is not None
        before = tree.entry(host, name, identity=self._identity, keep=SHOWN_BYTES)
        if before.state.type == "directory":
            path = folder.below(name)
            if source != path and self._history.below(path):
                raise failed(path, "its directory was renamed, and it changed around a command")
            return self._whole(host, name, source)
        return before

    def _special(self, path: str, kind: str, status: os.stat_result, before: Entry) -> None:
        """A FIFO, socket or device: the script's own are reported and made by no plan."""
        device = os.major(status.st_rdev), os.minor(status.st_rdev)
        if (
            before.status is None
            or before.state.type != kind
            or (kind in ("character", "block") and before.status.special != device)
        ):
            what = kind if kind in ("fifo", "socket") else "device"
            self._blocked.append(BlockedStep(what, path, 1))
            self._check_limit()
            return
        mode = stat.S_IMODE(status.st_mode)
        after = replace(before.state, mode=mode, uid=status.st_uid, gid=status.st_gid)
        if before.state != after:
            self._change("metadata", path, before.state, after)

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
            xattrs = script_xattrs(self._layer, descriptor)
            found = Found(self._layer, relative, descriptor, status, xattrs)
            with self._copies.original(found, path, before.state) as one:
                known = self._history.known.get(path)
                change = None if one is None else self._compare(one, path, before, known, host)
        finally:
            os.close(descriptor)
        self._versions[path] = version(status)
        inode = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
        if change is not None and change.step.change == "metadata" and self._is_told(inode, path):
            return
        if change is not None and change.step.change != "metadata":
            change.inode = inode
        elif inode is not None:
            self._kept_inodes.setdefault(inode, path)
        if change is not None:
            self._add(self._body, change)

    def _compare(
        self, found: Found, path: str, before: Entry, known: Optional[Known], host: Optional[int]
    ) -> Optional[Change]:
        return self._comparer.file(
            found.layer,
            found.relative,
            found.descriptor,
            found.status,
            path,
            found.xattrs,
            before,
            known,
            host,
            self._mount,
        )

    def _is_told(self, inode: Optional[Tuple[int, int]], path: str) -> bool:
        """Whether metadata of a file were told under another name that it had before, too."""
        other = None if inode is None else self._kept_inodes.get(inode)
        if other is None or self._is_scratch(other) != self._is_scratch(path):
            return False
        one, two = self._history.versions.get(other), self._history.versions.get(path)
        return one is not None and two is not None and one[:2] == two[:2] == inode

    def _promised(self, mtime_ns: int) -> bool:
        return mtime_ns < self._earliest_ns or mtime_ns > self._now_ns

    def _change(self, change: str, path: str, before: FileState, after: FileState) -> None:
        step = FileStep(change, path, before, after)
        self._add(self._body, Change(step, StepNote(), self._mount))

    def _add(self, changes: List[Change], change: Change) -> None:
        changes.append(change)
        self._check_limit()

    def _check_limit(self) -> None:
        count = len(self._head) + len(self._body) + len(self._deleted) + len(self._blocked)
        if self._limit is not None and self._history.steps + count > self._limit:
            raise RunnerError("limit_exceeded", name="steps", limit=self._limit)


def _hidden(xattrs: Mapping[str, str]) -> Dict[str, str]:
    """What a mount with userxattr hides of a host file's attributes."""
    return {name: value for name, value in xattrs.items() if name.startswith(USER)}
