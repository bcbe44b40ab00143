"""Roles from what the kernel and the account database say."""

from __future__ import annotations

import os
import pwd
import socket

import pytest

from shannotd.config import RoleRules
from shannotd.server.peers import Peer, account_name, current_groups, peer_of
from shannotd.server.roles import EmbeddedRoles, ServiceRoles
from shannotd.sessions.access import ALL_ROLES, Role
from tests.support.accounts import is_root, temporary_account

NOBODY_WAS_GIVEN_THIS = 4_000_000_000


@pytest.mark.P5
def test_the_kernel_says_who_the_peer_is() -> None:
    one, other = socket.socketpair()
    with one, other:
        peer = peer_of(one)
    assert peer.pid == os.getpid()
    assert peer.uid == os.geteuid()
    assert peer.groups == {os.getegid(), *os.getgroups()}


@pytest.mark.P5
@pytest.mark.skipif(not is_root(), reason="needs root, to have many groups")
def test_a_peer_of_very_many_groups() -> None:
    before = os.getgroups()
    os.setgroups(range(10_000, 10_500))
    try:
        one, other = socket.socketpair()
    finally:
        os.setgroups(before)
    with one, other:
        assert set(range(10_000, 10_500)) <= peer_of(one).groups


@pytest.mark.P5
def test_an_embedded_daemon_serves_its_own_account_only() -> None:
    roles = EmbeddedRoles(1000)
    assert roles.caller(Peer(1, 1000, frozenset({1000}))).roles == ALL_ROLES
    for uid in (0, 1001):
        assert roles.caller(Peer(1, uid, frozenset({1000}))).roles == frozenset()


@pytest.mark.P5
def test_rules_name_groups_and_accounts() -> None:
    rules = RoleRules(
        submit=("root", "no-such-group-here"), review=("uid:1000",), audit=(), admin=("uid:0",)
    )
    roles = ServiceRoles(rules)
    assert roles.of(1000, frozenset({1000})) == {Role.REVIEW}
    assert roles.of(1001, frozenset({0, 5})) == {Role.SUBMIT}
    assert roles.of(0, frozenset({0})) == {Role.SUBMIT, Role.ADMIN}
    assert roles.of(1001, frozenset({1001})) == frozenset()
    assert not roles.caller(Peer(1, 1000, frozenset())).embedded


@pytest.mark.P5
def test_the_account_database() -> None:
    assert current_groups(NOBODY_WAS_GIVEN_THIS) is None
    assert account_name(NOBODY_WAS_GIVEN_THIS) == str(NOBODY_WAS_GIVEN_THIS)
    assert account_name(0) == "root"


@pytest.mark.skipif(not is_root(), reason="needs root, to make an account")
def test_groups_of_an_account_are_those_of_now() -> None:
    with temporary_account() as name:
        account = pwd.getpwnam(name)
        assert current_groups(account.pw_uid) == {account.pw_gid}
