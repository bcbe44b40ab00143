"""The reviewer when its user loses the role: it says so, and shows no more what he may not see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotctl.review import messages as m
from shannotctl.review.state import Kind, Link
from shannotd.service import Service
from tests.support.accounts import is_root, temporary_account
from tests.support.reviewing import files, reviewing
from tests.support.service import (
    Caller,
    in_loop,
    public_directory,
    running_service,
    service_config,
    socket_of,
)

pytestmark = [
    pytest.mark.P5,
    pytest.mark.P7,
    pytest.mark.skipif(not is_root(), reason="needs root, to submit as another account"),
]


@pytest.fixture
def directory() -> Iterator[Path]:
    with public_directory() as made:
        yield made


async def configure(service: Service, directory: Path, config: str) -> None:
    (directory / "shannotd.toml").write_text(config)
    await service.reload()


@pytest.mark.parametrize("submits", [True, False])
def test_a_reviewer_whose_user_lost_the_role_says_so(directory: Path, submits: bool) -> None:
    @in_loop
    async def scenario() -> None:
        with temporary_account() as name:
            submitter = [name]
            reviewing_too = service_config(submit=["root", *submitter], review=["uid:0"])
            no_more = service_config(
                submit=["root", *submitter] if submits else submitter, review=submitter, audit=()
            )
            async with (
                running_service(directory, config=reviewing_too, embedded=False) as service,
                await Caller.connect_account(directory, name) as agent,
            ):
                theirs = await agent.submit(*files("a"), name="theirs")
                async with reviewing(socket_of(directory), id=theirs["id"]) as screen:
                    await screen.until("theirs")
                    await screen.until(lambda review: review.opened is not None)
                    await configure(service, directory, no_more)
                    await agent.submit(*files("b"), name="secret")
                    await screen.until("may not")
                    if submits:
                        await screen.until(lambda review: review.link is Link.UP)
                    # It is said until it is read, however soon he is connected again.
                    assert "role" in screen.text
                    await screen.press("enter")
                    assert screen.review.panel is None
                    assert screen.review.opened is None
                    assert screen.review.place.kind is Kind.LIST
                    assert not screen.review.sessions
                    assert "theirs" not in screen.text and "secret" not in screen.text
                    assert ("Nothing waits" in screen.text) == submits
                    assert not screen.wanted(m.Approve)
                    # He has it again.
                    await configure(service, directory, reviewing_too)
                    await agent.submit(*files("c"), name="later")
                    await screen.until("later")

    scenario()
