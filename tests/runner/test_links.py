"""Programs that are links out of the directories on PATH, as of Debian's database clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotctl.client import Client, ScriptKind, Session, State, Submission
from tests.support.accounts import is_root
from tests.support.private_system import PrivateSystem, private_system, root_client

pytestmark = [
    pytest.mark.P2,
    pytest.mark.skipif(not is_root(), reason="has programs of its own"),
]

WRAPPER = """#!/bin/sh
echo "$0 $*" >> /home/said
"""
LINK, PROGRAM = "/usr/local/bin/shannot-tool", "/home/wrapper"


@pytest.fixture
def system() -> Iterator[PrivateSystem]:
    """A system with one program, which behaves by the name that it is called by."""
    with private_system(copies=(), empty=("/home", "/usr/local/bin")) as made:
        made.path(PROGRAM).write_text(WRAPPER)
        made.path(PROGRAM).chmod(0o755)
        made.path(LINK).symlink_to(PROGRAM)
        yield made


@pytest.fixture
def client(system: PrivateSystem, tmp_path: Path) -> Iterator[Client]:
    """A client of a daemon of root's in it."""
    with root_client(system, tmp_path / "d") as connected:
        yield connected


def submitted(client: Client, text: str) -> Session:
    session = client.submit(Submission(ScriptKind.SHELL, text.encode(), cwd="/"))
    assert session.state is State.PENDING and session.plan is not None, session
    return session


def approved(client: Client, session: Session) -> Session:
    assert session.plan is not None
    client.approve(session.id, session.plan.digest)
    return client.wait(session.id)


@pytest.mark.parametrize("call", ["shannot-tool", LINK])
def test_it_waits_for_review_and_runs_by_its_name(
    client: Client, system: PrivateSystem, call: str
) -> None:
    session = submitted(client, f"{call} 'a b'")
    assert session.plan is not None
    (step,) = session.plan.steps
    assert step.runs and (step.link, step.program) == (LINK, PROGRAM)
    assert not system.path("/home/said").exists()
    ended = approved(client, session)
    assert ended.state is State.EXECUTED, ended.error
    assert system.path("/home/said").read_text() == f"{LINK} a b\n"


def test_a_link_that_leads_elsewhere_is_stale(client: Client, system: PrivateSystem) -> None:
    session = submitted(client, "shannot-tool")
    other = system.path("/home/other")
    other.write_text(WRAPPER)
    other.chmod(0o755)
    system.path(LINK).unlink()
    os.symlink("/home/other", system.path(LINK))
    ended = approved(client, session)
    assert ended.state is State.STALE, ended
    assert ended.error is not None and LINK in ended.error.message
    assert not system.path("/home/said").exists()


def test_by_another_path_it_runs_inside(client: Client, system: PrivateSystem) -> None:
    session = submitted(client, f"{PROGRAM} x; ln -s {PROGRAM} /home/own; /home/own")
    assert session.plan is not None
    assert not any(step.runs for step in session.plan.steps)
    assert not system.path("/home/said").exists()
