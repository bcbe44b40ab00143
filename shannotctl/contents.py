"""What the commands of a plan are given and have printed: fetched, and checked against the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shannotctl.client import Client
from shannotctl.protocol import plan_of
from shannotd.wire.errors import BadFrame, InvalidRequest, NotFound
from shannotd.wire.model import CommandInput, CommandOutput, Plan, Session

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
    total = 0
    for part in () if plan is None else _parts(plan):
        if part.sha256 in found or part.size > MAX_CONTENT_BYTES:
            continue
        total += part.size
        if total > MAX_TOTAL_BYTES:
            break
        content = _fetch(client, session.id, part.sha256)
        if content is not None:
            found[part.sha256] = content
    return found


def _parts(plan: Plan) -> Iterator[CommandInput | CommandOutput]:
    for step in plan.steps:
        for part in (step.stdin, step.stdout, step.stderr):
            if part is not None:
                yield part


def _fetch(client: Client, session: str, sha256: str) -> bytes | None:
    import hashlib

    try:
        content = b"".join(client.blobs(session, sha256))
    except (InvalidRequest, NotFound):
        return None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BadFrame(reason=f"the content {sha256} is not what the plan of {session} names")
    return content
