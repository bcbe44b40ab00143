"""The owner of one sandbox, outside of it: builds it warm, runs one job in it, records it.

One process each, single-threaded: it may block. It reads what the script prints, answers the
filter's notifications, ends everything at a limit, a cancel, or when the daemon or the
runner is gone; after the sandbox's init is reaped nothing can change any more and the
upper layers are captured.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Dict, NoReturn, Optional

from shannotd.runner import identity, mounts, sandbox
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.hiding import hidden_paths
from shannotd.runner.record import record, rehearse
from shannotd.runner.warm import Settings, Warm, build
from shannotd.runner.watch import Watch

MAX_AGE_SECONDS = 300.0
DAEMON_SECONDS = 30


def main(control: Channel, settings: Settings) -> NoReturn:
    """Build a sandbox, tell the runner, serve one job, end; never returns."""
    status = 0
    try:
        _serve(control, settings)
    except Closed:
        pass
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    os._exit(status)


def _serve(control: Channel, settings: Settings) -> None:
    failure: Optional[RunnerError] = None
    warm: Optional[Warm] = None
    try:
        warm = build(settings)
        rehearse(warm)
        control.send({"event": "ready", "empty": list(warm.blueprint.empty)})
    except RunnerError as error:
        failure = error
        control.send(error.header())
    try:
        _, _, descriptors = control.receive()
    except Closed:
        if warm is not None:
            warm.discard()
        raise
    if warm is not None:
        warm.prepare()
    with Channel(socket.socket(fileno=descriptors[0])) as job:
        request, payload, _ = job.receive()
        # A daemon that hangs must not keep a script alive beyond its limits.
        job.limit_sending(DAEMON_SECONDS)
        try:
            if failure is not None or warm is None:
                # What was missing a moment ago may be there now.
                warm = build(settings)
            elif _outdated(warm, request):
                warm.discard()
                warm = build(settings, [str(request["cwd"])])
            _run(warm, control, job, request, payload, settings)
        except RunnerError as error:
            job.send(error.header())
        job.send({"event": "end"})


def _outdated(warm: Warm, request: Header) -> bool:
    """Whether mounts came or went since `warm` was built, it is too old, or lacks a place."""
    if time.monotonic() - warm.built_at > MAX_AGE_SECONDS:
        return True
    if warm.blueprint.builder == sandbox.ONE_UID and _needs_own_overlay(warm, str(request["cwd"])):
        return True
    if warm.mounts.changed():
        return True
    return mounts.copied(warm.blueprint.operations) != warm.blueprint.copied


def _needs_own_overlay(warm: Warm, cwd: str) -> bool:
    if any(overlay.path == cwd for overlay in warm.blueprint.overlays):
        return False
    try:
        foreign = os.stat(cwd).st_uid != os.geteuid()
    except (OSError, ValueError):  # the script's process says what is wrong with it
        return False
    return foreign and os.access(cwd, os.W_OK)


def environment(request: Header, account: Dict[str, str]) -> Dict[str, str]:
    """The clean base that every script starts with, and the profile's additions."""
    base = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        **account,
        **request["environment"],
        "PWD": request["cwd"],
        "SHANNOT_SANDBOX": "1",
        "SHANNOT_SESSION": request["session"],
    }
    return {name: str(value) for name, value in base.items()}


def file_name(shown: str) -> str:
    """What the submitted script is called in its directory: its own name where that can be."""
    name = os.path.basename(shown)
    try:
        usable = 0 < len(os.fsencode(name)) <= 255
    except UnicodeEncodeError:
        usable = False
    return name if usable and name not in (".", "..") and "\0" not in name else "script"


def _run(
    warm: Warm, control: Channel, job: Channel, request: Header, payload: bytes, settings: Settings
) -> None:
    # Ours was looked up while the sandbox was warm (for MAX_AGE_SECONDS at most).
    known = warm.account if request["run_as"] is None else None
    who, account = known or identity.resolve(request["run_as"], settings.floor)
    warm.prepare()
    warm.limit(request["limits"])
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    order = {
        "kind": request["kind"],
        "name": file_name(request["path"] or request["name"]),
        "shown": request["path"] or request["name"],
        "path": request["path"],
        "arguments": request["arguments"],
        "script_size": request["script_size"],
        "stdin_size": request["stdin_size"],
        "cwd": request["cwd"],
        "identity": {**who.__dict__, "groups": list(who.groups)},
        "environment": environment(request, account),
        "limits": request["limits"],
        "hide": hidden_paths(request["hide"], settings.hidden),
    }
    started_ns = time.time_ns()
    try:
        warm.channel.send(order, payload, (out_write, err_write))
    except Closed:
        pass  # The loop below finds out why.
    os.close(out_write)
    os.close(err_write)
    watch = Watch(warm, control, job, request["limits"], out_read, err_read)
    try:
        ending = watch.follow()
        job.hold({"event": "exited", **ending})
        if ending["stopped"] is None:
            record(job, request, who, warm, watch.blocked(), started_ns, settings)
    finally:
        watch.close()
        warm.close()
