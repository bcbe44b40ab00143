"""Plans that reviewers change while something else becomes of them, or the runner is slow."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from shannotd.sessions import amending
from shannotd.sessions.store import Store
from shannotd.wire.errors import NotAmendable, WrongState, error_from_wire
from tests.support.service import Caller, in_loop, running_service
from tests.support.sessions import amend, asked, get, referring

PATHS = ["/srv/example/a", "/srv/example/b", "/srv/example/c"]


def slow(tmp_path: Path) -> tuple[str, Path]:
    """A path of which the runner waits for a FIFO, and that FIFO."""
    gate = tmp_path / "slow.go"
    os.mkfifo(gate)
    return str(tmp_path / "slow"), gate


@in_loop
async def test_a_runner_that_takes_too_long_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, gate = slow(tmp_path)
    monkeypatch.setattr(amending, "_SECONDS", 0.2)
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", [path, *PATHS]))
        with pytest.raises(NotAmendable, match=r"more than 0\.2 seconds"):
            await amend(caller, old, drop=[1])
        assert await get(caller, old) == old
        with await asyncio.to_thread(gate.open, "wb"):
            pass


@pytest.mark.P2
@pytest.mark.parametrize("method", ["sessions.reject", "sessions.cancel"])
@in_loop
async def test_one_that_was_stopped_meanwhile_is_not_replaced(tmp_path: Path, method: str) -> None:
    path, gate = slow(tmp_path)
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as one,
        await Caller.connect(tmp_path) as other,
    ):
        old = await one.submit(("files", [path, *PATHS]))
        answer = one.send("sessions.amend", **asked(old, drop=[1]))
        opened = asyncio.ensure_future(asyncio.to_thread(gate.open, "wb"))
        with await opened:
            await other.call(method, id=old["id"])
        assert isinstance(error_from_wire((await answer).error), WrongState)
        assert (await get(other, old))["replaced_by"] is None
        assert (await other.call("sessions.list"))["total"] == 1
    assert referring(tmp_path) == {old["id"]}


@pytest.mark.P2
@in_loop
async def test_of_two_changes_at_once_one_holds(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as one,
        await Caller.connect(tmp_path) as other,
    ):
        old = await one.submit(("files", PATHS))
        answers = await asyncio.gather(
            one.send("sessions.amend", **asked(old, drop=[0])),
            other.send("sessions.amend", **asked(old, drop=[1])),
        )
        errors = [answer.error for answer in answers if answer.error is not None]
        assert [type(error_from_wire(error)) for error in errors] == [WrongState]
        assert (await one.call("sessions.list"))["total"] == 2


@pytest.mark.P2
@in_loop
async def test_one_that_expires_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path, gate = slow(tmp_path)
    async with running_service(tmp_path) as service, await Caller.connect(tmp_path) as caller:
        old = await caller.submit(("files", [path, *PATHS]))
        answer = caller.send("sessions.amend", **asked(old, drop=[1]))
        with await asyncio.to_thread(gate.open, "wb"):
            live = service._registry.current(old["id"])
            assert live is not None
            service._registry._expire(live, old["expires_at"] + 1)
        assert isinstance(error_from_wire((await answer).error), WrongState)
        assert (await get(caller, old))["state"] == "expired"


@pytest.mark.P2
@pytest.mark.P6
@in_loop
async def test_one_that_was_stopped_while_it_was_written_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running_service(tmp_path),
        await Caller.connect(tmp_path) as one,
        await Caller.connect(tmp_path) as other,
    ):
        old = await one.submit(("files", PATHS))
        commit = Store.commit

        async def stop_first(store: Store, *entries: Any) -> None:
            with monkeypatch.context() as original:
                original.setattr(Store, "commit", commit)
                await commit(store, *entries)
                await other.call("sessions.reject", id=old["id"], reason="no")

        with monkeypatch.context() as patched:
            patched.setattr(Store, "commit", stop_first)
            with pytest.raises(WrongState):
                await amend(one, old, drop=[0])
        over = await get(one, old)
        assert (over["state"], over["reason"], over["replaced_by"]) == ("rejected", "no", None)
        records = await one.call("audit.tail")
        (void,) = [each for each in records if each["event"] == "session.amendment_void"]
        stopped = await one.call("sessions.get", id=void["session"])
        assert stopped["state"] == "cancelled"
        with pytest.raises(WrongState):
            await one.call("sessions.approve", id=stopped["id"], digest=stopped["digest"])
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        assert (await get(caller, old))["reason"] == "no"
        assert (await get(caller, stopped))["state"] == "cancelled"
