"""From an account's uid and groups to its roles."""

from __future__ import annotations

import grp
import logging
from collections.abc import Mapping
from typing import Protocol

from shannotd.config import RoleRules
from shannotd.server.peers import Peer
from shannotd.sessions.access import ALL_ROLES, Caller, Role

log = logging.getLogger(__name__)

_UID = "uid:"


class Roles(Protocol):
    """Says who has which role."""

    def of(self, uid: int, groups: frozenset[int]) -> frozenset[Role]:
        """The roles of an account; none of them: it is not served."""
        ...

    def caller(self, peer: Peer) -> Caller:
        """Who connected, with his roles."""
        ...


class EmbeddedRoles(Roles):
    """The daemon's own account has all roles; nobody else is served."""

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def of(self, uid: int, groups: frozenset[int]) -> frozenset[Role]:
        """All roles, or none."""
        return ALL_ROLES if uid == self._uid else frozenset()

    def caller(self, peer: Peer) -> Caller:
        """Who connected, with his roles."""
        return Caller(peer.uid, self.of(peer.uid, peer.groups), embedded=True)


class ServiceRoles(Roles):
    """Roles by the `[roles]` of the configuration."""

    def __init__(self, rules: RoleRules) -> None:
        """Look up the groups that `rules` names; one that does not exist gives nothing."""
        self._rules: Mapping[Role, tuple[frozenset[int], frozenset[int]]] = {
            role: _resolve(role, getattr(rules, role.value)) for role in Role
        }

    def of(self, uid: int, groups: frozenset[int]) -> frozenset[Role]:
        """The roles that the rules give to the account."""
        return frozenset(
            role for role, (uids, gids) in self._rules.items() if uid in uids or groups & gids
        )

    def caller(self, peer: Peer) -> Caller:
        """Who connected, with his roles."""
        return Caller(peer.uid, self.of(peer.uid, peer.groups))


def _resolve(role: Role, rules: tuple[str, ...]) -> tuple[frozenset[int], frozenset[int]]:
    uids, gids = set[int](), set[int]()
    for rule in rules:
        if rule.startswith(_UID):
            uids.add(int(rule.removeprefix(_UID)))
            continue
        try:
            gids.add(grp.getgrnam(rule).gr_gid)
        except KeyError:
            log.warning("roles.%s: there is no group %s", role.value, rule)
    return frozenset(uids), frozenset(gids)
