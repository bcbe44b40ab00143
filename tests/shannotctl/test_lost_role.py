"""Commands whose user loses the role under them say so and end: none waits for what is not told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shannotctl.async_client import AsyncClient
from shannotctl.client import Client
from shannotd.service import Service
from shannotd.wire.errors import NotAllowed, NotFound
from shannotd.wire.session import State
from tests.support.accounts import is_root, temporary_account
from tests.support.service import (
    SECONDS,
    Caller,
    in_loop,
    public_directory,
    running_service,
    service_config,
    socket_of,
)

pytestmark = [
    pytest.mark.P5,
    pytest.mark.skipif(not is_root(), reason="needs root, to submit as another account"),
]

FILES = ("files", ["/etc/example.conf"])


@pytest.fixture
def account() -> Iterator[str]:
    with temporary_account() as name:
        yield name


@pytest.fixture
def directory() -> Iterator[Path]:
    with public_directory() as made:
        yield made


async def lose(service: Service, directory: Path, account: str) -> None:
    """Root submits still, and reviews no more."""
    config = service_config(submit=["root", account], review=[account])
    (directory / "shannotd.toml").write_text(config)
    await service.reload()


def reviewing(account: str) -> str:
    return service_config(submit=["root", account], review=["uid:0"])


async def running(directory: Path, *words: str) -> Any:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shannotctl", *words),
        env={**os.environ, "SHANNOT_SOCKET": str(socket_of(directory))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("words", [("watch",), ("watch", "ID"), ("notify", "--print")])
def test_a_command_that_is_told_no_more_says_so_and_ends(
    directory: Path, account: str, words: tuple[str, ...]
) -> None:
    @in_loop
    async def scenario() -> None:
        async with (
            running_service(directory, config=reviewing(account), embedded=False) as service,
            await Caller.connect_account(directory, account) as agent,
        ):
            theirs = await agent.submit(FILES, name="theirs")
            given = [theirs["id"] if word == "ID" else word for word in words]
            process = await running(directory, *given)
            if words == ("watch",):
                # It prints what happens once it watches.
                line = asyncio.ensure_future(process.stdout.readline())
                while not line.done():
                    await agent.submit(name="other")
                    await asyncio.wait([line], timeout=0.1)
            else:
                line = asyncio.ensure_future(process.stdout.readline())
            assert await asyncio.wait_for(line, SECONDS)
            await lose(service, directory, account)
            await agent.call("sessions.cancel", id=theirs["id"])
            output, error = await asyncio.wait_for(process.communicate(), SECONDS)
            assert process.returncode == 6
            assert b"lost the role" in error
            assert b"cancelled" not in output

    scenario()


def test_no_client_waits_for_what_is_told_no_more(directory: Path, account: str) -> None:
    @in_loop
    async def scenario() -> None:
        async with (
            running_service(directory, config=reviewing(account), embedded=False) as service,
            await Caller.connect_account(directory, account) as agent,
        ):
            id = (await agent.submit(FILES))["id"]
            path = str(socket_of(directory))
            begun: asyncio.Queue[str] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def tell(what: str) -> None:
                loop.call_soon_threadsafe(begun.put_nowait, what)

            async def watch() -> None:
                async with AsyncClient(path) as client:
                    async for _ in client.watch(id):
                        tell("watch")

            async def wait() -> None:
                async with AsyncClient(path) as client:
                    await client.status()
                    tell("wait")
                    await client.wait(id, [State.EXECUTED])

            def blocking() -> None:
                with Client(path) as client:
                    client.subscribe(id)
                    tell("blocking")
                    client.wait(id, on_event=lambda event: None)

            def blocking_watch() -> None:
                with Client(path) as client:
                    for _ in client.watch(id):
                        tell("blocking watch")

            waiting = [
                asyncio.ensure_future(one)
                for one in (
                    watch(),
                    wait(),
                    asyncio.to_thread(blocking),
                    asyncio.to_thread(blocking_watch),
                )
            ]
            for _ in waiting:
                await asyncio.wait_for(begun.get(), SECONDS)
            await asyncio.sleep(0)
            await lose(service, directory, account)
            await agent.call("sessions.cancel", id=id)
            results = await asyncio.wait_for(
                asyncio.gather(*waiting, return_exceptions=True), SECONDS
            )
            watched, waited, blocked, watched_too = results
            assert isinstance(watched, NotAllowed) and isinstance(watched_too, NotAllowed)
            assert isinstance(waited, NotFound) and isinstance(blocked, NotAllowed | NotFound)

    scenario()
