"""Contents that a plan names: fetched, and checked against the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shannotctl.client import Client
from shannotctl.protocol import plan_of
from shannotd.wire.errors import BadFrame, EditTooLarge, InvalidRequest, NotAmendable, NotFound
from shannotd.wire.plan import Plan
from shannotd.wire.rpc import MAX_EDIT_BYTES
from shannotd.wire.session import Session
from shannotd.wire.step import CommandInput, CommandOutput, FileState, Step, TreeSummary

MAX_CONTENT_BYTES = 1024 * 1024  # of one content; a larger one is told of, not shown
MAX_TOTAL_BYTES = 32 * 1024 * 1024

Contents = Mapping[str, bytes]


def command_contents(client: Client, session: Session) -> Contents:
    """The inputs and outputs of the session's commands by their SHA-256.

    What is too large, or is not kept any more, is not among them.

    :raises BadFrame: the daemon sent another content than the plan names, or a plan that is none.
    """
    plan = plan_of(session)
    found: dict[str, bytes] = {}
    for part in () if plan is None else wanted_parts(plan):
        content = _fetch(client, session.id, part.sha256)
        if content is not None:
            found[part.sha256] = content
    return found


def wanted_parts(plan: Plan) -> Iterator[CommandInput | CommandOutput]:
    """The inputs and outputs of a plan's commands that are not too large, each once."""
    known: set[str] = set()
    total = 0
    for part in _parts(plan):
        if part.sha256 in known or part.size > MAX_CONTENT_BYTES:
            continue
        total += part.size
        if total > MAX_TOTAL_BYTES:
            return
        known.add(part.sha256)
        yield part


def written_content(client: Client, session: Session, plan: Plan, index: int) -> bytes:
    """What step `index` of the session's plan writes; of an append what it appends.

    :raises NotAmendable: it writes no file, or what it writes is not kept.
    :raises EditTooLarge: no change of a plan could take it.
    :raises BadFrame: the daemon sent another content than the plan names.
    """
    sha256, size = editable(session, plan, index)
    content = _fetch(client, session.id, sha256) if size else b""
    if content is None:
        raise not_kept(session, index)
    return content


def editable(session: Session, plan: Plan, index: int) -> tuple[str, int]:
    """The SHA-256 and size of what step `index` writes; of an append of what it appends.

    :raises NotAmendable: it writes no file.
    :raises EditTooLarge: no change of a plan could take it.
    """
    if index >= len(plan.steps):
        raise NotAmendable(id=session.id, step=index, reason=f"there is no step {index + 1}")
    part = _written(plan.steps[index])
    if part is None or part.sha256 is None or part.size is None:
        raise NotAmendable(id=session.id, step=index, reason=f"step {index + 1} writes no file")
    if part.size > MAX_EDIT_BYTES:
        raise EditTooLarge(size=part.size, limit=MAX_EDIT_BYTES)
    return part.sha256, part.size


def not_kept(session: Session, index: int) -> NotAmendable:
    """The error for a content that the daemon has not any more."""
    reason = f"what step {index + 1} writes is not kept"
    return NotAmendable(id=session.id, step=index, reason=reason)


def is_content(data: bytes, sha256: str) -> bool:
    """Whether `data` is what a plan names by `sha256`."""
    import hashlib

    return hashlib.sha256(data).hexdigest() == sha256


def _written(step: Step) -> TreeSummary | FileState | None:
    """Where a step says what it writes; None where that is no content of its own."""
    if step.change not in ("create", "modify", "append") or step.link_to is not None:
        return None
    return step.appended or (step.after if step.after and step.after.type == "file" else None)


def _parts(plan: Plan) -> Iterator[CommandInput | CommandOutput]:
    for step in plan.steps:
        for part in (step.stdin, step.stdout, step.stderr):
            if part is not None:
                yield part


def _fetch(client: Client, session: str, sha256: str) -> bytes | None:
    try:
        content = b"".join(client.blobs(session, sha256))
    except (InvalidRequest, NotFound):
        return None
    if not is_content(content, sha256):
        raise BadFrame(reason=f"the content {sha256} is not what the plan of {session} names")
    return content
