"""Rollbacks of a service: who asks and who approves (P5)."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from shannotd.wire.errors import NotAllowed
from tests.support.accounts import is_root
from tests.support.service import in_loop, service_config, service_of
from tests.support.sessions import PATHS, execute, get, roll_back

pytestmark = pytest.mark.skipif(not is_root(), reason="needs root, to connect as other accounts")


@pytest.mark.P5
@in_loop
async def test_who_asks_may_approve_and_who_submitted_may_not(
    directory: Path, accounts: list[str]
) -> None:
    submitter, reviewer = accounts
    # The submitter is a reviewer of other plans as well.
    config = service_config(submit=[submitter], review=accounts)
    async with service_of(directory, config, submitter, reviewer) as (agent, person):
        pending = await agent.submit(("files", PATHS))
        old = await execute(person, pending)
        for asking in (agent, person):
            back = await roll_back(asking, old)
            assert back["submitter"] == pwd.getpwnam(submitter).pw_uid
            arguments = {"id": back["id"], "digest": back["digest"]}
            with pytest.raises(NotAllowed):
                await agent.call("sessions.approve", **arguments)
            if asking is agent:
                await person.call("sessions.reject", id=back["id"])
        assert (await execute(person, back))["state"] == "executed"
        assert (await get(agent, old))["state"] == "rolled_back"


@pytest.mark.P5
@in_loop
async def test_others_cannot_ask(directory: Path, accounts: list[str]) -> None:
    submitter, reviewer = accounts
    config = service_config(submit=[submitter], review=[reviewer], admin=["uid:0"])
    async with service_of(directory, config, submitter, reviewer) as (agent, person):
        old = await execute(person, await agent.submit(("files", PATHS)))
        for more in ({}, {"dry_run": True}):
            with pytest.raises(NotAllowed):
                await agent.call("sessions.rollback", id=old["id"], **more)
        with pytest.raises(NotAllowed):
            await agent.call("checkpoints.list")
        with pytest.raises(NotAllowed):
            await agent.call("checkpoints.get", id=old["id"])
        assert len(await person.call("checkpoints.list")) == 1
        assert (await person.call("checkpoints.get", id=old["id"]))["steps"]
        with pytest.raises(NotAllowed):
            await person.call("checkpoints.drop", id=old["id"])


@pytest.mark.P5
@in_loop
async def test_as_many_approve_as_the_profile_says(directory: Path, accounts: list[str]) -> None:
    config = service_config(submit=["root"], review=accounts, approvals=2)
    async with service_of(directory, config, "root", *accounts) as (agent, one, two):
        pending = await agent.submit(("files", PATHS))
        arguments = {"id": pending["id"], "digest": pending["digest"]}
        await one.call("sessions.approve", **arguments)
        old = await execute(two, pending)
        back = await roll_back(one, old)
        assert back["approvals"] == 2
        half = await one.call("sessions.approve", id=back["id"], digest=back["digest"])
        assert half["state"] == "pending"
        assert (await execute(two, back))["state"] == "executed"
