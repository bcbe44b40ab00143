"""Scripts with commands of the host, from the client to what their approval does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.embedded import Home, temporary_home

# For review, since it might write to a log; told not to, it only prints the lines of a file.
SHOW = "logger --no-act --stderr --udp --server 127.0.0.1 --port 9 --file"


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A daemon of this module's own."""
    with temporary_home() as made:
        made.run("list")
        yield made


def approved(home: Home, script: str) -> dict[str, Any]:
    """The session of a script whose plan was approved, as it ended."""
    done = home.run("submit", "--json", "--sh", script)
    assert done.returncode == 3, done.stderr
    session = home.json("list", "--json", "--state", "pending")[0]
    home.run("approve", session["id"], "--yes", "--digest", session["digest"])
    ended: dict[str, Any] = home.json("show", "--json", session["id"])
    return ended


@pytest.mark.P3
def test_a_command_sees_what_was_written_before_it_and_nothing_after(home: Home) -> None:
    text = f"echo one > a; {SHOW} a; echo two >> a; {SHOW} a; echo three >> a"
    ended = approved(home, text)
    assert ended["state"] == "executed"
    results = [step["result"] for step in ended["plan"]["steps"] if step["kind"] == "command"]
    printed = [result["stderr"].splitlines() for result in results]
    assert [[line.split()[-1] for line in lines] for lines in printed] == [["one"], ["one", "two"]]
    assert (home.work / "a").read_text() == "one\ntwo\nthree\n"


@pytest.mark.P2
def test_a_command_that_fails_is_the_last_thing_that_is_done(home: Home) -> None:
    ended = approved(home, f"echo one > b; {SHOW} missing; echo two > b; {SHOW} b")
    assert ended["state"] == "failed"
    assert ended["error"]["code"] == "command_failed"
    assert "exit status 1" in ended["error"]["message"]
    applied = [step["applied"] for step in ended["plan"]["steps"] if step["kind"] != "blocked"]
    assert applied == ["undone", "failed", "skipped", "skipped"]
    assert "steps before it were rolled back" in ended["error"]["message"]
    assert not (home.work / "b").exists()
