"""Connections and what they hold are counted: per account, and in all."""

from __future__ import annotations

import resource

import pytest

from shannotd.server.admission import (
    Admission,
    Limits,
    raise_descriptor_limit,
    total_connections,
)
from shannotd.sessions.access import Caller, Role
from shannotd.wire.errors import TooManyConnections, TooManySessions, TooMuchUnfinished

REVIEWER = Caller(1000, frozenset({Role.REVIEW}))
KIBIBYTE = 1024


def agent(uid: int) -> Caller:
    """Who may submit and no more."""
    return Caller(uid, frozenset({Role.SUBMIT}))


@pytest.mark.P10
def test_submitters_leave_room_for_reviewers() -> None:
    admission = Admission()
    limits = Limits(connections=100, unfinished_bytes=0, total=8)
    for uid in range(2000, 2006):
        admission.enter(agent(uid), limits)
    for _ in range(2):
        with pytest.raises(TooManyConnections):
            admission.enter(agent(3000), limits)
        admission.enter(REVIEWER, limits)
    with pytest.raises(TooManyConnections):
        admission.enter(REVIEWER, limits)
    admission.leave(2000, 0)
    admission.enter(REVIEWER, limits)


@pytest.mark.P10
def test_connections_of_one_account() -> None:
    admission = Admission()
    limits = Limits(connections=2, unfinished_bytes=0, total=100)
    for _ in range(2):
        admission.enter(agent(2000), limits)
    with pytest.raises(TooManySessions):
        admission.enter(agent(2000), limits)
    admission.enter(agent(2001), limits)
    admission.leave(2000, 0)
    admission.enter(agent(2000), limits)


@pytest.mark.P10
def test_what_one_account_has_not_finished() -> None:
    admission = Admission()
    limits = Limits(connections=100, unfinished_bytes=500 * KIBIBYTE, total=100)
    for _ in range(4):
        admission.enter(agent(2000), limits)
    admission.hold(2000, 0, 300 * KIBIBYTE, limits)
    admission.hold(2000, 0, 300 * KIBIBYTE, limits)
    with pytest.raises(TooMuchUnfinished):
        admission.hold(2000, 0, 200 * KIBIBYTE, limits)
    admission.leave(2000, 200 * KIBIBYTE)
    admission.hold(2000, 0, 60 * KIBIBYTE, limits)  # an ordinary request always fits
    admission.hold(2001, 0, 300 * KIBIBYTE, limits)  # and other accounts have their own
    admission.hold(2000, 300 * KIBIBYTE, 0, limits)  # finished
    admission.hold(2000, 60 * KIBIBYTE, 300 * KIBIBYTE, limits)


def test_the_total_follows_the_limit_of_open_files() -> None:
    assert total_connections(1024) == 512
    assert total_connections(1_048_576) == 4096
    assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
