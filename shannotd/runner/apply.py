"""Applying an approved plan: exactly it, to the state that the dry run saw, as its identity (P2).

This process was started for one plan. It believes nothing that it is sent but what the seal
shows to have been recorded here.
"""

from __future__ import annotations

import hmac
import os
import re
from typing import List, Optional, Sequence, Tuple

from shannotd.runner import identity as accounts
from shannotd.runner import permission, plan
from shannotd.runner.batch import Batch, Points
from shannotd.runner.contents import Contents
from shannotd.runner.frames import Channel, Closed, RunnerError
from shannotd.runner.plan import FileStep, Identity, Plan
from shannotd.runner.stop import Stop
from shannotd.runner.workspace import apply_failed, as_runner_error

_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")

IndexedStep = Tuple[int, FileStep]


def serve(
    channel: Channel,
    *,
    key: bytes,
    register: str,
    points: Optional[Points] = None,
) -> None:
    """Apply the plan that comes over `channel`, and report there (see frames.py).

    `key` is what seals are made with; `register` the directory that remembers which sessions
    were applied; `points` what else is to happen on the way. Returns when all was reported,
    or nobody listens any more. Signals that ask this process to end, it obeys between two steps.
    """
    stop = Stop()
    stop.listen()
    try:
        try:
            found = _receive(channel, key)
            floor = _check_identity(found.identity)
            _register(register, found.session)
            if os.geteuid() == 0:
                permission.become(found.identity)
            os.umask(found.identity.umask)
            run(found, channel, points or Points(), stop, floor.protected)
        except RunnerError as error:
            channel.send(error.header())
        except OSError as error:
            channel.send(as_runner_error(error, None).header())
        channel.send({"event": "end"})
    except Closed:
        pass


def _receive(channel: Channel, key: bytes) -> Plan:
    """The plan to be applied: one that this runner recorded, for this machine."""
    header, encoded, descriptors = channel.receive()
    for descriptor in descriptors:
        os.close(descriptor)
    session, digest = str(header.get("session")), str(header.get("digest"))
    if header.get("op") != "apply" or _SESSION.fullmatch(session) is None:
        raise RunnerError("invalid_request", method="apply", reason="not a plan to be applied")
    expected = plan.seal(key, session, plan.digest(encoded))
    sealed = hmac.compare_digest(expected.encode(), str(header.get("seal")).encode())
    if not sealed or not hmac.compare_digest(plan.digest(encoded), digest):
        raise RunnerError("digest_mismatch", id=session, digest=plan.digest(encoded))
    try:
        found = plan.parse(encoded)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no plan of this runner's format: {error}"
        raise RunnerError("invalid_request", method="apply", reason=reason) from error
    if found.session != session:
        raise RunnerError("digest_mismatch", id=session, digest=digest)
    if found.target.get("host") != accounts.machine():
        raise apply_failed(0, "/", "the plan was recorded on another machine")
    return found


def _register(register: str, session: str) -> None:
    """Remember for good that `session` was applied.

    :raises RunnerError: `wrong_state`: it was before.
    """
    directory = os.open(register, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(session, flags, 0o600, dir_fd=directory))
        os.fsync(directory)
    except FileExistsError as error:
        raise RunnerError("wrong_state", id=session, state="executed", action="applied") from error
    finally:
        os.close(directory)


def _check_identity(identity: Identity) -> accounts.Floor:
    """The host's floor, which must allow `identity`; and this process must be able to be it.

    :raises RunnerError: `identity_refused`.
    """
    floor = accounts.read_floor()
    reason = None
    if floor.identities is not None and identity.name not in floor.identities:
        reason = f"{accounts.FLOOR_FILE} does not allow it"
    elif os.geteuid() not in (0, identity.uid):
        reason = f"this runner has uid {os.geteuid()} and cannot become uid {identity.uid}"
    elif os.geteuid() != 0 and os.getegid() != identity.gid:
        reason = f"this runner has gid {os.getegid()} and cannot become gid {identity.gid}"
    if reason is not None:
        raise RunnerError("identity_refused", identity=identity.name, reason=reason)
    return floor


def run(
    found: Plan, channel: Channel, points: Points, stop: Stop, protected: Sequence[str] = ()
) -> None:
    """Apply the steps of `found` batch by batch as this process; tells of each step.

    :raises RunnerError: what stopped it, when every step was told of.
    """
    stopped: Optional[RunnerError] = None
    with Contents(channel) as contents:
        for batch in batches(found):
            if stopped is None:
                try:
                    Batch(
                        batch,
                        identity=found.identity,
                        contents=contents,
                        points=points,
                        stop=stop,
                        protected=protected,
                    ).run()
                except RunnerError as error:
                    stopped = error
            _tell(channel, batch, stopped)
    for index, step in enumerate(found.steps):
        if not isinstance(step, FileStep) or step.scratch:
            channel.hold({"event": "step", "index": index, "applied": "skipped"})
    channel.flush()
    if stopped is not None:
        raise stopped


def batches(found: Plan) -> List[List[IndexedStep]]:
    """The file steps that are to be applied, in order, in batches between barriers.

    Only a host command is a barrier: what comes before it is applied before it runs.
    """
    parts: List[List[IndexedStep]] = [[]]
    for index, step in enumerate(found.steps):
        if isinstance(step, FileStep):
            if not step.scratch:
                parts[-1].append((index, step))
        elif step.kind == "command":
            parts.append([])
    return [part for part in parts if part]


def _tell(channel: Channel, batch: Sequence[IndexedStep], stopped: Optional[RunnerError]) -> None:
    for index, _ in batch:
        channel.hold({"event": "step", "index": index, "applied": _outcome(index, stopped)})
    channel.flush()


def _outcome(index: int, stopped: Optional[RunnerError]) -> str:
    if stopped is None:
        return "done"
    step = stopped.details.get("step")
    if stopped.code == "clean_up_failed" and isinstance(step, int) and index <= step:
        return "done"
    if stopped.code == "clean_up_failed" or index != step:
        return "skipped"
    return "stale" if stopped.code == "stale" else "failed"
