"""A warm sandbox that went once through the motions of a job, while nobody waited.

Processes that were forked from the zygote share its memory until they write to it: the first
job of each would pay for hundreds of copied pages.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from dataclasses import replace
from typing import Dict, Iterator, Sequence

from shannotd.runner import plan as plans
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.mounts import Overlay
from shannotd.runner.order import order_of
from shannotd.runner.record import Record, check_key
from shannotd.runner.sandbox import ONE_UID
from shannotd.runner.warm import Settings, Warm, build

_LIMITS = {
    "wall_seconds": 1,
    "output_bytes": 1,
    "written_bytes": 1 << 20,
    "processes": 1,
    "memory_bytes": 1,
    "open_files": 1,
    "steps": 100,
}
_NOBODY = plans.Identity("nobody", os.geteuid(), os.getegid(), (), 0o022)
_INDEX = 1_000_000  # of a layer that no sandbox has
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
    request = _request(settings)
    reading, writing = os.pipe()
    os.close(reading)
    warm.orders.send(order_of(request, _NOBODY, _ACCOUNT), descriptors=(writing, writing))
    warm.channel.send({"masked": warm.concealment.paths})
    os.close(writing)
    _record_something(warm, request, settings)
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
        "hide": settings.usual.hide,
        "scratch": settings.usual.scratch,
    }


def _record_something(warm: Warm, request: Header, settings: Settings) -> None:
    """Record a file that a script could have made, and send the plan of it to ourselves."""
    # The runner's key must not be in a memory that is copied to another sandbox.
    check_key(settings.state)
    who = _NOBODY if warm.account is None else warm.account[0]
    ours, theirs = socket.socketpair()
    with Channel(ours) as job, Channel(theirs) as daemon, _something(warm, settings) as overlay:
        # The real layers are looked at once only, when nobody uses them any more.
        bare = replace(warm, blueprint=replace(warm.blueprint, overlays=(overlay,)))
        with Record(request, who, bare, 0, replace(settings, state="")) as record:
            try:
                record.send(job, [])
            except RunnerError:
                pass  # most jobs are of somebody who may not write there
        job.send({"event": "end"})
        daemon.receive()


@contextmanager
def _something(warm: Warm, settings: Settings) -> Iterator[Overlay]:
    """An overlay over the runner's directory that is nowhere mounted, with a file in its layer."""
    owner = os.geteuid(), os.getegid()
    user = settings.builder == ONE_UID
    overlay = Overlay(settings.state, settings.state, _INDEX, user, 0o700, owner)
    name = f"upper/{_INDEX}"
    os.mkdir(name, 0o700, dir_fd=warm.stage)
    try:
        os.mkdir(f"{name}/rehearsal", 0o755, dir_fd=warm.stage)
        path = f"{name}/rehearsal/file"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(path, flags, 0o644, dir_fd=warm.stage), "wb") as file:
            file.write(b"one line\n")
        yield overlay
        os.unlink(path, dir_fd=warm.stage)
        os.rmdir(f"{name}/rehearsal", dir_fd=warm.stage)
    finally:
        os.rmdir(name, dir_fd=warm.stage)
