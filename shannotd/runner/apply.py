"""Applying an approved plan: exactly it, to the state that the dry run saw, as its identity (P2).

This process was started for one plan. It believes nothing that it is sent but what the seal
shows to have been recorded here.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Dict, List, Optional, Sequence, Tuple, Union

from shannotd.runner import identity as accounts
from shannotd.runner import permission
from shannotd.runner.batch import Batch, Points
from shannotd.runner.commands import run_command
from shannotd.runner.contents import Contents
from shannotd.runner.frames import Channel, Closed, RunnerError
from shannotd.runner.holders import holders
from shannotd.runner.obstacles import protected_paths
from shannotd.runner.orders import Orders
from shannotd.runner.plan import CommandStep, FileStep, Identity, Plan
from shannotd.runner.sealed import opened
from shannotd.runner.stop import Stop
from shannotd.runner.workspace import apply_failed, as_runner_error, reason_of

Part = Sequence[Tuple[int, Union[FileStep, CommandStep]]]


def serve(
    channel: Channel,
    *,
    key: bytes,
    register: str,
    own: Sequence[str] = (),
    points: Optional[Points] = None,
) -> None:
    """Apply the plan that comes over `channel`, and report there (see frames.py).

    `key` is what seals are made with; `register` the directory that remembers which sessions
    were applied; `own` are directories of the runner's and the daemon's, which no plan changes;
    `points` what else is to happen on the way. Returns when all was reported, or nobody listens
    any more. Signals that ask this process to end, it obeys between two steps.
    """
    stop = Stop()
    stop.listen()
    try:
        try:
            found = _receive(channel, key)
            floor = replace(accounts.check(found.identity), own=tuple(own))
            _register(register, found.session)
            orders = Orders(channel.socket)
            _tell_holders(found, orders)  # while this process sees those of all accounts
            if os.geteuid() == 0:
                permission.become(found.identity)
            os.umask(found.identity.umask)
            run(found, orders, points or Points(), stop, floor)
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
    return opened(header, encoded, key, "apply")


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


def _tell_holders(found: Plan, orders: Orders) -> None:
    """Tell who holds open for writing what steps displace: they may have come after the review."""
    for index, some in holders(found.steps).items():
        listed = [asdict(one) for one in some]
        orders.hold({"event": "held", "index": index, "holders": listed})


def run(found: Plan, orders: Orders, points: Points, stop: Stop, floor: accounts.Floor) -> None:
    """Apply `found` as this process: a batch of file steps, a command, the next batch, in order.

    The first failure is the last thing that is done. Every step is told of.

    :raises RunnerError: what stopped it; its `applied` says in words which steps were done.
    :raises Closed: the daemon is gone.
    """
    stopped = _refused(found, floor)
    results: Dict[int, str] = {}
    with Contents(orders) as contents:
        for part in parts(found):
            if stopped is None:
                try:
                    _apply_part(part, found.identity, contents, points, stop, floor, orders)
                except RunnerError as error:
                    stopped = error
                except OSError as error:
                    # Before a batch had begun: it puts back what happens to it.
                    index, step = part[0]
                    path = step.program if isinstance(step, CommandStep) else step.path
                    stopped = apply_failed(index, path, reason_of(error))
                told = _results(part, stopped)
            else:
                told = {index: "skipped" for index, _ in part}
            _tell(orders, told)
            results.update(told)
    _tell(orders, {i: "skipped" for i in range(len(found.steps)) if i not in results})
    if stopped is not None:
        _name_applied(stopped, [index for index, result in results.items() if result == "done"])
        raise stopped


def _refused(found: Plan, floor: accounts.Floor) -> Optional[RunnerError]:
    """What of the whole plan this process may not do, before anything of it is done."""
    files = [step for step in found.steps if isinstance(step, FileStep)]
    try:
        refusal = permission.refusal_of_all(
            files, found.identity, protected_paths(floor), applying=True
        )
    except OSError as error:
        return as_runner_error(error, None)
    return None if refusal is None else permission.not_permitted(found.identity, refusal)


def parts(found: Plan) -> List[Part]:
    """What is to be done, in order: batches of file steps, and single commands between them.

    Only a command that waited for the review is a barrier: what comes before it is applied
    before it runs. What was observed has run, what was denied never does.
    """
    done: List[Part] = []
    batch: List[Tuple[int, FileStep]] = []
    for index, step in enumerate(found.steps):
        if isinstance(step, FileStep) and not step.scratch:
            batch.append((index, step))
        elif isinstance(step, CommandStep) and step.decision == "review":
            done += [batch, [(index, step)]]
            batch = []
    return [part for part in (*done, batch) if part]


def _apply_part(
    part: Part,
    identity: Identity,
    contents: Contents,
    points: Points,
    stop: Stop,
    floor: accounts.Floor,
    orders: Orders,
) -> None:
    orders.look()
    if orders.cancelled:
        index, step = part[0]
        path = step.program if isinstance(step, CommandStep) else step.path
        raise apply_failed(index, path, "it was cancelled")
    files = [(index, step) for index, step in part if isinstance(step, FileStep)]
    if files:
        batch = Batch(
            files,
            identity=identity,
            contents=contents,
            points=points,
            stop=stop,
            protected=protected_paths(floor),
        )
        batch.run()
    for index, step in part:
        if isinstance(step, CommandStep):
            run_command(
                index,
                step,
                identity=identity,
                contents=contents,
                protected=floor.programs,
                orders=orders,
            )


def _results(part: Part, error: Optional[RunnerError]) -> Dict[int, str]:
    """What became of each step of a part that was begun."""
    return {index: _outcome(index, error) for index, _ in part}


def _outcome(index: int, error: Optional[RunnerError]) -> str:
    if error is None:
        return "done"
    step = error.details.get("step")
    if error.code == "clean_up_failed" and isinstance(step, int) and index <= step:
        return "done"
    if error.code == "clean_up_failed" or index != step:
        return "skipped"
    return "stale" if error.code == "stale" else "failed"


def _name_applied(error: RunnerError, done: Sequence[int]) -> None:
    error.details["applied"] = _numbers(done)
    before = error.details.get("before")
    if done and before is not None and not str(before).startswith("applied"):
        error.details["before"] = f"{before}, except for {_numbers(done)}"


def _tell(orders: Orders, results: Dict[int, str]) -> None:
    for index, result in results.items():
        orders.hold({"event": "step", "index": index, "applied": result})
    orders.flush()


def _numbers(indexes: Sequence[int]) -> str:
    """The numbers of steps in words, from 1 as people count them: steps 1-4, 6."""
    ranges: List[List[int]] = []
    for number in (index + 1 for index in indexes):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    words = [f"{first}-{last}" if first < last else str(first) for first, last in ranges]
    return "steps " + ", ".join(words) if words else "none"
