"""The plan as the runner records and applies it, its canonical encoding and its digest.

The canonical encoding is JSON with sorted keys, no spaces, ASCII only (bytes that are not
UTF-8 as surrogate escapes), so that equal plans are equal bytes. The digest is the
SHA-256 of it (P2). The daemon and the clients only ever parse these bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

FORMAT = 1


@dataclass(frozen=True)
class TreeSummary:
    """A tree (or the appended part of a file) by number of entries, bytes and SHA-256."""

    entries: int
    size: int
    sha256: str


@dataclass(frozen=True)
class FileState:
    """What is, or will be, at a path.

    `type` is absent, file, directory, symlink, fifo, socket, character or block; `mode` the
    permission bits; `sha256` of a file's content (null where it is too large to hash: then
    `fingerprint` is inode, size, mtime and ctime); `target` of a symlink, of a device its major
    and minor number (8:0); `xattrs` name to hex value (ACLs, capabilities and labels among
    them); `mtime_ns` only where it is promised; `links` the number of hard links where it is
    more than one; `tree` for a directory that is deleted or replaced as a whole.
    """

    type: str
    mode: Optional[int] = None
    uid: Optional[int] = None
    gid: Optional[int] = None
    size: Optional[int] = None
    sha256: Optional[str] = None
    target: Optional[str] = None
    xattrs: Dict[str, str] = field(default_factory=dict)
    mtime_ns: Optional[int] = None
    links: Optional[int] = None
    fingerprint: Optional[str] = None
    tree: Optional[TreeSummary] = None


ABSENT = FileState("absent")


@dataclass(frozen=True)
class FileStep:
    """One file change. `path` is physical: no component of it was a symlink.

    `change` is create, modify, append, delete, rename or metadata. For `append`, `appended`
    is the added part (its content is the blob). `link_to` names a path of which the new file
    is one more hard link. `scratch` steps are shown and not applied.
    """

    change: str
    path: str
    before: FileState
    after: FileState
    old_path: Optional[str] = None
    appended: Optional[TreeSummary] = None
    link_to: Optional[str] = None
    scratch: bool = False
    kind: str = "file"


@dataclass(frozen=True)
class BlockedStep:
    """Something that was refused in the dry run, once per kind and destination."""

    what: str
    target: str
    count: int
    kind: str = "blocked"


@dataclass(frozen=True)
class Input:
    """What a command is given on its standard input: a content by SHA-256 and size (bytes)."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Output:
    """What a command printed on one stream, as far as it was kept: a content, and whether more
    was cut off."""

    sha256: str
    size: int
    truncated: bool = False


@dataclass(frozen=True)
class Interpreter:
    """A file that runs a command's program, or that program's interpreter: its path, where no
    component is a symlink, and its content."""

    path: str
    sha256: str


@dataclass(frozen=True)
class CommandStep:
    """One call of a program of the host's, at its place among the script's changes.

    `decision` is `review` (recorded; runs at apply: a barrier), `observe` (was run in the dry run,
    beside the sandbox) or `deny` (never runs). `program` is the file on the host that was resolved,
    `program_sha256` its content. `environment` is all of it, `changed` the names in it that are not
    of the clean base. `interpreters` run the program if it is a script, `loaded` are the loader and
    the libraries by which it starts, as far as they are known. No `stdin` means /dev/null, also
    where a pipe is `unread`. `exit_status` is what the script was told; a reviewed command must end
    with it when it is applied. `assumed` says that the script may have read its output, which
    nobody knew. `stdout` and `stderr` are what an observed program printed. `called_after`, of a
    command that is not applied, is the index of the reviewed command that the script had called
    last, None where it had called none. `link` is the path that was called where it is one that
    leads to the program. `rule`, `reason` and `risk` are policy's; `seconds` and `output_bytes` are
    limits at apply; `undo` is the argv that makes up for it in a rollback.
    """

    decision: str
    program: str
    program_sha256: str
    argv: Tuple[str, ...]
    cwd: str
    environment: Dict[str, str]
    changed: Tuple[str, ...]
    exit_status: int
    rule: str
    reason: str
    risk: str
    stdin: Optional[Input] = None
    assumed: bool = False
    stdout: Optional[Output] = None
    stderr: Optional[Output] = None
    seconds: float = 300.0
    output_bytes: int = 1 << 20
    memory_bytes: Optional[int] = None
    processes: Optional[int] = None
    interpreters: Tuple[Interpreter, ...] = ()
    loaded: Tuple[str, ...] = ()
    undo: Optional[Tuple[str, ...]] = None
    called_after: Optional[int] = None
    link: Optional[str] = None
    unread: bool = False
    kind: str = "command"


@dataclass(frozen=True)
class Holder:
    """A process that holds a file open for writing, and the program that it runs."""

    pid: int
    program: str


@dataclass(frozen=True)
class StepNote:
    """What a reader sees beside a step: a unified diff, or why there is none; who holds open for
    writing what the step displaces; and what a command is given that others can change."""

    diff: Optional[str] = None
    binary: bool = False
    too_large: bool = False
    holders: Tuple[Holder, ...] = ()
    others: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """Under whom a script runs, in the dry run and at apply."""

    name: str
    uid: int
    gid: int
    groups: Tuple[int, ...]
    umask: int


@dataclass(frozen=True)
class Plan:
    """The steps of one dry run: what is applied, in order; then, each in their order, the calls
    that were observed, those that were denied, and what was blocked."""

    session: str
    target: Dict[str, str]
    identity: Identity
    policy_version: str
    on_failure: str
    steps: Tuple[Any, ...]
    format: int = FORMAT


def canonical(plan: Plan) -> bytes:
    """The one encoding of `plan` that is hashed, sent, stored and parsed."""
    return json.dumps(plan, default=vars, sort_keys=True, separators=(",", ":")).encode("ascii")


def digest(encoded: bytes) -> str:
    """SHA-256 of a canonical encoding, in hex."""
    return hashlib.sha256(encoded).hexdigest()


def seal(key: bytes, session: str, plan_digest: str) -> str:
    """Proof that the holder of `key` recorded `plan_digest` for `session` (HMAC-SHA-256)."""
    return hmac.new(key, f"{session}\n{plan_digest}".encode("ascii"), "sha256").hexdigest()


def parse(encoded: bytes) -> Plan:
    """The plan in `encoded`; only for bytes whose seal was checked.

    :raises ValueError, KeyError, TypeError: the bytes are no plan of this format.
    """
    value = json.loads(encoded)
    if value["format"] != FORMAT:
        raise ValueError(f"plan format {value['format']}")
    identity = value.pop("identity")
    identity["groups"] = tuple(identity["groups"])
    steps: List[Any] = []
    for step in value.pop("steps"):
        if step["kind"] == "file":
            for name in ("before", "after"):
                state = step[name]
                if state["tree"] is not None:
                    state["tree"] = TreeSummary(**state["tree"])
                step[name] = FileState(**state)
            if step["appended"] is not None:
                step["appended"] = TreeSummary(**step["appended"])
            steps.append(FileStep(**step))
        elif step["kind"] == "blocked":
            steps.append(BlockedStep(**step))
        elif step["kind"] == "command":
            steps.append(_parse_command(step))
        else:
            raise ValueError(f"step of kind {step['kind']!r}")
    return Plan(identity=Identity(**identity), steps=tuple(steps), **value)


def _parse_command(step: Dict[str, Any]) -> CommandStep:
    for name, kind in (("stdin", Input), ("stdout", Output), ("stderr", Output)):
        if step[name] is not None:
            step[name] = kind(**step[name])
    step["interpreters"] = tuple(Interpreter(**one) for one in step["interpreters"])
    for name in ("argv", "changed", "undo", "loaded"):
        if step[name] is not None:
            step[name] = tuple(step[name])
    return CommandStep(**step)
