"""The SDK for asyncio against a scripted daemon."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from shannotctl.async_client import AsyncClient
from shannotctl.client import (
    Changed,
    DaemonUnreachable,
    Output,
    ScriptKind,
    State,
    StepApplied,
    Submission,
)
from shannotd.wire.audit import AuditRecord, AuditVerdict
from shannotd.wire.checkpoint import Checkpoint, CheckpointContents
from shannotd.wire.errors import BadFrame, NotFound, OutcomeUnknown
from shannotd.wire.rollback import RollbackAnswer
from shannotd.wire.session import SessionPage
from tests.support.peer import Link, Peer
from tests.support.samples import ID, STATUS, bare, file_step, session


def in_loop(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_submit_passes_output_on_and_returns_the_session(peer: Peer) -> None:
    def submit(link: Link, params: dict[str, Any]) -> Any:
        for number in range(100):
            link.notify("session.output", {"id": ID, "stream": "stdout", "data": b"%d\n" % number})
        return session()

    peer.handlers["sessions.submit"] = submit

    async def work() -> None:
        seen: list[Output] = []
        async with AsyncClient(peer.path) as client:
            ended = await client.submit(Submission(ScriptKind.PYTHON, b"1"), seen.append)
            assert ended.state is State.EXECUTED
            assert (await client.submit(Submission(ScriptKind.PYTHON, b"1"))).id == ID
        assert [output.data for output in seen] == [b"%d\n" % number for number in range(100)]

    in_loop(work())


def test_calls_run_at_once_over_one_connection(peer: Peer) -> None:
    peer.answers("daemon.status", STATUS)
    peer.answers("sessions.get", session())

    async def work() -> None:
        async with AsyncClient(peer.path) as client:
            answers = await asyncio.gather(
                *(client.status() for _ in range(50)), *(client.get(ID) for _ in range(50))
            )
        assert len(answers) == 100
        assert len(peer.links) == 1

    in_loop(work())


def test_every_method_sends_what_its_blocking_twin_sends(peer: Peer) -> None:
    record = AuditRecord(1, 2.0, "session.submitted", 0, ID, {}, "h", "{}")
    verdict = AuditVerdict(1, 1, "h", None, None)
    for method in ("approve", "amend", "reject", "cancel", "wait"):
        peer.answers(f"sessions.{method}", session())
    saved = Checkpoint(ID, 1.0, 2, True)
    peer.answers("sessions.rollback", RollbackAnswer(session()))
    peer.answers("checkpoints.list", [saved])
    peer.answers("checkpoints.get", CheckpointContents(saved, ()))
    peer.answers("checkpoints.drop", {})
    peer.answers("sessions.list", SessionPage((bare(session()),), 1))
    peer.answers("blobs.get", {"data": b"abc", "size": 3})
    peer.answers("audit.tail", [record])
    peer.answers("audit.verify", verdict)

    async def work() -> None:
        async with AsyncClient(peer.path) as client:
            await client.approve(ID, "d" * 64)
            await client.amend(ID, "d" * 64, drop=(1, 2), edits={0: b"x"}, with_dependents=True)
            await client.rollback(ID, force=("/a",), force_all=True)
            assert await client.checkpoints() == (saved,)
            assert (await client.checkpoint(ID)).checkpoint == saved
            await client.drop_checkpoint(ID)
            await client.reject(ID, "no")
            await client.cancel(ID)
            await client.wait(ID, [State.PENDING], 2)
            assert [item.id async for item in client.list()] == [ID]
            assert [piece async for piece in client.blobs(ID, "a" * 64)] == [b"abc"]
            assert await client.audit_tail() == (record,)
            assert await client.audit_verify() == verdict

    in_loop(work())
    assert peer.asked("sessions.approve") == [{"id": ID, "digest": "d" * 64, "comment": ""}]
    (asked,) = peer.asked("sessions.amend")
    assert asked["drop"] == [1, 2] and asked["with_dependents"] is True
    assert asked["edits"] == [{"index": 0, "content": b"x"}]
    (asked,) = peer.asked("sessions.rollback")
    assert asked == {"id": ID, "dry_run": False, "force": ["/a"], "force_all": True}
    assert peer.asked("checkpoints.drop") == [{"id": ID}]


def test_watching_ends_with_the_session(peer: Peer) -> None:
    pending = session(file_step("modify", "/etc/x"))

    def get(link: Link, params: dict[str, Any]) -> Any:
        link.notify("session.step", {"id": ID, "index": 0, "applied": "done"})
        link.notify("session.changed", bare(pending, state=State.EXECUTED))
        return pending

    peer.answers("sessions.watch", {})
    peer.handlers["sessions.get"] = get

    async def work() -> None:
        async with AsyncClient(peer.path) as client:
            events = [event async for event in client.watch(ID)]
        assert isinstance(events[0], Changed) and events[0].session.state is State.PENDING
        assert events[1] == StepApplied(ID, 0, "done")
        assert isinstance(events[2], Changed) and events[2].session.state is State.EXECUTED

    in_loop(work())


@pytest.mark.P10
def test_errors(peer: Peer) -> None:
    peer.answers("sessions.get", NotFound(id="x"))
    peer.answers("daemon.status", {"version": 1})

    async def work() -> None:
        async with AsyncClient(peer.path) as client:
            with pytest.raises(NotFound):
                await client.get("x")
            with pytest.raises(BadFrame):
                await client.status()

    in_loop(work())


@pytest.mark.P10
def test_a_lost_daemon_fails_every_call_and_watch(peer: Peer) -> None:
    gone = threading.Event()

    def wait(link: Link, params: dict[str, Any]) -> Any:
        link.close()
        gone.set()

    peer.handlers["sessions.wait"] = wait
    peer.answers("daemon.status", STATUS)

    async def work() -> None:
        async with AsyncClient(peer.path) as client:
            calls = [asyncio.ensure_future(client.wait(ID)) for _ in range(3)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, OutcomeUnknown) for result in results)
            assert await client.status() == STATUS, "the next call opens a new connection"

    in_loop(work())


@pytest.mark.P10
def test_a_watch_learns_that_the_daemon_is_gone(peer: Peer) -> None:
    peer.answers("sessions.watch", {})

    async def work() -> None:
        async with AsyncClient(peer.path) as client:
            events = client.watch()
            following = asyncio.ensure_future(anext(events))
            while not peer.asked("sessions.watch"):
                await asyncio.to_thread(lambda: None)
            peer.links[-1].close()
            with pytest.raises(DaemonUnreachable):
                await following

    in_loop(work())


@pytest.mark.P10
def test_nobody_answers() -> None:
    async def work() -> None:
        with pytest.raises(DaemonUnreachable):
            await AsyncClient("/nonexistent/s").status()

    in_loop(work())


def test_a_cancelled_call_leaves_the_connection_usable(peer: Peer) -> None:
    release = threading.Event()

    def wait(link: Link, params: dict[str, Any]) -> Any:
        assert release.wait(30)
        return session()

    peer.handlers["sessions.wait"] = wait
    peer.answers("daemon.status", STATUS)

    async def work() -> None:
        async with AsyncClient(peer.path) as client:
            waiting = asyncio.ensure_future(client.wait(ID))
            while not peer.asked("sessions.wait"):
                await asyncio.to_thread(lambda: None)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            release.set()
            assert await client.status() == STATUS

    in_loop(work())
