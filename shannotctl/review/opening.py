"""Which session is looked at: one is opened, the next of several, none."""

from __future__ import annotations

from dataclasses import replace

from shannotctl.review.following import Result
from shannotctl.review.messages import Follow, Load
from shannotctl.review.state import Kind, Place, Review
from shannotd.wire.session import State


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
    waiting = tuple(one for one in queue if is_pending(review, one))
    review = replace(review, queue=waiting)
    if not waiting:
        return review, ()
    return open_session(review, waiting[0])


def leave_session(review: Review) -> Review:
    """Back to the list."""
    review = replace(review.left(), opened=None, opening="", content=None, search="", busy="")
    if review.place.kind is Kind.LIST and review.queue:
        review = replace(review, queue=())
    return review


def is_pending(review: Review, id: str) -> bool:
    """Whether a session waits for a decision."""
    session = review.sessions.get(id)
    return session is not None and session.state is State.PENDING
