"""One class per error that a caller can meet; the docstring is its message.

A message says what happened, to which object, and what to do. The fields in
braces are the error's details; they travel with the code, so that a client can
act on them without reading prose.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import ClassVar

from shannotd.wire.text import visible

Detail = str | int | None


class ShannotError(Exception):
    """Something went wrong inside shannot: {reason}. The daemon's log has more; please
    report it."""

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1

    def __init__(self, /, **details: Detail) -> None:
        super().__init__()
        self.details: dict[str, Detail] = dict(details)

    def __str__(self) -> str:
        template = " ".join((type(self).__doc__ or "").split())
        shown = {
            name: visible(_words(name, self.details.get(name)))
            for _, name, _, _ in string.Formatter().parse(template)
            if name
        }
        return template.format(**shown)

    def to_wire(self) -> dict[str, object]:
        """The error as it travels: code, message, details."""
        return {"code": self.code, "message": str(self), "details": self.details}


def _words(name: str, detail: Detail) -> str:
    """A detail as the message says it: steps count from 0, but from 1 where people read of them."""
    if name == "step" and isinstance(detail, int):
        detail += 1
    if name == "earlier" and detail is None:
        return ""  # nothing came before it
    return "?" if detail is None else str(detail)


class UsageError(ShannotError):
    """{reason}"""

    code = "usage"
    exit_status = 2


class InvalidRequest(ShannotError):
    """The request {method} was not understood: {reason}. Correct the parameters and send it
    again."""

    code = "invalid_request"
    exit_status = 2


class UnknownMethod(ShannotError):
    """The daemon has no method {method}. Client and daemon may be of different versions."""

    code = "unknown_method"
    exit_status = 2


class BadFrame(ShannotError):
    """The bytes received are no MessagePack-RPC message: {reason}. The connection was closed."""

    code = "bad_frame"
    exit_status = 8


class FrameTooLarge(ShannotError):
    """A message of more than {limit} bytes was refused and the connection closed.
    Send large content in chunks."""

    code = "frame_too_large"
    exit_status = 2


class ScriptTooLarge(ShannotError):
    """The script has {size} bytes, more than the {limit} that the configuration allows
    (max_script_bytes). Put data beside the script and let it read them."""

    code = "script_too_large"
    exit_status = 2


class FileUnreadable(ShannotError):
    """The file {path} cannot be read: {reason}."""

    code = "file_unreadable"
    exit_status = 2


class NotFound(ShannotError):
    """There is no session that you may see whose id is or begins with {id}. `shannotctl list`
    shows those that there are."""

    code = "not_found"
    exit_status = 10


class AmbiguousId(ShannotError):
    """The ids of {count} sessions begin with {id}. Give more characters; `shannotctl list` shows
    the whole ids."""

    code = "ambiguous_id"
    exit_status = 2


class IdTooShort(ShannotError):
    """{id} is too short for the beginning of a session's id: it needs {least} characters at least.
    `shannotctl list` shows the whole ids."""

    code = "id_too_short"
    exit_status = 2


class NotAllowed(ShannotError):
    """Your account (uid {uid}) may not {action}: {reason}."""

    code = "not_allowed"
    exit_status = 6


class AuthenticationNeeded(ShannotError):
    """You may {action} only after you have proved that you are there, and you could not be asked
    for that: {reason}. Do it on a terminal or a desktop of your own."""

    code = "authentication_needed"
    exit_status = 6


class AuthenticationRefused(ShannotError):
    """You may {action} only after you have proved that you are there, and that came to nothing:
    {reason}. Nothing was changed."""

    code = "authentication_refused"
    exit_status = 6


class AuthenticationUnavailable(ShannotError):
    """You may {action} only after you have proved that you are there, and there is nobody to whom:
    {reason}. Nothing was changed."""

    code = "authentication_unavailable"
    exit_status = 6


class WrongState(ShannotError):
    """Session {id} is {state}: it cannot be {action} any more."""

    code = "wrong_state"
    exit_status = 4


class DigestMismatch(ShannotError):
    """The plan of session {id} is not the one that you saw (its digest is {digest}).
    Look at it again, then decide."""

    code = "digest_mismatch"
    exit_status = 7


class Stale(ShannotError):
    """{path} is no longer what the dry run saw (expected {expected}, found {found}).
    Nothing from step {step} on was applied{earlier}. Submit the script again."""

    code = "stale"
    exit_status = 7


class NotAmendable(ShannotError):
    """The plan of session {id} cannot be changed like that: {reason}. It is as it was."""

    code = "not_amendable"
    exit_status = 2


class StepNeeded(ShannotError):
    """Not all other steps of session {id} can stay: {reason}. Drop what needs it too, which is
    {steps} (--with-dependents does), or keep it. The plan is as it was."""

    code = "step_needed"
    exit_status = 2


class EditTooLarge(ShannotError):
    """The new contents have {size} bytes together, more than the {limit} that one change of a
    plan takes. Put them in place by a script of your own."""

    code = "edit_too_large"
    exit_status = 2


class EditorFailed(ShannotError):
    """The editor {editor} {reason}. Nothing was changed; $VISUAL or $EDITOR names another."""

    code = "editor_failed"
    exit_status = 2


class ApplyFailed(ShannotError):
    """Step {step} could not be applied to {path}: {reason}. Steps before it were {before}."""

    code = "apply_failed"
    exit_status = 5


class CommandFailed(ShannotError):
    """Step {step}, the command {command}, {ending}; the plan needs it to end with exit status
    {expected}. Nothing after it was applied; steps before it were {before}."""

    code = "command_failed"
    exit_status = 5


class CleanUpFailed(ShannotError):
    """Every step up to {step} was applied, and no later one: cleaning up failed for {left}.
    What has a name there that begins with .shannot- can be removed."""

    code = "clean_up_failed"
    exit_status = 5


class CheckpointFailed(ShannotError):
    """Step {step} was not begun, since what it changes cannot be saved first: {path}: {reason}.
    Steps before it were {before}."""

    code = "checkpoint_failed"
    exit_status = 5


class ApplyInterrupted(ShannotError):
    """The apply was cut short: the machine, the runner or its process ended while it was under
    way. Its steps were {before}."""

    code = "apply_interrupted"
    exit_status = 5


class RecoveryFailed(ShannotError):
    """The apply of session {id} was cut short and could not be brought to an end: {reason}. Until
    it is, nothing else is applied. Mend what it says; the next attempt goes on from there."""

    code = "recovery_failed"
    exit_status = 5


class CheckpointUnknown(ShannotError):
    """Session {id} has no checkpoint: it was not applied, or its checkpoint was dropped. It cannot
    be rolled back."""

    code = "checkpoint_unknown"
    exit_status = 2


class CheckpointInUse(ShannotError):
    """The checkpoint of session {id} is needed: its apply is not over, or a rollback of it waits.
    Try again when that is over."""

    code = "checkpoint_in_use"
    exit_status = 2


class NotReversible(ShannotError):
    """Session {id} cannot be rolled back: {reason}. Nothing was changed."""

    code = "not_reversible"
    exit_status = 5


class RollbackConflict(ShannotError):
    """Not everything is still as session {id} left it: {shown}. Nothing was changed. {remedy}"""

    code = "rollback_conflict"
    exit_status = 7


class RollbackPending(ShannotError):
    """Session {id} is being rolled back already, by session {by}. Decide on that one first:
    `shannotctl approve {by}` or `shannotctl reject {by}`."""

    code = "rollback_pending"
    exit_status = 4


class RunnerUnreachable(ShannotError):
    """The runner does not answer: {reason}. Nothing was changed; try again in a moment, and see the
    daemon's log."""

    code = "runner_unreachable"
    exit_status = 8


class NotPermitted(ShannotError):
    """The plan cannot be applied: {identity} may not {action} {path} ({reason}).
    Take away what is in the way, or run the script under an identity that may."""

    code = "not_permitted"
    exit_status = 5


class IdentityRefused(ShannotError):
    """Nothing runs as {identity} here: {reason}. See run_as in the profile and the runner's
    runner.conf."""

    code = "identity_refused"
    exit_status = 6


class DirectoryNotEntered(ShannotError):
    """{identity} cannot enter the working directory {path}: {reason}. Choose another with --cwd."""

    code = "directory_not_entered"
    exit_status = 2


class SandboxUnavailable(ShannotError):
    """No sandbox can be built on this machine: {reason}. {remedy} Nothing was run;
    `shannotctl doctor` checks all of it."""

    code = "sandbox_unavailable"
    exit_status = 9


class RunnerLost(ShannotError):
    """The runner ended while it worked on session {id}: {reason}. Nothing more happens in this
    session; submit the script again."""

    code = "runner_lost"
    exit_status = 5


class CaptureFailed(ShannotError):
    """What the script did could not be recorded: {path}: {reason}. Nothing was kept."""

    code = "capture_failed"
    exit_status = 5


class ScriptFailed(ShannotError):
    """The script {ending} after it had made changes: none of them is offered for approval,
    since a script that failed half-way leaves half its work. Correct it and submit it again."""

    code = "script_failed"
    exit_status = 5


class LimitExceeded(ShannotError):
    """The session exceeded its limit of {limit} ({name}) and was stopped. Nothing was kept."""

    code = "limit_exceeded"
    exit_status = 5


class TooManySessions(ShannotError):
    """There are already {count} {kind} of yours, the most that are allowed.
    Wait for one to end, or end one."""

    code = "too_many_sessions"
    exit_status = 11


class TooManyConnections(ShannotError):
    """The daemon already serves {count} connections, the most that it takes. Try again in a
    moment."""

    code = "too_many_connections"
    exit_status = 11


class TooMuchUnfinished(ShannotError):
    """Your connections hold more than {limit} bytes of messages that you began and did not
    finish (max_unfinished_bytes). This connection was closed; send one after the other."""

    code = "too_much_unfinished"
    exit_status = 11


class StoreFull(ShannotError):
    """The session could not be stored: {reason}. Free space under {path}; nothing was lost."""

    code = "store_full"
    exit_status = 11


class ConfigError(ShannotError):
    """The configuration {path} is not valid: {reason}. Nothing was started with it."""

    code = "config"
    exit_status = 2


class ProfileUnknown(ShannotError):
    """There is no profile {name}. Known profiles: {known}."""

    code = "profile_unknown"
    exit_status = 2


class DaemonUnreachable(ShannotError):
    """No shannot daemon answers at {path}: {reason}. `shannotctl doctor` says why."""

    code = "daemon_unreachable"
    exit_status = 8


class NotificationsUnavailable(ShannotError):
    """No desktop notification can be shown: {reason}. `shannotctl notify --print` prints instead,
    and --exec runs a command."""

    code = "notifications_unavailable"
    exit_status = 8


class OutcomeUnknown(ShannotError):
    """The daemon went away before it said what became of session {id} ({reason}). Find out with
    `shannotctl show {id}` before you do anything again."""

    code = "outcome_unknown"
    exit_status = 13


class DaemonStopping(ShannotError):
    """The daemon is stopping and takes no new work. Try again in a moment."""

    code = "daemon_stopping"
    exit_status = 8


class AuditBroken(ShannotError):
    """The audit log fails verification at {file}, line {line}: {reason}. Keep the files as they
    are and find out who changed them."""

    code = "audit_broken"
    exit_status = 12


def _all_errors(base: type[ShannotError] = ShannotError) -> dict[str, type[ShannotError]]:
    known = {base.code: base}
    for subclass in base.__subclasses__():
        known.update(_all_errors(subclass))
    return known


ERRORS: Mapping[str, type[ShannotError]] = _all_errors()


def error_from_wire(value: object) -> ShannotError:
    """The error that `value` (a decoded `to_wire`) describes; never raises.

    An unknown code becomes a plain ShannotError that carries the message as reason.
    """
    if not isinstance(value, Mapping):
        return ShannotError(reason=f"malformed error of type {type(value).__name__}")
    details = value.get("details")
    clean: dict[str, Detail] = {}
    if isinstance(details, Mapping):
        for key, detail in details.items():
            if isinstance(key, str) and (detail is None or isinstance(detail, str | int)):
                clean[key] = detail
    code, message = value.get("code"), value.get("message")
    kind = ERRORS.get(code) if isinstance(code, str) else None
    if kind is None:
        return ShannotError(reason=message if isinstance(message, str) else "no message")
    return kind(**clean)
