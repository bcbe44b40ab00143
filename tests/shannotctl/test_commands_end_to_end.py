"""Scripts of real administration with the real daemon: what runs, what is asked, what waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.embedded import Home, temporary_home

SCRIPT = """
df / > report
echo "[x]" > a.conf
systemctl reload x && echo reloaded
rm old
cp a.conf b.conf
systemctl restart y
ss --version > /dev/null; uname -s
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A daemon of this module's own."""
    with temporary_home() as made:
        made.run("list")
        yield made


def told(step: dict[str, Any]) -> tuple[str, str]:
    """A step in two words."""
    if step["kind"] == "command":
        return step["decision"], os.path.basename(step["program"])
    return step["change"], os.path.basename(step["path"])


@pytest.mark.P1
@pytest.mark.P3
def test_files_and_commands_in_their_order(home: Home) -> None:
    (home.work / "old").write_text("old\n")
    done = home.run("submit", "--json", "--sh", SCRIPT)
    assert done.returncode == 3, done.stderr
    session = home.json("list", "--json", "--state", "pending")[0]
    plan = home.json("show", "--json", session["id"])["plan"]
    steps = [told(step) for step in plan["steps"]]
    reloaded, restarted = (
        number for number, step in enumerate(steps) if step == ("review", "systemctl")
    )
    assert steps.index(("create", "report")) < reloaded
    assert steps.index(("create", "a.conf")) < reloaded
    assert reloaded < steps.index(("delete", "old")) < restarted
    assert reloaded < steps.index(("create", "b.conf")) < restarted
    assert not any(name in ("rm", "cp") for _, name in steps)
    looked = [(step["program"], step["called_after"]) for step in plan["steps"][restarted + 1 :]]
    assert looked == [("/usr/bin/df", None), ("/usr/bin/ss", restarted)]
    assert (home.work / "old").exists() and not (home.work / "report").exists()


def test_what_only_looks_needs_nobody(home: Home) -> None:
    done = home.run("submit", "--sh", "df / | tail -1 | wc -l; uname -s; ls / > /dev/null")
    assert (done.returncode, done.stdout) == (0, b"1\nLinux\n"), done.stderr


def test_python_calls_programs_as_a_shell_does(home: Home) -> None:
    code = (
        "import subprocess\n"
        "print(subprocess.run(['df', '/'], capture_output=True, text=True).returncode)\n"
        "print(subprocess.check_output('df / | head -1', shell=True)[:10])\n"
    )
    done = home.run("submit", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"0\nb'Filesystem'\n"
