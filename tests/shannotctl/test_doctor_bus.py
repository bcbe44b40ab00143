"""What `shannotctl doctor` and `status` say of D-Bus and polkit."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shannotctl.client import DaemonStatus
from shannotctl.doctor import OK, WARNING, polkit_check, served_bus_check
from tests.support.bus import message_bus
from tests.support.service import SECONDS, in_loop, running_service, socket_of

STATUS = DaemonStatus(
    version="1",
    mode="service",
    pid=1,
    uid=1,
    started_at=0.0,
    builder="privileged",
    pool_ready=1,
    running=0,
    pending=0,
    roles=(),
    store="/nowhere",
    bus="system",
)


@pytest.mark.parametrize(
    ("changes", "level", "said", "remedy"),
    [
        ({}, OK, "on the system bus", None),
        ({"bus_missing": "pydbus or PyGObject is missing"}, WARNING, "missing", "python3-gi"),
        ({"bus_missing": "there is no bus"}, WARNING, "no bus", "dbus running"),
        ({"bus_missing": "not allowed to own"}, WARNING, "not allowed", "Shannot1.conf"),
        ({"bus_missing": "none", "mode": "embedded", "bus": "session"}, OK, "session bus", None),
    ],
)
def test_the_bus_of_a_daemon(
    changes: dict[str, Any], level: str, said: str, remedy: str | None
) -> None:
    check = served_bus_check(replace(STATUS, **changes))
    assert check.level == level and said in check.detail
    assert (check.remedy is None) if remedy is None else (remedy in str(check.remedy))


def test_polkit_of_a_daemon() -> None:
    assert polkit_check(STATUS).level == OK
    check = polkit_check(replace(STATUS, polkit_missing="it is not installed"))
    assert check.level == WARNING and "nobody approves what he submitted" in check.detail
    assert "polkitd" in str(check.remedy)


@in_loop
async def test_of_a_daemon_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(*words: str) -> Any:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shannotctl", *words, "--json"),
            env={**os.environ, "SHANNOT_SOCKET": str(socket_of(tmp_path))},
            stdout=subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 2 * SECONDS)
        return json.loads(out)

    with message_bus(system=False) as bus:
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
        async with running_service(tmp_path) as service:
            async with asyncio.timeout(SECONDS):
                while service._bus is None or service._bus.missing:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            (check,) = [one for one in await told("doctor") if one["name"] == "D-Bus"]
            assert check["ok"] and "the daemon is on the session bus" in check["detail"]
            status = (await told("status"))["daemon"]
            assert status["bus"] == "session" and status["bus_missing"] is None
