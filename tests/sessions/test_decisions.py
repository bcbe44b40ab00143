"""The daemon's answers to calls of programs: by policy, and logged before they are given (P6)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shannotd.audit.log import AuditLog
from shannotd.sessions.decisions import SHOWN_CHARACTERS, shown
from shannotd.sessions.events import Decided, Event
from shannotd.wire.errors import StoreFull
from tests.support.service import Caller, in_loop, running_service

DENYING = """
[profiles.default]
always_deny = ["systemctl stop *"]
"""


def call(path: str, *arguments: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """The scripted runner's question about a call."""
    question = {
        "path": path,
        "program": path,
        "argv": [path, *arguments],
        "cwd": "/",
        "as_root": False,
        "start": False,
        **more,
    }
    return "decide", question


async def answers(caller: Caller, *actions: tuple[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The session's id and what the scripted runner was answered."""
    session = await caller.submit(*actions)
    assert session["error"] is None, session["error"]
    return session["id"], [json.loads(line) for line in session["stdout"].splitlines()]


@in_loop
async def test_a_call_is_decided_by_the_sessions_profile(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        _, (observed, reviewed) = await answers(
            caller, call("/usr/bin/df"), call("/usr/bin/systemctl", "reload", "nginx")
        )
        assert (observed["op"], observed["call"]) == ("verdict", 1)
        assert observed["decision"] == "observe"
        assert observed["observation"]["program"] == "/usr/bin/df"
        assert observed["recording"] is None
        assert reviewed["decision"] == "review"
        assert reviewed["recording"]["exit_status"] == 0
        assert reviewed["rule"] and reviewed["reason"] and reviewed["risk"]


@pytest.mark.P6
@in_loop
async def test_a_decision_is_in_the_log_before_it_is_given(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        order: list[str] = []
        append, decided = AuditLog.append, service._registry.events.decided

        def logging(self: AuditLog, event: str, **more: Any) -> Any:
            order.append(event)
            return append(self, event, **more)

        def telling(*given: Any) -> None:
            order.append("told")
            decided(*given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AuditLog, "append", logging)
            patch.setattr(service._registry.events, "decided", telling)
            identifier, _ = await answers(caller, call("/usr/bin/systemctl", "x" * 5000))
        assert order.index("command.decided") < order.index("told")
        records = await caller.call("audit.tail", session=identifier)
        (record,) = [one for one in records if one["event"] == "command.decided"]
        details = record["details"]
        assert details["decision"] == "review"
        assert details["program"] == "/usr/bin/systemctl"
        assert len(details["command"]) < SHOWN_CHARACTERS + 40
        assert details["command"].endswith("characters)")


@pytest.mark.P6
@in_loop
async def test_what_cannot_be_logged_is_denied(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:

        async def refuse() -> None:
            raise StoreFull(reason="No space left on device", path="audit")

        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(service._journal, "flush", refuse)
            _, (answer,) = await answers(caller, call("/usr/bin/df"))
        assert (answer["decision"], answer["rule"]) == ("deny", "audit")


@in_loop
async def test_a_start_is_logged_only_if_it_is_denied(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path, config=DENYING),
        await Caller.connect(tmp_path) as caller,
    ):
        identifier, (allowed, denied) = await answers(
            caller,
            call("/usr/bin/ls", start=True),
            call("/usr/bin/systemctl", "stop", "x", start=True),
        )
        assert (allowed["decision"], denied["decision"]) == ("contain", "deny")
        records = await caller.call("audit.tail", session=identifier)
        decided = [one["details"] for one in records if one["event"] == "command.decided"]
        assert [one["decision"] for one in decided] == ["deny"]


@in_loop
async def test_who_listens_is_told(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        told: list[Event] = []
        service._registry.events.listen(told.append)
        identifier, _ = await answers(caller, call("/usr/bin/df", "-h"))
        (event,) = [one for one in told if isinstance(one, Decided)]
        assert (event.session, event.notification.method) == (identifier, "session.command")
        assert event.notification.params["decision"] == "observe"
        assert event.notification.params["command"] == "/usr/bin/df -h"


@pytest.mark.P10
@in_loop
async def test_a_question_that_is_none_ends_the_session(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await caller.submit(("decide", {"path": 1}))
        assert session["error"]["code"] == "runner_lost"


def test_what_is_shown_of_words_is_bounded() -> None:
    assert shown(["a b", "c"]) == "'a b' c"
    assert len(shown(["x" * 100_000])) < SHOWN_CHARACTERS + 40
