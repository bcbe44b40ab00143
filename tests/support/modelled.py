"""A filesystem in memory that records steps as a dry run does, and applies them as strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shannotd.runner.plan import ABSENT, FileState, FileStep, TreeSummary


class Stale(Exception):
    """A step does not find what it must; the argument is where."""


@dataclass(frozen=True)
class Node:
    """A mode, the content of a file (None: a directory), and where on the host it was, if there."""

    mode: int
    content: bytes | None
    host: str = ""


@dataclass(frozen=True)
class Act:
    """A step with what the model knows beyond it: which directory it found above its paths."""

    step: FileStep
    parents: tuple[str | None, ...]


@dataclass
class Model:
    """Files and directories by path; `""` is the root."""

    nodes: dict[str, Node] = field(default_factory=lambda: {"": Node(0o755, None, "/")})

    @classmethod
    def host(cls, *paths: str) -> Model:
        """A host with these files, each with its path as content, and directories (with a `/`)."""
        made = cls()
        for path in paths:
            name = path.rstrip("/")
            content = None if path.endswith("/") else path.encode()
            made.nodes[name] = Node(0o644 if content else 0o755, content, "" if content else name)
        return made

    def copy(self) -> Model:
        """Another one that is the same."""
        return Model(dict(self.nodes))

    def state(self, path: str) -> FileState:
        """What is at `path`, a directory without its tree."""
        node = self.nodes.get(path)
        if node is None:
            return ABSENT
        if node.content is None:
            return FileState("directory", node.mode, 0, 0)
        digest = hashlib.sha256(node.content).hexdigest()
        return FileState("file", node.mode, 0, 0, len(node.content), digest)

    def whole(self, path: str) -> FileState:
        """The same with the tree."""
        state = self.state(path)
        if state.type != "directory":
            return state
        below = sorted(one for one in self.nodes if one.startswith(path + "/"))
        # Whether a directory of the host's was empty, no step tells: so it counts which one it is.
        text = repr([(one[len(path) :], self.nodes[one]) for one in (path, *below)])
        return replace(
            state, tree=TreeSummary(len(below), 0, hashlib.sha256(text.encode()).hexdigest())
        )

    def may(self, path: str) -> bool:
        """Whether something can be made at `path`."""
        parent = self.nodes.get(path.rpartition("/")[0])
        return parent is not None and parent.content is None

    # Recording: each changes the model and gives the act, None where it cannot be done.

    def write(self, path: str, content: bytes) -> Act | None:
        """Make or overwrite a file; a directory goes with all that is in it."""
        change = "create" if path not in self.nodes else "modify"
        mode = self.nodes[path].mode if path in self.nodes else 0o644
        return self._record(FileStep(change, path, ABSENT, _file(mode, content)), content)

    def append(self, path: str, content: bytes) -> Act | None:
        """Add to a file."""
        node = self.nodes.get(path)
        if node is None or node.content is None:
            return None
        added = TreeSummary(1, len(content), hashlib.sha256(content).hexdigest())
        after = _file(node.mode, node.content + content)
        return self._record(FileStep("append", path, ABSENT, after, appended=added), content)

    def make(self, path: str) -> Act | None:
        """Make a directory, in the place of a file if there is one."""
        node = self.nodes.get(path)
        if node is not None and node.content is None:
            return None
        change = "create" if node is None else "modify"
        after = FileState("directory", 0o755, 0, 0)
        return self._record(FileStep(change, path, ABSENT, after), None)

    def remove(self, path: str) -> Act | None:
        """Delete a file or a whole tree."""
        if path not in self.nodes:
            return None
        return self._record(FileStep("delete", path, ABSENT, ABSENT), None)

    def rename(self, old: str, new: str) -> Act | None:
        """Move a file or directory to a free name."""
        if old not in self.nodes or new in self.nodes or (new + "/").startswith(old + "/"):
            return None
        after = self.state(old)
        return self._record(FileStep("rename", new, ABSENT, after, old_path=old), None)

    def chmod(self, path: str, mode: int) -> Act | None:
        """Change a mode."""
        node = self.nodes.get(path)
        if node is None or node.mode == mode:
            return None
        return self._record(
            FileStep("metadata", path, ABSENT, replace(self.state(path), mode=mode)), None
        )

    def link(self, target: str, path: str) -> Act | None:
        """One more name of a file."""
        node = self.nodes.get(target)
        if node is None or node.content is None or path in self.nodes:
            return None
        step = FileStep("create", path, ABSENT, self.state(target), link_to=target)
        return self._record(step, None)

    def _record(self, step: FileStep, content: bytes | None) -> Act | None:
        if not all(self.may(path) for path in _places(step)):
            return None
        source = step.path if step.old_path is None else step.old_path
        before = self.state(source) if step.change == "metadata" else self.whole(source)
        act = Act(replace(step, before=before), self._parents(step))
        self.apply(act, {} if content is None else {_sha(content): content})
        return act

    # Applying.

    def apply(self, act: Act, contents: dict[str, bytes]) -> None:
        """Do the step of `act`.

        :raises Stale: it does not find what it must.
        """
        step = act.step
        source = step.path if step.old_path is None else step.old_path
        self._require(source, step.before)
        if step.old_path is not None:
            self._require(step.path, ABSENT)
        if step.change != "metadata" and act.parents != self._parents(step):
            raise Stale(step.path)
        if step.link_to is not None:
            self._require(step.link_to, step.after)
        mode = step.after.mode or 0
        if step.change == "metadata":
            self.nodes[step.path] = replace(self.nodes[step.path], mode=mode)
            return
        moved = {path: node for path, node in self.nodes.items() if _is_in(path, source)}
        old = self.nodes.get(source)
        for path in moved:
            del self.nodes[path]
        if step.change == "rename":
            for path, node in moved.items():
                self.nodes[step.path + path[len(source) :]] = node
        elif step.link_to is not None:
            self.nodes[step.path] = self.nodes[step.link_to]
        elif step.appended is not None:
            assert old is not None and old.content is not None
            whole = old.content + contents[step.appended.sha256]
            self.nodes[step.path] = Node(mode, whole)
        elif step.after.type == "file":
            self.nodes[step.path] = Node(mode, contents[step.after.sha256 or ""])
        elif step.after.type == "directory":
            self.nodes[step.path] = Node(mode, None)
        self._require(step.path, step.after)

    def _require(self, path: str, expected: FileState) -> None:
        found = self.state(path) if expected.tree is None else self.whole(path)
        if found != expected:
            raise Stale(path)

    def _parents(self, step: FileStep) -> tuple[str | None, ...]:
        if step.change == "metadata":
            return ()
        above = [self.nodes.get(path.rpartition("/")[0]) for path in _places(step)]
        return tuple(
            None if node is None or node.content is not None else node.host for node in above
        )


def apply_all(model: Model, acts: Sequence[Act], contents: dict[str, bytes]) -> Model:
    """A copy of `model` with all of `acts` done.

    :raises Stale: one does not find what it must.
    """
    result = model.copy()
    for act in acts:
        result.apply(act, contents)
    return result


def _places(step: FileStep) -> tuple[str, ...]:
    return (step.path,) if step.old_path is None else (step.old_path, step.path)


def _file(mode: int, content: bytes) -> FileState:
    return FileState("file", mode, 0, 0, len(content), _sha(content))


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
