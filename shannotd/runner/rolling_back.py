"""A plan that takes back what a session did: made of its checkpoint and of the host as it is now,
and sealed like any other. Nothing is changed here.

This process was started for one such plan. It looks at the host as the session's own identity.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, FrozenSet, List, Sequence, Tuple, Union

from shannotd.runner import checkpoints, permission, plan
from shannotd.runner import identity as accounts
from shannotd.runner.chains import joined
from shannotd.runner.checkpoint import Checkpoint
from shannotd.runner.compensation import Compensation
from shannotd.runner.conflicts import Conflict, Conflicts, Settled
from shannotd.runner.frames import Channel, Closed, Header, RunnerError
from shannotd.runner.holders import holders
from shannotd.runner.joined import Joined
from shannotd.runner.journal import Damaged
from shannotd.runner.needed import contents_of
from shannotd.runner.orders import Orders
from shannotd.runner.others import others
from shannotd.runner.outcome import Outcome
from shannotd.runner.plan import CommandStep, FileStep, Identity, Plan, StepNote
from shannotd.runner.record import check_permission, send_contents, send_plan
from shannotd.runner.renewal import Renewal
from shannotd.runner.resume import settle_all
from shannotd.runner.reversal import Item, Reversal, Staying, reversal
from shannotd.runner.reverse import Irreversible
from shannotd.runner.rollback import SavedContents
from shannotd.runner.saved import Saved
from shannotd.runner.sealed import SESSION
from shannotd.runner.turn import Turn
from shannotd.runner.workspace import reason_of
from shannotd.runner.world import World


@dataclass(frozen=True)
class _Order:
    """Which session is rolled back by which, and where the changes of others do not count."""

    session: str
    of: str
    policy_version: str
    force: FrozenSet[str]
    force_all: bool


@dataclass(frozen=True)
class _Runner:
    """Its key, its directory, and all that are its own or the daemon's."""

    key: bytes
    state: str
    own: Tuple[str, ...]


def serve(channel: Channel, *, key: bytes, state: str, own: Sequence[str] = ()) -> None:
    """Send the plan that is asked for over `channel`, or what is in its way (see frames.py).

    `key` is what seals are made with, `state` the runner's directory, `own` are directories of the
    runner's and the daemon's, which no plan changes. Returns when all was sent, or nobody listens
    any more.
    """
    orders = Orders(channel.socket)
    try:
        try:
            order = _receive(orders)
            try:
                with ExitStack() as stack:
                    _roll_back(orders, order, _Runner(key, state, tuple(own)), stack)
            except OSError as error:
                raise _not_reversible(order, reason_of(error)) from error
        except RunnerError as error:
            orders.send(error.header())
        orders.send({"event": "end"})
    except Closed:
        pass


def _receive(channel: Channel) -> _Order:
    header, payload = channel.receive_plain()
    session, of = str(header.get("session")), str(header.get("of"))
    known = SESSION.fullmatch(session) and SESSION.fullmatch(of) and session != of
    try:
        force = json.loads(payload or b"[]")
        if header.get("op") != "rollback" or not known or not isinstance(force, list):
            raise ValueError("no session that is to be rolled back by another")
        return _Order(
            session,
            of,
            str(header["policy_version"]),
            frozenset(map(str, force)),
            header.get("force_all") is True,
        )
    except (KeyError, ValueError) as error:
        raise RunnerError("invalid_request", method="rollback", reason=str(error)) from error


def _roll_back(channel: Orders, order: _Order, runner: _Runner, stack: ExitStack) -> None:
    with Turn(runner.state) as turn:
        if not turn.wait(channel):
            raise Closed("it was cancelled")
        settle_all(runner.state)
        checkpoint = stack.enter_context(checkpoints.reopen(runner.state, order.of))
        saved = checkpoint.saved()
        found, back = _read(checkpoint, saved, order)
        floor = replace(accounts.check(found.identity), own=runner.own)
        found = replace(found, identity=_identity_now(found.identity, floor))
        items, more = _with_commands(channel, found, back.items)
        contents = SavedContents(checkpoint, saved)
        looked = _look(contents, found, joined(items), order)
    if looked.conflicts:
        told = [asdict(conflict) for conflict in looked.conflicts]
        channel.send({"event": "conflicts"}, json.dumps(told).encode("ascii"))
        return
    if not looked.steps:
        raise _not_reversible(order, "nothing of what it did is there that could be taken back")
    made = Plan(
        session=order.session,
        target=found.target,
        identity=found.identity,
        policy_version=order.policy_version,
        on_failure=found.on_failure,
        steps=tuple(looked.steps),
    )
    check_permission(made.steps, made.identity, floor)
    held, given = holders(made.steps), others(made.steps, made.identity)
    notes = [
        {**note, "holders": held.get(index, ()), "others": given.get(index, ())}
        for index, note in enumerate(looked.notes)
    ]
    wanted = {sha256: contents.sendable(sha256) for sha256 in contents_of(made.steps)}
    send_contents(channel, wanted)
    staying = [_told(found, one) for one in sorted((*back.staying, *more), key=_index)]
    channel.hold({"event": "staying"}, json.dumps(staying).encode("ascii"))
    send_plan(channel, made, notes, runner.key)


def _identity_now(then: Identity, floor: accounts.Floor) -> Identity:
    """The account of a plan that was applied some time ago, with the groups that it has now.

    :raises RunnerError: `identity_refused`: there is none, or another one of that name.
    """
    now, _ = accounts.resolve(then.name, floor)
    if (now.uid, now.gid) != (then.uid, then.gid):
        reason = f"it was uid {then.uid}, gid {then.gid}, and is uid {now.uid}, gid {now.gid} now"
        raise RunnerError("identity_refused", identity=then.name, reason=reason)
    return replace(now, umask=then.umask)


def _not_reversible(order: _Order, reason: str) -> RunnerError:
    return RunnerError("not_reversible", id=order.of, reason=reason)


def _read(checkpoint: Checkpoint, saved: Dict[int, Saved], order: _Order) -> Tuple[Plan, Reversal]:
    """The plan that was applied, and what is to be done to take it back."""
    try:
        applied = checkpoint.applied()
        if applied.finished is None:  # its apply was cut short before it began
            raise RunnerError("checkpoint_unknown", id=order.of)
        found = plan.parse(checkpoint.plan())
        results = Outcome.decode(applied.finished).results
        back = reversal(found, results, applied.commands, saved)
    except FileNotFoundError as error:
        raise RunnerError("checkpoint_unknown", id=order.of) from error
    except Irreversible as error:
        number = int(str(error)) + 1
        reason = f"its checkpoint lacks what step {number} replaced"
        raise _not_reversible(order, reason) from error
    except (Damaged, ValueError, KeyError, TypeError) as error:
        raise _not_reversible(order, f"its checkpoint cannot be read ({error})") from error
    if not back.items:
        reason = "it changed no file, and no rule says what makes up for its commands"
        raise _not_reversible(order, reason)
    return found, back


def _with_commands(
    channel: Channel, found: Plan, items: Sequence[Item]
) -> Tuple[List[Item], List[Staying]]:
    """`items` with the commands that will run, and which do not after all."""
    steps: List[Item] = []
    staying: List[Staying] = []
    compensation = Compensation(channel, found.identity)
    for index, step in items:
        if isinstance(step, FileStep):
            compensation.follow(step)
            steps.append((index, step))
            continue
        made = compensation.make(index, step)
        if isinstance(made, CommandStep):
            steps.append((index, made))
        else:
            staying.append(Staying(index, made))
    return steps, staying


@dataclass(frozen=True)
class _Looked:
    """What the host allows: steps with notes, or what is in the way."""

    steps: Sequence[Union[FileStep, CommandStep]]
    notes: Sequence[Header]
    conflicts: Sequence[Conflict]


def _look(contents: SavedContents, found: Plan, items: Sequence[Item], order: _Order) -> _Looked:
    def work() -> str:
        try:
            looked = _look_as_identity(contents, found, items, order)
        except RunnerError as error:
            return json.dumps({"error": [error.code, error.details]})
        except OSError as error:
            return json.dumps({"error": ["not_reversible", {"reason": reason_of(error)}]})
        settled = replace(found, steps=tuple(looked.steps))
        return json.dumps(
            {
                "plan": plan.canonical(settled).decode("ascii"),
                "notes": looked.notes,
                "conflicts": [asdict(conflict) for conflict in looked.conflicts],
            }
        )

    answer: Dict[str, Any] = json.loads(permission.as_identity(found.identity, work))
    if "error" in answer:
        code, details = answer["error"]
        raise RunnerError(code, **{**details, "id": order.of})
    return _Looked(
        plan.parse(answer["plan"].encode("ascii")).steps,
        answer["notes"],
        [Conflict(**conflict) for conflict in answer["conflicts"]],
    )


def _look_as_identity(
    contents: SavedContents, found: Plan, items: Sequence[Item], order: _Order
) -> _Looked:
    conflicts = Conflicts(
        found.identity,
        order.force,
        force_all=order.force_all,
        names=Joined(found.steps),
        left=contents.left,
    )
    settled: List[Union[Settled, CommandStep]] = []
    try:
        for index, step in items:
            if isinstance(step, FileStep):
                settled += conflicts.settle(index, step)
            else:
                settled.append(step)
    finally:
        conflicts.close()
    if conflicts.found:
        return _Looked((), (), conflicts.found)
    try:
        notes = _notes(contents, settled)
    except RunnerError as error:
        if error.code != "stale":
            raise
        details = error.details
        path, expected, now = (str(details[name]) for name in ("path", "expected", "found"))
        return _Looked((), (), [Conflict(path, expected, now)])
    steps = [one.step if isinstance(one, Settled) else one for one in settled]
    return _Looked(steps, notes, ())


def _notes(contents: SavedContents, settled: Sequence[Union[Settled, CommandStep]]) -> List[Header]:
    """What to show beside each step: the diff from what is there now to what will be, and what was
    there in place of what is, where that is forced."""
    notes: List[Header] = []
    world = World()
    with Renewal(contents) as renewal:
        for one in settled:
            if isinstance(one, CommandStep):
                notes.append({})
                continue
            step = one.step
            before = world.find(step.path).content
            world.add(step)
            note = StepNote()
            if "file" in (step.before.type, step.after.type):
                note = renewal.note(step, before, world.find(step.path).content)
            notes.append({**vars(note), "changed": one.changed})
    return notes


def _index(one: Staying) -> int:
    return one.index


def _told(found: Plan, one: Staying) -> Header:
    command = found.steps[one.index]
    assert isinstance(command, CommandStep)
    return {
        "step": one.index,
        "argv": command.argv,
        "program": command.program,
        "reason": one.reason,
    }
