"""Whatever a client sends or does not read: one typed error, and the daemon goes on."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shannotd.server.connection import MAX_CALLS
from shannotd.wire.errors import (
    BadFrame,
    FrameTooLarge,
    InvalidRequest,
    NotFound,
    TooManyConnections,
    TooManySessions,
    TooMuchUnfinished,
    UnknownMethod,
)
from shannotd.wire.rpc import MAX_REQUEST_BYTES, Notification, Request, Response, pack
from tests.support.service import Caller, in_loop, running_service, script

BAD_FRAMES = [
    b"\xc1",
    b"GET / HTTP/1.1\r\n\r\n",
    msgpack.packb(None),
    msgpack.packb([0, 1]),
    msgpack.packb([0, -1, "daemon.status", {}]),
    msgpack.packb([0, 2**32, "daemon.status", {}]),
    msgpack.packb([0, True, "daemon.status", {}]),
    msgpack.packb([0, 1, "daemon.status", []]),
    msgpack.packb([0, 1, b"\xff", {}]),
    msgpack.packb([0, 1, "daemon.status", {1: 2}]),
    msgpack.packb([9, 1, "daemon.status", {}]),
    pack(Response(1, None, None)),
    pack(Notification("session.changed", {})),
    b"\x91" * 100_000,
]


@pytest.mark.P10
@pytest.mark.parametrize("frame", BAD_FRAMES)
def test_a_bad_frame_is_a_typed_error_and_the_end(tmp_path: Path, frame: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        async with running_service(tmp_path), await Caller.connect(tmp_path) as other:
            async with await Caller.connect(tmp_path) as caller:
                caller.writer.write(frame)
                assert isinstance(await caller.raw_error(), BadFrame)
                await caller.closed()
            assert (await other.submit())["state"] == "executed"

    scenario()


@pytest.mark.P10
@in_loop
async def test_an_oversized_frame_is_refused(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        # A binary of the largest size that a frame may have, which never comes to its end.
        caller.writer.write(
            b"\x94\x00\x01\xa1x\x81\xa1y\xc6" + (MAX_REQUEST_BYTES).to_bytes(4, "big")
        )
        caller.writer.write(bytes(MAX_REQUEST_BYTES - 10))
        caller.writer.write(bytes(100))
        assert isinstance(await caller.raw_error(), FrameTooLarge | BadFrame)
        await caller.closed()


@pytest.mark.P10
@in_loop
async def test_a_half_frame_is_a_typed_error(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        caller.writer.write(pack(Request(1, "daemon.status", {}))[:-1])
        caller.writer.write_eof()
        assert isinstance(await caller.raw_error(), BadFrame)
        await caller.closed()


@in_loop
async def test_who_sends_no_more_still_gets_its_answers(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        answer = caller.send("sessions.submit", kind="python", script=script(("output", "x")))
        caller.writer.write_eof()
        response = await answer
        assert response.error is None
        await caller.closed()


@in_loop
async def test_frames_may_come_in_any_pieces(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        answer = caller.send("daemon.status")
        del answer
        data = pack(Request(7, "daemon.status", {}))
        answer = asyncio.get_running_loop().create_future()
        caller._answers[7] = answer
        for position in range(len(data)):
            caller.writer.write(data[position : position + 1])
            await caller.writer.drain()
        assert (await answer).error is None


@pytest.mark.P10
@in_loop
async def test_unknown_methods_and_wrong_parameters(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        assert isinstance(await caller.failure("nonsense\x1b[31m"), UnknownMethod)
        assert "\x1b" not in str(await caller.failure("nonsense\x1b[31m"))
        assert isinstance(await caller.failure("sessions.get"), InvalidRequest)
        assert isinstance(await caller.failure("sessions.get", id=5), InvalidRequest)
        assert isinstance(await caller.failure("audit.tail", limit=0), InvalidRequest)
        assert isinstance(await caller.failure("audit.tail", session="f" * 32), NotFound)
        assert isinstance(
            await caller.failure("blobs.get", id="f" * 32, sha256="x"), InvalidRequest
        )
        # What a newer client may say besides does no harm.
        assert (await caller.call("daemon.status", newer="field"))["mode"] == "embedded"


@pytest.mark.P10
@in_loop
async def test_many_requests_at_once_are_all_answered(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        answers = [caller.send("daemon.status") for _ in range(500)]
        assert {(await answer).error for answer in answers} == {None}


@pytest.mark.P10
@in_loop
async def test_requests_that_come_at_once_are_not_worked_on_at_once(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path) as service,
        await Caller.connect(tmp_path) as other,
        await Caller.connect(tmp_path) as caller,
    ):
        pending = await other.submit(("files", ["/etc/x"]))
        waiting = [
            caller.send("sessions.wait", id=pending["id"], states=[]) for _ in range(MAX_CALLS * 4)
        ]
        await caller.writer.drain()
        while not any(connection._queued for connection in service._server._connections):
            await other.call("daemon.status")
        assert max(len(each._calls) for each in service._server._connections) == MAX_CALLS
        await other.call("sessions.reject", id=pending["id"])
        assert {(await answer).error for answer in waiting} == {None}


@pytest.mark.P10
@in_loop
async def test_large_answers_do_not_gather_in_memory(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path) as service,
        await Caller.connect(tmp_path) as other,
    ):
        session = await other.submit(("many", 10_000))
        size = len(pack(Response(1, None, await other.call("sessions.get", id=session["id"]))))
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "run" / "shannotd.sock"))
        for number in range(20):
            sock.sendall(pack(Request(number, "sessions.get", {"id": session["id"]})))
        slow = None
        while slow is None or slow._may_send.is_set():
            await other.call("daemon.status")
            slow = next((one for one in service._server._connections if one._calls), slow)
        for _ in range(20):
            await other.call("sessions.get", id=session["id"])
        assert slow._transport.get_write_buffer_size() <= size + 1024 * 1024
        sock.close()


@pytest.mark.P10
@in_loop
async def test_who_vanishes_while_it_waits_is_forgotten(tmp_path: Path) -> None:
    config = "[daemon]\nmax_connections = 2\n"
    async with (
        running_service(tmp_path, config=config),
        await Caller.connect(tmp_path) as caller,
    ):
        pending = await caller.submit(("files", ["/etc/x"]))
        for _ in range(5):
            gone = await Caller.connect(tmp_path)
            gone.send("sessions.wait", id=pending["id"], states=[])
            await gone.call("daemon.status")
            await gone.close()
            await caller.call("daemon.status")
        async with await Caller.connect(tmp_path) as next_one:
            assert (await next_one.call("daemon.status"))["pending"] == 1


@pytest.mark.P10
@in_loop
async def test_who_sends_no_more_waits_on_and_is_forgotten_when_it_vanishes(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        pending = await caller.submit(("files", ["/etc/x"]))
        half = await Caller.connect(tmp_path)
        answer = half.send("sessions.wait", id=pending["id"], states=[])
        half.writer.write_eof()
        vanishing = await Caller.connect(tmp_path)
        vanishing.send("sessions.wait", id=pending["id"], states=[])
        vanishing.writer.write_eof()
        while sum(one._ending for one in service._server._connections) < 2:
            await caller.call("daemon.status")
        vanishing._task.cancel()
        vanishing.writer.transport.abort()
        while service._server.connections > 2:
            await caller.call("daemon.status")
        assert not answer.done()
        await caller.call("sessions.reject", id=pending["id"])
        assert (await answer).error is None
        await half.closed()
        await half.close()


@pytest.mark.P10
@in_loop
async def test_who_vanishes_while_it_is_not_read_from_is_forgotten(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        pending = await caller.submit(("files", ["/etc/x"]))
        gone = await Caller.connect(tmp_path)
        for _ in range(MAX_CALLS + 1):
            gone.send("sessions.wait", id=pending["id"], states=[])
        while not any(one._queued for one in service._server._connections):
            await caller.call("daemon.status")
        gone._task.cancel()
        gone.writer.transport.abort()
        while service._server.connections > 1:
            await caller.call("daemon.status")


@pytest.mark.P10
@in_loop
async def test_unfinished_messages_of_one_account_have_a_budget(tmp_path: Path) -> None:
    config = "[daemon]\nmax_unfinished_bytes = 1000000\n"
    head = b"\x94\x00\x01\xa1x\x81\xa1y\xc6" + (2**23).to_bytes(4, "big")
    async with running_service(tmp_path, config=config), await Caller.connect(tmp_path) as caller:
        hoarders = [await Caller.connect(tmp_path) for _ in range(3)]
        for hoarder in hoarders:
            hoarder.writer.write(head + bytes(500_000))
        ended = [asyncio.ensure_future(hoarder.closed()) for hoarder in hoarders]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        assert sum(one.done() for one in ended) == 1
        assert (await caller.submit())["state"] == "executed"
        for hoarder in hoarders:
            await hoarder.close()
        await asyncio.gather(*ended, return_exceptions=True)
        async with await Caller.connect(tmp_path) as late:
            late.writer.write(head + bytes(1_200_000))
            assert isinstance(await late.raw_error(), TooMuchUnfinished)


@pytest.mark.P10
@in_loop
async def test_too_many_connections_of_all(tmp_path: Path) -> None:
    config = "[daemon]\nmax_total_connections = 2\n"
    async with (
        running_service(tmp_path, config=config),
        await Caller.connect(tmp_path) as one,
        await Caller.connect(tmp_path) as two,
    ):
        await one.call("daemon.status")
        await two.call("daemon.status")
        async with await Caller.connect(tmp_path) as third:
            assert isinstance(await third.raw_error(), TooManyConnections)
            await third.closed()


@in_loop
async def test_a_waiting_submitter_hears_the_id_at_once(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        answer = caller.send("sessions.submit", kind="python", script=script(("hang", None)))
        begun = (await caller.notification("session.changed")).params
        assert begun["state"] == "running"
        async with await Caller.connect(tmp_path) as other:
            await other.call("sessions.cancel", id=begun["id"])
        assert (await answer).result["id"] == begun["id"]  # type: ignore[index]


@pytest.mark.P10
@in_loop
async def test_too_many_connections_of_one_account(tmp_path: Path) -> None:
    config = "[daemon]\nmax_connections = 2\n"
    async with (
        running_service(tmp_path, config=config),
        await Caller.connect(tmp_path) as one,
        await Caller.connect(tmp_path) as two,
    ):
        await one.call("daemon.status")
        await two.call("daemon.status")
        async with await Caller.connect(tmp_path) as third:
            assert isinstance(await third.raw_error(), TooManySessions)
            await third.closed()
        await two.close()
        async with await Caller.connect(tmp_path) as third:
            await one.call("daemon.status")
            await third.call("daemon.status")


@pytest.mark.P10
@in_loop
async def test_a_slow_reader_is_disconnected_and_others_are_served(tmp_path: Path) -> None:
    config = "[daemon]\nmax_unread_bytes = 100000\n"
    async with (
        running_service(tmp_path, config=config) as service,
        await Caller.connect(tmp_path) as caller,
        await Caller.connect(tmp_path) as watcher,
    ):
        await watcher.call("sessions.watch")
        slow = socket.socket(socket.AF_UNIX)
        slow.connect(str(tmp_path / "run" / "shannotd.sock"))
        slow.sendall(pack(Request(1, "sessions.watch", {})))
        slow.setblocking(False)
        connected = service._server.connections
        assert connected == 2  # the slow one is accepted when the loop comes to it
        sessions = 0
        while sessions < 20 or service._server.connections == 3:
            await caller.submit(analysis="x" * 20_000)
            sessions += 1
            assert sessions < 1000
        assert service._server.connections == 2
        slow.close()
        await watcher.changed_to("executed")


@pytest.mark.P10
@in_loop
async def test_who_does_not_read_its_answers_is_not_read_from(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("many", 1000))
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "run" / "shannotd.sock"))
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=1)
        request = pack(Request(1, "sessions.get", {"id": session["id"]}))
        written = 0
        while written < 50_000 * len(request):
            writer.write(request)
            written += len(request)
            try:
                await asyncio.wait_for(asyncio.shield(writer.drain()), 0.5)
            except TimeoutError:
                break  # held back, as it should be
        else:
            pytest.fail("requests were taken without end")
        assert (await caller.submit())["state"] == "executed"
        del reader
        writer.transport.abort()


@pytest.mark.P10
@in_loop
async def test_clients_that_vanish_at_any_point(tmp_path: Path) -> None:
    chance = random.Random(7)
    requests = [
        pack(Request(1, "sessions.submit", {"kind": "python", "script": script(("output", "x"))})),
        pack(
            Request(1, "sessions.submit", {"kind": "python", "script": script(("files", ["/n"]))})
        ),
        pack(Request(1, "sessions.watch", {})),
        pack(Request(1, "sessions.list", {})),
    ]
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        for _ in range(200):
            data = b"".join(chance.choices(requests, k=chance.randint(1, 4)))
            gone = await Caller.connect(tmp_path)
            gone.writer.write(data[: chance.randint(0, len(data))])
            for _ in range(chance.randint(0, 5)):
                await asyncio.sleep(0)
            gone._task.cancel()
            gone.writer.transport.abort()
            if chance.random() < 0.2:
                await caller.call("daemon.status")
        while (await caller.call("daemon.status"))["running"] or service._server.connections > 1:
            pass
        assert (await caller.submit())["state"] == "executed"
        listed = await caller.call("sessions.list", limit=500)
        assert {session["state"] for session in listed["sessions"]} <= {"executed", "pending"}


frames = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    ).map(msgpack.packb),
    st.builds(
        lambda method, params: msgpack.packb([0, 1, method, params]),
        st.sampled_from(["sessions.list", "sessions.get", "daemon.status", "audit.tail", "x"]),
        st.dictionaries(
            st.sampled_from(["id", "limit", "states", "cursor"]), st.none() | st.text()
        ),
    ),
)


@pytest.mark.P10
@settings(
    max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.lists(frames, min_size=100, max_size=100))
def test_random_frames(tmp_path: Path, sent: list[bytes]) -> None:
    _survives(tmp_path, sent)


@pytest.mark.P10
@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(
    max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.lists(frames, min_size=100, max_size=100))
def test_a_hundred_thousand_random_frames(tmp_path: Path, sent: list[bytes]) -> None:
    _survives(tmp_path, sent)


def _survives(directory: Path, sent: list[bytes]) -> None:
    @in_loop
    async def scenario() -> None:
        async with running_service(directory), await Caller.connect(directory) as caller:
            for data in sent:
                async with await Caller.connect(directory) as other:
                    other.writer.write(data)
                    other.writer.write_eof()
                    await other.closed()
            assert (await caller.submit())["state"] == "executed"

    scenario()
