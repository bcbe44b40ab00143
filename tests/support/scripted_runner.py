"""A runner that does what its script says: a double of the runner, to test the daemon.

`scripted_runner.py FD` serves one daemon. A submitted script is a JSON list of actions, each
a list of a name and its argument:

    ["output", "text"], ["stderr", "text"]
    ["files", ["/path", ...]]      contents and a plan that creates these files
    ["command", "text"]            a command of the plan
    ["many", 10000]                the same for so many files
    ["exited", {...}]              with other values than those of a script that went well
    ["send", {...}]                any event
    ["decide", {...}]              ask about a call, and print the answer as JSON
    ["cancelled", null]            wait for a cancel, then report it
    ["hang", null]                 wait until the channel is closed
    ["close", null]                close the channel
    ["die", null]                  end the whole runner
    ["large", size]                a content of so many bytes, by descriptor

An amendment drops and edits, and knows no dependents: it says that the first step may miss each
that is dropped. With an edit that begins with `send ` it sends that event instead of a plan; with
the edit `close` it closes the channel. For a path that holds `slow` it waits like an apply.

At apply, a path that holds `stale`, `failed` or `die` ends that way; one that holds `slow`
waits until the file of that path with `.go` behind it can be opened (a FIFO). What became of an
apply afterwards, it does not know.

What was applied has a checkpoint: of a path that holds `ancient` it is 100 days old, of one that
holds `huge` it has 20 GiB. A rollback finds a conflict at each path that holds `conflict` and is
not forced; one that holds `decide` asks what becomes of a command that makes up for it, `strange`
makes it send something that is no plan, `close` closes the channel, and `wait` waits like an
apply. Commands stay as they are.

A command of which the text is `fail` fails, `die` ends the runner, `hang` waits for a cancel,
`flood` prints 300,000 bytes on each stream, `strange` is told to have ended as none ends, `other`
asks to start a step that is none. Others print their text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any

from shannotd.runner.frames import Channel, Closed

ABSENT: dict[str, Any] = {"type": "absent"}
# What was applied, by session.
CHECKPOINTS: dict[str, list[dict[str, Any]]] = {}


def main() -> None:
    """Serve the control connection on the descriptor that the command line names."""
    control = Channel(socket.socket(fileno=int(sys.argv[1])))
    with contextlib.suppress(Closed):
        while True:
            request, _, descriptors = control.receive()
            answer: dict[str, Any] = {}
            if request["op"] == "hello":
                answer = {
                    "builder": "scripted",
                    "version": 1,
                    "uid": os.getuid(),
                    "host": "test",
                    "limits": [],
                }
            elif request["op"] == "programs":
                answer = {"names": []}
            elif request["op"] == "pool":
                answer = {"ready": request["size"]}
            elif request["op"] == "checkpoints":
                answer = {"checkpoints": [checkpoint(session) for session in CHECKPOINTS]}
            elif request["op"] == "drop_checkpoint":
                if CHECKPOINTS.pop(request["session"], None) is None:
                    details = {"id": request["session"]}
                    answer = {"error": {"code": "checkpoint_unknown", "details": details}}
            elif os.environ.get("SCRIPTED_REFUSAL"):
                os.close(descriptors[0])
                details = {"reason": "told so", "remedy": "Wait."}
                answer = {"error": {"code": "sandbox_unavailable", "details": details}}
            else:
                target = TARGETS[request["op"]]
                job = Channel(socket.socket(fileno=descriptors[0]))
                threading.Thread(target=serve, args=(target, job), daemon=True).start()
            control.send(answer)
    os._exit(0)


def serve(target: Any, job: Channel) -> None:
    """Do one job, to its end or the daemon's."""
    with job, contextlib.suppress(Closed):
        target(job)


def run(job: Channel) -> None:
    """One dry run."""
    request, payload, _ = job.receive()
    script = json.loads(payload[: request["script_size"]] or b"[]")
    exited: dict[str, Any] = {
        "event": "exited",
        "exit_code": 0,
        "signal": None,
        "stopped": None,
        "duration": 0.001,
        "stdout_dropped": 0,
        "stderr_dropped": 0,
        "leftover": 0,
    }
    job.send({"event": "started"})
    steps: list[dict[str, Any]] = []
    for name, argument in script:
        if name == "output":
            job.send({"event": "output", "stream": "stdout"}, argument.encode())
        elif name == "stderr":
            job.send({"event": "output", "stream": "stderr"}, argument.encode())
        elif name == "send":
            job.send(argument)
        elif name == "decide":
            job.send({"event": "decide", "call": 1, **argument})
            answer, _, _ = job.receive()
            job.send({"event": "output", "stream": "stdout"}, json.dumps(answer).encode() + b"\n")
        elif name == "exited":
            exited.update(argument)
        elif name == "files":
            steps += [created(path, content_of(path)) for path in argument]
            send_contents(job, [content_of(path) for path in argument])
        elif name == "command":
            steps.append(called(argument))
        elif name == "fed":
            given = argument.encode()
            step = called("fed")
            step["stdin"] = {"sha256": hashlib.sha256(given).hexdigest(), "size": len(given)}
            steps.append(step)
            send_contents(job, [given])
        elif name == "many":
            paths = [f"/many/{number}" for number in range(argument)]
            steps += [created(path, content_of(path)) for path in paths]
            send_contents(job, [content_of(path) for path in paths])
        elif name == "large":
            steps.append(send_large(job, argument))
        elif name == "cancelled":
            assert job.receive()[0] == {"op": "cancel"}
            exited.update(stopped="cancelled", exit_code=None, signal=9)
        elif name == "hang":
            while True:
                job.receive()
        elif name == "close":
            return
        elif name == "die":
            os._exit(1)
    job.send(exited)
    if exited["stopped"] is None:
        send_plan(job, request, steps)
    job.send({"event": "end"})


def forget(job: Channel) -> None:
    """What became of an apply: not known any more."""
    job.receive()


def content_of(path: str) -> bytes:
    """What the file at `path` gets."""
    return f"content of {path}\n".encode()


def created(path: str, content: bytes) -> dict[str, Any]:
    """The step that makes a file."""
    state = {
        "type": "file",
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return {"kind": "file", "change": "create", "path": path, "before": ABSENT, "after": state}


def called(text: str) -> dict[str, Any]:
    """The step that runs a command."""
    return {
        "kind": "command",
        "decision": "review",
        "program": "/usr/bin/tool",
        "program_sha256": "0" * 64,
        "argv": ["tool", text],
        "cwd": "/",
        "environment": {},
        "changed": [],
        "exit_status": 0,
        "rule": "test",
        "reason": "test",
        "risk": "caution",
        "seconds": 300.0,
        "output_bytes": 1 << 20,
    }


def send_contents(job: Channel, contents: list[bytes]) -> None:
    """Small contents, in one frame."""
    listing = [[hashlib.sha256(content).hexdigest(), len(content)] for content in contents]
    job.send({"event": "blobs", "blobs": listing}, b"".join(contents))


def send_large(job: Channel, size: int) -> dict[str, Any]:
    """A large content by descriptor, read from an offset; the step that makes its file."""
    content = os.urandom(4096) * (size // 4096)
    descriptor = os.memfd_create("large")
    try:
        os.write(descriptor, b"before it")
        os.write(descriptor, content)
        os.lseek(descriptor, len(b"before it"), os.SEEK_SET)
        step = created("/large", content)
        header = {"event": "blob", "sha256": step["after"]["sha256"], "size": len(content)}
        job.send(header, descriptors=(descriptor,))
    finally:
        os.close(descriptor)
    return step


def send_plan(
    job: Channel,
    request: dict[str, Any],
    steps: list[dict[str, Any]],
    beside: list[dict[str, Any]] | None = None,
) -> None:
    """The plan and its notes."""
    plan = {
        "format": 1,
        "session": request["session"],
        "target": {"kind": "local", "host": "test"},
        "identity": {"name": "tester", "uid": 4242, "gid": 0, "groups": [0], "umask": 0o22},
        "policy_version": request["policy_version"],
        "on_failure": request["on_failure"],
        "steps": steps,
    }
    canonical = json.dumps(plan, sort_keys=True, separators=(",", ":")).encode()
    note = {"diff": "+x\n", "binary": False, "too_large": False}
    notes = json.dumps([note] * len(steps) if beside is None else beside)
    header = {
        "event": "plan",
        "digest": hashlib.sha256(canonical).hexdigest(),
        "seal": "seal of " + request["session"],
        "canonical_size": len(canonical),
        "notes_size": len(notes),
    }
    job.send(header, canonical + notes.encode())


def apply(job: Channel) -> None:
    """One apply: asks for every content, then reports every step."""
    request, canonical, _ = job.receive()
    assert request["digest"] == hashlib.sha256(canonical).hexdigest()
    assert request["seal"] == "seal of " + request["session"]
    steps = json.loads(canonical)["steps"]
    CHECKPOINTS[request["session"]] = steps
    wanted = {step["after"]["sha256"] for step in steps if step.get("after", ABSENT) != ABSENT}
    job.send({"event": "need", "sha256": sorted(wanted)})
    while wanted:
        frame = job.receive()
        if frame[0] != {"op": "cancel"}:
            wanted -= received(*frame)
    for index, step in enumerate(steps):
        if step["kind"] == "command":
            if not ran(job, index, step["argv"][1]):
                job.send(became(index, "failed"))
                details = {"step": index, "command": "tool", "ending": "failed", "expected": 0}
                job.send({"event": "error", "code": "command_failed", "details": details})
                break
            job.send(became(index, "done"))
            continue
        path = step["path"]
        if "slow" in path:
            with open(path + ".go", "rb") as gate:
                gate.read()
        if "die" in path:
            os._exit(1)
        for word, code in (("stale", "stale"), ("failed", "apply_failed")):
            if word in path:
                job.send(became(index, word))
                job.send({"event": "error", "code": code, "details": {"path": path}})
                job.send({"event": "end"})
                return
        job.send(became(index, "done"))
    job.send({"event": "end"})


def became(index: int, applied: str) -> dict[str, object]:
    """What became of a step, as an event."""
    return {"event": "steps", "first": index, "last": index, "applied": applied}


def amend(job: Channel) -> None:
    """One change of a plan."""
    request, payload, _ = job.receive()
    canonical, changes = payload[: request["canonical_size"]], payload[request["canonical_size"] :]
    assert request["digest"] == hashlib.sha256(canonical).hexdigest()
    assert request["seal"] == "seal of " + request["session"]
    plan, wanted = json.loads(canonical), json.loads(changes)
    notes: list[dict[str, Any]] = [{}] * len(plan["steps"])
    for index, sha256, size in wanted["edits"]:
        job.send({"event": "need", "sha256": [sha256]})
        header, content, _ = job.receive()
        assert received(header, content, []) == {sha256}
        if content.startswith(b"send "):
            job.send(json.loads(content[5:]))
            job.send({"event": "end"})
            return
        if content == b"close":
            return
        plan["steps"][index]["after"].update(sha256=sha256, size=size)
        notes[index] = {"diff": "+edited\n", "binary": False, "too_large": False}
    for step in plan["steps"]:
        if "slow" in step.get("path", ""):
            with open(step["path"] + ".go", "rb") as gate:
                gate.read()
    origins = [index for index in range(len(plan["steps"])) if index not in wanted["drop"]]
    told = {
        "origins": origins,
        "dropped": sorted(wanted["drop"]),
        "missed": [[0, index] for index in sorted(wanted["drop"])],
        "edited": [origins.index(index) for index, _, _ in wanted["edits"]],
        "replaced": [],
    }
    job.send({"event": "amended"}, json.dumps(told).encode())
    request = {**plan, "session": request["to"]}
    kept = [plan["steps"][index] for index in origins]
    send_plan(job, request, kept, [notes[index] for index in origins])
    job.send({"event": "end"})


def checkpoint(session: str) -> dict[str, Any]:
    """What is told of a checkpoint."""
    paths = "".join(step.get("path", "") for step in CHECKPOINTS[session])
    return {
        "session": session,
        "created_at": time.time() - (100 * 86400 if "ancient" in paths else 0),
        "size": 20 << 30 if "huge" in paths else 4096,
        "finished": True,
    }


def look(job: Channel) -> None:
    """What a checkpoint has."""
    request, _, _ = job.receive()
    steps = CHECKPOINTS.get(request["session"], [])
    saved = [
        {"step": index, "change": "create", "path": step["path"], "entries": 1, "size": 7}
        for index, step in enumerate(steps)
        if step["kind"] == "file"
    ]
    job.send({"event": "saved"}, json.dumps(saved).encode())
    job.send({"event": "end"})


def roll_back(job: Channel) -> None:
    """One rollback."""
    request, payload, _ = job.receive()
    if request["of"] not in CHECKPOINTS:
        details = {"id": request["of"]}
        job.send({"event": "error", "code": "checkpoint_unknown", "details": details})
        job.send({"event": "end"})
        return
    forced = json.loads(payload)
    steps, staying, contents, conflicts, notes = [], [], [], [], []
    for index, step in enumerate(CHECKPOINTS[request["of"]]):
        if step["kind"] == "command":
            told = {"step": index, "argv": step["argv"], "program": step["program"]}
            staying.append({**told, "reason": "told so"})
            continue
        path = step["path"]
        if "close" in path:
            return
        if "wait" in path:
            with open(path + ".go", "rb") as gate:
                gate.read()
        if "decide" in path:
            call = {"path": "/usr/bin/tool", "program": "/usr/bin/tool", "argv": ["tool", "undo"]}
            job.send({"event": "decide", "call": 1, **call, "cwd": "/", "as_root": False})
            answer, _, _ = job.receive()
            assert answer["op"] == "verdict" and answer["decision"] in ("review", "deny")
        in_the_way = "conflict" in path
        if in_the_way and path not in forced and not request["force_all"]:
            found = {"expected": "a file", "found": "another", "forcible": "never" not in path}
            conflicts.append({"path": path, **found})
        back = {**step, "before": step["after"], "after": step["before"]}
        back["change"] = "delete" if back["after"] == ABSENT else "create"
        if back["after"] != ABSENT:
            contents.append(content_of(path))
        steps.append(back)
        notes.append({"diff": "+back\n", "changed": "a file" if in_the_way else None})
        if "strange" in path:
            notes.append({})
    if conflicts:
        job.send({"event": "conflicts"}, json.dumps(conflicts).encode())
    else:
        if contents:
            send_contents(job, contents)
        job.send({"event": "staying"}, json.dumps(staying).encode())
        send_plan(job, {**request, "on_failure": "rollback"}, steps, notes)
    job.send({"event": "end"})


def ran(job: Channel, index: int, text: str) -> bool:
    """Run a command that is none; whether it went well."""
    job.send({"event": "command_starting", "index": 99 if text == "other" else index})
    if job.receive()[0] != {"op": "go"}:
        return False
    output = {"event": "command_output", "index": index}
    if text == "flood":
        for stream in ("stdout", "stderr"):
            job.send({**output, "stream": stream}, stream[3:4].encode() * 300_000)
    else:
        job.send({**output, "stream": "stdout"}, text.encode())
        job.send({**output, "stream": "stderr"}, b"\xff")
    if text == "die":
        os._exit(1)
    ended = {"event": "command", "index": index, "exit_status": 0, "signal": None, "stopped": None}
    ended = {**ended, "duration": 0.5, "truncated": [], "left": 0}
    if text == "hang":
        assert job.receive()[0] == {"op": "cancel"}
        ended.update(exit_status=None, signal=15, stopped="cancelled")
    elif text == "fail":
        ended.update(exit_status=3)
    elif text == "strange":
        ended.update(exit_status="0")
    job.send(ended)
    return text not in ("hang", "fail")


def received(header: dict[str, Any], payload: bytes, descriptors: list[int]) -> set[str]:
    """The names of the contents in a frame, each checked."""
    if header["op"] == "blob":
        with open(descriptors[0], "rb") as file:
            contents = [(header["sha256"], file.read())]
    else:
        contents, offset = [], 0
        for name, size in header["blobs"]:
            contents.append((name, payload[offset : offset + size]))
            offset += size
    for name, content in contents:
        assert hashlib.sha256(content).hexdigest() == name
    return {name for name, _ in contents}


TARGETS = {
    "run": run,
    "apply": apply,
    "resume": forget,
    "amend": amend,
    "rollback": roll_back,
    "checkpoint": look,
}


if __name__ == "__main__":
    main()
