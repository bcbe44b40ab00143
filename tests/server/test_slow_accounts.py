"""An account database that does not answer holds up who is asked about, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotctl.client import Client
from shannotd.config import RoleRules
from shannotd.server.peers import account_name
from shannotd.server.roles import ServiceRoles
from shannotd.sessions.access import Role
from shannotd.wire.errors import ShannotError
from shannotd.wire.submission import ScriptKind, Submission
from tests.support.accounts import is_root
from tests.support.daemon import running_daemon
from tests.support.service import (
    SECONDS,
    Caller,
    in_loop,
    public_directory,
    running_service,
    service_config,
)

pytestmark = [
    pytest.mark.P5,
    pytest.mark.P10,
    pytest.mark.skipif(not is_root(), reason="needs root, to connect as other accounts"),
]

UNKNOWN = 987_654  # an account of which only its number is known
FILES = ("files", ["/srv/example/new"])


@pytest.fixture
def directory() -> Iterator[Path]:
    with public_directory() as made:
        yield made


def test_names_that_are_not_found_hold_nobody_up(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may, asked = threading.Event(), list[int]()

    def name(uid: int) -> str:
        asked.append(uid)
        if uid == UNKNOWN:
            assert may.wait(SECONDS)
        return account_name(uid)

    monkeypatch.setattr("shannotd.server.methods.account_name", name)
    config = service_config(submit=["uid:0", f"uid:{UNKNOWN}"], review=["uid:0"])

    @in_loop
    async def scenario() -> None:
        async with (
            running_service(directory, config=config, embedded=False),
            await Caller.connect(directory) as root,
            await Caller.connect_as(directory, UNKNOWN) as unknown,
        ):
            answers = [unknown.send("sessions.submit", kind="python", script=b"[]")]
            answers += [
                unknown.send("sessions.submit", kind="python", script=b"[]") for _ in range(20)
            ]
            await unknown.call("daemon.status")  # they are begun
            try:
                async with asyncio.timeout(SECONDS / 3):
                    session = await root.submit(FILES)
                    assert (await root.call("sessions.get", id=session["id"]))["state"] == "pending"
                    await root.call("sessions.reject", id=session["id"])
                assert asked.count(UNKNOWN) == 1
            finally:
                may.set()
            for answer in answers:
                assert (await answer).result["submitter_name"] == str(UNKNOWN)

    scenario()


def test_the_configuration_that_was_read_last_is_in_force(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the groups of the one before are found later than its own."""
    begun, may = threading.Event(), threading.Event()

    def resolved(rules: RoleRules) -> ServiceRoles:
        made = ServiceRoles(rules)
        if rules.audit == ("uid:1",):
            begun.set()
            assert may.wait(SECONDS)
        return made

    config = service_config(submit=["uid:0"], review=["uid:0"])

    @in_loop
    async def scenario() -> None:
        async with (
            running_service(directory, config=config, embedded=False) as service,
            await Caller.connect(directory) as root,
        ):
            monkeypatch.setattr("shannotd.service.ServiceRoles", resolved)
            file = directory / "shannotd.toml"
            file.write_text(service_config(submit=["uid:0"], review=["uid:0"], audit=["uid:1"]))
            first = asyncio.ensure_future(service.reload())
            assert await asyncio.to_thread(begun.wait, SECONDS)
            file.write_text(service_config(submit=["uid:0"], review=[]))
            second = asyncio.ensure_future(service.reload())
            # Whoever asks meanwhile is answered.
            assert Role.REVIEW in (await root.call("daemon.status"))["roles"]
            await asyncio.wait([second], timeout=0.2)
            may.set()
            await asyncio.gather(first, second)
            assert Role.REVIEW not in (await root.call("daemon.status"))["roles"]

    scenario()


# Instead of the account database: it is asked, which the pipe tells, and never answers.
SILENT = """
import sys, time
from shannotd.server import methods, standing
from shannotd.__main__ import main

def ask(uid):
    open(sys.argv[1], "w").close()
    time.sleep(3600)

methods.account_name = standing.current_groups = ask
sys.exit(main(sys.argv[sys.argv.index("shannotd") + 1 :]))
"""


def test_a_daemon_stops_although_the_database_never_answers(tmp_path: Path) -> None:
    pipe = tmp_path / "asked"
    os.mkfifo(pipe)
    prefix = (sys.executable, "-c", SILENT, str(pipe))
    with (
        running_daemon(tmp_path, prefix=prefix) as daemon,
        daemon.client() as client,
    ):
        waiting = threading.Thread(target=submitted, args=(client,))
        waiting.start()
        pipe.read_bytes()  # it is asked
        assert daemon.stop() == 0
        waiting.join(SECONDS)


def submitted(client: Client) -> None:
    """Submit, and be told that the daemon stops."""
    with contextlib.suppress(ShannotError):
        client.submit(Submission(ScriptKind.PYTHON, b""))
