"""Ordinary accounts for tests that run as root, and code that such accounts can read."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def temporary_account() -> Iterator[str]:
    """A new account with a home directory; gone afterwards with all of its processes."""
    name = f"shannot-{secrets.token_hex(4)}"
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    try:
        yield name
    finally:
        uid = pwd.getpwnam(name).pw_uid
        subprocess.run(["pkill", "-KILL", "-u", str(uid)], check=False)
        subprocess.run(
            ["userdel", "--force", "--remove", name], check=False, stderr=subprocess.DEVNULL
        )


@contextmanager
def readable_code() -> Iterator[Path]:
    """A copy of the packages that every account can read."""
    directory = Path(tempfile.mkdtemp(prefix="shannot-code-"))
    try:
        for package in ("shannotd", "shannotctl"):
            shutil.copytree(
                REPOSITORY / package,
                directory / package,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        subprocess.run(["chmod", "-R", "a+rX", str(directory)], check=True)
        yield directory
    finally:
        shutil.rmtree(directory)


def is_root() -> bool:
    """Whether the tests run as root (and may make accounts and mounts)."""
    return os.geteuid() == 0
