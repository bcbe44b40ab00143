"""What a job is about, as whoever asks for it says: a session's id, or a plan that comes back.

Of plans only what the runner's own seal shows to have been recorded here; whoever sends one is
believed nothing but that (P2).
"""

from __future__ import annotations

import hmac
import re

from shannotd.runner import plan
from shannotd.runner.frames import Channel, Header, RunnerError
from shannotd.runner.identity import machine
from shannotd.runner.plan import Plan
from shannotd.runner.workspace import apply_failed

SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def session_asked(channel: Channel, operation: str) -> str:
    """The session that the first frame on `channel` asks something of, for `operation`.

    :raises RunnerError: `invalid_request`: it is another operation, or no session's id.
    """
    header, _ = channel.receive_plain()
    session = str(header.get("session"))
    if header.get("op") != operation or SESSION.fullmatch(session) is None:
        raise RunnerError("invalid_request", method=operation, reason="no session's id")
    return session


def opened(header: Header, encoded: bytes, key: bytes, operation: str) -> Plan:
    """The plan in `encoded`, its canonical encoding, which came with `header` for `operation`.

    `key` is what seals are made with; the header has `session`, `digest` and `seal`.

    :raises RunnerError: `digest_mismatch`: this runner did not record it for that session;
        `apply_failed`: it did on another machine; `invalid_request`: it is nothing of the kind.
    """
    session, digest = str(header.get("session")), str(header.get("digest"))
    if header.get("op") != operation or SESSION.fullmatch(session) is None:
        reason = f"not a plan for the operation {operation}"
        raise RunnerError("invalid_request", method=operation, reason=reason)
    expected = plan.seal(key, session, plan.digest(encoded))
    sealed = hmac.compare_digest(expected.encode(), str(header.get("seal")).encode())
    if not sealed or not hmac.compare_digest(plan.digest(encoded), digest):
        raise RunnerError("digest_mismatch", id=session, digest=plan.digest(encoded))
    try:
        found = plan.parse(encoded)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no plan of this runner's format: {error}"
        raise RunnerError("invalid_request", method=operation, reason=reason) from error
    if found.session != session:
        raise RunnerError("digest_mismatch", id=session, digest=digest)
    if found.target.get("host") != machine():
        raise apply_failed(0, "/", "the plan was recorded on another machine")
    return found
