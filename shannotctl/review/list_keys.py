"""What keys do in the list."""

from __future__ import annotations

from dataclasses import replace

from shannotctl.review import list_view, moving
from shannotctl.review.action import Actions
from shannotctl.review.following import Result
from shannotctl.review.messages import Quit
from shannotctl.review.opening import is_pending, open_session
from shannotctl.review.session_keys import reject
from shannotctl.review.state import Ask, Field, Order, Panel, Review, Shown
from shannotd.wire.session import State


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
    if not is_pending(review, id):
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


LIST: Actions = {
    **dict.fromkeys(("enter", "x", "l", "right"), _open),
    " ": _select,
    "a": _select_all,
    "n": _select_none,
    "r": reject,
    "/": _filter,
    "f": _next_shown,
    "s": _next_order,
    "escape": _list_escape,
    "q": _list_quit,
}
