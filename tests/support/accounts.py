"""Ordinary accounts for tests that run as root, and code that such accounts can read."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def temporary_account() -> Iterator[str]:
    """A new account with a home directory; gone afterwards with all of its processes."""
    name = f"shannot-{secrets.token_hex(4)}"
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    account = pwd.getpwnam(name)
    try:
        yield name
    finally:
        uid = account.pw_uid
        subprocess.run(["pkill", "-KILL", "-u", str(uid)], check=False)
        subprocess.run(
            ["userdel", "--force", "--remove", name], check=False, stderr=subprocess.DEVNULL
        )
        shutil.rmtree(account.pw_dir, ignore_errors=True)  # of one that the test has deleted


@contextmanager
def temporary_group() -> Iterator[grp.struct_group]:
    """A new group without members; gone afterwards."""
    name = f"shannot-{secrets.token_hex(4)}"
    subprocess.run(["groupadd", name], check=True)
    try:
        yield grp.getgrnam(name)
    finally:
        subprocess.run(["groupdel", name], check=True)


async def run(*command: str) -> None:
    """Run a command on accounts; it may warn, and does not fail."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert await process.wait() == 0, command


@contextmanager
def readable_code() -> Iterator[Path]:
    """A copy of the packages and of what they import, that every account can read.

    The checkout and its virtual environment may lie where other accounts may not go.
    """
    directory = Path(tempfile.mkdtemp(prefix="shannot-code-"))
    try:
        for package in ("shannotd", "shannotctl"):
            shutil.copytree(
                REPOSITORY / package,
                directory / package,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        for name in _requirements("shannot"):
            _copy_distribution(distribution(name), directory)
        subprocess.run(["chmod", "-R", "a+rX", str(directory)], check=True)
        yield directory
    finally:
        shutil.rmtree(directory)


def _requirements(name: str) -> set[str]:
    """The distributions that `name` needs to run, and those that they need."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for line in distribution(waiting.pop()).requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if requirement.name not in found and (not marker or marker.evaluate({"extra": ""})):
                found.add(requirement.name)
                waiting.append(requirement.name)
    return found


def _copy_distribution(installed: Distribution, directory: Path) -> None:
    for file in installed.files or ():
        source, target = Path(str(file.locate())), directory / file
        if ".." not in file.parts and file.suffix != ".pyc" and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def is_root() -> bool:
    """Whether the tests run as root (and may make accounts and mounts)."""
    return os.geteuid() == 0
