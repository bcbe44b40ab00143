"""What a reviewer is told of rights that change and of files in use, from real scripts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.accounts import is_root
from tests.support.embedded import Home, temporary_home
from tests.support.holding import PROGRAM, holding


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A daemon of this module's own."""
    with temporary_home() as made:
        made.run("list")
        yield made


def pending(home: Home, script: str) -> dict[str, Any]:
    """The session of a script, which waits for its review."""
    done = home.run("submit", "--json", "--sh", script)
    assert done.returncode == 3, done.stdout
    session: dict[str, Any] = home.json("list", "--json", "--state", "pending")[0]
    return home.json("show", "--json", session["id"])  # type: ignore[no-any-return]


def marks(home: Home, script: str) -> dict[str, tuple[str, str]]:
    """Risk and reason of each step of a script, by the name of its file."""
    session = pending(home, script)
    home.run("reject", session["id"], "--reason", "only looked at")
    return {
        os.path.basename(step["path"]): (step["risk"], step["reason"])
        for step in session["plan"]["steps"]
    }


# Of the whole way: the sandbox lets a script do it, the plan has it, the reviewer is told.
MARKS = {
    "setuid": ("cp /bin/true new; chmod 4755 new", "setuid: whoever starts it"),
    "setgid-lost": ("chmod g-s old", "is setgid no longer"),
    "setuid-changed": ("echo more >> suid; chmod 4755 suid", "another program that is setuid"),
    "acl": ("setfacl -m u:12345:rw old", "an access list (ACL) lets user 12345 write to it"),
    "hard-link": ("echo more >> twin", "the file has 2 names (hard links): the other names keep"),
    "hard-link-mode": ("chmod 600 twin", "(hard links): the change is one of all of them"),
}


@pytest.mark.P7
@pytest.mark.parametrize("name", MARKS)
def test_changes_of_rights(name: str, home: Home) -> None:
    if name == "acl" and not is_root():
        pytest.skip("other accounts have no number in an ordinary user's sandbox")
    work = home.work / name
    work.mkdir()
    for file in ("old", "twin", "suid"):
        (work / file).write_text("old\n")
    (work / "old").chmod(0o2755)
    (work / "suid").chmod(0o4755)
    os.link(work / "twin", work / "other")
    script, words = MARKS[name]
    ((risk, reason),) = marks(home, f"cd {work}; {script}").values()
    assert words in reason
    assert risk == "danger"


@pytest.mark.P7
@pytest.mark.skipif(not is_root(), reason="only root gives capabilities, and makes devices")
def test_what_only_root_changes(home: Home) -> None:
    work = home.work / "root"
    work.mkdir()
    for name in ("gets", "loses", "deleted"):
        (work / name).write_bytes(b"x")
    subprocess.run(["mknod", work / "device", "b", "7", "200"], check=True)
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(work / "loses", "security.capability", value)
    os.setxattr(work / "deleted", "security.selinux", b"system_u:object_r:etc_t:s0\0")
    script = (
        f"cd {work}; python3 -c \"import os; os.setxattr('gets', 'security.capability',"
        f" bytes.fromhex('{value.hex()}')); os.removexattr('loses', 'security.capability')\"\n"
        "chmod 666 device; rm deleted; echo x > deleted"
    )
    found = marks(home, script)
    assert {name: risk for name, (risk, _) in found.items()} == dict.fromkeys(found, "danger")
    assert found["gets"][1].startswith("file capabilities: whoever starts it gets")
    assert found["loses"][1].startswith("loses its file capabilities")
    assert "a device node: raw access to hardware" in found["device"][1]
    assert found["deleted"][1].startswith("another SELinux label")


# Files in use


@pytest.mark.P7
def test_a_file_that_somebody_writes_to_is_danger(home: Home) -> None:
    log, directory = home.work / "log", home.work / "spool"
    log.write_text("old\n")
    directory.mkdir()
    with holding(("a", log)) as writer, holding(("w", directory / "queue")) as other:
        session = pending(home, "echo new >> log; rm -r spool; echo x > fresh")
        shown = home.run("show", session["id"]).stdout.decode()
    home.run("reject", session["id"], "--reason", "only looked at")
    program = os.path.realpath(PROGRAM)
    steps = {os.path.basename(step["path"]): step for step in session["plan"]["steps"]}
    assert session["risk"] == steps["log"]["risk"] == steps["spool"]["risk"] == "danger"
    assert steps["fresh"]["risk"] == "safe"
    assert steps["log"]["reason"] == (
        f"process {writer.pid} ({program}) has it open for writing: what is written to the old"
        " file from then on is lost"
    )
    assert steps["spool"]["reason"] == (
        f"process {other.pid} ({program}) has files in it open for writing: what is written to"
        " the deleted files from then on is lost"
    )
    assert f"process {writer.pid} ({program}) has it open for writing" in " ".join(shown.split())


@pytest.mark.P2
def test_who_opens_it_after_the_review_does_not_stop_the_apply_and_is_told(home: Home) -> None:
    """The file is what the dry run saw; what its writer writes on is not anybody's yet."""
    log = home.work / "later"
    log.write_text("old\n")
    session = pending(home, "echo new >> later; echo x > beside")
    with holding(("a", log)) as writer:
        home.run("approve", session["id"], "--yes", "--digest", session["digest"])
        writer.write("lost")
    ended = home.json("show", "--json", session["id"])
    assert ended["state"] == "executed"
    assert log.read_text() == "old\nnew\n"
    steps = {os.path.basename(step["path"]): step for step in ended["plan"]["steps"]}
    program = os.path.realpath(PROGRAM)
    assert steps["later"]["reason"].endswith(
        f"; when it was applied, process {writer.pid} ({program}) had it open for writing, which"
        " the review did not show"
    )
    assert "open for writing" not in steps["beside"]["reason"]


@pytest.mark.P2
def test_who_was_shown_is_not_told_again(home: Home) -> None:
    log = home.work / "same"
    log.write_text("old\n")
    with holding(("a", log)):
        session = pending(home, "echo new >> same")
        home.run("approve", session["id"], "--yes", "--digest", session["digest"])
    ended = home.json("show", "--json", session["id"])
    assert ended["state"] == "executed"
    assert ended["plan"]["steps"][0]["reason"] == session["plan"]["steps"][0]["reason"]
