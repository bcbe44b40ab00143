"""Applies that were cut short are brought to an end before anything else is applied, each by a
process with the identity of its plan."""

from __future__ import annotations

import json
import os
from typing import Optional

from shannotd.runner import checkpoints, permission, plan
from shannotd.runner.batch import Points, Setting
from shannotd.runner.child import in_child
from shannotd.runner.frames import Channel, Closed, RunnerError
from shannotd.runner.given import Given
from shannotd.runner.identity import read_floor
from shannotd.runner.joined import Joined
from shannotd.runner.journal import Damaged
from shannotd.runner.obstacles import protected_paths
from shannotd.runner.outcome import Outcome, told
from shannotd.runner.recovery import recover
from shannotd.runner.sealed import session_asked
from shannotd.runner.stop import Stop
from shannotd.runner.turn import Turn
from shannotd.runner.workspace import as_runner_error


def serve(channel: Channel, *, state: str) -> None:
    """Tell what became of the apply that is asked for (see frames.py), when it has ended.

    Returns when all was reported, or nobody listens any more.
    """
    try:
        try:
            session = session_asked(channel, "resume")
            with Turn(state) as turn:
                turn.wait()  # whatever the daemon wants: without it nothing may be touched
                ended = _outcome(state, session)
            for event in told(ended.results):
                channel.hold(event)
            if ended.failure is not None:
                raise ended.failure
        except RunnerError as error:
            channel.send(error.header())
        except OSError as error:
            channel.send(as_runner_error(error, None).header())
        channel.send({"event": "end"})
    except Closed:
        pass


def _outcome(state: str, session: str) -> Outcome:
    if session in checkpoints.sessions(state):
        settle(state, session)
        with checkpoints.reopen(state, session) as checkpoint:
            finished = checkpoint.applied().finished
            if finished is not None:
                return Outcome.decode(finished)
    return Outcome({}, RunnerError("apply_interrupted", before="not applied", earlier=""))


def settle_all(state: str) -> None:
    """Bring every apply to an end that was cut short; only for who has the turn.

    :raises RunnerError: `recovery_failed`: one cannot be.
    """
    for session in checkpoints.unfinished(state):
        settle(state, session)


def settle(state: str, session: str) -> None:
    """Bring one apply to an end, if it is not.

    :raises RunnerError: `recovery_failed`.
    """
    if checkpoints.is_finished(state, session):
        return
    text, _ = in_child(lambda: json.dumps(_recover(state, session)))
    if not checkpoints.is_finished(state, session):
        reason = json.loads(text) if text else "the process that recovers it ended"
        raise RunnerError("recovery_failed", id=session, reason=str(reason))


def _recover(state: str, session: str) -> Optional[str]:
    """Recover as the identity of the session's plan; why that cannot be, if it cannot."""
    try:
        with checkpoints.reopen(state, session) as checkpoint:
            if not checkpoint.applied().digest:  # cut short before it began
                checkpoint.journal.write("closed")
                return None
            found = plan.parse(checkpoint.plan())
            floor = read_floor()
            if os.geteuid() == 0:
                permission.become(found.identity)
            os.umask(found.identity.umask)
            stop = Stop()
            protected, given = protected_paths(floor), Given(Joined(found.steps))
            setting = Setting(found.identity, checkpoint, Points(), stop, protected, given)
            recover(found, setting)
    except RunnerError as error:
        details = ", ".join(f"{name}: {value}" for name, value in error.details.items())
        return f"{error.code} ({details})"
    except (OSError, Damaged, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None
