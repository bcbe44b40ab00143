"""The blocking SDK against a scripted daemon."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shannotctl.client import (
    Changed,
    Client,
    DaemonUnreachable,
    Output,
    ScriptKind,
    State,
    StepApplied,
    Submission,
)
from shannotd.wire.audit import AuditRecord, AuditVerdict
from shannotd.wire.errors import (
    BadFrame,
    DigestMismatch,
    FrameTooLarge,
    NotAllowed,
    NotFound,
    ShannotError,
    TooManySessions,
)
from shannotd.wire.rpc import Notification, Response, pack
from shannotd.wire.session import SessionPage
from tests.support.peer import Link, Peer
from tests.support.samples import ABSENT, ID, STATUS, bare, file_step, session


def test_submit_sends_the_script_and_passes_output_on(peer: Peer) -> None:
    def submit(link: Link, params: dict[str, Any]) -> Any:
        link.notify("session.output", {"id": ID, "stream": "stdout", "data": b"2"})
        link.notify("session.output", {"id": ID, "stream": "stderr", "data": b"\xff"})
        link.notify("session.news", {"something": "of a newer daemon"})
        return session(stdout=b"2", stderr=b"\xff")

    peer.handlers["sessions.submit"] = submit
    seen: list[Output] = []
    submission = Submission(
        ScriptKind.PYTHON, b"print(1+1)", arguments=("a\udcff", ""), stdin=b"\0", cwd="/srv"
    )
    with Client(peer.path) as client:
        ended = client.submit(submission, seen.append)
        assert client.last_session == ID
    assert ended.state is State.EXECUTED and ended.stdout == b"2"
    assert seen == [Output(ID, "stdout", b"2"), Output(ID, "stderr", b"\xff")]
    (params,) = peer.asked("sessions.submit")
    assert params["kind"] == "python" and params["script"] == b"print(1+1)"
    assert params["arguments"] == ["a\udcff", ""] and params["stdin"] == b"\0"
    assert params["wait"] is True and params["cwd"] == "/srv"


def test_the_plan_and_its_digest_come_from_the_received_bytes(peer: Peer) -> None:
    full = session(file_step("modify", "/etc/x"), digest="f" * 64)
    peer.answers("sessions.get", full)
    with Client(peer.path) as client:
        plan = client.get(ID).plan
    assert plan is not None
    assert plan.digest != "f" * 64
    assert plan.steps[0].path == "/etc/x" and plan.steps[0].diff is not None


def test_list_follows_every_page(peer: Peer) -> None:
    sessions = [bare(session(), id=f"{number:032x}") for number in range(5)]

    def page(link: Link, params: dict[str, Any]) -> Any:
        begin = int(params.get("cursor", "0"))
        following = str(begin + 2) if begin + 2 < len(sessions) else None
        return SessionPage(tuple(sessions[begin : begin + 2]), len(sessions), following)

    peer.handlers["sessions.list"] = page
    with Client(peer.path) as client:
        found = list(client.list(states=[State.EXECUTED], name="fix.py"))
    assert [item.id for item in found] == [item.id for item in sessions]
    assert [params.get("cursor") for params in peer.asked("sessions.list")] == [None, "2", "4"]
    assert all(params["states"] == ["executed"] for params in peer.asked("sessions.list"))


@pytest.mark.P2
def test_approve_sends_the_digest(peer: Peer) -> None:
    peer.answers("sessions.approve", session(state=State.APPROVED))
    with Client(peer.path) as client:
        client.approve(ID, "d" * 64, "looks fine")
    assert peer.asked("sessions.approve") == [
        {"id": ID, "digest": "d" * 64, "comment": "looks fine"}
    ]


def test_reject_cancel_wait_and_status_send_what_they_are_told(peer: Peer) -> None:
    peer.answers("sessions.reject", session(state=State.REJECTED))
    peer.answers("sessions.cancel", session(state=State.CANCELLED))
    peer.answers("sessions.wait", session())
    peer.answers("daemon.status", STATUS)
    with Client(peer.path) as client:
        assert client.reject(ID, "no").state is State.REJECTED
        assert client.cancel(ID).state is State.CANCELLED
        assert client.wait(ID, [State.PENDING], timeout=3.5).state is State.EXECUTED
        assert client.status() == STATUS
    assert peer.asked("sessions.wait") == [{"id": ID, "states": ["pending"], "timeout": 3.5}]
    assert peer.asked("sessions.reject") == [{"id": ID, "reason": "no"}]


def test_watching_one_session_begins_with_its_state_and_ends_with_its_last(peer: Peer) -> None:
    pending = session(file_step("modify", "/etc/x"))

    def get(link: Link, params: dict[str, Any]) -> Any:
        return pending

    def watch(link: Link, params: dict[str, Any]) -> Any:
        return {}

    def wait_then_tell(link: Link, params: dict[str, Any]) -> Any:
        for state in (State.APPROVED, State.EXECUTING):
            link.notify("session.changed", bare(pending, state=state))
        link.notify("session.step", {"id": ID, "index": 0, "applied": "done"})
        link.notify("session.changed", bare(pending, state=State.EXECUTED))
        return STATUS

    peer.handlers.update({"sessions.get": get, "sessions.watch": watch})
    peer.handlers["daemon.status"] = wait_then_tell
    with Client(peer.path) as client:
        events = client.watch(ID)
        first = next(events)
        assert isinstance(first, Changed) and first.session.state is State.PENDING
        client.status()
        rest = list(events)
    assert [type(event) for event in rest] == [Changed, Changed, StepApplied, Changed]
    assert rest[2] == StepApplied(ID, 0, "done")


def test_watching_a_session_that_has_ended_ends_at_once(peer: Peer) -> None:
    peer.answers("sessions.watch", {})
    peer.answers("sessions.get", session(state=State.EXPIRED))
    with Client(peer.path) as client:
        assert [type(event) for event in client.watch(ID)] == [Changed]


def test_events_between_subscribing_and_waiting_are_not_lost(peer: Peer) -> None:
    def approve(link: Link, params: dict[str, Any]) -> Any:
        link.notify("session.step", {"id": ID, "index": 0, "applied": "done"})
        return session(state=State.APPROVED)

    peer.answers("sessions.watch", {})
    peer.handlers["sessions.approve"] = approve
    peer.answers("sessions.wait", session())
    seen: list[object] = []
    with Client(peer.path) as client:
        client.subscribe(ID)
        client.approve(ID, "d" * 64)
        client.wait(ID, on_event=seen.append)
    assert seen == [StepApplied(ID, 0, "done")]


def test_blobs_come_in_pieces(peer: Peer) -> None:
    content = b"0123456789"

    def piece(link: Link, params: dict[str, Any]) -> Any:
        begin = params["offset"]
        return {"data": content[begin : begin + 4], "size": len(content)}

    peer.handlers["blobs.get"] = piece
    with Client(peer.path) as client:
        assert list(client.blobs(ID, "a" * 64)) == [b"0123", b"4567", b"89"]


def test_an_empty_blob_has_no_pieces(peer: Peer) -> None:
    peer.answers("blobs.get", {"data": b"", "size": 0})
    with Client(peer.path) as client:
        assert list(client.blobs(ID, "a" * 64)) == []


def test_the_audit_log(peer: Peer) -> None:
    record = AuditRecord(1, 2.0, "session.submitted", 0, ID, {"name": "x"}, "h", "{}")
    verdict = AuditVerdict(1, 1, "h", 2.0, 2.0)
    peer.answers("audit.tail", [record])
    peer.answers("audit.verify", verdict)
    with Client(peer.path) as client:
        assert client.audit_tail(10, ID) == (record,)
        assert client.audit_verify() == verdict
    assert peer.asked("audit.tail") == [{"limit": 10, "session": ID}]


@pytest.mark.P10
@pytest.mark.parametrize(
    "error",
    [
        NotFound(id="3f"),
        DigestMismatch(id=ID, digest="a" * 64),
        TooManySessions(count=5, kind="pending"),
    ],
)
def test_errors_arrive_as_their_own_class(peer: Peer, error: ShannotError) -> None:
    peer.answers("sessions.get", error)
    with Client(peer.path) as client:
        with pytest.raises(type(error)) as raised:
            client.get(ID)
        assert str(raised.value) == str(error)
        assert raised.value.details == error.details
        peer.answers("sessions.get", session())
        assert client.get(ID).id == ID


@pytest.mark.P10
def test_answers_that_are_none_are_one_typed_error(peer: Peer) -> None:
    peer.answers("sessions.get", {"id": 7})
    with Client(peer.path) as client, pytest.raises(BadFrame, match=r"sessions\.get"):
        client.get(ID)


@pytest.mark.P10
def test_bytes_that_are_no_frames(peer: Peer) -> None:
    peer.handlers["sessions.get"] = lambda link, params: link.raw(b"\xc1\xc1")
    with Client(peer.path) as client, pytest.raises(BadFrame):
        client.get(ID)


@pytest.mark.P10
def test_a_daemon_that_goes_away(peer: Peer) -> None:
    peer.handlers["sessions.get"] = lambda link, params: link.close()
    peer.answers("daemon.status", STATUS)
    with Client(peer.path) as client:
        with pytest.raises(DaemonUnreachable, match="closed the connection"):
            client.get(ID)
        assert client.status() == STATUS, "the next call opens a new connection"


@pytest.mark.P10
def test_an_error_about_the_connection_itself(peer: Peer) -> None:
    error = FrameTooLarge(limit=16)
    peer.handlers["sessions.get"] = lambda link, params: link.raw(
        pack(Response(0, error.to_wire(), None))
    )
    with Client(peer.path) as client, pytest.raises(FrameTooLarge):
        client.get(ID)


@pytest.mark.P10
def test_a_refusal_is_heard_also_when_the_request_could_not_be_sent_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        with Client(path) as client:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(pack(Response(0, FrameTooLarge(limit=16).to_wire(), None)))
            with pytest.raises(FrameTooLarge):
                client.submit(Submission(ScriptKind.FILE, b"x" * 4_000_000))


@pytest.mark.P10
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such socket"),
        (lambda path: path.write_bytes(b""), "no daemon listens"),
        (lambda path: path.mkdir(), "no daemon listens"),
    ],
)
def test_nobody_answers(tmp_path: Path, make: Any, reason: str) -> None:
    path = tmp_path / "s"
    make(path)
    with pytest.raises(DaemonUnreachable, match=reason):
        Client(str(path)).connect()


@pytest.mark.P10
def test_a_path_that_is_too_long_for_a_socket() -> None:
    with pytest.raises(DaemonUnreachable, match="too long"):
        Client("/" + "x" * 200).connect()


def test_idle_calls_while_an_answer_is_awaited(peer: Peer) -> None:
    import threading

    called = threading.Event()

    def slow(link: Link, params: dict[str, Any]) -> Any:
        assert called.wait(30)
        return STATUS

    peer.handlers["daemon.status"] = slow
    with Client(peer.path, on_idle=called.set) as client:
        assert client.status() == STATUS


def test_a_session_in_a_list_has_no_plan(peer: Peer) -> None:
    full = session(file_step("create", "/etc/x", before=ABSENT))
    assert bare(full).plan is None
    assert replace(full).plan is not None


def test_importing_the_client_loads_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import shannotctl.client;"
        "heavy = {'asyncio', 'click', 'rich', 'pygments', 'prompt_toolkit', 'pathlib',"
        " 'subprocess', 'shannotd.server', 'shannotd.runner'};"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert shown.stdout == b"[]\n"


TOLD = pack(Notification("session.step", {"id": ID, "index": 0, "applied": "done"}))


def test_no_event_is_lost_that_comes_with_the_answer(peer: Peer) -> None:
    def watch(link: Link, params: dict[str, Any]) -> Any:
        link.raw(pack(Response(1, None, {})) + TOLD + TOLD)
        raise OSError

    peer.handlers["sessions.watch"] = watch
    with Client(peer.path) as client:
        events = client.watch()
        assert [type(next(events)) for _ in range(2)] == [StepApplied, StepApplied]


def test_what_came_before_a_refusal_is_not_lost(peer: Peer) -> None:
    """A daemon gives the answers first that are waited for, and tells what happened, then it
    refuses to go on: all of that may arrive at once."""
    refusal = pack(Response(0, NotAllowed(uid=1, action="watch", reason="why").to_wire(), None))

    def watch(link: Link, params: dict[str, Any]) -> Any:
        link.raw(pack(Response(1, None, {})) + TOLD + refusal)
        raise OSError

    peer.handlers["sessions.watch"] = watch
    with Client(peer.path) as client:
        events = client.watch()
        assert isinstance(next(events), StepApplied)
        with pytest.raises(NotAllowed):
            next(events)
        peer.answers("sessions.watch", {})
        client.subscribe()  # on another connection
