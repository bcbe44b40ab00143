"""What keys do with one step: its diff, its contents, an editor, a pager, the clipboard."""

from __future__ import annotations

from dataclasses import replace

from shannotctl.review import moving
from shannotctl.review.action import Action, Actions
from shannotctl.review.clipboard import command_text
from shannotctl.review.following import Result
from shannotctl.review.messages import Copy, Edit, Fetch, Page
from shannotctl.review.paging import page_lines
from shannotctl.review.patch import fits_side_by_side
from shannotctl.review.screen import body_width
from shannotctl.review.state import Kind, Place, Review, unread
from shannotctl.review.step_view import is_side_by_side
from shannotd.wire.session import State
from shannotd.wire.step import FileState, Step


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


def _copy(review: Review) -> Result:
    opened, index = review.opened, moving.step_here(review)
    if opened is None or opened.plan is None:
        return review, ()
    text = opened.session.id if index is None else command_text(opened.plan.steps[index])
    return review, (Copy(text),)


def _page(review: Review) -> Result:
    return review, (Page(page_lines(review)),)


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


def _side(review: Review) -> Result:

    width = body_width(review)
    if not fits_side_by_side(width):
        return replace(review, notice="the terminal is too narrow for two columns"), ()
    return replace(unread(review), side=not is_side_by_side(review, width)), ()


def _wrap(review: Review) -> Result:
    review = replace(unread(review), wrap=not review.wrap)
    review = review.at(replace(review.place, left=0))
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


STEP: Actions = {
    "e": _edit,
    "y": _copy,
    "p": _page,
    "v": _content_of("after"),
    "b": _content_of("before"),
}

DIFF: Actions = {
    **STEP,
    **dict.fromkeys(("s", "|"), _side),
    "w": _wrap,
    **dict.fromkeys(("l", "right"), _sideways(8)),
    **dict.fromkeys(("h", "left"), _sideways(-8)),
    "]": _other_step(1),
    "[": _other_step(-1),
}

CONTENT: Actions = {"h": _hex, "p": _page}
