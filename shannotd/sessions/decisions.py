"""What policy says of the calls of one session: in the audit log before anybody is told."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from shannotd.policy.commands import decide
from shannotd.policy.profiles import Profile
from shannotd.sessions.events import Events
from shannotd.sessions.journal import Journal
from shannotd.wire.decision import Decision, ProgramCall, Risk, Verdict
from shannotd.wire.errors import StoreFull
from shannotd.wire.session import Session

# What the log, and who watches, is told of the words of a call.
SHOWN_CHARACTERS = 2000

_UNLOGGED = Verdict(
    Decision.DENY, "audit", "the audit log cannot be written: nothing is decided", Risk.DANGER
)


class Decisions:
    """Decides for one session, under the profile that it began with."""

    def __init__(
        self, journal: Journal, events: Events, session: Session, profile: Profile
    ) -> None:
        self._journal = journal
        self._events = events
        self._session = session
        self._profile = profile

    async def decide(self, call: ProgramCall, *, start: bool) -> Verdict:
        """The verdict on `call`; deny where the log cannot be written.

        `start`: it goes on inside unless it is denied, which alone is logged then: what runs inside
        is in the plan.
        """
        verdict = decide(call, self._profile)
        if start and verdict.decision is not Decision.DENY:
            return verdict
        if not self._journal.overloaded:
            self._journal.note(
                "command.decided",
                uid=self._session.submitter,
                session=self._session.id,
                decision=verdict.decision.value,
                rule=verdict.rule,
                program=call.program,
                command=shown(call.argv),
                cwd=call.cwd,
            )
        try:
            await self._journal.flush()
        except StoreFull:
            verdict = _UNLOGGED
        self._events.decided(self._session, shown(call.argv), verdict)
        return verdict


def shown(argv: Sequence[str]) -> str:
    """`argv` as one would type it; what is too long says so."""
    text = shlex.join(argv)
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"
