"""What a message makes of the state, and what is to be done: the reviewer's whole behaviour."""

from __future__ import annotations

from dataclasses import replace

from shannotctl.protocol import conflicts_of
from shannotctl.render.amounts import number
from shannotctl.review import messages as m
from shannotctl.review.answering import answer, paste
from shannotctl.review.document import Document
from shannotctl.review.following import Result, connected, happened, loaded
from shannotctl.review.moving import scrolled, settled, to_row
from shannotctl.review.opening import leave_session, next_of_queue, open_session
from shannotctl.review.pressing import press
from shannotctl.review.screen import document, is_too_small, screen
from shannotctl.review.session_view import steps_read
from shannotctl.review.state import (
    SETTLING,
    Ask,
    Content,
    Kind,
    Link,
    Panel,
    Place,
    Review,
    unread,
)
from shannotd.wire.errors import (
    NotFound,
    RollbackConflict,
    RollbackPending,
    ShannotError,
    StepNeeded,
)
from shannotd.wire.rollback import Conflict
from shannotd.wire.session import State

# What keys do although the view has no room: they are about nothing that is in it.
_ANYWHERE = ("c-c", "c-l", "c-z")


def update(review: Review, message: m.Message) -> Result:
    """The state after `message`, and what is wanted then."""
    review, effects = _update(review, message)
    return settled(review), effects


def _update(review: Review, message: m.Message) -> Result:
    match message:
        case m.Key(name) if is_too_small(review) and name not in _ANYWHERE:
            return review, ()
        case m.Key(name):
            return answer(review, name) if review.panel is not None else press(review, name)
        case m.Pasted(text):
            return paste(review, text)
        case m.Clicked():
            return _clicked(review, message)
        case m.Scrolled(lines):
            return (review if review.panel is not None else scrolled(review, lines)), ()
        case m.Drawn():
            return _drawn(review), ()
        case m.Settled():
            return _settled(review), ()
        case m.Resized(columns, rows):
            review = unread(review) if columns != review.columns else review
            return replace(review, columns=columns, rows=rows), ()
        case m.Ticked(now):
            return replace(review, now=now), ()
        case m.Connected():
            return connected(review, message)
        case m.Lost():
            return _lost(review, message), ()
        case m.Happened(event):
            return happened(review, event)
        case m.Loaded() if review.refused:
            return review, ()
        case m.Loaded():
            return loaded(review, message)
        case m.Approved(session):
            return _approved(review, message)
        case m.Done(text):
            return replace(review, busy="", notice=text), ()
        case m.Amended(session):
            text = f"the changed plan is that of session {session.id}; the one before is rejected"
            review = replace(review, busy="", opened=None)
            return open_session(replace(review, notice=text), session.id)
        case m.Reversing():
            return _reversing(review, message)
        case m.Edited():
            return _edited(review, message), ()
        case m.Fetched():
            return _fetched(review, message), ()
        case m.Failed():
            return _failed(review, message)
    raise AssertionError(message)


def _lost(review: Review, message: m.Lost) -> Review:
    if message.refused and (review.sessions or review.opened is not None):
        # What is shown he may see no more, and he reads why, however soon he is connected again.
        text = (message.reason, "What was shown of others' sessions is shown no more.")
        panel = Panel(Ask.MESSAGE, text=text)
        review = replace(leave_session(review), places=review.places[:1], queue=())
        review = replace(review, sessions={}, panel=panel)
    return replace(review, link=Link.LOST, trouble=message.reason, refused=message.refused)


def _clicked(review: Review, message: m.Clicked) -> Result:
    shown = screen(review)
    if message.row == review.rows - 1:
        for hit in shown.hits:
            if hit.begin <= message.column < hit.end and not _is_assent(review, hit.key):
                return _update(review, m.Key(hit.key))
        return review, ()
    begin, height = shown.body
    if review.panel is not None or not begin <= message.row < begin + height:
        return review, ()
    found: Document = document(review)
    index = shown.first + message.row - begin
    if index >= len(found.rows):
        return review, ()
    if index != found.position(review.place):
        return to_row(review, index, found), ()
    return press(review, "tab" if review.place.kind is Kind.SESSION else "enter")


def _is_assent(review: Review, key: str) -> bool:
    """Whether the key has something applied: that takes the key itself, since a click that asks
    may be one of two."""
    return review.panel is not None and review.panel.ask in SETTLING and key == "y"


def _drawn(review: Review) -> Review:
    """What was on the screen was seen; from now on keys may be about it."""
    if is_too_small(review):
        return review
    place = review.place
    if not place.drawn:
        review = review.at(replace(place, drawn=True))
    if review.panel is not None and review.panel.ask not in SETTLING:
        review = _settled(review)
    opened = review.opened
    if opened is None or opened.plan is None or place.kind not in (Kind.SESSION, Kind.DIFF):
        return review
    shown, found = screen(review), document(review)
    last = shown.first + shown.body[1] - 1
    if place.kind is Kind.SESSION:
        return replace(review, opened=steps_read(opened, found, shown.first, last))
    # The diff of a step on the whole screen, from its beginning on; where lines are not folded,
    # nobody knows how much of them was seen.
    if not review.wrap:
        return review
    read = place.read
    if shown.first <= read:
        read = max(read, min(last, len(found.rows) - 1) + 1)
        review = review.at(replace(review.place, read=read))
    if read >= len(found.rows):
        review = replace(review, opened=replace(opened, seen=opened.seen | {place.step}))
    return review


def _settled(review: Review) -> Review:
    panel = review.panel
    if panel is None or panel.drawn or is_too_small(review):
        return review
    return replace(review, panel=replace(panel, drawn=True))


def _approved(review: Review, message: m.Approved) -> Result:
    session = message.session
    review = replace(review, busy="")
    if session.state is State.PENDING:
        missing = session.approvals - len(session.decided_by)
        more = number(missing, "more approval")
        review = replace(review, notice=f"your approval is recorded; {more} by other people to go")
        return next_of_queue(review, session.id)
    review = replace(review, notice="")
    if len(review.queue) > 1:
        return next_of_queue(review, session.id)
    if review.place.kind is Kind.SESSION:
        # What becomes of it stands at the top.
        review = review.at(replace(review.place, item="", offset=0, row=0))
    return review, ()


def _reversing(review: Review, message: m.Reversing) -> Result:
    session = message.answer.session
    review = replace(review, busy="")
    if session is None:
        return _conflicts(review, message.id, message.answer.conflicts), ()
    text = "this is the plan that takes the session back: it waits for approval like any other"
    return open_session(replace(review, opened=None, notice=text), session.id)


def _conflicts(review: Review, id: str, conflicts: tuple[Conflict, ...]) -> Review:
    text = ["Somebody has changed this since, and a rollback would lose that:"]
    text += [f"  {one.path}: expected {one.expected}, found {one.found}" for one in conflicts]
    never = [one.path for one in conflicts if not one.forcible]
    if never:
        text.append(f"This cannot be forced: {', '.join(never)}.")
        return replace(review, panel=Panel(Ask.MESSAGE, text=tuple(text)))
    return replace(review, panel=Panel(Ask.FORCE, ids=(id,), text=tuple(text)))


def _edited(review: Review, message: m.Edited) -> Review:
    opened = review.opened
    review = replace(review, busy="")
    if opened is None or opened.session.id != message.id:
        return review
    edits = dict(opened.edits)
    if message.content is None:
        edits.pop(message.step, None)
        notice = f"step {message.step + 1} is left as it is"
    else:
        edits[message.step] = message.content
        notice = f"step {message.step + 1} is edited; A makes the changed plan"
    return replace(review, opened=replace(opened, edits=edits), notice=notice)


def _fetched(review: Review, message: m.Fetched) -> Review:
    opened = review.opened
    if opened is None or opened.session.id != message.id or opened.plan is None:
        return replace(review, busy="")
    path = opened.plan.steps[message.step].path or ""
    data = message.data
    binary = data is not None and b"\0" in data[:65536]
    content = Content(message.step, message.which, path, data, hex=binary)
    return replace(review, busy="", content=content).entered(Place(Kind.CONTENT))


def _failed(review: Review, message: m.Failed) -> Result:
    error, effect = message.error, message.effect
    review = replace(review, busy="")
    if isinstance(effect, m.Load) and review.opened is None and not review.opening:
        return review, ()  # of what he has left meanwhile
    if isinstance(effect, m.Rollback) and isinstance(error, RollbackConflict):
        return _conflicts(review, effect.id, conflicts_of(error)), ()
    if isinstance(effect, m.Rollback) and isinstance(error, RollbackPending):
        waiting = str(error.details.get("by"))
        text = "a session that rolls it back waits already: this one"
        return open_session(replace(review, opened=None, notice=text), waiting)
    if isinstance(effect, m.Amend) and isinstance(error, StepNeeded):
        asked = (str(error), "Drop what cannot stay as well?")
        panel = Panel(Ask.DEPENDENTS, ids=(effect.id,), digest=effect.digest, text=asked)
        return replace(review, panel=panel), ()
    if isinstance(effect, m.Load) and review.opened is None:
        review = replace(review.left(), opening="") if len(review.places) > 1 else review
    if isinstance(effect, m.Load) and isinstance(error, NotFound):
        review = _gone(review, effect.id)
    review = replace(review, panel=_message(error))
    # What was shown may be true no more: it is asked for anew.
    if isinstance(effect, m.Load) or review.opened is None:
        return review, ()
    return review, (m.Load(review.opened.session.id),)


def _gone(review: Review, id: str) -> Review:
    """The session is there no more, or not for him: nothing is decided over what was shown."""
    if review.opened is not None and review.opened.session.id == id:
        review = replace(leave_session(review), places=review.places[:1])
    sessions = {known: session for known, session in review.sessions.items() if known != id}
    return replace(review, sessions=sessions)


def _message(error: ShannotError) -> Panel:
    return Panel(Ask.MESSAGE, text=(str(error),))


def first(columns: int, rows: int, now: float, id: str | None, mouse: bool) -> Result:
    """The state at the start: the list, or one session."""
    review = Review(columns=columns, rows=rows, now=now, mouse=mouse)
    if id is None:
        return review, ()
    return replace(review.entered(Place(Kind.SESSION)), opening=id), ()
