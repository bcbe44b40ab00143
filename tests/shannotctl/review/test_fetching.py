"""What the reviewer fetches from a daemon, and what it makes of a daemon that has not all of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from shannotctl.review import connection as module
from shannotctl.review import messages as m
from shannotctl.review.connection import Connection
from shannotd.wire.errors import BadFrame, InvalidRequest, NotAmendable
from shannotd.wire.session import SessionPage, State
from shannotd.wire.step import CommandInput, CommandOutput, Step
from tests.support import samples
from tests.support.peer import Link, Peer
from tests.support.service import in_loop

pytestmark = pytest.mark.P7


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@asynccontextmanager
async def connected(peer: Peer) -> AsyncIterator[Connection]:
    made = Connection(peer.path)
    try:
        yield made
    finally:
        await made.close()


@in_loop
async def test_what_commands_are_given_and_print_comes_with_the_session(peer: Peer) -> None:
    kept = {name_of(content): content for content in (b"given", b"printed")}
    step = Step(
        "command",
        argv=("x",),
        decision="observe",
        exit_status=0,
        stdin=CommandInput(name_of(b"given"), 5),
        stdout=CommandOutput(name_of(b"printed"), 7),
        stderr=CommandOutput(name_of(b""), 0),
    )
    gone = replace(step, stdin=CommandInput("f" * 64, 3), stdout=None, stderr=None)
    made = samples.session(step, gone, step)
    peer.answers("sessions.get", made)

    def blob(link: Link, params: dict[str, Any]) -> Any:
        if params["sha256"] not in kept:
            raise InvalidRequest(method="blobs.get", reason="no such content")
        content = kept[params["sha256"]]
        return {"data": content[params["offset"] :], "size": len(content)}

    peer.handlers["blobs.get"] = blob
    async with connected(peer) as connection:
        message = await connection.perform(m.Load(made.id))
        assert isinstance(message, m.Loaded) and message.plan is not None
        assert message.contents == {
            name_of(b"given"): b"given",
            name_of(b"printed"): b"printed",
            name_of(b""): b"",
        }
        # Each is asked for once; of an empty one nothing has to be.
        asked = [params["sha256"] for params in peer.asked("blobs.get")]
        assert sorted(asked) == sorted([name_of(b"given"), name_of(b"printed"), "f" * 64])
        forged = replace(made, id=made.id)
        kept[name_of(b"given")] = b"other"
        message = await connection.perform(m.Load(forged.id))
        assert isinstance(message, m.Failed) and isinstance(message.error, BadFrame)


@in_loop
async def test_what_is_not_kept_any_more_cannot_be_edited(peer: Peer) -> None:
    made = samples.session(
        samples.file_step("create", "/etc/x"),
        samples.file_step("create", "/e", after=samples.regular(sha256=name_of(b""), size=0)),
        samples.file_step("delete", "/etc/y"),
    )
    peer.answers("blobs.get", InvalidRequest(method="blobs.get", reason="no such content"))
    assert made.plan is not None
    async with connected(peer) as connection:
        with pytest.raises(NotAmendable, match="what step 1 writes is not kept"):
            await connection.written(m.Edit(made, made.plan, 0, None))
        assert await connection.written(m.Edit(made, made.plan, 1, None)) == b""
        with pytest.raises(NotAmendable, match="step 3 writes no file"):
            await connection.written(m.Edit(made, made.plan, 2, None))


@in_loop
async def test_of_those_that_are_over_the_newest_are_listed(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_OVER", 2)
    waiting = samples.bare(samples.session(samples.file_step("create", "/etc/x")))
    over = [replace(waiting, id=f"{number:032x}", state=State.EXECUTED) for number in range(4)]

    def listed(link: Link, params: dict[str, Any]) -> Any:
        found = [waiting] if State.PENDING.value in params["states"] else over
        return SessionPage(tuple(found), len(found))

    peer.handlers["sessions.list"] = listed
    peer.answers("sessions.watch", {})
    peer.answers("daemon.status", samples.STATUS)
    told: asyncio.Queue[m.Message] = asyncio.Queue()
    async with connected(peer) as connection:
        following = asyncio.ensure_future(connection.follow(told.put_nowait))
        try:
            message = await asyncio.wait_for(told.get(), 30)
        finally:
            following.cancel()
            await asyncio.wait([following])
    assert isinstance(message, m.Connected) and message.more
    assert [session.id for session in message.sessions] == [waiting.id, over[0].id, over[1].id]
