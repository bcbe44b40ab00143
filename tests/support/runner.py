"""A daemon's side of the runner protocol, for tests that drive a real runner process."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shannotd.runner.frames import Channel, Closed

REPOSITORY = Path(__file__).resolve().parents[2]
LIMITS: dict[str, float] = {
    "wall_seconds": 30.0,
    "output_bytes": 1 << 20,
    "written_bytes": 256 << 20,
    "processes": 64,
    "memory_bytes": 2 << 30,
    "open_files": 1024,
    "steps": 100_000,
    "calls": 1000,
}
# What becomes of a call of a program, from the question to the answer.
Decide = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Outcome:
    """Everything that came back of one dry run."""

    session: str
    exit_code: int | None = None
    signal: int | None = None
    stopped: str | None = None
    leftover: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    dropped: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)
    canonical: bytes = b""
    notes: list[dict[str, Any]] = field(default_factory=list)
    digest: str = ""
    seal: str = ""
    error: dict[str, Any] | None = None
    programs: list[dict[str, Any]] = field(default_factory=list)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    staying: list[dict[str, Any]] = field(default_factory=list)
    amended: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The recorded steps as they travel."""
        return json.loads(self.canonical)["steps"] if self.canonical else []

    def commands(self) -> list[dict[str, Any]]:
        """The recorded commands."""
        return [step for step in self.steps if step["kind"] == "command"]

    def changes(self) -> dict[str, str]:
        """Path -> change of every file step that is not scratch."""
        return {
            step["path"]: step["change"]
            for step in self.steps
            if step["kind"] == "file" and not step["scratch"]
        }


class RunnerProcess:
    """A running runner and its control connection."""

    def __init__(self, process: subprocess.Popen[bytes], control: Channel, state: Path) -> None:
        self.process = process
        self.control = control
        self.state = state

    def ask(self, header: dict[str, Any], descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
        """One request on the control connection."""
        self.control.send(header, descriptors=descriptors)
        answer, _, _ = self.control.receive()
        return answer

    def start(
        self,
        kind: str,
        script: bytes | str = b"",
        *arguments: str,
        session: str | None = None,
        name: str = "-c",
        path: str | None = None,
        stdin: bytes = b"",
        cwd: str = "/",
        run_as: str | None = None,
        environment: Mapping[str, str] | None = None,
        limits: Mapping[str, float] | None = None,
        hide: Sequence[str] = (),
        scratch: Sequence[str] = ("/run/**",),
        shims: Sequence[str] = (),
        deny: Sequence[str | tuple[str, str]] = (),
    ) -> tuple[str, Channel]:
        """Begin a dry run; the session's id and its job channel."""
        session = session or os.urandom(16).hex()
        source = script.encode() if isinstance(script, str) else script
        ours, theirs = socket.socketpair()
        answer = self.ask({"op": "run"}, (theirs.fileno(),))
        theirs.close()
        assert answer == {}, answer
        job = Channel(ours)
        job.send(
            {
                "op": "run",
                "session": session,
                "kind": kind,
                "name": name,
                "path": path,
                "arguments": list(arguments),
                "script_size": len(source),
                "stdin_size": len(stdin),
                "cwd": cwd,
                "run_as": run_as,
                "environment": dict(environment or {}),
                "limits": {**LIMITS, **(limits or {})},
                "hide": list(hide),
                "scratch": list(scratch),
                "inside": ["*"],
                "always": list(shims),
                "deny": [[each, ""] if isinstance(each, str) else each for each in deny],
                "policy_version": "test",
                "on_failure": "rollback",
            },
            source + stdin,
        )
        return session, job

    def run(
        self,
        kind: str,
        script: bytes | str = b"",
        *arguments: str,
        decide: Decide | None = None,
        **more: Any,
    ) -> Outcome:
        """A whole dry run; `decide` answers what becomes of programs."""
        session, job = self.start(kind, script, *arguments, **more)
        with job:
            return collect(session, job, decide)

    def apply(self, outcome: Outcome) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """Apply what `outcome` recorded: the step events and the error, if any."""
        ours, theirs = socket.socketpair()
        assert self.ask({"op": "apply"}, (theirs.fileno(),)) == {}
        theirs.close()
        steps: list[dict[str, Any]] = []
        error: dict[str, Any] | None = None
        with Channel(ours) as job:
            job.send(
                {
                    "op": "apply",
                    "session": outcome.session,
                    "digest": outcome.digest,
                    "seal": outcome.seal,
                },
                outcome.canonical,
            )
            while True:
                event, _, _ = job.receive()
                if event["event"] == "end":
                    return steps, error
                if event["event"] == "need":
                    wanted = event["sha256"]
                    listing = [[name, len(outcome.blobs[name])] for name in wanted]
                    content = b"".join(outcome.blobs[name] for name in wanted)
                    job.send({"op": "blobs", "blobs": listing}, content)
                elif event["event"] == "command_starting":
                    job.send({"op": "go"})
                elif event["event"] == "steps":
                    for index in range(event["first"], event["last"] + 1):
                        steps.append({"index": index, "applied": event["applied"]})
                elif event["event"] == "error":
                    error = event

    def amend(
        self,
        outcome: Outcome,
        *,
        drop: Sequence[int] = (),
        edits: Mapping[int, bytes] | None = None,
        with_dependents: bool = False,
        **header: object,
    ) -> Outcome:
        """What becomes of the plan of `outcome` with changes; `header` overrides what is sent.

        Its contents are those of `outcome` and of `edits`.
        """
        found = {hashlib.sha256(content).hexdigest(): content for content in (edits or {}).values()}
        changed = Outcome(os.urandom(16).hex(), blobs={**outcome.blobs, **found})
        ours, theirs = socket.socketpair()
        assert self.ask({"op": "amend"}, (theirs.fileno(),)) == {}
        theirs.close()
        listed = [
            [index, hashlib.sha256(content).hexdigest(), len(content)]
            for index, content in (edits or {}).items()
        ]
        changes = {"drop": list(drop), "edits": listed, "with_dependents": with_dependents}
        with Channel(ours) as job:
            asked = {
                "op": "amend",
                "session": outcome.session,
                "digest": outcome.digest,
                "seal": outcome.seal,
                "to": changed.session,
                "canonical_size": len(outcome.canonical),
            }
            job.send({**asked, **header}, outcome.canonical + json.dumps(changes).encode())
            collect(changed.session, job, into=changed)
        return changed


def verdict(decision: str, **how: Any) -> dict[str, Any]:
    """An answer of a `decide`."""
    answer = {"rule": "test", "reason": "told so", "risk": "caution"}
    return {**answer, "decision": decision, "observation": None, "recording": None, **how}


def review(**how: Any) -> dict[str, Any]:
    """The answer that a command waits for review."""
    recording = {"exit_status": 0, "stdout": "", "stdin": False, "undo": None, "seconds": 300.0}
    return verdict("review", recording={**recording, **how})


def observe(call: dict[str, Any], **how: Any) -> dict[str, Any]:
    """The answer that a program is observed."""
    observation = {
        "program": call["path"],
        "argv": call["argv"],
        "net": "none",
        "sockets": [],
        "as_root": False,
        "groups": [],
        "shows": [],
        "owners": "",
        "seconds": 30.0,
        "output_bytes": 1 << 20,
    }
    return verdict("observe", observation={**observation, **how})


def collect(
    session: str, job: Channel, decide: Decide | None = None, into: Outcome | None = None
) -> Outcome:
    """Read a dry run's events to their end; those of an amendment `into` its outcome."""
    outcome = Outcome(session) if into is None else into
    while True:
        try:
            event, payload, descriptors = job.receive()
        except Closed:
            outcome.error = {"code": "closed"}
            return outcome
        kind = event["event"]
        if kind == "end":
            return outcome
        if kind == "decide":
            answer = verdict("deny") if decide is None else decide(event)
            job.send({"op": "verdict", "call": event["call"], **answer})
        elif kind == "need":
            listing = [[name, len(outcome.blobs[name])] for name in event["sha256"]]
            contents = b"".join(outcome.blobs[name] for name in event["sha256"])
            job.send({"op": "blobs", "blobs": listing}, contents)
        elif kind == "amended":
            outcome.amended = json.loads(payload)
        elif kind in ("conflicts", "staying"):
            setattr(outcome, kind, json.loads(payload))
        elif kind == "programs":
            outcome.programs = event["programs"]
        elif kind == "output":
            if event["stream"] == "stdout":
                outcome.stdout += payload
            else:
                outcome.stderr += payload
        elif kind == "exited":
            for name in ("exit_code", "signal", "stopped", "leftover"):
                setattr(outcome, name, event[name])
            outcome.dropped = event["stdout_dropped"] + event["stderr_dropped"]
        elif kind == "blobs":
            offset = 0
            for name, size in event["blobs"]:
                outcome.blobs[name] = payload[offset : offset + size]
                offset += size
        elif kind == "blob":
            with open(descriptors[0], "rb") as file:
                outcome.blobs[event["sha256"]] = file.read(event["size"])
        elif kind == "plan":
            outcome.canonical = payload[: event["canonical_size"]]
            outcome.notes = json.loads(payload[event["canonical_size"] :])
            outcome.digest, outcome.seal = event["digest"], event["seal"]
        elif kind == "error":
            outcome.error = event


@contextmanager
def running_runner(
    state: Path, *, account: str | None = None, pool: int = 1, code: Path = REPOSITORY
) -> Iterator[RunnerProcess]:
    """A runner process, of `account` where one is named (the tests are root's then)."""
    ours, theirs = socket.socketpair()
    command = [sys.executable if account is None else "/usr/bin/python3"]
    command += ["-m", "shannotd.runner", "serve", "--fd", str(theirs.fileno())]
    command += ["--state", str(state), "--pool", str(pool)]
    options: dict[str, Any] = {}
    if account is not None:
        entry = pwd.getpwnam(account)
        groups = os.getgrouplist(account, entry.pw_gid)
        options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, pass_fds=(theirs.fileno(),), env=environment, cwd="/", **options
    )
    theirs.close()
    with Channel(ours) as control:
        yield RunnerProcess(process, control, state)
    assert process.wait(20) == 0
