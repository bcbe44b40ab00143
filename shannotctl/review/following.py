"""What the daemon tells becomes part of the state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from shannotctl.protocol import Changed, CommandPrinted, Event, Output, StepApplied
from shannotctl.review.messages import Connected, Effect, Follow, Load, Loaded
from shannotctl.review.state import Kind, Link, Live, Opened, Piece, Place, Review
from shannotd.wire.session import FINAL_STATES, Session, State

_KEPT_BYTES = 64 * 1024  # of what one step prints, while it does

Result = tuple[Review, tuple[Effect, ...]]


def connected(review: Review, message: Connected) -> Result:
    """The daemon is there, perhaps again: what it has is what is true."""
    known = {session.id: session for session in message.sessions}
    review = replace(
        review,
        link=Link.UP,
        where=message.where,
        trouble="",
        refused=False,
        sessions=known,
        older=message.more,
    )
    listing = replace(review.listing, selected=review.listing.selected & known.keys())
    review = replace(review, listing=listing)
    opened = review.opened
    if opened is not None:
        return review, (Follow(opened.session.id), Load(opened.session.id))
    if review.opening:
        return review, (Follow(review.opening), Load(review.opening))
    return review, ()


def happened(review: Review, event: Event) -> Result:
    """One event of the daemon's."""
    if isinstance(event, Changed):
        return _changed(review, event.session)
    opened = review.opened
    if opened is None or opened.session.id != event.id:
        return review, ()
    if isinstance(event, StepApplied):
        live = opened.live
        live = replace(live, applied={**live.applied, event.step: event.applied})
        return replace(review, opened=replace(opened, live=live)), ()
    if isinstance(event, CommandPrinted):
        live = printed(opened.live, event.step, event.stream, event.data)
        return replace(review, opened=replace(opened, live=live)), ()
    if isinstance(event, Output):
        live = printed(opened.live, -1, event.stream, event.data)
        return replace(review, opened=replace(opened, live=live)), ()
    return review, ()


def printed(live: Live, step: int, stream: str, data: bytes) -> Live:
    """`live` with one more piece of output: the last of it is kept, and how much is not."""
    pieces = list(live.printed.get(step, ()))
    if pieces and pieces[-1].stream == stream:
        pieces[-1] = Piece(stream, pieces[-1].data + data)
    else:
        pieces.append(Piece(stream, data))
    over = sum(len(piece.data) for piece in pieces) - _KEPT_BYTES
    lost = live.lost.get(step, 0)
    while over > 0:
        first = pieces[0]
        cut = min(over, len(first.data))
        pieces[:1] = [Piece(first.stream, first.data[cut:])] if cut < len(first.data) else []
        over -= cut
        lost += cut
    return replace(
        live, printed={**live.printed, step: tuple(pieces)}, lost={**live.lost, step: lost}
    )


def _changed(review: Review, session: Session) -> Result:
    review = replace(review, sessions={**review.sessions, session.id: session})
    if session.state is not State.PENDING:
        listing = review.listing
        left = listing.selected - {session.id}
        review = replace(review, listing=replace(listing, selected=left))
    opened = review.opened
    if opened is None or opened.session.id != session.id:
        return review, ()
    # What an event carries has no plan: the session that is shown keeps its own until the new
    # one is there.
    before = opened.session
    kept = replace(
        before,
        state=session.state,
        error=session.error,
        decided_by=session.decided_by,
        decided_at=session.decided_at,
        reason=session.reason,
        approvals=session.approvals,
        replaced_by=session.replaced_by,
        rolled_back_by=session.rolled_back_by,
        checkpoint=session.checkpoint,
    )
    opened = replace(opened, session=kept)
    review = replace(review, opened=opened)
    if session.state in FINAL_STATES or (session.state is State.PENDING and opened.plan is None):
        return review, (Load(session.id),)
    return review, ()


def loaded(review: Review, message: Loaded) -> Result:
    """A session came with all that is in it."""
    session = message.session
    sessions: Mapping[str, Session] = {**review.sessions, session.id: _bare(session)}
    review = replace(review, sessions=sessions, busy="")
    before = review.opened
    if before is not None and before.session.id == session.id:
        opened = replace(before, session=session)
        if before.plan is None or _digest(before) != (message.plan and message.plan.digest):
            # The plan is another one than what was on the screen: nothing of it was seen.
            opened = replace(
                opened,
                plan=message.plan,
                contents=message.contents,
                seen=frozenset(),
                read={},
                dropped=frozenset(),
                edits={},
            )
            review = _undrawn(review)
        else:
            opened = replace(opened, plan=message.plan)
        if session.state in FINAL_STATES:
            opened = replace(opened, live=Live(), dropped=frozenset(), edits={})
        return replace(review, opened=opened), ()
    if review.opening not in ("", session.id) and not session.id.startswith(review.opening):
        return review, ()
    if not review.opening:
        return review, ()
    opened = Opened(session, message.plan, message.contents)
    review = _undrawn(replace(review, opened=opened, opening=""))
    if review.place.kind is not Kind.SESSION:
        review = review.entered(Place(Kind.SESSION))
    return review, ()


def _digest(opened: Opened) -> str | None:
    return None if opened.plan is None else opened.plan.digest


def _undrawn(review: Review) -> Review:
    places = tuple(replace(place, drawn=False, read=0) for place in review.places)
    return replace(review, places=places, panel=None)


def _bare(session: Session) -> Session:
    return replace(
        session,
        plan_canonical=None,
        notes=(),
        programs=(),
        amendment=None,
        staying=(),
        script=b"",
        stdout=b"",
        stderr=b"",
    )
