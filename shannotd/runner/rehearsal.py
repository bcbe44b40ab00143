"""A warm sandbox that went once through the motions of a job, while nobody waited.

Processes that were forked from the zygote share its memory until they write to it: the first
job of each would pay for hundreds of copied pages.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import Dict, Sequence

from shannotd.runner import plan as plans
from shannotd.runner.capture import Layer, capture
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.order import order_of
from shannotd.runner.record import Record, check_key
from shannotd.runner.warm import Settings, Warm, build

_LIMITS = {
    "wall_seconds": 1,
    "output_bytes": 1,
    "written_bytes": 1,
    "processes": 1,
    "memory_bytes": 1,
    "open_files": 1,
    "steps": 1,
}
_ACCOUNT = {"HOME": "/", "USER": "nobody", "LOGNAME": "nobody", "SHELL": "/bin/sh"}


def build_rehearsed(settings: Settings, also_writable: Sequence[str] = ()) -> Warm:
    """A warm sandbox (see `build`) whose processes, like this one, have rehearsed a job.

    :raises RunnerError: `sandbox_unavailable` or `config`, as `build`.
    """
    warm = build(settings, also_writable)
    try:
        _rehearse(warm, settings)
    except RunnerError:
        warm.close()
        raise
    except (Closed, OSError) as error:
        warm.close()
        reason = f"the sandbox failed while it was prepared: {error or 'it ended'}"
        raise RunnerError("sandbox_unavailable", reason=reason, remedy="") from error
    return warm


def _rehearse(warm: Warm, settings: Settings) -> None:
    nobody = plans.Identity("nobody", os.geteuid(), os.getegid(), (), 0o022)
    request = _request(settings)
    reading, writing = os.pipe()
    os.close(reading)
    warm.orders.send(order_of(request, nobody, _ACCOUNT), descriptors=(writing, writing))
    warm.channel.send({"masked": warm.concealment.paths})
    os.close(writing)
    ours, theirs = socket.socketpair()
    with Channel(ours) as job, Channel(theirs) as daemon:
        _capture_nothing(warm, nobody)
        # Layers are looked at once only, when nobody uses them any more; and the runner's key must
        # not be in a memory that is copied to another sandbox.
        check_key(settings.state)
        bare = replace(warm, blueprint=replace(warm.blueprint, overlays=()))
        with Record(request, nobody, bare, 0, replace(settings, state="")) as record:
            record.send(job, [])
        job.send({"event": "end"})
        daemon.receive()
    event, _, _ = warm.channel.receive()
    if event["event"] != "rehearsed":
        raise RunnerError(event["code"], **event["details"])


def _request(settings: Settings) -> Header:
    words: Dict[str, object] = dict.fromkeys(("policy_version", "on_failure", "session"), "")
    return {
        **words,
        "kind": "python",
        "name": "-c",
        "path": None,
        "arguments": [],
        "script_size": 0,
        "stdin_size": 0,
        "cwd": "/",
        "environment": {},
        "limits": _LIMITS,
        "hide": settings.hide,
        "scratch": ["/tmp"],
    }


def _capture_nothing(warm: Warm, nobody: plans.Identity) -> None:
    name = "rehearsal"
    os.mkdir(name, 0o700, dir_fd=warm.stage)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    upper = os.open(name, flags, dir_fd=warm.stage)
    try:
        layer = Layer("/", upper, "trusted.overlay.")
        capture([layer], started_ns=0, scratch=(), identity=nobody, limits={})
    finally:
        os.close(upper)
        os.rmdir(name, dir_fd=warm.stage)
