"""What keys do while a question is open: only what the question offers.

Keys that came before the question was on the screen do not count, nor does the key that
opened it, held down: no question is answered by the key that asks it.
"""

from __future__ import annotations

from dataclasses import replace

from shannotctl.render.plan import DANGER_WORDS
from shannotctl.review import moving
from shannotctl.review.following import Result
from shannotctl.review.messages import Amend, Approve, Cancel, Effect, Reject, Rollback
from shannotctl.review.opening import leave_session, next_of_queue
from shannotctl.review.panels import FORCE_WORDS, scrollable
from shannotctl.review.state import Ask, Field, Kind, Panel, Review
from shannotd.wire.decision import Risk
from shannotd.wire.session import State
from shannotd.wire.text import visible

_TYPED = (Ask.DANGER, Ask.FORCE, Ask.REJECT, Ask.SEARCH, Ask.FILTER)
_LONGEST = 4000  # characters of an answer


def answer(review: Review, name: str) -> Result:
    """The state after a key, and what is wanted then."""
    panel = review.panel
    assert panel is not None
    if name in ("escape", "c-c", "c-g"):
        return _refused(review, panel), ()
    if not panel.drawn and panel.ask not in (Ask.SEARCH, Ask.FILTER):
        return review, ()
    if name in ("pagedown", "pageup"):
        return replace(review, panel=_scrolled(review, panel, 1 if name == "pagedown" else -1)), ()
    if panel.ask in _TYPED:
        if name == "enter":
            return _given(review, panel)
        field = typed(panel.field, name)
        review = replace(review, panel=replace(panel, field=field))
        return _at_once(review, panel), ()
    if panel.ask is Ask.MESSAGE:
        if name in ("down", "up", "j", "k"):
            step = 1 if name in ("down", "j") else -1
            return replace(review, panel=_scrolled(review, panel, step)), ()
        return (replace(review, panel=None) if name in ("enter", "q") else review), ()
    if name == "y":
        return _agreed(review, panel)
    return (_refused(review, panel) if name in ("n", "q") else review), ()


def paste(review: Review, text: str) -> Result:
    """Pasted text goes where text is typed, on one line; it is never a key, nor an answer to
    what wants words of one's own."""
    panel = review.panel
    if panel is None or not panel.drawn or panel.ask not in (Ask.REJECT, Ask.SEARCH, Ask.FILTER):
        return review, ()
    line = " ".join(text.split())
    before, after = panel.field.text[: panel.field.cursor], panel.field.text[panel.field.cursor :]
    whole = (before + line + after)[:_LONGEST]
    field = Field(whole, min(len(before) + len(line), len(whole)))
    review = replace(review, panel=replace(panel, field=field))
    return _at_once(review, panel), ()


def typed(field: Field, name: str) -> Field:
    """The line after a key."""
    text, cursor = field.text, field.cursor
    if len(name) == 1 and visible(name) == name and len(text) < _LONGEST:
        return Field(text[:cursor] + name + text[cursor:], cursor + 1)
    if name in ("backspace", "c-h") and cursor:
        return Field(text[: cursor - 1] + text[cursor:], cursor - 1)
    if name == "delete":
        return Field(text[:cursor] + text[cursor + 1 :], cursor)
    if name == "c-u":
        return Field(text[cursor:], 0)
    if name == "c-k":
        return Field(text[:cursor], cursor)
    if name == "c-w":
        kept = text[:cursor].rstrip()
        kept = kept[: kept.rfind(" ") + 1]
        return Field(kept + text[cursor:], len(kept))
    moves = {
        "left": cursor - 1,
        "right": cursor + 1,
        "home": 0,
        "c-a": 0,
        "end": len(text),
        "c-e": len(text),
    }
    if name in moves:
        return Field(text, max(0, min(moves[name], len(text))))
    return field


def _at_once(review: Review, before: Panel) -> Review:
    """What is typed narrows the list at once."""
    panel = review.panel
    if panel is None or panel.ask is not Ask.FILTER or panel.field.text == before.field.text:
        return review
    return replace(review, listing=replace(review.listing, text=panel.field.text))


def _scrolled(review: Review, panel: Panel, lines: int) -> Panel:
    most = max(0, scrollable(review, review.columns) - 3)
    return replace(panel, top=max(0, min(panel.top + lines, most)))


def _refused(review: Review, panel: Panel) -> Review:
    review = replace(review, panel=None)
    if panel.ask is Ask.FILTER:
        return replace(review, listing=replace(review.listing, text=""))
    if panel.ask is Ask.SEARCH:
        return replace(review, search="")
    if panel.ask in (Ask.APPROVE, Ask.DANGER):
        return replace(review, notice="not approved; the session is still pending")
    return review


def _given(review: Review, panel: Panel) -> Result:
    """Enter after what was typed."""
    text = panel.field.text
    if panel.ask is Ask.SEARCH:
        review = replace(review, panel=None, search=text)
        return moving.to_match(review, 1, here=True), ()
    if panel.ask is Ask.FILTER:
        return replace(review, panel=None), ()
    if panel.ask is Ask.REJECT:
        return _rejected(review, panel, text)
    wanted = DANGER_WORDS if panel.ask is Ask.DANGER else FORCE_WORDS
    if text.strip() != wanted:
        review = replace(review, notice=f"that was not `{wanted}`: nothing is done", panel=None)
        return review, ()
    if panel.ask is Ask.DANGER:
        return _approved(review, panel)
    review = replace(review, panel=None, busy="asking for the plan that takes it back ...")
    return review, (Rollback(panel.ids[0], force=True),)


def _agreed(review: Review, panel: Panel) -> Result:
    """`y` to a question."""
    opened = review.opened
    if panel.ask is Ask.APPROVE:
        return _approved(review, panel)
    review = replace(review, panel=None)
    if panel.ask is Ask.DISCARD:
        if opened is not None:
            review = replace(review, opened=replace(opened, dropped=frozenset(), edits={}))
        return (leave_session(review) if panel.ids else review), ()
    if panel.ask is Ask.CANCEL:
        return replace(review, busy="cancelling ..."), (Cancel(panel.ids[0]),)
    if panel.ask is Ask.ROLLBACK:
        review = replace(review, busy="asking for the plan that takes it back ...")
        return review, (Rollback(panel.ids[0]),)
    if opened is None:
        return review, ()
    effect = Amend(
        panel.ids[0],
        panel.digest,
        tuple(sorted(opened.dropped)),
        opened.edits,
        with_dependents=panel.ask is Ask.DEPENDENTS,
    )
    return replace(review, busy="making the changed plan ..."), (effect,)


def _approved(review: Review, panel: Panel) -> Result:
    """Have the plan applied that was displayed: the digest shown is the digest sent (P2)."""
    opened = review.opened
    review = replace(review, panel=None)
    if (
        opened is None
        or opened.plan is None
        or opened.session.id != panel.ids[0]
        or opened.plan.digest != panel.digest
        or opened.session.state is not State.PENDING
        or opened.changed
        or (panel.ask is Ask.APPROVE and opened.risk is Risk.DANGER)
    ):
        return replace(review, notice="not approved: that plan is not what is shown now"), ()
    review = replace(review, busy="approving ...")
    return review, (Approve(panel.ids[0], panel.digest),)


def _rejected(review: Review, panel: Panel, reason: str) -> Result:
    effects: tuple[Effect, ...] = tuple(Reject(id, reason.strip()) for id in panel.ids)
    review = replace(review, panel=None, busy="rejecting ...")
    listing = replace(review.listing, selected=review.listing.selected - set(panel.ids))
    review = replace(review, listing=listing)
    if review.place.kind is not Kind.LIST and len(review.queue) > 1:
        review, more = next_of_queue(review, panel.ids[0])
        return review, (*effects, *more)
    return review, effects
