"""The owner of one sandbox, outside of it: builds it warm, runs one job in it, records it.

One process each, single-threaded: it may block. It reads what the script prints, answers the
filter's notifications, ends everything at a limit, a cancel, or when the daemon or the
runner is gone; when no process of the sandbox can do anything any more (watch.py), the upper
layers are captured.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import NoReturn, Optional, Sequence, Tuple

from shannotd.runner import identity, sandbox
from shannotd.runner.call import Desk
from shannotd.runner.decisions import Decisions
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.loop import Loop
from shannotd.runner.observation import Observers
from shannotd.runner.order import order_of
from shannotd.runner.record import Record
from shannotd.runner.rehearsal import build_rehearsed
from shannotd.runner.resolution import Programs
from shannotd.runner.view import View
from shannotd.runner.warm import Outdated, Settings, Warm
from shannotd.runner.watch import Watch

MAX_AGE_SECONDS = 300.0
DAEMON_SECONDS = 30
CLOSE_SECONDS = 1


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


class _Hand:
    """The sandbox at hand, or none; close it at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.warm: Optional[Warm] = None

    def build(self, places: Sequence[str] = ()) -> Warm:
        """Another one, which has layers of their own for `places`.

        :raises RunnerError: there can be none.
        """
        self.close()
        self.warm = build_rehearsed(self.settings, places)
        return self.warm

    def close(self) -> None:
        """End it."""
        warm, self.warm = self.warm, None
        if warm is not None:
            warm.close()


def _serve(control: Channel, settings: Settings) -> None:
    hand = _Hand(settings)
    try:
        try:
            warm = hand.build()
            control.send({"event": "ready", "empty": list(warm.blueprint.empty)})
        except RunnerError as error:
            control.send(error.header())
        _, _, descriptors = control.receive()
        with Channel(socket.socket(fileno=descriptors[0])) as job:
            request, payload, _ = job.receive()
            # A daemon that hangs must not keep a script alive beyond its limits.
            job.limit_sending(DAEMON_SECONDS)
            try:
                _run_where_fit(hand, control, job, settings.usual.complete(request), payload)
            except RunnerError as error:
                job.send(error.header())
            job.send({"event": "end"})
            _await_close(job)
    finally:
        hand.close()


def _run_where_fit(
    hand: _Hand, control: Channel, job: Channel, request: Header, payload: bytes
) -> None:
    """Run the job in the sandbox at hand, or in a new one where that is outdated.

    :raises RunnerError: what could not be done.
    """
    if hand.warm is not None and not _unfit(hand.warm, request):
        try:
            _run(hand.warm, control, job, request, payload, hand.settings, just_built=False)
            return
        except Outdated:
            pass
    # What was missing a moment ago may be there now.
    warm = hand.build([str(request["cwd"])])
    _run(warm, control, job, request, payload, hand.settings, just_built=True)


def _await_close(job: Channel) -> None:
    """Let the daemon go first: the end of a sandbox takes its time, on the same processor maybe."""
    poll = select.poll()
    poll.register(job.fileno(), select.POLLIN)
    poll.poll(CLOSE_SECONDS * 1000)


def _unfit(warm: Warm, request: Header) -> bool:
    """Whether mounts came or went since `warm` was built, it is too old, or lacks a place."""
    if time.monotonic() - warm.built_at > MAX_AGE_SECONDS:
        return True
    if warm.blueprint.builder == sandbox.ONE_UID and _needs_own_overlay(warm, str(request["cwd"])):
        return True
    return warm.mounts.changed()


def _needs_own_overlay(warm: Warm, cwd: str) -> bool:
    if any(overlay.path == cwd for overlay in warm.blueprint.overlays):
        return False
    try:
        foreign = os.stat(cwd).st_uid != os.geteuid()
    except (OSError, ValueError):  # the script's process says what is wrong with it
        return False
    return foreign and os.access(cwd, os.W_OK)


def _run(
    warm: Warm,
    control: Channel,
    job: Channel,
    request: Header,
    payload: bytes,
    settings: Settings,
    *,
    just_built: bool,
) -> None:
    """Have `warm` run the job, and send the daemon all that becomes of it.

    :raises Outdated: it was not `just_built`, and the host has changed. Nothing has run.
    :raises RunnerError: what could not be done.
    """
    # Floor and account were read when the sandbox was built (MAX_AGE_SECONDS ago at most).
    known = warm.account if request["run_as"] == settings.usual.run_as else None
    who, account = known or identity.resolve(request["run_as"], warm.floor)
    warm.limit(request["limits"])
    order = order_of(request, who, account)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    started_ns = time.time_ns()
    try:
        outputs = out_write, err_write
        warm.begin(order, payload, outputs, request["hide"], just_built=just_built)
    except Outdated:
        os.close(out_read)
        os.close(err_read)
        raise
    finally:
        os.close(out_write)
        os.close(err_write)
    record = Record(request, who, warm, started_ns, settings)
    loop = Loop()
    desk = Desk(
        loop=loop,
        decisions=Decisions(job, as_root=who.uid == 0),
        record=record,
        programs=Programs(order["environment"]["PATH"], who),
        tree=View(warm.processes),
        observers=Observers(loop, settings, who, tuple(request["hide"])),
        environment=order["environment"],
        outputs=frozenset(map(_inode, (out_read, err_read))),
        proc_device=os.fstat(warm.processes).st_dev,
        limits=request["limits"],
    )
    names = settings.usual.of(request)
    watch = Watch(
        warm, control, job, request, names, desk, {out_read: "stdout", err_read: "stderr"}
    )
    try:
        ending = watch.follow()
        job.hold({"event": "programs", "programs": watch.programs()})
        job.hold({"event": "exited", **ending})
        if ending["stopped"] is None:
            record.send(job, watch.blocked())
    finally:
        watch.close()
        desk.tree.close()
        record.close()


def _inode(descriptor: int) -> Tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
