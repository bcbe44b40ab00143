"""What keys do where a session is looked at: decide over it, change its plan, fold."""

from __future__ import annotations

from dataclasses import replace

from shannotctl.render.amendment import steps_text
from shannotctl.render.amounts import number
from shannotctl.review import moving
from shannotctl.review.action import Action, Actions
from shannotctl.review.following import Result
from shannotctl.review.opening import is_pending, leave_session
from shannotctl.review.screen import body_height, body_width, document
from shannotctl.review.session_view import foldable_items, folded_items, unfolding
from shannotctl.review.state import Ask, Kind, Panel, Place, Review
from shannotctl.review.step_keys import STEP
from shannotd.wire.decision import Risk
from shannotd.wire.session import State

REVERSIBLE = (State.EXECUTED, State.FAILED, State.STALE)
STOPPABLE = (State.RUNNING, State.APPROVED, State.EXECUTING)


def _approve(review: Review) -> Result:
    opened = review.opened
    if review.busy:
        return review, ()
    # Only what is on the screen can be approved: a key that came earlier was about something else.
    if opened is None or opened.plan is None or not review.place.drawn:
        return replace(review, notice="not yet: the plan is not on the screen"), ()
    if opened.session.state is not State.PENDING:
        state = opened.session.state.value.replace("_", " ")
        return replace(review, notice=f"the session is {state}: there is nothing to approve"), ()
    if opened.changed:
        text = "the plan on the screen has changes that are not made: A makes them, D gives them up"
        return replace(review, notice=text), ()
    ask = Ask.DANGER if opened.risk is Risk.DANGER else Ask.APPROVE
    panel = Panel(ask, ids=(opened.session.id,), digest=opened.plan.digest)
    return replace(review, panel=panel), ()


def reject(review: Review) -> Result:
    """Ask why: the session that is looked at, or those that are chosen in the list."""
    ids: tuple[str, ...]
    if review.place.kind is Kind.LIST:
        ids = tuple(sorted(review.listing.selected)) or (review.place.item,)
    else:
        ids = (review.opened.session.id,) if review.opened is not None else ()
    ids = tuple(id for id in ids if is_pending(review, id))
    if not ids:
        return replace(review, notice="only what is pending can be rejected"), ()
    names = [review.sessions[id].name or "(none)" for id in ids]
    text = f"Reject {names[0]}" if len(ids) == 1 else f"Reject {len(ids)} plans: {', '.join(names)}"
    return replace(review, panel=Panel(Ask.REJECT, ids=ids, text=(f"{text}.",))), ()


def _toggle_fold(review: Review) -> Result:
    opened = review.opened
    if opened is None:
        return review, ()
    shown = document(review)
    item, _ = shown.anchored(shown.position(review.place))
    width = body_width(review)
    if item not in foldable_items(opened, width):
        return review, ()
    review = replace(review, opened=replace(opened, toggled=opened.toggled ^ {item}))
    row = shown.first[item] - shown.top(review.place, body_height(review))
    return review.at(replace(review.place, item=item, offset=0, row=max(0, row))), ()


def _fold_all(review: Review) -> Result:
    opened = review.opened
    if opened is None:
        return review, ()
    width = body_width(review)
    folded, left = unfolding(opened, width)
    # Unfold all if anything is folded, else fold all.
    change = folded or foldable_items(opened, width) - folded_items(opened, width)
    review = replace(review, opened=replace(opened, toggled=opened.toggled ^ change))
    if folded and left:
        text = (
            f"{number(left, 'long step')} left folded: Enter shows one, `p` has all in your pager"
        )
        review = replace(review, notice=text)
    return review.at(replace(review.place, offset=0)), ()


def _to_top(review: Review) -> Result:
    return moving.to_row(review, 0), ()


def _drop(review: Review) -> Result:
    opened, index = review.opened, moving.step_here(review)
    if opened is None or opened.plan is None or index is None:
        return replace(review, notice="move to a step to drop it"), ()
    if opened.session.state is not State.PENDING:
        return replace(review, notice="only a pending plan can be changed"), ()
    if not opened.plan.steps[index].has_effect:
        return replace(review, notice=f"step {index + 1} is not applied anyway"), ()
    edits = {step: content for step, content in opened.edits.items() if step != index}
    opened = replace(opened, dropped=opened.dropped ^ {index}, edits=edits)
    return moving.to_heading(replace(review, opened=opened), 1), ()


def _amend(review: Review) -> Result:
    opened = review.opened
    if opened is None or opened.plan is None or not opened.changed:
        return replace(review, notice="nothing was changed: space drops a step, e edits one"), ()
    text = ["Make another plan of this one, which then waits for approval? This one is rejected."]
    if opened.dropped:
        text.append(f"Without {steps_text(sorted(opened.dropped))}.")
    if opened.edits:
        text.append(f"With other contents in {steps_text(sorted(opened.edits))}.")
    text.append(
        "In a service, somebody else has to approve it: who changes a plan counts as its submitter."
    )
    panel = Panel(Ask.AMEND, ids=(opened.session.id,), digest=opened.plan.digest, text=tuple(text))
    return replace(review, panel=panel), ()


def _discard(review: Review) -> Result:
    if review.opened is None or not review.opened.changed:
        return replace(review, notice="nothing was changed"), ()
    count = len(review.opened.dropped) + len(review.opened.edits)
    text = f"Give {number(count, 'change')} of this plan up?"
    return replace(review, panel=Panel(Ask.DISCARD, text=(text,))), ()


def _from_step(action: Action) -> Action:
    """What a key of the session's does when one of its steps fills the screen."""
    return lambda review: action(review.left())


def _diff(review: Review) -> Result:
    index = moving.step_here(review)
    if index is None:
        return _toggle_fold(review)
    return review.entered(Place(Kind.DIFF, step=index)), ()


def _take_back(review: Review) -> Result:
    opened = review.opened
    if opened is None:
        return review, ()
    session = opened.session
    if session.state not in REVERSIBLE or session.decided_at is None:
        text = "only what was applied, or has begun to be, can be taken back"
        return replace(review, notice=text), ()
    question = ("Make a plan that takes this session back? It then waits for approval.",)
    return replace(review, panel=Panel(Ask.ROLLBACK, ids=(session.id,), text=question)), ()


def _stop(review: Review) -> Result:
    opened = review.opened
    if opened is None or opened.session.state not in STOPPABLE:
        return replace(review, notice="there is nothing that goes on"), ()
    if opened.session.state is State.RUNNING:
        text = "Stop the dry run?"
    else:
        text = "Stop after the step at hand? A command that runs is ended."
    return replace(review, panel=Panel(Ask.CANCEL, ids=(opened.session.id,), text=(text,))), ()


def back(review: Review) -> Result:
    """To the view before, or ask where that would lose something."""
    kind = review.place.kind
    if kind is Kind.SESSION:
        if review.opened is not None and review.opened.changed:
            text = "Leave? Your changes of this plan are not made yet, and are given up."
            panel = Panel(Ask.DISCARD, ids=("leave",), text=(text,))
            return replace(review, panel=panel), ()
        return leave_session(review), ()
    return review.left(), ()


SESSION: Actions = {
    **STEP,
    "x": _approve,
    "r": reject,
    **dict.fromkeys(("tab", "o"), _toggle_fold),
    "z": _fold_all,
    "w": _to_top,
    " ": _drop,
    "A": _amend,
    "D": _discard,
    **dict.fromkeys(("enter", "l", "right"), _diff),
    **dict.fromkeys(("h", "left"), back),
    "u": _take_back,
    "c": _stop,
}

# Where a step fills the screen: these are about the session, which is shown again.
OF_SESSION: Actions = {"x": _from_step(_approve), "r": _from_step(reject)}
