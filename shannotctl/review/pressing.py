"""What keys do in the views, while no question is open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from shannotctl.render.amendment import steps_text
from shannotctl.render.amounts import number
from shannotctl.review import list_view, moving
from shannotctl.review.clipboard import command_text
from shannotctl.review.following import Result
from shannotctl.review.messages import (
    Copy,
    Edit,
    Fetch,
    Follow,
    Load,
    Page,
    Quit,
    Redraw,
    Suspend,
)
from shannotctl.review.paging import page_lines
from shannotctl.review.screen import document
from shannotctl.review.session_view import foldable_items, folded_items
from shannotctl.review.state import (
    Ask,
    Field,
    Kind,
    Order,
    Panel,
    Place,
    Review,
    Shown,
)
from shannotd.wire.model import FileState, Risk, State, Step

Action = Callable[[Review], Result]

REVERSIBLE = (State.EXECUTED, State.FAILED, State.STALE)
STOPPABLE = (State.RUNNING, State.APPROVED, State.EXECUTING)


def press(review: Review, name: str) -> Result:
    """The state after a key, and what is wanted then."""
    review = replace(review, notice="")
    for actions in (_OF_KIND[review.place.kind], _MOVING, _ALWAYS):
        action = actions.get(name)
        if action is not None:
            return action(review)
    return review, ()


def open_session(review: Review, id: str) -> Result:
    """Show a session, once it is there."""
    if review.place.kind is Kind.LIST:
        review = replace(review.at(replace(review.place, item=id)), notice=review.notice)
    places = (*(place for place in review.places if place.kind is Kind.LIST), Place(Kind.SESSION))
    review = replace(review, places=places, opened=None, opening=id, content=None, search="")
    return review, (Follow(id), Load(id))


def next_of_queue(review: Review, id: str) -> Result:
    """The next of those that were chosen to be reviewed; the list after the last."""
    queue = tuple(one for one in review.queue if one != id)
    waiting = tuple(one for one in queue if _is_pending(review, one))
    review = replace(review, queue=waiting)
    if not waiting:
        return review, ()
    return open_session(review, waiting[0])


def _is_pending(review: Review, id: str) -> bool:
    session = review.sessions.get(id)
    return session is not None and session.state is State.PENDING


# The list.


def _open(review: Review) -> Result:
    selected = [
        one.id
        for one in list_view.chosen(review.sessions, review.listing)
        if one.id in review.listing.selected
    ]
    if selected:
        review = replace(review, queue=tuple(selected))
        return open_session(review, selected[0])
    if review.place.item not in review.sessions:
        return review, ()
    return open_session(replace(review, queue=()), review.place.item)


def _select(review: Review) -> Result:
    id = review.place.item
    if not _is_pending(review, id):
        return replace(review, notice="only what is pending can be chosen"), ()
    listing = review.listing
    review = replace(review, listing=replace(listing, selected=listing.selected ^ {id}))
    return moving.moved(review, 1), ()


def _select_all(review: Review) -> Result:
    found = list_view.chosen(review.sessions, review.listing)
    ids = frozenset(one.id for one in found if one.state is State.PENDING)
    return replace(review, listing=replace(review.listing, selected=ids)), ()


def _select_none(review: Review) -> Result:
    return replace(review, listing=replace(review.listing, selected=frozenset())), ()


def _filter(review: Review) -> Result:
    text = review.listing.text
    return replace(review, panel=Panel(Ask.FILTER, Field(text, len(text)))), ()


def _next_shown(review: Review) -> Result:
    every = tuple(Shown)
    following = every[(every.index(review.listing.shown) + 1) % len(every)]
    listing = replace(review.listing, shown=following, selected=frozenset())
    return moving.to_row(replace(review, listing=listing), 0), ()


def _next_order(review: Review) -> Result:
    order = Order.AGE if review.listing.order is Order.RISK else Order.RISK
    return moving.to_row(replace(review, listing=replace(review.listing, order=order)), 0), ()


def _list_escape(review: Review) -> Result:
    if review.listing.text:
        return replace(review, listing=replace(review.listing, text="")), ()
    return _select_none(review)


def _list_quit(review: Review) -> Result:
    return review, (Quit(),)


# A session.


def _approve(review: Review) -> Result:
    opened = review.opened
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


def _reject(review: Review) -> Result:
    ids: tuple[str, ...]
    if review.place.kind is Kind.LIST:
        ids = tuple(sorted(review.listing.selected)) or (review.place.item,)
    else:
        ids = (review.opened.session.id,) if review.opened is not None else ()
    ids = tuple(id for id in ids if _is_pending(review, id))
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
    width = max(review.columns - 2, 8)
    if item not in foldable_items(opened, width):
        return review, ()
    review = replace(review, opened=replace(opened, toggled=opened.toggled ^ {item}))
    row = shown.first[item] - shown.top(review.place, _height(review))
    return review.at(replace(review.place, item=item, offset=0, row=max(0, row))), ()


def _height(review: Review) -> int:
    from shannotctl.review.screen import body_height

    return body_height(review)


def _fold_all(review: Review) -> Result:
    opened = review.opened
    if opened is None:
        return review, ()
    width = max(review.columns - 2, 8)
    folded = folded_items(opened, width)
    every = foldable_items(opened, width)
    # Unfold all if anything is folded, else fold all.
    change = folded or every
    review = replace(review, opened=replace(opened, toggled=opened.toggled ^ change))
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


def _edit(review: Review) -> Result:
    opened, index = review.opened, moving.step_here(review)
    if opened is None or opened.plan is None or index is None:
        return replace(review, notice="move to a step that writes a file to edit it"), ()
    if opened.session.state is not State.PENDING:
        return replace(review, notice="only a pending plan can be changed"), ()
    if index in opened.dropped:
        return replace(review, notice=f"step {index + 1} is dropped"), ()
    review = replace(review, busy=f"editing step {index + 1} ...")
    return review, (Edit(opened.session, opened.plan, index, opened.edits.get(index)),)


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


def _copy(review: Review) -> Result:
    opened, index = review.opened, moving.step_here(review)
    if opened is None or opened.plan is None:
        return review, ()
    text = opened.session.id if index is None else command_text(opened.plan.steps[index])
    return replace(review, notice=f"copied: {text}"), (Copy(text),)


def _page(review: Review) -> Result:
    return review, (Page(page_lines(review)),)


def _diff(review: Review) -> Result:
    index = moving.step_here(review)
    if index is None:
        return _toggle_fold(review)
    return review.entered(Place(Kind.DIFF, step=index)), ()


def _content_of(which: str) -> Action:
    def show(review: Review) -> Result:
        opened, index = review.opened, moving.step_here(review)
        if opened is None or opened.plan is None or index is None:
            return replace(review, notice="move to a step that is about a file"), ()
        found = _named(opened.plan.steps[index], which)
        if found is None:
            where = "after" if which == "after" else "before"
            return replace(review, notice=f"step {index + 1} has no file {where} it"), ()
        sha256, size = found
        review = replace(review, busy=f"fetching what is there {which} step {index + 1} ...")
        return review, (Fetch(opened.session, index, which, sha256, size),)

    return show


def _named(step: Step, which: str) -> tuple[str, int] | None:
    """The hash and size of what is there before or after a step; of an append, of what it adds."""
    if which == "after" and step.appended is not None:
        return step.appended.sha256, step.appended.size
    state: FileState | None = step.after if which == "after" else step.before
    if state is None or state.type != "file" or state.sha256 is None:
        return None
    return state.sha256, state.size or 0


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


def _back(review: Review) -> Result:
    kind = review.place.kind
    if kind is Kind.SESSION:
        if review.opened is not None and review.opened.changed:
            text = "Leave? Your changes of this plan are not made yet, and are given up."
            panel = Panel(Ask.DISCARD, ids=("leave",), text=(text,))
            return replace(review, panel=panel), ()
        return leave_session(review), ()
    return review.left(), ()


def leave_session(review: Review) -> Review:
    """Back to the list."""
    review = replace(review.left(), opened=None, opening="", content=None, search="", busy="")
    if review.place.kind is Kind.LIST and review.queue:
        review = replace(review, queue=())
    return review


# A diff, a content.


def _side(review: Review) -> Result:
    from shannotctl.review.patch import fits_side_by_side
    from shannotctl.review.screen import body_width
    from shannotctl.review.step_view import is_side_by_side

    width = body_width(review)
    if not fits_side_by_side(width):
        return replace(review, notice="the terminal is too narrow for two columns"), ()
    return replace(review, side=not is_side_by_side(review, width)), ()


def _wrap(review: Review) -> Result:
    review = replace(review, wrap=not review.wrap).at(replace(review.place, left=0))
    text = "long lines are folded" if review.wrap else "long lines are scrolled with ← →"
    return replace(review, notice=text), ()


def _sideways(columns: int) -> Action:
    def go(review: Review) -> Result:
        if review.wrap:
            return replace(review, notice="long lines are folded; w has them scrolled"), ()
        left = max(0, review.place.left + columns)
        return review.at(replace(review.place, left=left)), ()

    return go


def _other_step(steps: int) -> Action:
    def go(review: Review) -> Result:
        opened = review.opened
        if opened is None or opened.plan is None:
            return review, ()
        shown = [i for i, step in enumerate(opened.plan.steps) if not step.scratch]
        found = [
            index
            for index in (shown if steps > 0 else reversed(shown))
            if (index > review.place.step if steps > 0 else index < review.place.step)
        ]
        if not found:
            return replace(review, notice="there is none"), ()
        review = review.at(Place(Kind.DIFF, step=found[0]))
        below = review.places[-2] if len(review.places) > 1 else None
        if below is not None and below.kind is Kind.SESSION:
            below = replace(below, item=f"step:{found[0]}", offset=0)
            review = replace(review, places=(*review.places[:-2], below, review.place))
        return review, ()

    return go


def _hex(review: Review) -> Result:
    content = review.content
    if content is None or content.data is None:
        return review, ()
    review = replace(review, content=replace(content, hex=not content.hex))
    return review.at(Place(Kind.CONTENT)), ()


# Everywhere.


def _search(review: Review) -> Result:
    return replace(review, panel=Panel(Ask.SEARCH)), ()


def _match(steps: int) -> Action:
    return lambda review: (moving.to_match(review, steps), ())


def _help(review: Review) -> Result:
    if review.place.kind is Kind.HELP:
        return review.left(), ()
    return review.entered(Place(Kind.HELP)), ()


def _quit_all(review: Review) -> Result:
    return review, (Quit(),)


def _mouse(review: Review) -> Result:
    text = "the mouse is the terminal's now" if review.mouse else "the mouse is ours again"
    return replace(review, mouse=not review.mouse, notice=text), ()


def _lines(count: int) -> Action:
    return lambda review: (moving.moved(review, count), ())


def _screens(count: float) -> Action:
    return lambda review: (moving.paged(review, count), ())


def _headings(count: int) -> Action:
    return lambda review: (moving.to_heading(review, count), ())


def _to_end(review: Review) -> Result:
    return moving.to_row(review, len(document(review).rows) - 1), ()


Actions = Mapping[str, Action]

_MOVING: Actions = {
    **dict.fromkeys(("j", "down", "c-n", "c-e"), _lines(1)),
    **dict.fromkeys(("k", "up", "c-p", "c-y"), _lines(-1)),
    **dict.fromkeys(("pagedown", "c-f"), _screens(1)),
    **dict.fromkeys(("pageup", "c-b"), _screens(-1)),
    "c-d": _screens(0.5),
    "c-u": _screens(-0.5),
    **dict.fromkeys(("g", "home"), _to_top),
    **dict.fromkeys(("G", "end"), _to_end),
    **dict.fromkeys(("J", "]"), _headings(1)),
    **dict.fromkeys(("K", "["), _headings(-1)),
    "/": _search,
    "n": _match(1),
    "N": _match(-1),
}

_ALWAYS: Actions = {
    "?": _help,
    "q": _back,
    "escape": _back,
    "M": _mouse,
    "c-c": _quit_all,
    "c-l": lambda review: (review, (Redraw(),)),
    "c-z": lambda review: (review, (Suspend(),)),
}

_LIST: Actions = {
    **dict.fromkeys(("enter", "x", "l", "right"), _open),
    " ": _select,
    "a": _select_all,
    "n": _select_none,
    "r": _reject,
    "/": _filter,
    "f": _next_shown,
    "s": _next_order,
    "escape": _list_escape,
    "q": _list_quit,
}

_STEP: Actions = {
    "e": _edit,
    "y": _copy,
    "p": _page,
    "v": _content_of("after"),
    "b": _content_of("before"),
}

_SESSION: Actions = {
    **_STEP,
    "x": _approve,
    "r": _reject,
    **dict.fromkeys(("tab", "o"), _toggle_fold),
    "z": _fold_all,
    "w": _to_top,
    " ": _drop,
    "A": _amend,
    "D": _discard,
    **dict.fromkeys(("enter", "l", "right"), _diff),
    **dict.fromkeys(("h", "left"), _back),
    "u": _take_back,
    "c": _stop,
}

_DIFF: Actions = {
    **_STEP,
    **dict.fromkeys(("s", "|"), _side),
    "w": _wrap,
    **dict.fromkeys(("l", "right"), _sideways(8)),
    **dict.fromkeys(("h", "left"), _sideways(-8)),
    "]": _other_step(1),
    "[": _other_step(-1),
}

_CONTENT: Actions = {"h": _hex, "p": _page}

_OF_KIND: Mapping[Kind, Actions] = {
    Kind.LIST: _LIST,
    Kind.SESSION: _SESSION,
    Kind.DIFF: _DIFF,
    Kind.CONTENT: _CONTENT,
    Kind.HELP: {},
}
