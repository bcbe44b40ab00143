"""What a checkpoint has, told to the daemon: what each step replaced or changed, and how much."""

from __future__ import annotations

import json
from typing import List

from shannotd.runner import checkpoints, plan
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.plan import FileStep
from shannotd.runner.sealed import session_asked


def serve(channel: Channel, *, state: str) -> None:
    """Tell what the checkpoint that is asked for has (see frames.py); returns when it is told."""
    try:
        try:
            session = session_asked(channel, "checkpoint")
            channel.hold({"event": "saved"}, json.dumps(saved(state, session)).encode("ascii"))
        except RunnerError as error:
            channel.hold(error.header())
        channel.send({"event": "end"})
    except Closed:
        pass


def saved(state: str, session: str) -> List[Header]:
    """What the checkpoint of `session` has, step by step: in how many entries and bytes.

    :raises RunnerError: `checkpoint_unknown`: there is none, or none that can be read.
    """
    told: List[Header] = []
    try:
        with checkpoints.reopen(state, session) as checkpoint:
            found = plan.parse(checkpoint.plan())
            for index, one in sorted(checkpoint.saved().items()):
                step = found.steps[index]
                assert isinstance(step, FileStep)
                sizes = [entry.content.size for entry in one.entries if entry.content is not None]
                told.append(
                    {
                        "step": index,
                        "change": step.change,
                        "path": step.path,
                        "entries": len(one.entries),
                        "size": sum(sizes),
                    }
                )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunnerError("checkpoint_unknown", id=session) from error
    return told
