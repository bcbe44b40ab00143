"""Rollbacks with the real daemon, runner and `shannotctl`."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import Home, temporary_home

CONFIG = """
[profiles.keep]
on_failure = "keep"
"""
UNIT = """
[Service]
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A daemon of this module's own."""
    with temporary_home() as made:
        directory = made.directory / "config" / "shannot"
        directory.mkdir(parents=True)
        (directory / "shannotd.toml").write_text(CONFIG)
        yield made


@pytest.fixture
def place(home: Home) -> Iterator[Path]:
    """A directory to work in, emptied afterwards."""
    yield home.work
    for path in home.work.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def approved(home: Home, session: Any) -> Any:
    """The session when its plan was applied."""
    home.run("approve", session["id"], "--yes", "--digest", session["digest"])
    return home.json("show", "--json", session["id"])


def done(home: Home, text: str, *options: str) -> Any:
    """A session whose plan was applied."""
    return approved(home, home.json("submit", "--json", *options, "--sh", text))


def rolled_back(home: Home, session: Any, *options: str) -> Any:
    """The session that has taken another one back."""
    pending = home.run("rollback", "--json", session["id"], *options)
    assert pending.returncode == 3, (pending.stdout, pending.stderr)
    return approved(home, json.loads(pending.stdout))


@pytest.mark.P9
def test_there_and_back_and_there(home: Home, place: Path) -> None:
    (place / "file").write_text("old\n")
    (place / "file").chmod(0o640)
    (place / "tree").mkdir()
    (place / "tree/inner").write_text("inner\n")
    session = done(home, "echo new > file; rm -r tree; mkdir -p a/b; echo x > a/b/c")
    assert (session["state"], session["checkpoint"]) == ("executed", "kept")
    back = rolled_back(home, session)
    assert back["state"] == "executed", back["error"]
    assert (place / "file").read_text() == "old\n"
    assert (place / "file").stat().st_mode & 0o777 == 0o640
    assert (place / "tree/inner").read_text() == "inner\n" and not (place / "a").exists()
    again = home.json("show", "--json", session["id"])
    assert (again["state"], again["rolled_back_by"]) == ("rolled_back", back["id"])
    redo = rolled_back(home, back)
    assert redo["state"] == "executed"
    assert (place / "file").read_text() == "new\n" and (place / "a/b/c").read_text() == "x\n"
    assert home.json("show", "--json", session["id"])["state"] == "executed"
    verified = home.run("audit", "verify")
    assert verified.returncode == 0, verified.stderr


@pytest.mark.P9
def test_what_somebody_changed_is_named_and_forced_by_name(home: Home, place: Path) -> None:
    for name in ("one", "two"):
        (place / name).write_text("old\n")
    session = done(home, "echo new > one; echo new > two")
    (place / "one").write_text("mine\n")
    refused = home.run("rollback", session["id"])
    assert refused.returncode == 7 and f"{place}/one (expected".encode() in refused.stderr
    assert (place / "two").read_text() == "new\n"
    preview = home.json("rollback", "--json", "--dry-run", session["id"])
    assert [conflict["path"] for conflict in preview["conflicts"]] == [f"{place}/one"]
    back = rolled_back(home, session, "--force", "one")
    assert back["risk"] == "danger"
    shown = home.run("show", "--diff", back["id"]).stdout.decode()
    assert "somebody has changed it since" in shown and "-mine" in shown
    assert (place / "one").read_text() == (place / "two").read_text() == "old\n"
    rolled_back(home, back)
    assert (place / "one").read_text() == "mine\n"


@pytest.mark.P4
def test_what_was_kept_after_a_failure(home: Home, place: Path) -> None:
    (place / "file").write_text("old\n")
    text = "echo new > file; systemctl restart no-such-unit; echo late > late"
    session = done(home, text, "--profile", "keep")
    assert session["state"] == "failed" and (place / "file").read_text() == "new\n"
    applied = [step["applied"] for step in session["plan"]["steps"]]
    assert applied == ["done", "failed", "skipped"]
    back = rolled_back(home, session)
    assert (place / "file").read_text() == "old\n"
    assert [command["argv"][-1] for command in back["staying"]] == ["no-such-unit"]
    shown = home.run("show", back["id"]).stdout.decode()
    assert "not taken back: systemctl restart no-such-unit" in " ".join(shown.split())


def test_what_was_taken_back_by_itself_says_so(home: Home, place: Path) -> None:
    (place / "file").write_text("old\n")
    session = done(home, "echo new > file; systemctl restart no-such-unit")
    assert session["state"] == "failed" and (place / "file").read_text() == "old\n"
    assert [step["applied"] for step in session["plan"]["steps"]] == ["undone", "failed"]
    assert "it was done, and taken back" in home.run("show", session["id"]).stdout.decode()
    assert home.run("rollback", session["id"]).returncode == 5


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs systemctl")
def test_a_command_is_made_up_for(home: Home, place: Path) -> None:
    """Offline, in a directory, so that nothing of the host is touched."""
    units = place / "root/etc/systemd/system"
    units.mkdir(parents=True)
    (place / "unit").write_text(UNIT)
    session = done(
        home,
        f"cp unit {units}/demo.service; systemctl --root={place}/root enable demo.service",
    )
    assert session["state"] == "executed", session["error"]
    link = units / "multi-user.target.wants/demo.service"
    assert link.is_symlink()
    back = rolled_back(home, session)
    assert back["state"] == "executed", back["error"]
    assert [step["kind"] for step in back["plan"]["steps"]] == ["command", "file"]
    command = back["plan"]["steps"][0]
    assert command["argv"] == ["/usr/bin/systemctl", *session_words(place, "disable")]
    assert command["reason"].startswith("makes up for step 2:")
    assert not link.is_symlink() and list(units.iterdir()) == []
    redo = rolled_back(home, back)
    assert redo["state"] == "executed", redo["error"]
    assert link.is_symlink() and (units / "demo.service").exists()


def session_words(place: Path, verb: str) -> list[str]:
    return [f"--root={place}/root", verb, "demo.service"]


def test_checkpoints(home: Home, place: Path) -> None:
    (place / "file").write_text("old" * 1000)
    session = done(home, "echo new > file", "--name", "shrink")
    listed = home.json("checkpoint", "list", "--json")
    (mine,) = [one for one in listed if one["session"] == session["id"]]
    assert mine["name"] == "shrink" and mine["finished"] and mine["size"] > 3000
    shown = home.json("checkpoint", "show", "--json", session["id"])
    assert shown["steps"] == [
        {"step": 0, "change": "modify", "path": f"{place}/file", "entries": 1, "size": 3000}
    ]
    pending = json.loads(home.run("rollback", "--json", session["id"]).stdout)
    refused = home.run("checkpoint", "drop", "--yes", session["id"])
    assert refused.returncode == 2 and b"needed" in refused.stderr
    home.run("reject", pending["id"])
    assert home.run("checkpoint", "drop", "--yes", session["id"]).returncode == 0
    assert "dropped" in home.run("show", session["id"]).stdout.decode()
    assert home.run("rollback", session["id"]).returncode == 2
    records = home.json("audit", "tail", "--json", "--session", session["id"])
    assert records[-2]["event"] == "checkpoint.dropped" or (
        records[-1]["event"] == "session.rollback_requested"
    )


@pytest.mark.P4
def test_a_daemon_that_was_killed_knows_its_rollbacks(home: Home, place: Path) -> None:
    (place / "file").write_text("old\n")
    session = done(home, "echo new > file")
    pending = json.loads(home.run("rollback", "--json", session["id"]).stdout)
    home.stop(signal.SIGKILL)
    other = home.run("rollback", session["id"])
    assert other.returncode == 3 and pending["id"].encode() in other.stderr
    assert approved(home, pending)["state"] == "executed"
    assert (place / "file").read_text() == "old\n"
    assert home.json("show", "--json", session["id"])["rolled_back_by"] == pending["id"]


@pytest.mark.P2
@pytest.mark.P7
def test_on_a_terminal(home: Home, place: Path) -> None:
    (place / "file").write_text("old\n")
    session = done(home, "echo new > file")
    child = home.terminal(*home.program, "rollback", session["id"][:12])
    child.expect(r"Apply this plan\? \[yes/no\] ")
    assert "-new" in child.before and "+old" in child.before
    child.sendline("yes")
    child.expect("is rolled back")
    child.wait()
    assert child.exitstatus in (0, None)
    assert (place / "file").read_text() == "old\n"
    assert os.listdir(place) == ["file"]
