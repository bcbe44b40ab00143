"""What keys do in the views, while no question is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from shannotctl.review import moving
from shannotctl.review.action import Action, Actions
from shannotctl.review.following import Result
from shannotctl.review.list_keys import LIST
from shannotctl.review.messages import Quit, Redraw, Suspend
from shannotctl.review.screen import document
from shannotctl.review.session_keys import OF_SESSION, SESSION, back
from shannotctl.review.state import Ask, Kind, Panel, Place, Review
from shannotctl.review.step_keys import CONTENT, DIFF


def press(review: Review, name: str) -> Result:
    """The state after a key, and what is wanted then."""
    review = replace(review, notice="")
    for actions in (_OF_KIND[review.place.kind], _MOVING, _ALWAYS):
        action = actions.get(name)
        if action is not None:
            return action(review)
    return review, ()


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


def _to_top(review: Review) -> Result:
    return moving.to_row(review, 0), ()


def _to_end(review: Review) -> Result:
    return moving.to_row(review, len(document(review).rows) - 1), ()


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
    "q": back,
    "escape": back,
    "M": _mouse,
    "c-c": _quit_all,
    "c-l": lambda review: (review, (Redraw(),)),
    "c-z": lambda review: (review, (Suspend(),)),
}

_OF_KIND: Mapping[Kind, Actions] = {
    Kind.LIST: LIST,
    Kind.SESSION: SESSION,
    Kind.DIFF: {**DIFF, **OF_SESSION},
    Kind.CONTENT: CONTENT,
    Kind.HELP: {},
}
