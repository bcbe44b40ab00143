"""Plans that reviewers of a service change: who may, and who approves them then (P5)."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shannotd.wire.errors import NotAllowed
from tests.support.accounts import is_root, temporary_account
from tests.support.service import in_loop, service_config, service_of
from tests.support.sessions import amend, asked, get

PATHS = ["/srv/example/a", "/srv/example/b", "/srv/example/c"]

pytestmark = pytest.mark.skipif(not is_root(), reason="needs root, to connect as other accounts")


class People(NamedTuple):
    """Names of accounts: one submits, all may review."""

    submitter: str
    one: str
    two: str

    def config(self, approvals: int = 1) -> str:
        """The settings of their service."""
        uids = [f"uid:{uid(name)}" for name in self]
        return service_config(submit=uids[:1], review=uids, approvals=approvals)


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


@pytest.fixture
def people() -> Iterator[People]:
    """Three accounts."""
    with temporary_account() as one, temporary_account() as two, temporary_account() as three:
        yield People(one, two, three)


@pytest.mark.P5
@in_loop
async def test_who_changed_a_plan_never_approves_it(directory: Path, people: People) -> None:
    async with service_of(directory, people.config(), *people) as (agent, one, two):
        old = await agent.submit(("files", PATHS))
        new = await amend(one, old, drop=[0])
        assert new["editors"] == [uid(people.one)]
        assert new["submitter"] == uid(people.submitter)
        arguments = {"id": new["id"], "digest": new["digest"]}
        for caller in (agent, one):
            with pytest.raises(NotAllowed) as caught:
                await caller.call("sessions.approve", **arguments)
            assert "never approves" in str(caught.value)
        assert (await get(agent, new))["state"] == "pending"
        again = await amend(two, new, drop=[0])
        assert again["editors"] == [uid(people.one), uid(people.two)]
        for caller in (agent, one, two):
            failure = await caller.failure(
                "sessions.approve", id=again["id"], digest=again["digest"]
            )
            assert isinstance(failure, NotAllowed)


@pytest.mark.P5
@in_loop
async def test_another_person_approves_a_changed_plan(directory: Path, people: People) -> None:
    async with service_of(directory, people.config(), *people) as (agent, one, two):
        old = await agent.submit(("files", PATHS))
        new = await amend(one, old, drop=[0])
        await two.call("sessions.approve", id=new["id"], digest=new["digest"])
        ended = await two.call("sessions.wait", id=new["id"], states=[])
        assert ended["state"] == "executed"
        assert ended["decided_by"] == [uid(people.two)]


@pytest.mark.P5
@in_loop
async def test_approvals_of_the_old_plan_do_not_count_for_the_new_one(
    directory: Path, people: People
) -> None:
    async with service_of(directory, people.config(approvals=2), *people) as (agent, one, two):
        old = await agent.submit(("files", PATHS))
        half = await two.call("sessions.approve", id=old["id"], digest=old["digest"])
        assert half["decided_by"] == [uid(people.two)]
        new = await amend(one, old, drop=[0])
        assert (new["decided_by"], new["approvals"]) == ([], 2)
        half = await two.call("sessions.approve", id=new["id"], digest=new["digest"])
        assert (half["state"], half["decided_by"]) == ("pending", [uid(people.two)])


@pytest.mark.P5
@in_loop
async def test_only_reviewers_change_plans(directory: Path, people: People) -> None:
    config = service_config(submit=[people.submitter], review=people[1:])
    async with service_of(directory, config, people.submitter) as (agent,):
        old = await agent.submit(("files", PATHS))
        assert isinstance(await agent.failure("sessions.amend", **asked(old, drop=[0])), NotAllowed)
        await agent.call("sessions.cancel", id=old["id"])
        assert isinstance(await agent.failure("sessions.amend", **asked(old, drop=[0])), NotAllowed)
