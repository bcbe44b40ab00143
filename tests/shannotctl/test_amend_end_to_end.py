"""Plans that a person changes, with the real daemon and runner: just these are applied."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pexpect
import pytest

from shannotctl.client import Client, ScriptKind, ShannotError, Submission
from tests.support.embedded import Home, temporary_home

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "session.schema.json").read_text(encoding="utf-8")
)
# For review, since it might write to a log; told not to, it only prints the lines of a file.
SHOW = "logger --no-act --stderr --udp --server 127.0.0.1 --port 9 --file"

pytestmark = pytest.mark.P2


@pytest.fixture(scope="module")
def shared() -> Iterator[Home]:
    """One daemon for the tests of this module."""
    with temporary_home() as made:
        made.run("list")
        yield made


@pytest.fixture
def home(shared: Home) -> Home:
    """The shared daemon, with an empty directory to work in."""
    subprocess.run(["rm", "-rf", str(shared.work)], check=True)
    shared.work.mkdir()
    return shared


def pending(home: Home, script: str) -> dict[str, Any]:
    """The session of a script whose plan waits."""
    done = home.run("submit", "--json", "--sh", script)
    assert done.returncode == 3, done.stderr
    session: dict[str, Any] = json.loads(done.stdout)
    return session


def number(session: dict[str, Any], name: str, change: str | None = None) -> str:
    """The number of the step that changes the file of that name."""
    (found,) = [
        str(index)
        for index, step in enumerate(session["plan"]["steps"], 1)
        if step["kind"] == "file"
        and Path(step["path"]).name == name
        and change in (None, step["change"])
    ]
    return found


def amended(home: Home, session: dict[str, Any], *words: str) -> dict[str, Any]:
    """The session that takes its place."""
    done = home.run("amend", "--json", session["id"], *words)
    assert done.returncode == 0, done.stderr + done.stdout
    made: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(made, SCHEMA)
    assert made["amends"] == session["id"]
    return made


def executed(home: Home, session: dict[str, Any]) -> dict[str, Any]:
    """The session when it was approved and applied."""
    home.run("approve", session["id"], "--yes", "--digest", session["digest"])
    ended: dict[str, Any] = home.json("show", "--json", session["id"])
    assert ended["state"] == "executed", ended["error"]
    return ended


def test_what_was_dropped_and_edited_is_what_is_applied(home: Home) -> None:
    (home.work / "old").write_text("old\n")
    (home.work / "conf").write_text("a = 1\nb = 2\n")
    (home.work / "conf").chmod(0o600)
    (home.work / "log").write_text("first\n")
    session = pending(
        home,
        "sed -i s/1/3/ conf; rm old; mkdir d; echo x >d/f; echo script >>log; echo y >new",
    )
    edits = {"conf": b"a = 4\nb = 2\n", "log": b"reviewer\n", "new": bytes(range(256))}
    words = ["--drop", number(session, "old"), "--drop", number(session, "d"), "--with-dependents"]
    for name, content in edits.items():
        (home.directory / name).write_bytes(content)
        words += ["--edit", f"{number(session, name)}={home.directory / name}"]
    new = amended(home, session, *words)
    steps = {Path(step["path"]).name: step for step in new["plan"]["steps"]}
    assert {name: step["change"] for name, step in steps.items()} == {
        "conf": "modify",
        "log": "append",
        "new": "create",
    }
    assert "-a = 1\n+a = 4\n" in steps["conf"]["diff"]
    assert " first\n+reviewer\n" in steps["log"]["diff"]
    assert steps["new"]["binary"] and steps["new"]["diff"] is None
    ended = executed(home, new)
    assert ended["amendment"] == new["amendment"]
    assert sorted(path.name for path in home.work.iterdir()) == ["conf", "log", "new", "old"]
    assert (home.work / "conf").read_bytes() == edits["conf"]
    assert (home.work / "conf").stat().st_mode & 0o777 == 0o600
    assert (home.work / "log").read_text() == "first\nreviewer\n"
    assert (home.work / "new").read_bytes() == edits["new"]


@pytest.mark.P3
def test_commands_meet_what_was_edited_and_those_dropped_do_not_run(home: Home) -> None:
    script = f"echo one >a; {SHOW} a; echo two >>a; {SHOW} missing-{os.getpid()}; {SHOW} a; rm a"
    session = pending(home, script)
    kinds = [step.get("change", step["kind"]) for step in session["plan"]["steps"]]
    assert kinds == ["create", "command", "append", "command", "command", "delete"]
    (home.directory / "one").write_text("edited\n")
    new = amended(home, session, "--drop", "4", "--edit", f"1={home.directory / 'one'}")
    assert new["amendment"] == {
        "dropped": [
            {
                "index": 3,
                "what": f"run {' '.join(session['plan']['steps'][3]['argv'])}",
                "missed_by": [3],
            }
        ],
        "edited": [{"index": 0, "origin": 0, "replaced_by": None}],
    }
    shown = home.run("show", new["id"]).stdout.decode()
    assert "warning    step 4 may miss what was dropped: run" in shown
    ended = executed(home, new)
    results = [step["result"] for step in ended["plan"]["steps"] if step["kind"] == "command"]
    printed = [[line.split()[-1] for line in r["stderr"].splitlines()] for r in results]
    assert printed == [["edited"], ["edited", "two"]]
    assert list(home.work.iterdir()) == []


def test_risk_is_judged_anew(home: Home) -> None:
    session = pending(home, "echo x >plain; mkdir .ssh; echo key >.ssh/authorized_keys")
    assert session["risk"] == "danger"
    words = ["--drop", number(session, ".ssh"), "--with-dependents"]
    new = amended(home, session, *words)
    assert new["risk"] == "safe"
    assert new["counts"]["create"] == 1


def test_ten_megabytes(home: Home) -> None:
    content = os.urandom(10 * 1024 * 1024)
    (home.directory / "large").write_bytes(content)
    session = pending(home, "echo x >a; echo y >b")
    new = amended(home, session, "--edit", f"{number(session, 'a')}={home.directory / 'large'}")
    executed(home, new)
    assert (home.work / "a").read_bytes() == content
    assert (home.work / "b").read_text() == "y\n"


def test_each_names_the_other_and_the_old_one_is_over(home: Home) -> None:
    session = pending(home, "echo x >a; echo y >b")
    new = amended(home, session, "--drop", number(session, "a"))
    old = home.run("show", session["id"]).stdout.decode()
    assert f"replaced   by session {new['id']}" in old
    assert f"amends     session {session['id']}" in home.run("show", new["id"]).stdout.decode()
    for identifier, digest, status in (
        (session["id"], session["digest"], 4),
        (session["id"], new["digest"], 4),
        (new["id"], session["digest"], 7),
    ):
        done = home.run("approve", identifier, "--yes", "--digest", digest)
        assert done.returncode == status, done.stderr
    assert list(home.work.iterdir()) == []
    executed(home, new)
    assert (
        home.run("approve", session["id"], "--yes", "--digest", session["digest"]).returncode == 4
    )
    assert [path.name for path in home.work.iterdir()] == ["b"]
    assert home.run("audit", "verify").returncode == 0


def test_what_cannot_stay_is_named_and_nothing_is_changed(home: Home) -> None:
    session = pending(home, "mkdir d; echo x >d/f; echo y >b")
    done = home.run("amend", session["id"], "--drop", number(session, "d"))
    assert done.returncode == 2
    assert f"step {number(session, 'f')} does not find".encode() in done.stderr
    assert b"--with-dependents" in done.stderr
    with Client(str(home.socket)) as client:
        with pytest.raises(ShannotError) as caught:
            client.amend(session["id"], session["digest"], drop=range(3))
        assert caught.value.code == "not_amendable"
        with pytest.raises(ShannotError) as caught:
            client.amend(session["id"], session["digest"], drop=[7])
        assert "there is no step 8" in str(caught.value)
        assert client.get(session["id"]).state == "pending"
    executed(home, session)


def test_by_an_editor_on_a_terminal(home: Home) -> None:
    session = pending(home, "echo script >a.conf; echo y >b")
    editor = home.directory / "editor"
    editor.write_text('#!/bin/sh\ntest -t 0 && test -t 1 && sed -i s/script/reviewer/ "$1"\n')
    editor.chmod(0o755)
    home.environment["EDITOR"] = str(editor)
    home.environment.pop("VISUAL", None)
    step = number(session, "a.conf")
    child = home.terminal(*home.program, "amend", session["id"], "--edit", step)
    child.expect(r"\+reviewer")
    child.expect("waits for approval")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    new = home.json("list", "--json", "--limit", "1")[0]
    assert new["amends"] == session["id"]
    executed(home, home.json("show", "--json", new["id"]))
    assert (home.work / "a.conf").read_text() == "reviewer\n"


def test_one_more_change_of_a_changed_plan(home: Home) -> None:
    session = pending(home, "echo 1 >a; echo 2 >b; echo 3 >c")
    (home.directory / "new").write_text("edited\n")
    once = amended(home, session, "--edit", f"{number(session, 'a')}={home.directory / 'new'}")
    twice = amended(home, once, "--drop", number(once, "b"))
    assert twice["editors"] == [os.getuid()]
    executed(home, twice)
    assert (home.work / "a").read_text() == "edited\n"
    assert sorted(path.name for path in home.work.iterdir()) == ["a", "c"]


def test_a_host_that_changed_meanwhile_is_stale_at_once_or_when_it_is_applied(home: Home) -> None:
    (home.work / "a").write_text("host\n")
    session = pending(home, "echo script >a; echo y >b")
    (home.work / "a").write_text("other\n")
    done = home.run("amend", session["id"], "--edit", f"{number(session, 'a')}=/dev/null")
    assert done.returncode == 7 and b"no longer what the dry run saw" in done.stderr
    new = amended(home, session, "--edit", f"{number(session, 'b')}=/dev/null")
    home.run("approve", new["id"], "--yes", "--digest", new["digest"])
    assert home.json("show", "--json", new["id"])["state"] == "stale"
    assert (home.work / "a").read_text() == "other\n" and not (home.work / "b").exists()


def test_the_sdk(home: Home) -> None:
    with Client(str(home.socket)) as client:
        script = b"import os; os.chdir('%s'); [open(n, 'w').write(n) for n in 'abc']"
        source = script % os.fsencode(home.work)
        session = client.submit(Submission(ScriptKind.PYTHON, source))
        plan = session.plan
        assert plan is not None
        changed = client.amend(session.id, plan.digest, drop=[1], edits={0: b"edited"})
        assert changed.plan is not None
        client.approve(changed.id, changed.plan.digest)
        assert client.wait(changed.id).state == "executed"
    assert (home.work / "a").read_bytes() == b"edited"
    assert not (home.work / "b").exists()
