"""An apply process of the tests' own, and the daemon's side of its channel."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from shannotd.runner import apply, identity, plan, resume
from shannotd.runner.cgroups import Base
from shannotd.runner.frames import Channel, Closed
from shannotd.runner.interpreters import interpreters, on_host
from shannotd.runner.plan import (
    ABSENT,
    CommandStep,
    FileState,
    FileStep,
    Identity,
    Input,
    Interpreter,
    Plan,
)

KEY = b"a key of the tests"
SESSION = "test-session"
PYTHON = "/usr/bin/python3"  # which commands may run by

Act = Callable[["Applying"], None]


@dataclass
class Applying:
    """A plan that is being applied; `finish` answers what is asked, to the end."""

    pid: int
    channel: Channel
    contents: Mapping[str, bytes]
    steps: dict[int, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    started: list[int] = field(default_factory=list)
    outputs: dict[tuple[int, str], bytes] = field(default_factory=dict)
    commands: dict[int, dict[str, Any]] = field(default_factory=dict)
    at_start: Act | None = None
    at_output: Act | None = None
    at_need: Act | None = None
    lost: bool = False

    @property
    def code(self) -> str | None:
        """The error's code."""
        return None if self.error is None else self.error["code"]

    def finish(self) -> Applying:
        """Answer and collect until the end."""
        while True:
            header, payload, _ = self.channel.receive()
            event = header["event"]
            if event == "end":
                return self
            if event == "need":
                if self.at_need is not None:
                    self.at_need(self)
                self._send_contents(header["sha256"])
            elif event == "command_starting":
                self.started.append(header["index"])
                if self.at_start is not None:
                    self.at_start(self)
                else:
                    self.channel.send({"op": "go"})
            elif event == "command_output":
                key = header["index"], header["stream"]
                self.outputs[key] = self.outputs.get(key, b"") + payload
                if self.at_output is not None:
                    self.at_output(self)
            elif event == "command":
                self.commands[header["index"]] = header
            elif event == "steps":
                for index in range(header["first"], header["last"] + 1):
                    self.steps[index] = header["applied"]
            else:
                assert event == "error", event
                self.error = header

    def follow(self) -> Applying:
        """`finish`, or until the process is `lost`."""
        try:
            return self.finish()
        except Closed:
            self.lost = True
            return self

    def _send_contents(self, names: Sequence[str]) -> None:
        for name in names:
            data = self.contents[name]
            if data.startswith(b"LARGE"):
                with tempfile.TemporaryFile() as file:
                    file.write(data)
                    file.seek(0)
                    header = {"op": "blob", "sha256": name, "size": len(data)}
                    self.channel.send(header, descriptors=(file.fileno(),))
            else:
                self.channel.send({"op": "blobs", "blobs": [[name, len(data)]]}, data)


class Process(Protocol):
    """A process that does one thing."""

    pid: int

    def finish(self) -> int:
        """Wait for its end; its wait status."""


class Forked:
    """A process that does `work`."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.setsid()
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def finish(self) -> int:
        """Wait for its end; its wait status."""
        return os.waitpid(self.pid, 0)[1]


@contextmanager
def applying(
    steps: Sequence[Any],
    who: Identity,
    *,
    contents: Sequence[bytes] = (),
    become: Identity | None = None,
    on_failure: str = "rollback",
    at_start: Act | None = None,
    at_output: Act | None = None,
    at_need: Act | None = None,
    start: Callable[[Callable[[], None]], Process] = Forked,
    state: Path | None = None,
    base: Base | None = None,
) -> Iterator[Applying]:
    """Apply `steps` as `who` in a process that is root's, or that of `become`.

    A content that begins with LARGE is sent by descriptor. `start` makes the process; `state` is
    its runner's directory, `base` where it has its control groups.
    """
    target = {"kind": "local", "host": identity.machine()}
    found = Plan(SESSION, target, who, "1", on_failure, tuple(steps))
    encoded = plan.canonical(found)
    assert plan.parse(encoded) == found
    made = None
    if state is None:
        made = state = Path(tempfile.mkdtemp(prefix="shannot-state-", dir="/var/tmp"))
        state.chmod(0o777)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        ours.close()
        if become is not None and os.geteuid() == 0:
            os.setgroups(list(become.groups))
            os.setresgid(become.gid, become.gid, become.gid)
            os.setresuid(become.uid, become.uid, become.uid)
        apply.serve(Channel(theirs), key=KEY, state=str(state), base=base)

    process = start(serve)
    theirs.close()
    digest = plan.digest(encoded)
    named = {hashlib.sha256(content).hexdigest(): content for content in contents}
    try:
        with Channel(ours) as channel:
            seal = plan.seal(KEY, SESSION, digest)
            header = {"op": "apply", "session": SESSION, "digest": digest, "seal": seal}
            try:
                channel.send(header, encoded)
            except Closed:
                pass  # It is dead already; who receives meets that too.
            acts = {"at_start": at_start, "at_output": at_output, "at_need": at_need}
            yield Applying(process.pid, channel, named, **acts)
    finally:
        process.finish()
        if made is not None:
            shutil.rmtree(made)


@contextmanager
def resuming(
    state: Path, start: Callable[[Callable[[], None]], Process] = Forked
) -> Iterator[Applying]:
    """Ask what became of the apply of the session, which `start`'s process brings to an end."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        ours.close()
        resume.serve(Channel(theirs), state=str(state))

    process = start(serve)
    theirs.close()
    try:
        with Channel(ours) as channel:
            try:
                channel.send({"op": "resume", "session": SESSION})
            except Closed:
                pass
            yield Applying(process.pid, channel, {})
    finally:
        process.finish()


def created(path: Path, content: bytes, who: Identity) -> FileStep:
    """The step that makes a file of `who`."""
    state = FileState(
        "file",
        mode=0o644,
        uid=who.uid,
        gid=who.gid,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return FileStep("create", str(path), ABSENT, state)


def command(program: str, *arguments: str, **more: Any) -> CommandStep:
    """The step that runs the program at `program`, for review unless said otherwise."""
    path = os.path.realpath(program)
    values: dict[str, Any] = {
        "decision": "review",
        "program": path,
        "program_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        "argv": (program, *arguments),
        "cwd": "/",
        "environment": {"PATH": "/usr/bin:/bin"},
        "changed": (),
        "exit_status": 0,
        "rule": "test",
        "reason": "test",
        "risk": "caution",
    }
    stdin = more.pop("stdin", None)
    if stdin is not None:
        values["stdin"] = Input(hashlib.sha256(stdin).hexdigest(), len(stdin))
    values.update(more)
    if "interpreters" not in values:
        search = values["environment"].get("PATH", "")
        values["interpreters"] = tuple(
            Interpreter(place, hashlib.sha256(Path(place).read_bytes()).hexdigest())
            for place in interpreters(on_host, values["program"], values["cwd"], search)
        )
    return CommandStep(**values)


def shell(text: str, *arguments: str, **more: Any) -> CommandStep:
    """The step that runs `text` by /bin/sh, with `arguments` from $1 on."""
    return command("/bin/sh", "-c", text, "sh", *arguments, **more)
