"""Having the runner change a plan: what is asked of it, and what it makes of that."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shannotd.sessions import errand
from shannotd.sessions.channel import Channel
from shannotd.sessions.decisions import shown
from shannotd.sessions.execute import Approved, send_contents
from shannotd.sessions.plans import Notes
from shannotd.sessions.recorded import Recorded, recorded
from shannotd.sessions.records import Content
from shannotd.sessions.runner import Runner
from shannotd.sessions.store import Store
from shannotd.wire.amendment import Amendment, DroppedStep, EditedStep
from shannotd.wire.decode import decode
from shannotd.wire.errors import NotAmendable, RunnerLost, ShannotError, error_from_wire
from shannotd.wire.plan import Plan
from shannotd.wire.step import Step

_SECONDS = 120.0  # what the runner gets for it: the host's files may have to be read


@dataclass(frozen=True)
class Edit:
    """Another content for what the step `index` writes; of an `append` for what it appends."""

    index: int
    content: bytes


@dataclass(frozen=True)
class Changes:
    """What a reviewer wants of a plan: see `sessions.amend`."""

    drop: tuple[int, ...] = ()
    edits: tuple[Edit, ...] = ()
    with_dependents: bool = False


@dataclass(frozen=True)
class Told:
    """What the runner tells of a plan that it changed, beside it: see runner/frames.py."""

    origins: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    missed: tuple[tuple[int, ...], ...] = ()
    edited: tuple[int, ...] = ()
    replaced: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Result:
    """A changed plan; what its notes do not say is as it was before."""

    plan: Recorded
    told: Told = field(default_factory=Told)


class Amending:
    """Drives one change of a plan from the request to its end."""

    def __init__(
        self, runner: Runner, store: Store, plan: Approved, session: str, changes: Changes
    ) -> None:
        """The plan of `session` is to be made of `plan`."""
        self._runner = runner
        self._store = store
        self._plan = plan
        self._session = session
        self._changes = changes
        self._edits = {
            hashlib.sha256(edit.content).hexdigest(): edit.content for edit in changes.edits
        }

    async def run(self) -> Result:
        """What comes of it.

        :raises ShannotError: the plan cannot be changed like that, or the runner failed.
        """
        try:
            return await errand.run(
                self._runner.amend_job(), self._drive, self._failed, seconds=_SECONDS
            )
        except RunnerLost as error:
            raise self._failed(str(error.details.get("reason"))) from None

    async def _drive(self, channel: Channel) -> Result:
        plan, canonical = self._plan, self._plan.canonical
        header = {"op": "amend", "session": plan.session, "digest": plan.digest, "seal": plan.seal}
        more = {"to": self._session, "canonical_size": len(canonical)}
        await channel.send({**header, **more}, canonical + self._wanted())
        told = Told()
        made: Recorded | None = None
        failure: ShannotError | None = None
        while True:
            frame = await channel.receive()
            for descriptor in frame.descriptors:
                os.close(descriptor)
            event = frame.header.get("event")
            try:
                if event == "end":
                    break
                if event == "need":
                    wanted = frame.header.get("sha256")
                    await send_contents(channel, plan.session, wanted, self._contents)
                elif event == "amended":
                    told = decode(Told, json.loads(frame.payload), "amended")
                elif event == "plan":
                    made = recorded(frame)
                elif event == "error":
                    failure = error_from_wire(frame.header)
            except (KeyError, TypeError, ValueError) as error:
                raise self._failed(f"the runner sent what cannot be used ({error})") from error
        if failure is not None:
            raise failure
        if made is None:
            raise self._failed("the runner sent no plan")
        return Result(made, told)

    def _wanted(self) -> bytes:
        edits = [
            [edit.index, hashlib.sha256(edit.content).hexdigest(), len(edit.content)]
            for edit in self._changes.edits
        ]
        wanted = {
            "drop": self._changes.drop,
            "edits": edits,
            "with_dependents": self._changes.with_dependents,
        }
        return json.dumps(wanted).encode("ascii")

    async def _contents(self, wanted: list[str]) -> list[Content]:
        content = self._edits.get(wanted[0])
        if content is not None:
            return [Content(len(content), content, None)]
        stored = [sha256 for sha256 in wanted if sha256 not in self._edits]
        return await self._store.contents(self._plan.session, stored)

    def _failed(self, reason: str) -> NotAmendable:
        return NotAmendable(id=self._plan.session, reason=reason)


def follow(result: Result, before: Plan, notes: Notes) -> tuple[Recorded, Amendment]:
    """The changed plan with all of its notes, and what a reader is to know of the change.

    Pure. `before` is the plan that it was made of, with its `notes`.

    :raises ValueError: what the runner told does not fit.
    """
    told = result.told
    derived = json.loads(result.plan.notes)
    count = len(before.steps)
    indexes = (*told.origins, *told.dropped)
    if sorted(indexes) != list(range(count)) or not isinstance(derived, list):
        raise ValueError("it lost track of the steps")
    if len(derived) != len(told.origins) or not all(isinstance(note, dict) for note in derived):
        raise ValueError("it has other notes than of its steps")
    filled = [
        {**_derived(notes.steps[origin]), **note}
        for note, origin in zip(derived, told.origins, strict=True)
    ]
    plan = Recorded(
        result.plan.digest,
        result.plan.seal,
        result.plan.canonical,
        json.dumps(filled).encode("ascii"),
    )
    return plan, _amendment(told, before)


def _derived(note: Mapping[str, object]) -> dict[str, object]:
    return {name: note.get(name) for name in ("diff", "binary", "too_large")}


def _amendment(told: Told, before: Plan) -> Amendment:
    missed: dict[int, list[int]] = {}
    for index, dropped in _pairs(told.missed):
        missed.setdefault(_known(dropped, told.dropped), []).append(_new(index, told))
    replaced = {_known(edited, told.edited): _new(by, told) for edited, by in _pairs(told.replaced)}
    return Amendment(
        dropped=tuple(
            DroppedStep(index, in_words(before.steps[index]), tuple(missed.get(index, ())))
            for index in told.dropped
        ),
        edited=tuple(
            EditedStep(index, told.origins[_new(index, told)], replaced.get(index))
            for index in told.edited
        ),
    )


def _pairs(value: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    return [(one, other) for one, other in value]


def _known(index: int, of: Sequence[int]) -> int:
    if index not in of:
        raise ValueError("it names a step that is none")
    return index


def _new(index: int, told: Told) -> int:
    if not 0 <= index < len(told.origins):
        raise ValueError("it names a step that is none")
    return index


def in_words(step: Step) -> str:
    """What a step would do, as short as can be: a path is not escaped."""
    if step.kind == "command":
        return f"run {shown(step.argv)}"
    if step.change == "rename":
        return f"rename {step.old_path} to {step.path}"
    return f"{step.change} {step.path}"
