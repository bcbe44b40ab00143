"""The examples do what they say: the plan of each, step by step, and what its approval leaves."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.accounts import is_root
from tests.support.embedded import Home, temporary_home

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DEMO = str(EXAMPLES / "fix-nginx" / "demo")
BIN = str(Path(sys.executable).parent)
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
NGINX = shutil.which("nginx", path=SYSTEM_PATH)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A daemon of this module's own."""
    with temporary_home() as made:
        made.run("list")
        yield made


def told(steps: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Each step in two words: what, and the name of what it is done to."""
    return [
        (step["decision"], os.path.basename(step["program"]))
        if step["kind"] == "command"
        else (step["change"], os.path.basename(step["path"]))
        for step in steps
    ]


def pending(home: Home) -> dict[str, Any]:
    """The one session that waits."""
    (listed,) = home.json("list", "--json", "--state", "pending")
    session: dict[str, Any] = home.json("show", "--json", listed["id"])
    return session


def submitted(home: Home, *arguments: str) -> dict[str, Any]:
    """The session of a script that has a plan."""
    done = home.run("submit", "--json", *arguments)
    assert done.returncode == 3, done.stdout + done.stderr
    return pending(home)


def approved(home: Home, session: dict[str, Any]) -> None:
    """Have exactly that plan applied."""
    done = home.run("approve", session["id"], "--yes", "--digest", session["digest"])
    assert done.returncode == 0, done.stderr


# fix-nginx


def demo(home: Home) -> dict[str, Any]:
    """How the demo is run: in the home's directory."""
    return {"env": {**home.environment, "HOME": str(home.work)}, "cwd": home.work}


def listens(port: int | None) -> bool:
    """Whether a server takes connections there."""
    assert port is not None
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def headers(address: str) -> list[str]:
    """The names of the headers with which a server answers."""
    with urllib.request.urlopen(address) as answer:
        return list(answer.headers)


def await_true(condition: Callable[[], bool]) -> None:
    """Ask until it holds: nobody tells when a server has taken up what it was told to."""
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until


@pytest.mark.P1
@pytest.mark.P3
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_the_demo_on_a_terminal(home: Home) -> None:
    home.environment["HOME"] = str(home.work)
    child = home.terminal(DEMO, BIN)
    child.expect(r"\[yes/no\] ")
    before = child.before.replace("\r", "")
    assert "Server: nginx/" in before and "X-Content-Type-Options: nosniff\n" not in before
    (session,) = home.json("list", "--json", "--state", "pending")
    plan = home.json("show", "--json", session["id"])["plan"]
    steps = told(plan["steps"])
    assert sorted(steps[:4]) == [
        ("create", "security-headers.conf"),
        ("delete", "old-shop.conf.dpkg-old"),
        ("metadata", "shop.htpasswd"),
        ("modify", "nginx.conf"),
    ]
    assert steps[4:] == [("review", "nginx")]
    assert plan["steps"][4]["argv"][-2:] == ["-s", "reload"]
    assert "test is successful" in before, "the check ran in the sandbox"
    child.sendline("yes")
    child.expect(r"What nginx serves now:")
    child.expect_exact("X-Content-Type-Options: nosniff")
    child.wait()
    after = child.before.replace("\r", "") + child.read().replace("\r", "")
    child.close()
    assert child.exitstatus == 0
    assert "Server: nginx\n" in after and "+\tserver_tokens off;" in after
    assert "-rw-r-----" in after
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", before)[0])
    assert not listens(port), "the demo's server has ended with it"
    assert not list(home.work.glob("shannot-demo.*"))


def test_the_demo_without_a_terminal(home: Home) -> None:
    done = subprocess.run(
        [DEMO, BIN],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        **demo(home),
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing has been changed" in done.stdout and "+add_header" in done.stdout
    (left,) = home.work.glob("shannot-demo.*")
    try:
        assert "server_tokens on" in (left / "nginx/nginx.conf").read_text()
        approved(home, pending(home))
        assert "server_tokens off" in (left / "nginx/nginx.conf").read_text()
        if NGINX is not None:
            (address,) = set(re.findall(r"http://127\S+/health", done.stdout))
            await_true(lambda: "X-Content-Type-Options" in headers(address))
    finally:
        (clean_up,) = re.findall(r"^ +(.*rm -r .*)$", done.stdout, re.MULTILINE)
        subprocess.run(["sh", "-c", clean_up], check=True)
    assert not left.exists()
    if NGINX is not None:
        await_true(lambda: not listens(urlsplit(address).port))


@pytest.mark.P1
def test_who_says_no_to_the_demo_keeps_everything(home: Home) -> None:
    home.environment["HOME"] = str(home.work)
    child = home.terminal(DEMO, BIN)
    child.expect(r"\[yes/no\] ")
    child.sendline("no")
    child.expect("The configuration stayed as it was")
    child.wait()
    child.close()
    assert child.exitstatus == 0
    assert not home.json("list", "--json", "--state", "pending")
    assert not list(home.work.glob("shannot-demo.*"))


@pytest.mark.skipif(not is_root(), reason="mounts")
def test_the_demo_where_there_is_no_nginx(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.touch(mode=0o644)
    cover = f"mount --bind {nothing} {NGINX} && " if NGINX is not None else ""
    with temporary_home() as home:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f'{cover}exec "$@"', "sh", DEMO, BIN],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            **demo(home),
        )
        assert done.returncode == 0, done.stderr
        assert "nginx is not installed: its check" in done.stdout
        plan = pending(home)["plan"]
        assert sorted(change for change, _ in told(plan["steps"])) == [
            "create", "delete", "metadata", "modify",
        ]  # fmt: skip
        shutil.rmtree(next(home.work.glob("shannot-demo.*")))
