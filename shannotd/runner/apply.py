"""Applying an approved plan: exactly it, to the state that the dry run saw, as its identity (P2).

This process was started for one plan. It believes nothing that it is sent but what the seal
shows to have been recorded here.
"""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Dict, Mapping, Optional, Sequence, Tuple

from shannotd.runner import checkpoints, permission, plan
from shannotd.runner import identity as accounts
from shannotd.runner.batch import Batch, Points, Setting
from shannotd.runner.cgroups import Base
from shannotd.runner.command_group import CommandGroup
from shannotd.runner.commands import run_command
from shannotd.runner.contents import AskedContents
from shannotd.runner.frames import Channel, Closed, RunnerError
from shannotd.runner.given import Given
from shannotd.runner.holders import holders
from shannotd.runner.joined import Joined
from shannotd.runner.obstacles import protected_paths
from shannotd.runner.orders import Orders
from shannotd.runner.outcome import Part, apply_over, command_result, parts, told
from shannotd.runner.plan import CommandStep, FileStep, Plan
from shannotd.runner.resume import settle_all
from shannotd.runner.sealed import opened
from shannotd.runner.stop import Stop
from shannotd.runner.turn import Turn
from shannotd.runner.workspace import apply_failed, as_runner_error, reason_of


def serve(
    channel: Channel,
    *,
    key: bytes,
    state: str,
    own: Sequence[str] = (),
    points: Optional[Points] = None,
    base: Optional[Base] = None,
) -> None:
    """Apply the plan that comes over `channel`, and report there (see frames.py).

    `key` is what seals are made with; `state` the runner's directory, with the checkpoints and the
    memory of which sessions were applied; `own` are directories of the runner's and the daemon's,
    which no plan changes; `points` what else is to happen on the way; commands have a control group
    below `base`. Returns when all was
    reported, or nobody listens any more. Signals that ask this process to end, it obeys between
    two steps.
    """
    stop = Stop()
    stop.listen()
    try:
        try:
            found, encoded = _receive(channel, key)
            floor = replace(accounts.check(found.identity), own=tuple(own))
            orders = Orders(channel.socket)
            with Turn(state) as turn:
                if not turn.wait(orders):
                    raise apply_failed(0, "/", "it was cancelled")
                settle_all(state)
                digest = plan.digest(encoded)
                with checkpoints.create(state, found.session, encoded, digest) as checkpoint:
                    # While this process sees the processes and directories of all accounts.
                    _tell_holders(found, orders)
                    protected = protected_paths(floor)
                    group = CommandGroup.make(base) if _has_commands(found) else None
                    if os.geteuid() == 0:
                        permission.become(found.identity)
                    os.umask(found.identity.umask)
                    setting = Setting(
                        found.identity,
                        checkpoint,
                        points or Points(),
                        stop,
                        protected,
                        Given(Joined(found.steps)),
                    )
                    try:
                        run(found, orders, setting, floor, turn, group)
                    finally:
                        if group is not None:
                            group.close()
        except RunnerError as error:
            channel.send(error.header())
        except OSError as error:
            channel.send(as_runner_error(error, None).header())
        channel.send({"event": "end"})
    except Closed:
        pass


def _receive(channel: Channel, key: bytes) -> Tuple[Plan, bytes]:
    """The plan to be applied: one that this runner recorded, for this machine."""
    header, encoded = channel.receive_plain()
    return opened(header, encoded, key, "apply"), encoded


def _tell_holders(found: Plan, orders: Orders) -> None:
    """Tell who holds open for writing what steps displace: they may have come after the review."""
    for index, some in holders(found.steps).items():
        listed = [asdict(one) for one in some]
        orders.hold({"event": "held", "index": index, "holders": listed})


def _has_commands(found: Plan) -> bool:
    return any(isinstance(step, CommandStep) for part in parts(found) for _, step in part)


def run(
    found: Plan,
    orders: Orders,
    setting: Setting,
    floor: accounts.Floor,
    turn: Turn,
    group: Optional[CommandGroup] = None,
) -> None:
    """Apply `found` as this process: a batch of file steps, a command, the next batch, in order.

    The first failure is the last thing that is done, but for what is taken back then. Every step
    is told of.

    :raises RunnerError: what stopped it; its details say in words what became of the steps.
    :raises Closed: the daemon is gone.
    """
    stopped = _refused(found, setting)
    results: Dict[int, str] = {}
    teller = _Teller(orders)
    with AskedContents(orders) as contents:
        for part in parts(found) if stopped is None else ():
            try:
                _apply_part(part, contents, orders, setting, floor, turn, group)
            except RunnerError as error:
                stopped = error
            except OSError as error:  # before a batch had begun, which would put back
                index, step = part[0]
                path = step.program if isinstance(step, CommandStep) else step.path
                stopped = apply_failed(index, path, reason_of(error))
            except Closed as error:
                stopped = teller.lose(error, part)
            results.update(_results(part, stopped, setting))
            teller.tell(results)
            if stopped is not None or teller.lost is not None:
                break
    if teller.lost is not None and stopped is None:
        stopped = teller.lose(teller.lost, parts(found)[-1])
    ended = apply_over(found, setting, results, stopped)
    teller.tell(ended.results)
    if teller.lost is not None:
        raise teller.lost
    if ended.failure is not None:
        raise ended.failure


def _refused(found: Plan, setting: Setting) -> Optional[RunnerError]:
    """What of the whole plan this process may not do, before anything of it is done."""
    files = [step for step in found.steps if isinstance(step, FileStep)]
    try:
        refusal = permission.refusal_of_all(files, found.identity, setting.protected, applying=True)
    except OSError as error:
        return as_runner_error(error, None)
    return None if refusal is None else permission.not_permitted(found.identity, refusal)


class _Teller:
    """Tells the daemon what became of steps, as long as it is there."""

    def __init__(self, orders: Orders) -> None:
        self.lost: Optional[Closed] = None
        self._orders = orders
        self._told: Dict[int, str] = {}

    def tell(self, results: Mapping[int, str]) -> None:
        """Tell what is new in `results`."""
        new = {i: result for i, result in results.items() if self._told.get(i) != result}
        self._told.update(new)
        if self.lost is not None:
            return
        try:
            for event in told(new):
                self._orders.hold(event)
            self._orders.flush()
        except Closed as error:
            self.lost = error

    def lose(self, error: Closed, part: Part) -> RunnerError:
        """The daemon is gone: nothing more is begun for it."""
        self.lost = error
        index, step = part[0]
        path = step.program if isinstance(step, CommandStep) else step.path
        return apply_failed(index, path, "the daemon went away")


def _apply_part(
    part: Part,
    contents: AskedContents,
    orders: Orders,
    setting: Setting,
    floor: accounts.Floor,
    turn: Turn,
    group: Optional[CommandGroup],
) -> None:
    orders.look()
    if orders.cancelled:
        index, step = part[0]
        path = step.program if isinstance(step, CommandStep) else step.path
        raise apply_failed(index, path, "it was cancelled")
    files = [(index, step) for index, step in part if isinstance(step, FileStep)]
    if files:
        Batch(files, setting, contents).run()
    for index, step in part:
        if isinstance(step, CommandStep):
            run_command(
                index,
                step,
                identity=setting.identity,
                contents=contents,
                protected=floor.programs,
                orders=orders,
                journal=setting.checkpoint.journal,
                held=(turn.descriptor,),
                group=group,
            )


def _results(part: Part, error: Optional[RunnerError], setting: Setting) -> Dict[int, str]:
    """What became of each step of a part that was begun."""
    index, step = part[0]
    if isinstance(step, CommandStep) and error is not None:
        commands = setting.checkpoint.applied().commands
        if index in commands:  # it ran, whatever came after
            return {index: command_result(step, commands[index])}
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
