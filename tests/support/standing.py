"""A script with barriers in a real sandbox: what its Recorder takes at each of them."""

from __future__ import annotations

import os
import pickle
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.runner.overlays import Recording

# Has `barrier()`, which returns when the barrier is over.
PRELUDE = """
import os, shutil, signal, subprocess, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
def barrier():
    print("barrier", flush=True)
    signal.sigwait({signal.SIGUSR1})
"""

# Sandboxes are forks: a test process has threads, so a process of its own does it.
_SERVER = r"""
import os, pickle, select, signal, sys, time
from shannotd.runner import cgroups, identity, order, rehearsal, sandbox, seccomp, warm
from shannotd.runner.barrier import Recorder
from shannotd.runner.frames import Closed, RunnerError
from shannotd.runner.freezer import frozen
from shannotd.runner.notifier import Notifier

asked = pickle.load(sys.stdin.buffer)
settings = warm.Settings(
    builder=sandbox.choose_builder(),
    program=seccomp.compile_filter(),
    state=asked["state"],
    hidden=(asked["state"],),
    cgroup_base=cgroups.arrange() if asked["cgroup"] else None,
)
result = {"deltas": [], "seconds": [], "output": "", "error": None, "exit_code": None,
          "cgroup": settings.cgroup_base is not None}


def main(one):
    who, account = identity.resolve(None, identity.read_floor())
    command = ["/usr/bin/python3", "-c", asked["script"]]
    request = {
        "kind": "command", "name": "-c", "path": None, "arguments": command, "cwd": asked["cwd"],
        "script_size": 0, "stdin_size": 0, "environment": {}, "hide": [],
        "session": "test", "limits": asked["limits"], "scratch": asked["scratch"],
    }
    reading, writing = os.pipe()
    _, error = os.pipe()
    with Recorder(one, request, who, settings, time.time_ns()) as recorder:
        job = order.order_of(request, who, account)
        outputs = (writing, 2 if asked["loud"] else error)
        # Other tests make mounts meanwhile: what was just built is not outdated by that.
        one.begin(job, b"", outputs, request["hide"], just_built=True)
        os.close(writing)
        try:
            follow(one, recorder, reading)
            keep(recorder.finish(), 0.0)
        except RunnerError as failure:
            result["error"] = {"code": failure.code, **failure.details}
            warm.kill(one.init)


def disturb(one):
    # Somebody outside has a process of a frozen sandbox go on.
    with frozen(one):
        with open(f"/proc/{one.init}/task/{one.init}/children") as file:
            main = int(file.read().split()[0])
        os.kill(main, signal.SIGCONT)
        while "State:\tT" in open(f"/proc/{main}/status").read():
            os.sched_yield()


def follow(one, recorder, reading):
    notifier = Notifier(one.listener, one.processes)
    poll = select.poll()
    for descriptor in (reading, one.listener, one.channel.fileno()):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, event in poll.poll():
            if descriptor == reading:
                text = os.read(reading, 65536).decode()
                result["output"] += text
                if not text:
                    poll.unregister(reading)
                elif text.endswith("barrier\n"):
                    begun = time.perf_counter()
                    if asked["disturbed"]:
                        disturb(one)
                    delta = recorder.barrier()
                    keep(delta, time.perf_counter() - begun)
                    with open(f"/proc/{one.init}/task/{one.init}/children") as file:
                        os.kill(int(file.read().split()[0]), signal.SIGUSR1)
            elif descriptor == one.listener:
                if event & select.POLLIN:
                    notifier.answer()
                else:
                    poll.unregister(descriptor)
            else:
                try:
                    found, _, _ = one.channel.receive()
                except Closed:
                    one.reap()
                    return
                if found["event"] == "error":
                    raise RunnerError(found["code"], **found["details"])
                result["exit_code"] = found["exit_code"]


waiting = []


def keep(delta, seconds):
    # Read at the end: the script has changed its files since.
    waiting.append(delta)
    result["seconds"].append(seconds)
    if not seconds:
        for delta in waiting:
            contents = {sha256: content.read() for sha256, content in delta.contents.items()}
            result["deltas"].append((delta.steps, delta.notes, contents))


main(rehearsal.build_rehearsed(settings))
with open(asked["state"] + "/result", "wb") as file:
    pickle.dump(result, file)
os._exit(0)
"""

LIMITS = {
    "wall_seconds": 60,
    "output_bytes": 1 << 20,
    "written_bytes": 1 << 28,
    "processes": 200,
    "memory_bytes": 2 << 30,
    "open_files": 1024,
    "steps": 9999,
}


@dataclass(frozen=True)
class Standing:
    """What came of a script with barriers: its deltas, how long each took, how it ended."""

    deltas: list[Recording]
    seconds: list[float]
    output: str
    exit_code: int | None
    error: dict[str, Any] | None
    cgroup: bool


def run(
    code: Path,
    state: Path,
    script: str,
    *,
    account: str | None = None,
    cwd: str = "/",
    scratch: Sequence[str] = ("/tmp/**", "/run/**"),
    limits: Mapping[str, int] | None = None,
    cgroup: bool = False,
    loud: bool = False,
    disturbed: bool = False,
) -> Standing:
    """Run a Python script in a sandbox of `account`'s (None: ours).

    `loud` shows its errors; `disturbed` continues its first process while it is frozen.
    """
    options: dict[str, Any] = {}
    if account is not None:
        entry = pwd.getpwnam(account)
        options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    asked = {
        "state": str(state),
        "script": PRELUDE + script,
        "cwd": cwd,
        "scratch": list(scratch),
        "limits": {**LIMITS, **(limits or {})},
        "cgroup": cgroup,
        "loud": loud,
        "disturbed": disturbed,
    }
    subprocess.run(
        ["/usr/bin/python3", "-c", _SERVER],
        input=pickle.dumps(asked),
        cwd="/",
        check=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"},
        **options,
    )
    found = pickle.loads((state / "result").read_bytes())
    found["deltas"] = [Recording(*delta) for delta in found["deltas"]]
    return Standing(**found)
