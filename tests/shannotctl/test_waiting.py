"""Who waits for a decision is told of it, however soon or late it comes, and asks for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shannotctl.async_client import AsyncClient
from shannotctl.client import Client
from shannotd.wire.errors import DaemonStopping, OutcomeUnknown
from shannotd.wire.rpc import MAX_FRAME_BYTES, Decoder, Request
from shannotd.wire.session import Session, State
from shannotd.wire.submission import ScriptKind, Submission
from tests.support.service import SECONDS, Caller, in_loop, running_service, script, socket_of

FILES = ("files", ["/var/lib/example/file"])
SUBMISSION = Submission(ScriptKind.PYTHON, script(FILES))


async def approve_next(reviewer: Caller) -> None:
    """Approve the session that waits next, at the moment when the daemon tells of it."""
    pending = await reviewer.changed_to("pending")
    await reviewer.call("sessions.approve", id=pending["id"], digest=pending["digest"])


async def watching(directory: Path) -> Caller:
    """A reviewer who hears of everything."""
    reviewer = await Caller.connect(directory)
    await reviewer.call("sessions.watch")
    return reviewer


def submit_and_wait(path: str) -> Session:
    """As a program does with the blocking SDK."""
    with Client(path, start=False) as client:
        return client.wait(client.submit(SUBMISSION).id)


async def submit_and_wait_async(path: str) -> Session:
    """As a program does with the SDK for asyncio."""
    async with AsyncClient(path, start=False) as client:
        return await client.wait((await client.submit(SUBMISSION)).id)


@in_loop
async def test_a_reviewer_who_is_faster_than_the_waiting(tmp_path: Path) -> None:
    async with running_service(tmp_path), await watching(tmp_path) as reviewer:
        for _ in range(20):
            approving = asyncio.create_task(approve_next(reviewer))
            ended = await asyncio.to_thread(submit_and_wait, str(socket_of(tmp_path)))
            assert ended.state is State.EXECUTED
            await approving
            approving = asyncio.create_task(approve_next(reviewer))
            ended = await submit_and_wait_async(str(socket_of(tmp_path)))
            assert ended.state is State.EXECUTED
            await approving
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shannotctl", "submit", "--wait", "--json", "-c"),
            script(FILES).decode(),
            env={**os.environ, "SHANNOT_SOCKET": str(socket_of(tmp_path))},
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        await approve_next(reviewer)
        out, _ = await asyncio.wait_for(process.communicate(), SECONDS)
        assert process.returncode == 0 and json.loads(out)["state"] == "executed"


class Relay:
    """Stands between clients and a daemon, and knows what was asked for."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.waiting = asyncio.Event()

    @contextlib.asynccontextmanager
    async def between(self, path: str, daemon: str) -> AsyncIterator[None]:
        """Listen at `path`, for a daemon that does at `daemon`."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_unix_connection(daemon)
            answers = asyncio.create_task(self._carry(there, writer))
            decoder = Decoder(MAX_FRAME_BYTES)
            while data := await reader.read(65536):
                for message in decoder.feed(data):
                    assert isinstance(message, Request)
                    self.requests.append(message.method)
                    if message.method == "sessions.wait":
                        self.waiting.set()
                back.write(data)
            back.close()
            await answers

        server = await asyncio.start_unix_server(serve, path)
        async with server:
            yield

    @staticmethod
    async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


@pytest.mark.parametrize("client", ["sdk", "asyncio", "command"])
@in_loop
async def test_who_waits_asks_for_nothing_meanwhile(tmp_path: Path, client: str) -> None:
    """And outlasts the time after which an idle daemon would have ended."""
    path = str(tmp_path / "relay")

    async def wait() -> Any:
        if client == "sdk":
            return (await asyncio.to_thread(submit_and_wait, path)).state
        if client == "asyncio":
            return (await submit_and_wait_async(path)).state
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shannotctl", "submit", "--wait", "-c"),
            script(FILES).decode(),
            env={**os.environ, "SHANNOT_SOCKET": path},
            stdin=subprocess.DEVNULL,
        )
        return State.EXECUTED if await process.wait() == 0 else None

    relay = Relay()
    config = "[daemon]\nidle_seconds = 1\n"
    async with (
        running_service(tmp_path / "daemon", config=config),
        relay.between(path, str(socket_of(tmp_path / "daemon"))),
    ):
        waiting = asyncio.create_task(wait())
        await asyncio.wait_for(relay.waiting.wait(), SECONDS)
        asked = tuple(relay.requests)
        done, _ = await asyncio.wait([waiting], timeout=3)
        assert not done and tuple(relay.requests) == asked
        async with await Caller.connect(tmp_path / "daemon") as reviewer:
            (pending,) = (await reviewer.call("sessions.list", states=["pending"]))["sessions"]
            given = {"id": pending["id"], "digest": pending["digest"]}
            await reviewer.call("sessions.approve", **given)
        assert await asyncio.wait_for(waiting, SECONDS) is State.EXECUTED


@in_loop
async def test_whoever_has_the_id_can_come_back(tmp_path: Path) -> None:
    """After the daemon has ended under him, after others decided, and after it is all over."""
    agent = AsyncClient(str(socket_of(tmp_path)), start=False)
    async with running_service(tmp_path):
        pending = await agent.submit(SUBMISSION)
        waiting = asyncio.create_task(agent.wait(pending.id))
        await agent.status()  # the daemon has what was sent before
    with pytest.raises((DaemonStopping, OutcomeUnknown)):
        await waiting
    async with running_service(tmp_path), await Caller.connect(tmp_path) as reviewer:
        waiting = asyncio.create_task(agent.wait(pending.id))
        await agent.status()
        given = {"id": pending.id, "digest": pending.digest}
        await reviewer.call("sessions.approve", **given)
        assert (await asyncio.wait_for(waiting, SECONDS)).state is State.EXECUTED
    async with running_service(tmp_path):
        assert (await agent.wait(pending.id)).state is State.EXECUTED
        assert (await agent.wait(pending.id[:6])).state is State.EXECUTED
        events = [event async for event in agent.watch(pending.id)]
        assert len(events) == 1
        await agent.close()


@in_loop
async def test_many_wait_for_one_and_one_for_many(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as reviewer,
        AsyncClient(str(socket_of(tmp_path)), start=False) as agent,
    ):
        made = [await agent.submit(SUBMISSION) for _ in range(20)]
        twice = [one.id for one in made for _ in range(2)]
        waiting = [asyncio.create_task(agent.wait(id)) for id in twice]
        await agent.status()
        for one in reversed(made):
            await reviewer.call("sessions.reject", id=one.id, reason=f"no {one.id}")
        ended = await asyncio.wait_for(asyncio.gather(*waiting), SECONDS)
        assert [one.reason for one in ended] == [f"no {id}" for id in twice]
