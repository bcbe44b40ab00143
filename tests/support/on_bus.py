"""A daemon in service mode that is on its bus, and a session that waits there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.service import Caller, running_service

FILE = "/var/lib/example/file"
ROLES = """
[daemon]
runner_socket = "/nowhere"
[roles]
submit = ["uid:{submitter}", "uid:0"]
review = ["uid:{reviewer}"]
audit = []
admin = []
"""


@asynccontextmanager
async def served(directory: Path, people: tuple[int, int, int]) -> AsyncIterator[Any]:
    """A daemon in service mode that is on its bus."""
    config = ROLES.format(submitter=people[0], reviewer=people[1])
    async with running_service(directory, config=config, embedded=False) as service:
        await on_bus(service)
        yield service


async def on_bus(service: Any) -> None:
    """Wait until the daemon has its name."""
    async with asyncio.timeout(30):
        while service._bus.missing is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def submitted(directory: Path, uid: int) -> dict[str, Any]:
    """A pending session of that account's."""
    agent = await Caller.connect_as(directory, uid, uid)
    async with agent:
        pending = await agent.submit(("files", [FILE]), name="a\x1b[31m <b>name</b>")
        assert pending["state"] == "pending"
        return dict(pending)
