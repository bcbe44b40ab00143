"""Who may do what: roles, and who may never approve (P5).

Facts come from the kernel (a peer's uid and groups) and from the plan; nothing here asks
a client who it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shannotd.wire.errors import NotAllowed
from shannotd.wire.session import Session


class Role(StrEnum):
    """What an account may do; `[roles]` of the configuration gives them to groups."""

    SUBMIT = "submit"
    REVIEW = "review"
    AUDIT = "audit"
    ADMIN = "admin"


ALL_ROLES = frozenset(Role)


@dataclass(frozen=True)
class Caller:
    """Who is at the other end of a connection.

    `embedded` says that the daemon is the caller's own, where he alone is served and
    approves what he submitted. `proven` says that he has just proved that he is there himself, and
    not a program of his.
    """

    uid: int
    roles: frozenset[Role]
    embedded: bool = False
    proven: bool = False

    def require(self, role: Role, action: str) -> None:
        """:raises NotAllowed: the caller does not have `role`."""
        if role not in self.roles:
            raise NotAllowed(
                uid=self.uid, action=action, reason=f"it does not have the role {role.value!r}"
            )

    @property
    def sees_all(self) -> bool:
        """Whether sessions of others exist for the caller."""
        return bool(self.roles & {Role.REVIEW, Role.ADMIN})


def not_served(caller: Caller) -> NotAllowed:
    """What an account without a role is told."""
    reason = "this daemon is another's" if caller.embedded else "it has no role here"
    return NotAllowed(uid=caller.uid, action="use this daemon", reason=reason)


def may_see(caller: Caller, submitter: int) -> bool:
    """Whether a session of `submitter` exists for the caller."""
    return caller.sees_all or caller.uid == submitter


def require_approver(
    caller: Caller, session: Session, *, identity_uid: int | None, daemon_uid: int
) -> None:
    """Refuse whoever may never approve `session`, whatever his roles.

    Who submitted it may where he has proved that he is there, and it was no program of his.

    :param identity_uid: under whom the plan would be applied.
    :raises NotAllowed: saying why.
    """
    caller.require(Role.REVIEW, "approve")
    if caller.embedded:
        return
    reason = None
    if caller.uid == session.submitter and not caller.proven:
        reason = "who submitted a script never approves it"
    elif caller.uid in session.editors and not caller.proven:
        reason = "who changes a plan counts as its submitter and never approves it"
    elif caller.uid == daemon_uid:
        reason = "it is the daemon's own account"
    elif caller.uid == identity_uid:
        reason = "the plan would be applied under this account"
    if reason is not None:
        raise NotAllowed(uid=caller.uid, action=f"approve session {session.id}", reason=reason)


def is_own(caller: Caller, session: Session) -> bool:
    """Whether the caller submitted the plan of `session`, or changed it."""
    return caller.uid == session.submitter or caller.uid in session.editors


def require_editor(caller: Caller, session: Session) -> None:
    """Refuse whoever may not change the plan of `session`: reviewers may.

    :raises NotAllowed: saying why.
    """
    caller.require(Role.REVIEW, f"change the plan of session {session.id}")


def require_reverser(caller: Caller, identifier: str) -> None:
    """Refuse whoever may not ask for the rollback of a session: reviewers may, and approve it.

    :raises NotAllowed: saying why.
    """
    caller.require(Role.REVIEW, f"roll back session {identifier}")


def require_stopper(caller: Caller, session: Session, action: str) -> None:
    """Refuse whoever may not stop `session`: its submitter and reviewers may.

    :raises NotAllowed: saying why.
    """
    if caller.uid != session.submitter:
        if Role.ADMIN in caller.roles:
            return
        caller.require(Role.REVIEW, action)
