"""The examples do what they say: the plan of each, step by step, and what its approval leaves."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shannotctl.client import Client, ScriptKind, Session, State, Submission
from shannotd.wire.decision import Risk
from tests.support.accounts import is_root
from tests.support.daemon import Daemon, running_daemon
from tests.support.embedded import Home, temporary_home
from tests.support.private_system import PrivateSystem, private_system

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
        (clean_up,) = re.findall(r"^ +(.*rm -rf .*)$", done.stdout, re.MULTILINE)
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


# disk-cleanup

LOGROTATE = """
{log}/app.log {{
    rotate 4
    size 1k
    create
    compress
}}
"""


@pytest.fixture
def full(home: Home) -> Iterator[Path]:
    """A directory with things that are old."""
    directory = home.work / "full"
    cache, log = directory / "cache" / "sub", directory / "log"
    cache.mkdir(parents=True)
    log.mkdir()
    for path, days in ((cache / "old", 30), (cache / "new", 1), (log / "app.log.9.gz", 60)):
        path.write_bytes(b"x" * 100_000)
        then = time.time() - days * 24 * 3600
        os.utime(path, (then, then))
    (log / "app.log").write_text("one line\n" * 1000)
    (directory / "logrotate.conf").write_text(LOGROTATE.format(log=log))
    (directory / "logrotate.conf").chmod(0o644)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.P1
def test_disk_cleanup(home: Home, full: Path) -> None:
    session = submitted(home, str(EXAMPLES / "disk-cleanup" / "clean.sh"), str(full))
    *steps, df = session["plan"]["steps"]
    rotates = shutil.which("logrotate", path=SYSTEM_PATH) is not None
    rotation = [
        ("create", ".rotated"),
        ("modify", "app.log"),
        ("create", "app.log.1.gz"),
    ]
    assert sorted(told(steps)) == sorted(
        [("delete", "app.log.9.gz"), ("delete", "old"), *(rotation if rotates else [])]
    )
    assert (df["decision"], df["program"], df["called_after"]) == ("observe", "/usr/bin/df", None)
    assert "Filesystem" in df["stdout"]["text"]
    before, after = (
        int(line.split()[0]) for line in session["stdout"].splitlines() if line.endswith("\tcache")
    )
    assert before - after >= 90, "du counts what is gone in the sandbox"
    assert (full / "cache/sub/old").exists() and not (full / "log/app.log.1.gz").exists()
    approved(home, session)
    left = {path.name for path in full.rglob("*") if path.is_file()}
    rotated = {".rotated", "app.log.1.gz"} if rotates else set()
    assert left == {"new", "app.log", "logrotate.conf"} | rotated
    if rotates:
        packed = gzip.decompress((full / "log/app.log.1.gz").read_bytes())
        assert packed == b"one line\n" * 1000 and not (full / "log/app.log").read_bytes()


# Examples that change the system: in one of their own.


def in_private_system(system: PrivateSystem, directory: Path) -> AbstractContextManager[Daemon]:
    """A daemon of root's in it."""
    return running_daemon(directory / "daemon", prefix=system.prefix)


def submit(client: Client, *path: str, arguments: tuple[str, ...]) -> Session:
    """Submit an example as `shannotctl submit FILE` does."""
    file = EXAMPLES.joinpath(*path)
    script = Submission(
        ScriptKind.FILE, file.read_bytes(), arguments, name=file.name, path=str(file), cwd="/root"
    )
    return client.submit(script)


@pytest.mark.P1
@pytest.mark.skipif(not is_root(), reason="changes accounts")
def test_onboard_user(tmp_path: Path) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINoRealKeyNoRealKeyNoRealKeyNoRealKeyN ann@example"
    with (
        private_system() as system,
        in_private_system(system, tmp_path) as daemon,
        daemon.client() as client,
    ):
        session = submit(client, "onboard-user", "onboard.sh", arguments=("ann", key))
        plan = session.plan
        assert session.state is State.PENDING and plan is not None, session
        steps = {step.path: step for step in plan.steps}
        for path in ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"):
            assert steps[path].risk is Risk.DANGER and steps[path].change == "append", path
        keys = steps["/home/ann/.ssh/authorized_keys"]
        assert keys.risk is Risk.DANGER and keys.diff is not None and f"+{key}" in keys.diff
        assert "ann" not in system.accounts("/etc/passwd")
        client.approve(session.id, plan.digest)
        assert client.wait(session.id).state is State.EXECUTED
        uid, gid = map(int, system.accounts("/etc/passwd")["ann"][2:4])
        made = system.path("/home/ann/.ssh/authorized_keys")
        assert made.read_text() == key + "\n"
        for path, mode in ((made, 0o600), (made.parent, 0o700)):
            status = path.stat()
            assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (uid, gid, mode)


REPOSITORY = "/home/repository"
CONTROL = """Package: shannot-example
Version: {version}
Architecture: all
Maintainer: Nobody <nobody@example.invalid>
Description: a package for tests
"""


def packed(system: PrivateSystem, version: str) -> str:
    """Put a version of a package into the private repository; its entry in the index."""
    tree = system.path(f"{REPOSITORY}/{version}")
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL.format(version=version))
    (tree / "etc").mkdir()
    (tree / "etc/shannot-example").write_text(f"version {version}\n")
    archive = system.path(f"{REPOSITORY}/{version}.deb")
    command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(archive)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    data = archive.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    entry = f"Filename: ./{archive.name}\nSize: {len(data)}\nSHA256: {digest}\n"
    return CONTROL.format(version=version) + entry


@pytest.fixture
def apt() -> Iterator[PrivateSystem]:
    """A system in which version 1.0 of a package is installed and 2.0 is to be had."""
    empty = ("/home", "/var/lib/apt", "/var/cache/apt", "/var/log")
    with private_system(copies=("/etc", "/var/lib/dpkg"), empty=empty) as system:
        for path in ("/var/log/apt", "/var/cache/apt/archives/partial", REPOSITORY):
            system.path(path).mkdir(parents=True)
        index = [packed(system, version) for version in ("1.0", "2.0")]
        system.path(f"{REPOSITORY}/Packages").write_text("\n".join(index))
        shutil.rmtree(system.path("/etc/apt/sources.list.d"))
        system.path("/etc/apt/sources.list.d").mkdir()
        sources = system.path("/etc/apt/sources.list")
        sources.write_text(f"deb [trusted=yes] file:{REPOSITORY} ./\n")
        archive = f"{REPOSITORY}/1.0.deb"
        for command in (["apt-get", "-qq", "update"], ["dpkg", "--install", archive]):
            run = [*system.prefix, *command]
            done = subprocess.run(run, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        yield system


@pytest.mark.P1
@pytest.mark.skipif(not is_root(), reason="changes packages")
def test_apt_upgrade(apt: PrivateSystem, tmp_path: Path) -> None:
    installed = apt.path("/etc/shannot-example")
    with in_private_system(apt, tmp_path) as daemon, daemon.client() as client:
        arguments = ("shannot-example",)
        session = submit(client, "apt-upgrade", "upgrade.sh", arguments=arguments)
        plan = session.plan
        assert session.state is State.PENDING and plan is not None, session
        assert b"installed: shannot-example 1.0\n" in session.stdout
        assert b"would be installed: shannot-example [1.0] (2.0 " in session.stdout
        (step,) = plan.steps
        assert step.runs and step.argv[-3:] == ("--yes", "--only-upgrade", "shannot-example")
        assert "DEBIAN_FRONTEND" in step.changed and step.risk is Risk.CAUTION
        assert installed.read_text() == "version 1.0\n"
        client.approve(session.id, plan.digest)
        ended = client.wait(session.id)
        assert ended.state is State.EXECUTED, ended.error
        assert installed.read_text() == "version 2.0\n"
        again = submit(client, "apt-upgrade", "upgrade.sh", arguments=arguments)
        assert again.state is State.EXECUTED and again.stdout.endswith(b"there is nothing newer\n")
