"""A reviewer's plan of one that was recorded here: checked, rewritten, shown anew, sealed.

This process was started for one such plan. It believes of the old plan only what the seal shows,
and looks at the host as the plan's identity.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Sequence

from shannotd.runner import identity as accounts
from shannotd.runner import permission
from shannotd.runner.amendment import Amended, Changes, amend, not_amendable
from shannotd.runner.contents import AskedContents
from shannotd.runner.frames import Channel, Closed, RunnerError
from shannotd.runner.holders import holders
from shannotd.runner.others import others
from shannotd.runner.plan import FileStep, Holder, Plan
from shannotd.runner.record import check_permission, send_plan
from shannotd.runner.renewal import Renewal
from shannotd.runner.sealed import SESSION, opened
from shannotd.runner.world import Written


@dataclass(frozen=True)
class _Order:
    """The plan as it was recorded, what is to be changed, and for which session."""

    plan: Plan
    changes: Changes
    session: str


def serve(channel: Channel, *, key: bytes, own: Sequence[str] = ()) -> None:
    """Amend the plan that comes over `channel`, and send there what comes of it (see frames.py).

    `key` is what seals are made with; `own` are directories of the runner's and the daemon's,
    which no plan changes. Returns when all was sent, or nobody listens any more.
    """
    try:
        try:
            order = _receive(channel, key)
            floor = replace(accounts.check(order.plan.identity), own=tuple(own))
            try:
                # While this process sees the processes and directories of all accounts.
                held = holders(order.plan.steps)
                given = others(order.plan.steps, order.plan.identity)
                if os.geteuid() == 0:
                    # The key stays: changing ids makes us undumpable, so nobody reads it.
                    permission.become(order.plan.identity)
                _amend(channel, order, floor, held, given, key)
            except OSError as error:
                where = f"{error.filename}: " if isinstance(error.filename, str) else ""
                reason = f"{where}{error.strerror or error}"
                raise not_amendable(order.plan, reason) from error
        except RunnerError as error:
            channel.send(error.header())
        channel.send({"event": "end"})
    except Closed:
        pass


def _receive(channel: Channel, key: bytes) -> _Order:
    header, payload = channel.receive_plain()
    size = header.get("canonical_size")
    if type(size) is not int or not 0 <= size <= len(payload):
        raise _invalid("a size that is none")
    plan = opened(header, payload[:size], key, "amend")
    session = header.get("to")
    if type(session) is not str or not SESSION.fullmatch(session) or session == plan.session:
        raise _invalid("a plan that is changed is of another session")
    return _Order(plan, _changes(payload[size:]), session)


def _changes(encoded: bytes) -> Changes:
    try:
        value = json.loads(encoded)
        edits = {
            int(index): Written(str(sha256), int(size)) for index, sha256, size in value["edits"]
        }
        drop = frozenset(int(index) for index in value["drop"])
        return Changes(drop, edits, value["with_dependents"] is True)
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid(f"changes that are none: {error}") from error


def _invalid(reason: str) -> RunnerError:
    return RunnerError("invalid_request", method="amend", reason=reason)


def _amend(
    channel: Channel,
    order: _Order,
    floor: accounts.Floor,
    held: Mapping[int, Sequence[Holder]],
    given: Mapping[int, Sequence[str]],
    key: bytes,
) -> None:
    with AskedContents(channel) as contents, Renewal(contents) as renewal:
        amended = amend(order.plan, order.changes, renewal.measure)
        check_permission(amended.steps, order.plan.identity, floor)
        notes: List[Dict[str, object]] = []
        for index, (step, origin) in enumerate(zip(amended.steps, amended.origins)):
            renewed = amended.renewed.get(index)
            note: Dict[str, object] = {}
            if renewed is not None:
                assert isinstance(step, FileStep)
                note = vars(renewal.note(step, renewed.before, renewed.after))
            beside = {"holders": held.get(origin, ()), "others": given.get(origin, ())}
            notes.append({**note, **beside})
    plan = replace(order.plan, session=order.session, steps=amended.steps)
    channel.hold({"event": "amended"}, _outcome(amended))
    send_plan(channel, plan, notes, key)


def _outcome(amended: Amended) -> bytes:
    value = {
        "origins": amended.origins,
        "dropped": amended.dropped,
        "missed": [[missed.index, missed.dropped] for missed in amended.missed],
        "edited": amended.edited,
        "replaced": list(amended.replaced.items()),
    }
    return json.dumps(value, separators=(",", ":")).encode("ascii")
