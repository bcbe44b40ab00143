"""Approval in a service, with other accounts: who sees, approves and reads what (P1, P5)."""

from __future__ import annotations

import grp
import hashlib
import pwd
from pathlib import Path

import pytest

from shannotd.wire.errors import InvalidRequest, NotAllowed, NotFound
from tests.support.accounts import is_root
from tests.support.service import Caller, in_loop, running_service, service_config, service_of

PATH = "/srv/example/new"

pytestmark = pytest.mark.skipif(not is_root(), reason="needs root, to connect as other accounts")


@pytest.mark.P5
@in_loop
async def test_submitters_and_reviewers_of_a_service(directory: Path, accounts: list[str]) -> None:
    submitter, reviewer = accounts
    config = service_config(submit=[submitter], review=[reviewer])
    async with service_of(directory, config, submitter, reviewer) as (agent, person):
        pending = await agent.submit(("files", [PATH]))
        arguments = {"id": pending["id"], "digest": pending["digest"]}
        with pytest.raises(NotAllowed):
            await agent.call("sessions.approve", **arguments)
        with pytest.raises(NotAllowed):
            await person.submit()
        with pytest.raises(NotAllowed):
            await person.call("audit.tail")
        assert (await person.call("sessions.list"))["total"] == 1
        approved = await person.call("sessions.approve", **arguments)
        assert approved["decided_by"] == [pwd.getpwnam(reviewer).pw_uid]
        stranger = await Caller.connect_as(directory, 65534, 65534)
        async with stranger:
            assert isinstance(await stranger.raw_error(), NotAllowed)
            await stranger.closed()


@pytest.mark.P1
@in_loop
async def test_contents_of_files_are_for_reviewers(directory: Path, accounts: list[str]) -> None:
    """A file of root's may hold what the script could keep but not see."""
    submitter, reviewer = accounts
    config = service_config(submit=[submitter], review=[reviewer])
    async with service_of(directory, config, submitter, reviewer) as (agent, person):
        pending = await agent.submit(("files", [PATH]), ("fed", "input"))
        file, given = (
            {"id": pending["id"], "sha256": hashlib.sha256(content).hexdigest()}
            for content in (f"content of {PATH}\n".encode(), b"input")
        )
        assert (await agent.call("blobs.get", **given))["data"] == b"input"
        assert isinstance(await agent.failure("blobs.get", **file), InvalidRequest)
        for one in (file, given):
            assert (await person.call("blobs.get", **one))["data"]


@pytest.mark.P5
@in_loop
async def test_sessions_of_others_do_not_exist(directory: Path, accounts: list[str]) -> None:
    one, two = accounts
    shared = grp.getgrnam("nogroup").gr_gid
    config = service_config(submit=["nogroup"], review=["root"])
    async with running_service(directory, config=config, embedded=False):
        mine = await Caller.connect_as(directory, pwd.getpwnam(one).pw_uid, shared)
        theirs = await Caller.connect_as(directory, pwd.getpwnam(two).pw_uid, shared)
        async with mine, theirs:
            await theirs.call("sessions.watch")
            pending = await mine.submit(("files", [PATH]))
            unknown = "f" * 32
            for method, more in (
                ("sessions.get", {}),
                ("sessions.cancel", {}),
                ("sessions.reject", {}),
                ("sessions.watch", {}),
                ("sessions.wait", {"states": []}),
                ("sessions.approve", {"digest": pending["digest"]}),
                ("sessions.amend", {"digest": pending["digest"], "drop": [0]}),
                ("blobs.get", {"sha256": "0" * 64}),
            ):
                for identifier in (pending["id"], pending["id"][:5]):
                    failure = await theirs.failure(method, id=identifier, **more)
                    missing = await theirs.failure(method, id=unknown, **more)
                    assert isinstance(failure, NotFound)
                    assert type(missing) is type(failure)
            assert (await theirs.call("sessions.list"))["total"] == 0
            assert theirs.notifications.empty()


@pytest.mark.P5
@in_loop
async def test_a_quorum_is_of_distinct_people(directory: Path, accounts: list[str]) -> None:
    uids = [pwd.getpwnam(name).pw_uid for name in accounts]
    config = service_config(submit=["root"], review=[f"uid:{uid}" for uid in uids], approvals=2)
    async with service_of(directory, config, "root", *accounts) as (agent, one, two):
        pending = await agent.submit(("files", [PATH]))
        arguments = {"id": pending["id"], "digest": pending["digest"]}
        for _ in range(2):
            half = await one.call("sessions.approve", **arguments)
            assert half["state"] == "pending"
            assert half["decided_by"] == [uids[0]]
        whole = await two.call("sessions.approve", **arguments)
        assert whole["decided_by"] == uids
        ended = await two.call("sessions.wait", id=pending["id"], states=[])
        assert ended["state"] == "executed"


@pytest.mark.P5
@in_loop
async def test_an_auditor_reads_the_log_of_a_session_that_he_may_not_see(
    directory: Path, accounts: list[str]
) -> None:
    auditor = accounts[0]
    config = service_config(submit=["root"], review=[accounts[1]], audit=[auditor])
    async with service_of(directory, config, "root", auditor) as (agent, person):
        pending = await agent.submit(("files", [PATH]))
        for identifier in (pending["id"], pending["id"][:6]):
            assert isinstance(await person.failure("sessions.get", id=identifier), NotFound)
            records = await person.call("audit.tail", session=identifier)
            assert {record["session"] for record in records} == {pending["id"]}
        assert (await person.call("audit.verify"))["records"] > 0
        unknown = await person.failure("audit.tail", session="f" * 32)
        assert isinstance(unknown, NotFound)


@pytest.mark.P5
@in_loop
async def test_who_left_the_group_approves_no_more(directory: Path, accounts: list[str]) -> None:
    name = accounts[0]
    shared = grp.getgrnam("nogroup").gr_gid
    # The connection has the group, as an old login would; the account database has not.
    config = service_config(submit=["root"], review=["nogroup"])
    async with running_service(directory, config=config, embedded=False):
        agent = await Caller.connect(directory)
        former = await Caller.connect_as(directory, pwd.getpwnam(name).pw_uid, shared)
        async with agent, former:
            pending = await agent.submit(("files", [PATH]))
            with pytest.raises(NotAllowed):
                await former.call("sessions.approve", id=pending["id"], digest=pending["digest"])
            with pytest.raises(NotAllowed):
                await former.call("sessions.get", id=pending["id"])
            assert (await agent.call("sessions.get", id=pending["id"]))["state"] == "pending"
