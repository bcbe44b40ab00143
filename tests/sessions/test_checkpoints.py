"""What is saved of sessions: told, dropped on request, and kept for as long as the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shannotd.config import CheckpointSettings
from shannotd.sessions.checkpoints import superfluous
from shannotd.wire.checkpoint import Checkpoint
from shannotd.wire.errors import (
    CheckpointInUse,
    CheckpointUnknown,
    NotFound,
    RunnerUnreachable,
    StoreFull,
)
from tests.support.service import Caller, in_loop, running_service
from tests.support.sessions import events, executed, get, roll_back

NOW = 1_000_000.0


def of(name: str, age: float, size: int, *, finished: bool = True) -> Checkpoint:
    return Checkpoint(name, NOW - age, size, finished)


@pytest.mark.parametrize(
    ("checkpoints", "needed", "expected"),
    [
        ([], set(), []),
        ([of("a", 50, 10), of("b", 10, 10)], set(), []),
        ([of("a", 101, 10), of("b", 10, 10)], set(), [("a", "max_age_seconds")]),
        ([of("a", 101, 10)], set(), [("a", "max_age_seconds")]),
        ([of("a", 50, 60), of("b", 10, 60)], set(), [("a", "max_bytes")]),
        ([of("a", 50, 60), of("b", 40, 60), of("c", 9, 30)], set(), [("a", "max_bytes")]),
        # The newest is never too large, but may be too old.
        ([of("a", 50, 1000)], set(), []),
        ([of("a", 50, 10), of("b", 10, 1000)], set(), [("a", "max_bytes")]),
        # What is needed stays, and counts.
        ([of("a", 500, 60), of("b", 40, 60), of("c", 9, 1)], {"a"}, [("b", "max_bytes")]),
        ([of("a", 500, 60, finished=False), of("b", 9, 60)], set(), []),
    ],
)
def test_the_oldest_are_dropped_first(
    checkpoints: list[Checkpoint], needed: set[str], expected: list[tuple[str, str]]
) -> None:
    settings = CheckpointSettings(max_age_seconds=100, max_bytes=100)
    found = superfluous(checkpoints, settings, NOW, needed)
    assert [(one.session, reason) for one, reason in found] == expected


@in_loop
async def test_they_are_listed_and_looked_at(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        assert await caller.call("checkpoints.list") == []
        session = await executed(caller, "/srv/one", "/srv/two", name="deploy")
        (listed,) = await caller.call("checkpoints.list")
        assert listed["session"] == session["id"] and listed["name"] == "deploy"
        assert (listed["size"], listed["finished"], listed["state"]) == (4096, True, "executed")
        shown = await caller.call("checkpoints.get", id=session["id"][:8])
        assert shown["checkpoint"]["session"] == session["id"]
        assert [step["path"] for step in shown["steps"]] == ["/srv/one", "/srv/two"]
        assert shown["steps"][1] == {
            "step": 1,
            "change": "create",
            "path": "/srv/two",
            "entries": 1,
            "size": 7,
        }
        with pytest.raises(NotFound):
            await caller.call("checkpoints.get", id="f" * 32)
        nothing = await caller.submit(("output", "x"))
        with pytest.raises(CheckpointUnknown):
            await caller.call("checkpoints.get", id=nothing["id"])


@pytest.mark.P6
@in_loop
async def test_a_dropped_one_is_logged_and_the_session_says_so(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        session = await executed(caller)
        await caller.call("sessions.watch")
        await caller.call("checkpoints.drop", id=session["id"])
        assert (await caller.changed_to("executed"))["checkpoint"] == "dropped"
        assert (await get(caller, session))["checkpoint"] == "dropped"
        assert await caller.call("checkpoints.list") == []
        record = (await events(caller, session))[-1]
        assert record["event"] == "checkpoint.dropped"
        assert record["details"] == {"reason": "request"}
        for method in ("checkpoints.drop", "checkpoints.get", "sessions.rollback"):
            with pytest.raises(CheckpointUnknown):
                await caller.call(method, id=session["id"])


@pytest.mark.P6
@in_loop
async def test_nothing_is_dropped_that_cannot_be_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        session = await executed(caller)

        async def full(*_: object, **__: object) -> None:
            raise StoreFull(reason="full", path="/")

        with monkeypatch.context() as patched:
            patched.setattr(service._journal, "decide", full)
            with pytest.raises(StoreFull):
                await caller.call("checkpoints.drop", id=session["id"])
        assert len(await caller.call("checkpoints.list")) == 1


@in_loop
async def test_what_a_rollback_waits_for_is_not_dropped(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        session = await executed(caller, "/srv/ancient")
        back = await roll_back(caller, session)
        with pytest.raises(CheckpointInUse):
            await caller.call("checkpoints.drop", id=session["id"])
        await service._checkpoints.expire()
        assert len(await caller.call("checkpoints.list")) == 1
        await caller.call("sessions.reject", id=back["id"])
        await service._checkpoints.expire()
        assert await caller.call("checkpoints.list") == []
        assert (await get(caller, session))["checkpoint"] == "dropped"
        record = (await events(caller, session))[-1]
        assert record["uid"] is None and record["details"] == {"reason": "max_age_seconds"}


@in_loop
async def test_what_is_too_much_goes_by_age(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        first = await executed(caller, "/srv/huge-1")
        second = await executed(caller, "/srv/huge-2")
        await service._checkpoints.expire()
        listed = await caller.call("checkpoints.list")
        assert [one["session"] for one in listed] == [second["id"]]
        assert (await get(caller, first))["checkpoint"] == "dropped"


@in_loop
async def test_the_settings_are_those_of_the_configuration(tmp_path: Path) -> None:
    config = "[checkpoints]\nmax_age_seconds = 1e9\nmax_bytes = 100_000_000_000\n"
    async with (
        running_service(tmp_path, config=config) as service,
        await Caller.connect(tmp_path) as caller,
    ):
        await executed(caller, "/srv/ancient-huge-1")
        await executed(caller, "/srv/huge-2")
        await service._checkpoints.expire()
        assert len(await caller.call("checkpoints.list")) == 2
        (tmp_path / "shannotd.toml").write_text("")
        await service.reload()
        await service._checkpoints.expire()
        assert len(await caller.call("checkpoints.list")) == 1


@pytest.mark.P8
@pytest.mark.parametrize("told", [None, [{"session": 1}], "x"])
@in_loop
async def test_a_runner_that_tells_something_strange(
    told: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:

        async def checkpoints() -> Any:
            return told

        monkeypatch.setattr(service._runner, "checkpoints", checkpoints)
        with pytest.raises(RunnerUnreachable):
            await caller.call("checkpoints.list")
