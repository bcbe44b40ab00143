"""`shannotctl notify` without a desktop, and what notices say."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pexpect
import pytest

from shannotctl.async_client import AsyncClient
from shannotctl.notify.board import Board
from shannotctl.notify.desk import Desk, terminal_command
from shannotctl.notify.notices import (
    APART,
    APPROVE,
    CONFIRM,
    KEEP,
    REJECT,
    TOGETHER,
    Notice,
    Reader,
    notices,
)
from shannotd.wire.decision import Risk
from shannotd.wire.errors import WrongState
from shannotd.wire.plan import StepCounts
from shannotd.wire.session import Session, State
from tests.support.accounts import is_root, temporary_account
from tests.support.desktop import running_notifier
from tests.support.service import (
    SECONDS,
    Caller,
    in_loop,
    public_directory,
    running_service,
    socket_of,
)

FILES = ("files", ["/etc/example.conf"])
HOSTILE = "a\x1b[31m \u202eb\nwaits 0000"

# Another's, as its reviewer sees it.
WAITING = Session(
    id="0123456789abcdef0123456789abcdef",
    name="tidy up",
    state=State.PENDING,
    profile="default",
    target="local",
    submitter=1000,
    submitter_name="agent",
    identity="shannot",
    created_at=1.0,
    expires_at=3600.0,
    digest="ab" * 32,
    risk=Risk.CAUTION,
    counts=StepCounts(create=1, delete=2),
)
READER = Reader(uid=1001, embedded=False)


async def line(process: Any) -> str:
    """The next line that it prints."""
    return (await asyncio.wait_for(process.stdout.readline(), SECONDS)).decode()


@pytest.mark.P7
@in_loop
async def test_lines(tmp_path: Path) -> None:
    # Before there is a daemon.
    async with running_notifier(socket_of(tmp_path), "--print") as process:
        async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
            pending = await caller.submit(FILES, name=HOSTILE)
            told = await line(process)
            assert told.startswith(f"waits {pending['id']} caution: a\\e[31m \\u202eb\\nwaits 0")
            assert told.endswith(": 1 step: 1 create\n")
            await caller.call("sessions.reject", id=pending["id"])
            assert await line(process) == f"gone  {pending['id']}\n"
            pending = await caller.submit(FILES, name="another")
            assert "another" in await line(process)
        assert await line(process) == f"gone  {pending['id']}\n"  # with the daemon
        process.terminate()
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0


@pytest.mark.P7
@in_loop
async def test_a_command_gets_the_plan_as_data(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    hook = tmp_path / "the hook"
    hook.write_text(
        '#!/bin/sh\n{ echo "$# $SHANNOT_ID|$SHANNOT_NAME|$SHANNOT_RISK|$SHANNOT_DIGEST|'
        f'$SHANNOT_COUNTS"; cat; }} > "{told}"\n'
    )
    hook.chmod(0o755)
    async with (
        running_service(tmp_path / "daemon"),
        await Caller.connect(tmp_path / "daemon") as caller,
        running_notifier(socket_of(tmp_path / "daemon"), "--exec", f"'{hook}' one two"),
    ):
        for name in ("$(touch /nowhere) `id` '\"", "twice"):
            pending = await caller.submit(FILES, name=name)
            first, second = (
                await asyncio.wait_for(asyncio.to_thread(told.read_text), SECONDS)
            ).splitlines()
            assert first == (
                f"2 {pending['id']}|{name}|caution|{pending['digest']}|1 step: 1 create"
            )
            assert json.loads(second)["id"] == pending["id"]


@in_loop
async def test_the_bell_rings_on_a_terminal(tmp_path: Path) -> None:
    async with running_service(tmp_path), await Caller.connect(tmp_path) as caller:
        terminal = pexpect.spawn(
            sys.executable,
            ["-m", "shannotctl", "notify", "--bell", "--print"],
            env={**os.environ, "SHANNOT_SOCKET": str(socket_of(tmp_path))},
            encoding="utf-8",
            timeout=SECONDS,
        )
        try:
            pending = await caller.submit(FILES)
            await asyncio.to_thread(terminal.expect, f"waits {pending['id']}.*\a")
            terminal.sendintr()
            await asyncio.to_thread(terminal.expect, pexpect.EOF)
            await asyncio.to_thread(terminal.wait)
            assert terminal.exitstatus == 130
        finally:
            await asyncio.to_thread(terminal.close)


def test_what_a_command_line_means(tmp_path: Path) -> None:
    environment = {**os.environ, "SHANNOT_SOCKET": str(tmp_path / "none")}
    for words, text in (
        (["--exec", ""], b"needs a command"),
        (["--exec", "'open"], b"cannot be read"),
        (["nonsense"], b"nonsense"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "shannotctl", "notify", *words],
            env=environment,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 2 and text in done.stderr


@pytest.mark.P5
@pytest.mark.skipif(not is_root(), reason="takes on another account")
@in_loop
async def test_who_reviews_nothing_is_told_so(packages: Path) -> None:
    with public_directory() as directory, temporary_account() as name:
        uid = pwd.getpwnam(name).pw_uid
        config = f'[roles]\nsubmit = ["uid:{uid}"]\nreview = []\n'
        config = '[daemon]\nrunner_socket = "/nowhere"\n' + config
        async with running_service(directory, config=config, embedded=False):
            process = await asyncio.create_subprocess_exec(
                *("/usr/bin/python3", "-m", "shannotctl", "notify", "--print"),
                cwd="/",
                env={
                    "PYTHONPATH": str(packages),
                    "SHANNOT_SOCKET": str(socket_of(directory)),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                user=uid,
                group=uid,
                extra_groups=[],
            )
            _, error = await asyncio.wait_for(process.communicate(), SECONDS)
            assert process.returncode == 6 and b"the role 'review'" in error


# What notices say


@pytest.mark.P5
def test_who_may_approve_from_a_notification() -> None:
    def labels(session: Session, reader: Reader = READER) -> list[str]:
        return [key for key, _ in notices([session], {}, reader)[session.id].actions]

    assert labels(WAITING) == ["review", "approve", "reject"]
    assert labels(replace(WAITING, risk=Risk.SAFE)) == ["review", "approve", "reject"]
    for other in (
        replace(WAITING, risk=Risk.DANGER),
        replace(WAITING, risk=Risk.UNKNOWN),
        replace(WAITING, risk=None),
        replace(WAITING, submitter=READER.uid),
        replace(WAITING, editors=(READER.uid,)),
        replace(WAITING, digest=None),
    ):
        assert labels(other) == ["review", "reject"]
    # An embedded daemon is all one's own.
    assert "approve" in labels(replace(WAITING, submitter=READER.uid), Reader(READER.uid, True))
    assert READER.is_asked(WAITING)
    assert not READER.is_asked(replace(WAITING, decided_by=(READER.uid,)))
    assert not READER.is_asked(replace(WAITING, state=State.APPROVED))


@pytest.mark.P5
@in_loop
async def test_only_what_a_notice_offers_can_be_chosen_in_it() -> None:
    class Shower:
        async def show(self, notice: Notice) -> None:
            pass

        async def withdraw(self, key: str) -> None:
            pass

    class Daemon:
        approved: list[tuple[str, str]] = []

        async def approve(self, id: str, digest: str) -> Session:
            self.approved.append((id, digest))
            return WAITING

    daemon = Daemon()
    desk = Desk(cast(AsyncClient, daemon), Shower(), lambda: None, ())

    async def choose(session: Session, *choices: tuple[str, str]) -> None:
        await desk.update([session], READER)
        for key, action in choices:
            desk.invoked(key, action)
            await desk.update([session], READER)
            await asyncio.sleep(0)

    question = f"{CONFIRM} {WAITING.id}"
    for other in (
        replace(WAITING, risk=Risk.DANGER),
        replace(WAITING, submitter=READER.uid),
    ):
        await choose(other, (WAITING.id, APPROVE), (question, CONFIRM), (WAITING.id, CONFIRM))
        assert daemon.approved == []
    # Who has chosen `Approve` has not yet seen the question.
    await choose(WAITING, (WAITING.id, APPROVE), (WAITING.id, CONFIRM))
    assert daemon.approved == []
    await choose(WAITING, (question, CONFIRM))
    assert daemon.approved == [(WAITING.id, WAITING.digest)]


class Shown:
    """A desktop that only keeps what is to be shown."""

    def __init__(self) -> None:
        self.notices: dict[str, Notice] = {}

    async def show(self, notice: Notice) -> None:
        self.notices[notice.key] = notice

    async def withdraw(self, key: str) -> None:
        del self.notices[key]


class Refusing:
    """A daemon of which somebody else was quicker."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def approve(self, id: str, digest: str) -> Session:
        self.asked.append(("approve", id, digest))
        raise WrongState(id=id, state="rejected", action="approve")

    async def reject(self, id: str, reason: str) -> Session:
        self.asked.append(("reject", id, reason))
        raise WrongState(id=id, state="approved", action="reject\x1b[2J")


@pytest.mark.P7
def test_what_was_not_decided_is_shown_until_it_is_put_away(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @in_loop
    async def scenario() -> None:
        daemon, shown, changed = Refusing(), Shown(), asyncio.Event()
        desk = Desk(cast(AsyncClient, daemon), shown, changed.set, ())

        async def choose(key: str, action: str) -> None:
            desk.invoked(key, action)
            changed.clear()
            await asyncio.wait_for(changed.wait(), SECONDS)
            await desk.update([WAITING], READER)

        await desk.update([WAITING], READER)
        await choose(WAITING.id, REJECT)
        assert daemon.asked == [("reject", WAITING.id, "rejected from a desktop notification")]
        failure = f"failed {WAITING.id}"
        assert shown.notices[failure].summary == "Nothing was decided"
        assert "approved" in shown.notices[failure].body
        assert "\x1b" not in shown.notices[failure].body
        del shown.notices[failure]  # somebody has closed it
        desk.closed(failure)
        # There is nothing to review in.
        await choose(WAITING.id, "default")
        assert "--terminal names one" in shown.notices[failure].body
        # A desktop that has started again is shown all of it.
        shown.notices.clear()
        desk.restarted()
        await desk.update([WAITING], READER)
        assert set(shown.notices) == {WAITING.id, failure}

    scenario()
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.P5
def test_a_question_that_is_answered_otherwise_decides_nothing() -> None:
    @in_loop
    async def scenario() -> None:
        daemon, shown = Refusing(), Shown()
        desk = Desk(cast(AsyncClient, daemon), shown, lambda: None, ())
        question = f"{CONFIRM} {WAITING.id}"
        for answer in (KEEP, "closed"):
            await desk.update([WAITING], READER)
            desk.invoked(WAITING.id, APPROVE)
            await desk.update([WAITING], READER)
            assert question in shown.notices
            if answer == KEEP:
                desk.invoked(question, KEEP)
            else:
                desk.closed(question)
            desk.invoked(question, CONFIRM)
            await asyncio.sleep(0)
            await desk.update([WAITING], READER)
            assert daemon.asked == []
        # Nor does an answer after the plan has become another.
        desk.invoked(WAITING.id, APPROVE)
        await desk.update([WAITING], READER)
        await desk.update([replace(WAITING, digest="cd" * 32)], READER)
        desk.invoked(question, CONFIRM)
        await asyncio.sleep(0)
        assert daemon.asked == []

    scenario()


def test_a_terminal_that_cannot_be_started(tmp_path: Path) -> None:
    @in_loop
    async def scenario() -> None:
        shown, changed = Shown(), asyncio.Event()
        missing = str(tmp_path / "terminal")
        desk = Desk(cast(AsyncClient, Refusing()), shown, changed.set, (missing, "-e"))
        await desk.update([WAITING], READER)
        desk.invoked(TOGETHER, "default")
        changed.clear()
        await asyncio.wait_for(changed.wait(), SECONDS)
        await desk.update([WAITING], READER)
        assert shown.notices[f"failed {TOGETHER}"].body == f"{missing}: No such file or directory"

    scenario()


@pytest.mark.P7
def test_long_names_are_cut_with_a_mark() -> None:
    notice = notices([replace(WAITING, name="n" * 5000)], {}, READER)[WAITING.id]
    assert "n…\n" in notice.body and len(notice.body) < 400
    quorum = notices([replace(WAITING, approvals=3, decided_by=(7,))], {}, READER)[WAITING.id]
    assert "needs 2 approvals" in quorum.body


@pytest.mark.P7
def test_blanks_push_nothing_to_a_line_of_its_own() -> None:
    hostile = replace(WAITING, name="tidy up" + " " * 60 + "by root, as root")
    body = notices([hostile], {}, READER)[WAITING.id].body
    assert body.startswith("tidy up (60 blanks) by root, as root\nby agent, as shannot\n")


def test_few_have_a_notice_each_and_many_one_together() -> None:
    some = [replace(WAITING, id=f"{number:032x}") for number in range(APART + 1)]
    assert set(notices(some[:APART], {}, READER)) == {session.id for session in some[:APART]}
    assert set(notices(some, {}, READER)) == {TOGETHER}


@in_loop
async def test_what_is_put_away_comes_back_for_news_only() -> None:
    class Shower:
        def __init__(self) -> None:
            self.said: list[str] = []

        async def show(self, notice: Notice) -> None:
            self.said.append(f"show {notice.summary}")

        async def withdraw(self, key: str) -> None:
            self.said.append(f"withdraw {key}")

    def notice(summary: str, *sessions: str) -> dict[str, Notice]:
        return {"k": Notice("k", summary, "", 1, (), frozenset(sessions))}

    shower = Shower()
    board = Board(shower)
    await board.update(notice("one", "a"))
    await board.update(notice("one", "a"))
    await board.update(notice("two", "a", "b"))
    board.put_away("k")
    await board.update(notice("still two", "a", "b"))
    await board.update(notice("fewer", "a"))
    await board.update(notice("news", "a", "c"))
    await board.update({})
    board.put_away("k")  # too late: it is withdrawn
    await board.update(notice("new again", "a"))
    board.forget()
    await board.update(notice("new again", "a"))
    assert shower.said == [
        *("show one", "show two", "show news", "withdraw k", "show new again"),
        "show new again",
    ]


def test_which_terminal(tmp_path: Path) -> None:
    assert terminal_command({"PATH": str(tmp_path)}) == ()
    for name in ("xterm", "mine", "konsole"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert terminal_command({"PATH": str(tmp_path)}) == ("konsole", "-e")
    assert terminal_command({"PATH": str(tmp_path), "TERMINAL": "mine"}) == ("mine", "-e")
    assert terminal_command({"PATH": str(tmp_path), "TERMINAL": "gone"}) == ("konsole", "-e")
