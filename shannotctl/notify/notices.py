"""What is to be shown of the plans that wait: pure, from sessions to notices.

Everything that a submitter chose is escaped and cut with a mark (P7); markup is escaped where a
notice is sent, since only some desktops read any.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from shannotctl.render.amounts import number
from shannotctl.render.session import steps_text
from shannotd.wire.decision import Risk
from shannotd.wire.session import Session, State
from shannotd.wire.status import DaemonStatus
from shannotd.wire.text import visible

APART = 3  # so many plans have a notice each; more have one together
REVIEW, APPROVE, REJECT, CONFIRM, KEEP = "review", "approve", "reject", "confirm", "keep"
TOGETHER = "together"
CONFIRM_SECONDS = 60.0

_NAME_CHARACTERS = 120
_MANY_BLANKS = re.compile(" {4,}")
_ID_DIGITS, _DIGEST_DIGITS = 8, 16
_APPROVABLE = frozenset({Risk.SAFE, Risk.CAUTION})
_URGENCY = {Risk.SAFE: 0, Risk.CAUTION: 1, Risk.UNKNOWN: 1, Risk.DANGER: 2}


class Notice(NamedTuple):
    """One notification: `body` is plain text in lines, `actions` are keys with their labels.

    `key` says what it is about: another notice of the same key replaces it. `sessions` are those
    that it tells of; `urgency` is 0 (low) to 2 (critical); `seconds` after which it goes by itself.
    """

    key: str
    summary: str
    body: str
    urgency: int
    actions: tuple[tuple[str, str], ...]
    sessions: frozenset[str]
    seconds: float | None = None


class Reader(NamedTuple):
    """Whom the notices are for: his uid, and whether the daemon is his own."""

    uid: int
    embedded: bool

    @classmethod
    def of(cls, status: DaemonStatus, uid: int) -> Reader:
        """That of a daemon."""
        return cls(uid, status.mode == "embedded")

    def is_asked(self, session: Session) -> bool:
        """Whether the session waits for a decision of his."""
        return session.state is State.PENDING and self.uid not in session.decided_by

    def may_approve(self, session: Session) -> bool:
        """Whether he may approve it by two clicks: it is no danger, and not his own."""
        own = self.uid == session.submitter or self.uid in session.editors
        return (
            risk_of(session) in _APPROVABLE and bool(session.digest) and (self.embedded or not own)
        )


def risk_of(session: Session) -> Risk:
    """The risk of the session's plan; unknown where the daemon does not say."""
    return session.risk or Risk.UNKNOWN


def notices(
    waiting: Collection[Session], confirming: Mapping[str, Session], reader: Reader
) -> dict[str, Notice]:
    """The notices that are to be there, by key.

    :param confirming: sessions that are about to be approved, as they were when that was asked for.
    """
    shown = [_together(waiting)] if len(waiting) > APART else [_one(s, reader) for s in waiting]
    shown += [_question(session) for session in confirming.values()]
    return {notice.key: notice for notice in shown}


def _one(session: Session, reader: Reader) -> Notice:
    risk = risk_of(session)
    actions = [(REVIEW, "Review")]
    if reader.may_approve(session):
        actions.append((APPROVE, "Approve…"))
    actions.append((REJECT, "Reject"))
    return Notice(
        session.id,
        f"A plan waits for review: {risk.value}",
        _described(session),
        _URGENCY[risk],
        tuple(actions),
        frozenset({session.id}),
    )


def _together(waiting: Collection[Session]) -> Notice:
    worst = max((risk_of(session) for session in waiting), key=lambda risk: risk.rank)
    counted = {risk: sum(risk_of(one) is risk for one in waiting) for risk in reversed(Risk)}
    return Notice(
        TOGETHER,
        f"{len(waiting)} plans wait for review: {worst.value}",
        ", ".join(f"{count} {risk.value}" for risk, count in counted.items() if count),
        _URGENCY[worst],
        ((REVIEW, "Review"),),
        frozenset(session.id for session in waiting),
    )


def _question(session: Session) -> Notice:
    return Notice(
        f"{CONFIRM} {session.id}",
        "Apply this plan?",
        _described(session),
        _URGENCY[risk_of(session)],
        ((CONFIRM, "Yes, apply it"), (KEEP, "No")),
        frozenset({session.id}),
        CONFIRM_SECONDS,
    )


def _described(session: Session) -> str:
    missing = session.approvals - len(session.decided_by)
    quorum = f"needs {number(missing, 'approval')}\n" if session.approvals > 1 else ""
    return (
        f"{_told(session.name)}\n"
        f"by {_told(session.submitter_name)}, as {_told(session.identity)}\n"
        f"{visible(steps_text(session))}\n"
        f"{quorum}"
        f"{session.id[:_ID_DIGITS]}…, plan {(session.digest or '')[:_DIGEST_DIGITS]}…"
    )


def _told(text: str) -> str:
    """Untrusted text where lines are folded without a mark: blanks that would push a part of it to
    a line of its own are counted instead."""
    counted = _MANY_BLANKS.sub(lambda match: f" ({len(match.group())} blanks) ", visible(text))
    return cut(counted)


def cut(text: str) -> str:
    """`text`, not longer than fits, with a mark where it was."""
    return text if len(text) <= _NAME_CHARACTERS else text[:_NAME_CHARACTERS] + "…"


def one_line(session: Session) -> str:
    """A session that waits, for a terminal or a log."""
    return (
        f"{session.id} {risk_of(session).value}: {cut(visible(session.name))}"
        f" by {cut(visible(session.submitter_name))}: {visible(steps_text(session))}"
    )
