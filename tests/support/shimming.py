"""One script in a sandbox with shims, and somebody who answers them as a test says."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Sandboxes are forks: a test process has threads, so a process of its own does it. It
# takes no part in deciding: each name has its answers.
_SERVER = r"""
import base64, json, os, select, socket, sys, threading, time
from shannotd.runner import barrier, identity, order, rehearsal, sandbox, seccomp, warm
from shannotd.runner.frames import Channel, Closed, RunnerError
from shannotd.runner.plan import FileStep
from shannotd.runner.usual import Usual

asked = json.load(sys.stdin)
state = asked["state"]
settings = warm.Settings(
    builder=sandbox.choose_builder(),
    program=seccomp.compile_filter(),
    state=state,
    hidden=(state,),
    usual=Usual(shims=tuple(asked["shims"])),
)
result = {"calls": [], "error": None, "changes": {}, "contents": {}, "steps": []}


def serve(listener):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(Channel(connection),), daemon=True).start()


def answer(channel):
    with channel:
        call, _, descriptors = channel.receive()
        call["standard"] = [os.readlink(f"/proc/self/fd/{number}") for number in descriptors]
        if asked["drain"]:
            with open(descriptors[0], "rb", closefd=False) as file:
                call["input"] = file.read().decode("latin-1")
        for number in descriptors:
            os.close(number)
        result["calls"].append(call)
        frames = asked["answers"].get(os.path.basename(call["path"]), [])
        for header, payload in frames:
            try:
                if header["event"] == "wait":
                    channel.receive()
                channel.send(header, payload.encode("latin-1"))
            except Closed:
                call["lost"] = True


def drain(descriptor, name):
    with open(descriptor, "rb") as file:
        result[name] = file.read().decode("latin-1")


def main():
    one = rehearsal.build_rehearsed(settings)
    one.prepare()
    who, account = identity.resolve(asked["run_as"], identity.read_floor())
    request = {
        "kind": "shell", "name": "-c", "path": None, "arguments": [], "cwd": asked["cwd"],
        "script_size": len(asked["script"].encode()), "stdin_size": 0, "environment": {},
        "hide": asked["hide"], "scratch": ("/tmp/**", "/run/**"), "session": "test", "deny": [],
        "limits": {"wall_seconds": 60, "output_bytes": 1 << 20, "written_bytes": 1 << 28,
                   "processes": 200, "memory_bytes": 2 << 30, "open_files": 1024, "steps": 9999},
    }
    readers = []
    outputs = []
    for name in ("stdout", "stderr"):
        reading, writing = os.pipe()
        outputs.append(writing)
        readers.append(threading.Thread(target=drain, args=(reading, name)))
    started_ns = time.time_ns()
    job = order.order_of(request, who, account)
    one.begin(job, asked["script"].encode(), tuple(outputs), request["hide"])
    for descriptor in outputs:
        os.close(descriptor)
    for reader in readers:
        reader.start()
    threading.Thread(target=serve, args=(one.calls,), daemon=True).start()
    threading.Thread(target=notify, args=(one,), daemon=True).start()
    try:
        while True:
            event, _, _ = one.channel.receive()
            if event["event"] == "error":
                raise RunnerError(event["code"], **event["details"])
            result.update(event)
    except Closed:
        pass
    one.reap()
    for reader in readers:
        reader.join()
    record(one, request, who, started_ns)


def notify(one):
    from shannotd.runner.notifier import Notifier

    notifier = Notifier(one.listener, one.processes)
    poll = select.poll()
    poll.register(one.listener, select.POLLIN)
    while poll.poll()[0][1] & select.POLLIN:
        notifier.answer()


def record(one, request, who, started_ns):
    with barrier.Recorder(one, request, who, settings, started_ns) as recorder:
        delta = recorder.finish()
        for step in delta.steps:
            if isinstance(step, FileStep) and not step.scratch:
                result["steps"].append({
                    "path": step.path, "change": step.change, "old_path": step.old_path,
                    "before": step.before.__dict__ | {"tree": None},
                    "after": step.after.__dict__ | {"tree": None},
                })
        for sha256, content in delta.contents.items():
            result["contents"][sha256] = base64.b64encode(content.read()).decode()


try:
    main()
except RunnerError as error:
    result["error"] = {"code": error.code, **error.details}
print("\n" + json.dumps(result), flush=True)
os._exit(0)
"""


@dataclass(frozen=True)
class Shimmed:
    """What came of one script: how it ended, the calls of its shims, and what was captured."""

    exit_code: int | None
    signal: int | None
    stdout: str
    stderr: str
    calls: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    contents: dict[str, str]
    error: dict[str, Any] | None

    def changes(self) -> dict[str, str]:
        """Path -> change of every file step."""
        return {step["path"]: step["change"] for step in self.steps}


def output(text: str, stream: str = "stdout") -> tuple[dict[str, Any], str]:
    """An answer: something that the program prints."""
    return {"event": "output", "stream": stream}, text


def ending(exit_code: int | None = 0, signal: int | None = None) -> tuple[dict[str, Any], str]:
    """An answer: how the program ends."""
    return {"event": "exit", "exit_code": exit_code, "signal": signal}, ""


def running(path: str) -> tuple[dict[str, Any], str]:
    """An answer: what is to run instead, inside."""
    return {"event": "exec", "path": path}, ""


def waiting() -> tuple[dict[str, Any], str]:
    """No answer until the shim is gone."""
    return {"event": "wait"}, ""


def shimmed(
    code: Path,
    state: Path,
    script: str,
    answers: Mapping[str, Sequence[tuple[dict[str, Any], str]]],
    *,
    account: str | None = None,
    shims: Sequence[str] | None = None,
    hide: Sequence[str] = (),
    run_as: str | None = None,
    cwd: str = "/",
    drain: bool = False,
) -> Shimmed:
    """Run a shell script in a sandbox of `account`'s (None: ours).

    `answers` are by program; `drain` reads a call's standard input first.
    """
    options: dict[str, Any] = {}
    if account is not None:
        entry = pwd.getpwnam(account)
        options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    asked = {
        "state": str(state),
        "shims": list(answers if shims is None else shims),
        "script": script,
        "answers": answers,
        "hide": list(hide),
        "run_as": run_as,
        "cwd": cwd,
        "drain": drain,
    }
    done = subprocess.run(
        [sys.executable if account is None else "/usr/bin/python3", "-c", _SERVER],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        check=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"},
        **options,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return Shimmed(**{name: found.get(name) for name in Shimmed.__annotations__})
