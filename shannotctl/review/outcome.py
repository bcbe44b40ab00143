"""Where a session stands, in a few lines: what comes next, or what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shannotctl.render.amendment import steps_text as steps_named
from shannotctl.render.amounts import number
from shannotctl.render.layout import labelled
from shannotctl.render.plan import applied_text
from shannotctl.render.rollback import is_reversible
from shannotctl.render.session import ending_text, steps_text
from shannotctl.render.style import Style
from shannotctl.review.spans import STATE_ROLES
from shannotctl.review.state import Opened
from shannotctl.review.warnings import what
from shannotd.wire.plan import Plan
from shannotd.wire.session import State

MARKS = {
    "done": ("✓", "good"),
    "failed": ("✗", "bad"),
    "stale": ("✗", "bad"),
    "undone": ("↺", "caution"),
    "in_doubt": ("?", "danger"),
    "skipped": ("-", "faint"),
}
_FIRST = ("stale", "failed", "in_doubt")
_MOST_NAMED = 8


def applied(opened: Opened) -> Mapping[int, str]:
    """What became of the plan's steps, as far as that is known, by index."""
    if opened.plan is None:
        return {}
    told = {i: step.applied for i, step in enumerate(opened.plan.steps) if step.applied is not None}
    return {**told, **opened.live.applied}


def outcome_lines(opened: Opened, style: Style) -> Iterator[str]:
    """The session's state in words, and after an apply how it ended, conflicts first."""
    session, plan = opened.session, opened.plan
    text, role = _standing(opened), STATE_ROLES.get(session.state, "")
    yield from labelled(session.state.value.replace("_", " "), text, style, indent="", role=role)
    if session.error is not None:
        text = f"{session.error.message} [{session.error.code}]"
        yield from labelled("error", text, style, indent="", role="bad")
    if session.reason:
        yield from labelled("reason", session.reason, style, indent="")
    if plan is not None and session.state not in (State.PENDING, State.RUNNING):
        yield from _steps(plan, applied(opened), style)
    if is_reversible(session, applied(opened).values()):
        yield from labelled("checkpoint", "kept: `u` takes the session back", style, indent="")


def _standing(opened: Opened) -> str:
    session = opened.session
    if session.state is State.PENDING:
        text = f"waits for a decision: {steps_text(session)}"
        if session.approvals > 1:
            text += f"; {len(session.decided_by)} of {session.approvals} approvals given"
        return text
    if session.state is State.RUNNING:
        return "the dry run goes on"
    if session.state is State.APPROVED:
        return "is about to be applied"
    if session.state is State.EXECUTING:
        done = sum(what_became == "done" for what_became in applied(opened).values())
        total = sum(step.has_effect for step in opened.plan.steps) if opened.plan else 0
        return f"is being applied: {done} of {number(total, 'step')} done"
    if session.state is State.EXECUTED and session.decided_at is None:
        ending = ending_text(session)
        return f"had no effect, so that nobody had to approve it{f'; {ending}' if ending else ''}"
    by = ", ".join(f"uid {uid}" for uid in session.decided_by)
    if session.state in (State.EXECUTED, State.FAILED, State.STALE):
        return f"approved by {by or 'nobody'}"
    if session.state is State.ROLLED_BACK:
        return f"taken back by session {session.rolled_back_by or '?'}"
    if session.replaced_by is not None:
        return f"replaced by session {session.replaced_by}"
    return f"by {by}" if by else "nothing of it was applied"


def _steps(plan: Plan, became: Mapping[int, str], style: Style) -> Iterator[str]:
    effective = [index for index, step in enumerate(plan.steps) if step.has_effect]
    if not became:
        return
    counts: dict[str, int] = {}
    for index in effective:
        state = became.get(index, "not yet")
        counts[state] = counts.get(state, 0) + 1
    text = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items())
    good = set(counts) == {"done"}
    yield from labelled("steps", text, style, indent="", role="good" if good else "caution")
    for wanted in _FIRST:
        sign, role = MARKS[wanted]
        label = f"{sign} {wanted.replace('_', ' ')}"
        found = [index for index in effective if became.get(index) == wanted]
        for index in found[:_MOST_NAMED]:
            text = f"step {index + 1}, {what(plan.steps[index])}"
            yield from labelled(label, text, style, indent="", role=role)
        if len(found) > _MOST_NAMED:
            text = f"and {steps_named(found[_MOST_NAMED:])}"
            yield from labelled(label, text, style, indent="", role=role)
    undone = [index for index in effective if became.get(index) == "undone"]
    if undone:
        text = f"{steps_named(undone)}: {applied_text('undone').partition(': ')[2]}"
        yield from labelled("↺ undone", text, style, indent="", role="caution")
