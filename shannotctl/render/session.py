"""A session as text: who submitted what, what became of it, and its plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shannotctl.protocol import plan_of
from shannotctl.render.amendment import amendment_lines, origin_lines
from shannotctl.render.amounts import duration, moment, number, size
from shannotctl.render.command import View, argv_text, program_lines
from shannotctl.render.layout import block, in_gutter, labelled, table
from shannotctl.render.plan import WITH_DIFFS, plan_lines
from shannotctl.render.rollback import reversal_lines, staying_lines
from shannotctl.render.style import Style
from shannotd.wire.plan import Plan, StepCounts
from shannotd.wire.session import Session, State
from shannotd.wire.submission import ScriptKind
from shannotd.wire.text import visible

_KINDS = {
    ScriptKind.PYTHON: "Python code",
    ScriptKind.FILE: "script",
    ScriptKind.SHELL: "shell text",
    ScriptKind.COMMAND: "command",
    ScriptKind.ROLLBACK: "rollback",
}


def session_lines(session: Session, style: Style, view: View = WITH_DIFFS) -> Iterator[str]:
    """Everything that a reviewer needs to know of a session, its plan last.

    :raises BadFrame: the daemon sent a plan that is none.
    """
    plan = plan_of(session)
    yield from header_lines(session, plan, style)
    yield from output_lines(session, style)
    if session.programs:
        yield ""
        yield from program_lines(session.programs, style, whole=view.whole)
    if plan is not None:
        yield ""
        if session.amendment is not None:
            yield from amendment_lines(session, plan, style)
            yield ""
        if session.staying:
            yield from staying_lines(session, style)
            yield ""
        yield from plan_lines(plan, style, view)


def header_lines(session: Session, plan: Plan | None, style: Style) -> Iterator[str]:
    """What was submitted by whom, and the session's state."""
    state = style.state(session.state)
    risk = f", {style.risk(session.risk)}" if session.risk is not None else ""
    yield style.paint(f"Session {visible(session.id)}", "title") + f": {state}{risk}"
    yield from labelled("name", session.name or "(none)", style)
    what = _KINDS[session.kind]
    if session.kind is ScriptKind.COMMAND:
        what += " " + argv_text(session.arguments)
    elif session.arguments:
        what += ", arguments " + argv_text(session.arguments)
    yield from labelled("what", what, style)
    if session.kind is not ScriptKind.ROLLBACK:
        yield from labelled("in", session.cwd, style)
    yield from labelled(
        "submitted",
        f"by {session.submitter_name} (uid {session.submitter}), {moment(session.created_at)}",
        style,
    )
    yield from labelled(
        "profile", f"{session.profile}, as {session.identity} on {session.target}", style
    )
    yield from origin_lines(session, style)
    yield from reversal_lines(session, plan, style)
    if session.analysis:
        yield from labelled("analysis", "what the submitter says of it:", style)
        for line in session.analysis.split("\n"):
            yield from in_gutter(line, style)
    if session.state is State.PENDING and session.expires_at is not None:
        yield from labelled("expires", moment(session.expires_at), style)
    if session.state is State.PENDING and session.approvals > 1:
        given = f"{len(session.decided_by)} of {session.approvals}"
        yield from labelled("approvals", given, style)
    if session.decided_at is not None:
        by = ", ".join(f"uid {uid}" for uid in session.decided_by) or "nobody"
        yield from labelled("decided", f"by {by}, {moment(session.decided_at)}", style)
    if session.reason:
        yield from labelled("reason", session.reason, style)
    ending = ending_text(session)
    if ending:
        yield from labelled("script", ending, style)
    if session.error is not None:
        yield from labelled("error", f"{session.error.message} [{session.error.code}]", style)


def output_lines(session: Session, style: Style) -> Iterator[str]:
    """What the script printed, right of a gutter; what was not kept is told."""
    for title, data, lost in (
        ("standard output", session.stdout, session.stdout_truncated),
        ("standard error", session.stderr, session.stderr_truncated),
    ):
        if data:
            yield ""
            yield style.paint(title, "title")
            yield from block(data, style)
        if lost:
            yield f"    ({size(lost)} more were not kept)"


def ending_text(session: Session) -> str:
    """How the dry run ended: `exit status 0 after 0.01 s`; empty while it runs."""
    if session.signal is not None:
        text = f"killed by signal {session.signal}"
    elif session.exit_code is not None:
        text = f"exit status {session.exit_code}"
    else:
        return ""
    return text if session.duration is None else f"{text} after {duration(session.duration)}"


def counts_text(counts: StepCounts) -> str:
    """`1 create, 2 modify, 3 scratch`; `no change` where there is none."""
    parts = [
        f"{count:,} {kind}"
        for kind, count in (
            ("create", counts.create),
            ("modify", counts.modify),
            ("append", counts.append),
            ("delete", counts.delete),
            ("metadata", counts.metadata),
            ("rename", counts.rename),
            ("command", counts.command),
            ("observed", counts.observed),
            ("denied", counts.denied),
            ("blocked", counts.blocked),
            ("scratch", counts.scratch),
        )
        if count
    ]
    return ", ".join(parts) or "no change"


def list_lines(sessions: Iterable[Session], style: Style) -> Iterator[str]:
    """A table of sessions; what does not fit a column is folded."""
    rows = [
        (
            session.id,
            session.state.value,
            session.risk.value if session.risk is not None else "-",
            moment(session.created_at)[:19],
            session.submitter_name or str(session.submitter),
            session.name or "(none)",
            counts_text(session.counts),
        )
        for session in sessions
    ]
    if not rows:
        return
    headings = ("ID", "STATE", "RISK", "CREATED", "BY", "NAME", "PLAN")
    yield from table(headings, rows, style)


def change_line(session: Session) -> str:
    """One line for a change of state."""
    risk = f" {session.risk.value}" if session.risk is not None else ""
    name = visible(session.name or "(none)")
    return (
        f"{moment(session.created_at)[11:19]} {visible(session.id)} {session.state.value}{risk}"
        f" {name} ({counts_text(session.counts)})"
    )


def steps_text(session: Session) -> str:
    """`4 steps: 1 create, 3 modify` of a session without its plan."""
    counts = session.counts
    total = (
        counts.create
        + counts.modify
        + counts.append
        + counts.delete
        + counts.metadata
        + counts.rename
        + counts.command
        + counts.observed
        + counts.denied
        + counts.blocked
    )
    return f"{number(total, 'step')}: {counts_text(counts)}"
