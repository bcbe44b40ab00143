"""The plan that a dry run recorded, for which host and identity, and what stands beside it.

A plan travels as its canonical encoding (`Session.plan_canonical`, JSON with sorted keys
in ASCII) beside what was derived from it (`notes`). Its digest is the SHA-256 of just
those bytes: a reader computes it from what it shows, and needs to trust nobody for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from shannotd.wire.decode import decode
from shannotd.wire.step import Step, StepNote


@dataclass(frozen=True)
class StartedProgram:
    """A program that was started in the sandbox, `count` times with the same arguments.

    `cut`: not all of the arguments were kept. Without any it counts what came after the list was
    full. Shown beside the plan, and no part of it.
    """

    argv: tuple[str, ...]
    count: int
    cut: bool = False


@dataclass(frozen=True)
class Identity:
    """Under whom a script runs, in the dry run and at apply."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int


@dataclass(frozen=True)
class Target:
    """The host that a plan is for: `kind` is local, `host` identifies it for good."""

    kind: str
    host: str


@dataclass(frozen=True)
class Plan:
    """The steps that a dry run recorded: what is applied, in order; then, each in their order, the
    calls that were observed, those that were denied, and what was blocked."""

    format: int
    session: str
    target: Target
    identity: Identity
    policy_version: str
    on_failure: str
    steps: tuple[Step, ...]
    digest: str = ""

    @classmethod
    def parse(cls, canonical: bytes, notes: tuple[StepNote, ...] = ()) -> Plan:
        """The plan in `canonical` with its digest computed and `notes` laid beside its steps.

        :raises ValueError: not a plan, or not as many notes as steps.
        """
        # Not every client comes to read a plan, and OpenSSL is slow to load.
        import hashlib
        import json

        plan = decode(cls, json.loads(canonical), "plan")
        if notes and len(notes) != len(plan.steps):
            raise ValueError(f"plan: {len(plan.steps)} steps but {len(notes)} notes")
        steps = plan.steps
        if notes:
            steps = tuple(
                replace(
                    step,
                    risk=note.risk,
                    reason=note.reason,
                    diff=note.diff,
                    binary=note.binary,
                    too_large=note.too_large,
                    applied=note.applied,
                    result=note.result,
                )
                for step, note in zip(plan.steps, notes, strict=True)
            )
        return replace(plan, steps=steps, digest=hashlib.sha256(canonical).hexdigest())


@dataclass(frozen=True)
class StepCounts:
    """How many steps of each kind a plan has, scratch apart.

    `command` counts those that run when it is applied, `observed` and `denied` the others.
    """

    create: int = 0
    modify: int = 0
    append: int = 0
    delete: int = 0
    metadata: int = 0
    rename: int = 0
    command: int = 0
    blocked: int = 0
    scratch: int = 0
    observed: int = 0
    denied: int = 0
