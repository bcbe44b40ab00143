"""The exit status that tells what became of a session."""

from __future__ import annotations

from shannotd.wire.errors import ERRORS
from shannotd.wire.session import Session, State

DONE, INTERNAL, USAGE, PENDING, REJECTED, FAILED = 0, 1, 2, 3, 4, 5
STALE, SANDBOX, INTERRUPTED, BROKEN_PIPE = 7, 9, 130, 141

STATUSES = (
    (0, "done: the script had no effect, or its plan was applied"),
    (1, "an error inside shannot"),
    (2, "the command line or the request is wrong"),
    (3, "the session is not decided, or not finished, yet"),
    (4, "rejected, expired or cancelled; or over, and too late to decide anything"),
    (5, "the script failed, or its plan could not be applied"),
    (6, "denied: your account, or the script's identity, may not do this"),
    (7, "stale: what the dry run saw, or you displayed, is not what there is now"),
    (8, "no daemon answers"),
    (9, "no sandbox can be built on this machine"),
    (10, "there is no such session"),
    (11, "a limit of the daemon is reached, or its disk is full"),
    (12, "the audit log was changed"),
    (13, "the daemon went away before it said what became of the session"),
    (130, "interrupted (Ctrl-C)"),
    (141, "whoever read the output went away"),
)


def session_status(session: Session) -> int:
    """The exit status for `session` as it is."""
    if session.state in (State.RUNNING, State.PENDING, State.APPROVED, State.EXECUTING):
        return PENDING
    if session.state in (State.REJECTED, State.CANCELLED, State.EXPIRED):
        return REJECTED
    if session.state is State.STALE:
        return STALE
    if session.state is State.EXECUTED:
        # A script without effect that failed has nothing to show but that; what a person
        # approved of a failed script and was applied is done.
        failed = session.signal is not None or session.exit_code not in (None, 0)
        return FAILED if failed and session.decided_at is None else DONE
    if session.error is not None and session.error.code in ERRORS:
        return ERRORS[session.error.code].exit_status
    return FAILED
