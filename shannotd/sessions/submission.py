"""What may be submitted: bounds that keep a submission within what a runner takes."""

from __future__ import annotations

import posixpath

from shannotd.wire.errors import InvalidRequest, ScriptTooLarge
from shannotd.wire.submission import ScriptKind, Submission

MAX_NAME_CHARACTERS = 256
MAX_PATH_CHARACTERS = 4096
MAX_ANALYSIS_CHARACTERS = 64 * 1024
MAX_ARGUMENTS = 65536
MAX_ARGUMENTS_CHARACTERS = 512 * 1024  # in a frame's header each may take six bytes


def check_submission(submission: Submission, *, max_script_bytes: int) -> None:
    """Refuse what cannot be run or is too large.

    :raises ScriptTooLarge: script or standard input is.
    :raises InvalidRequest: anything else.
    """
    for content in (submission.script, submission.stdin):
        if len(content) > max_script_bytes:
            raise ScriptTooLarge(size=len(content), limit=max_script_bytes)
    problem = _problem(submission)
    if problem is not None:
        raise InvalidRequest(method="sessions.submit", reason=problem)


def display_name(submission: Submission) -> str:
    """The session's name: the given one, else what is run."""
    if submission.name:
        return submission.name
    if submission.kind is ScriptKind.COMMAND:
        source = submission.arguments[0] if submission.arguments else ""
    else:
        source = submission.path or ""
    return posixpath.basename(source)[:MAX_NAME_CHARACTERS] or submission.kind.value


def _problem(submission: Submission) -> str | None:
    texts = (submission.name, submission.path or "", submission.cwd, *submission.arguments)
    if any("\0" in text for text in texts):
        return "a name, path or argument holds a zero byte"
    if len(submission.name) > MAX_NAME_CHARACTERS:
        return f"name: more than {MAX_NAME_CHARACTERS} characters"
    if len(submission.analysis) > MAX_ANALYSIS_CHARACTERS:
        return f"analysis: more than {MAX_ANALYSIS_CHARACTERS} characters"
    if not submission.cwd.startswith("/") or len(submission.cwd) > MAX_PATH_CHARACTERS:
        return "cwd: must be an absolute path"
    if submission.path is not None and len(submission.path) > MAX_PATH_CHARACTERS:
        return f"path: more than {MAX_PATH_CHARACTERS} characters"
    if len(submission.arguments) > MAX_ARGUMENTS:
        return f"arguments: more than {MAX_ARGUMENTS}"
    if sum(map(len, submission.arguments)) > MAX_ARGUMENTS_CHARACTERS:
        return f"arguments: more than {MAX_ARGUMENTS_CHARACTERS} characters in all"
    if submission.kind is ScriptKind.COMMAND and not submission.arguments:
        return "arguments: a command needs its program"
    if submission.kind is ScriptKind.ROLLBACK:
        return "kind: a rollback is asked for by sessions.rollback"
    if submission.timeout is not None and not 0 < submission.timeout < 1e9:
        return "timeout: must be a positive number of seconds"
    return None
