"""That a person is really there: what an approval needs beside a role (P5).

The methods say what somebody is about to do, as whom and over which connection; who is asked for
a proof, and whether at all, is decided by what implements `Presence`.
"""

from __future__ import annotations

import select
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shannotd.sessions.access import Caller
from shannotd.wire.session import Session


class Action(StrEnum):
    """What somebody is about to do; the names of polkit's actions."""

    APPROVE = "org.shannot.approve"
    APPROVE_OWN = "org.shannot.approve-own"
    ROLLBACK = "org.shannot.rollback"


@dataclass(frozen=True)
class BusName:
    """A client of the bus, by its unique name: no other ever has it."""

    name: str


@dataclass(frozen=True)
class Process:
    """The process at the other end of a socket: open as a pidfd, so that it is no other later.

    `uid` is whom the kernel named when it connected.
    """

    pid: int
    uid: int
    descriptor: int

    def is_alive(self) -> bool:
        """Whether it has not ended; as long as that is so, its number is no other's."""
        ended = select.poll()
        ended.register(self.descriptor, select.POLLIN)
        return not ended.poll(0)


Subject = BusName | Process


class Person(Protocol):
    """Who is asked."""

    @property
    def caller(self) -> Caller:
        """The account."""

    @property
    def interactive(self) -> bool:
        """Whether it waits until somebody has authenticated."""

    def subject(self) -> AbstractContextManager[Subject]:
        """The client that calls, for as long as the context lasts.

        :raises ProcessLookupError: it is gone.
        """


class Presence(Protocol):
    """Asks for proofs."""

    async def ask(self, person: Person, action: Action, session: Session) -> bool:
        """Have `person` prove that he is there to do `action` with `session`.

        Whether he did: False says that he was not asked, and goes on by his roles alone.

        :raises AuthenticationNeeded, AuthenticationRefused, AuthenticationUnavailable: he was to be
            asked, and did not prove it.
        """


class RolesAlone(Presence):
    """Asks nobody."""

    async def ask(self, person: Person, action: Action, session: Session) -> bool:
        """False."""
        return False
