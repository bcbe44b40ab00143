"""The documentation is true: its examples run, its tables are those of the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from scripts.error_page import PAGE, error_page
from shannotctl.cli.outcome import STATUSES
from shannotctl.cli.program import VERBS
from shannotd.policy.profiles import Limits, Profile
from tests.support.embedded import Home, temporary_home

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
MANUALS = sorted((REPOSITORY / "docs" / "man").iterdir())

_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_ID = re.compile(r"\b(?=[0-9]*[a-f]|[0-9a-f]*[0-9])(?:[0-9a-f]{32}|[0-9a-f]{8})\b")


def blocks(kind: str) -> list[Any]:
    """Every fenced block of a kind in every page."""
    return [
        pytest.param(match[2], id=f"{page.name}-{number}")
        for page in PAGES
        for number, match in enumerate(_BLOCK.finditer(page.read_text(encoding="utf-8")))
        if match[1] == kind
    ]


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A daemon for all examples."""
    with temporary_home() as made:
        yield made


@pytest.mark.parametrize("block", blocks("console"))
def test_examples_do_what_the_page_says(home: Home, block: str) -> None:
    status = 0
    for command, expected in commands(block):
        if command == "echo $?":
            assert expected == [str(status)]
            status = 0
            continue
        assert status == 0, f"the command before {command!r} failed, which the page does not say"
        done = subprocess.run(
            ["bash", "-c", current(home, command)],
            cwd=home.work,
            env=home.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        status = done.returncode
        assert_shown(done.stdout.decode().splitlines(), expected)
    assert status == 0, "the last command failed, which the page does not say"


@pytest.mark.parametrize("block", blocks("python"))
def test_python_examples_run(home: Home, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    exec(compile(block, "example", "exec"), {})


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a block with the lines that the page shows after it."""
    command: str | None = None
    shown: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command, shown
            command, shown = line[2:], []
        else:
            shown.append(line)
    if command is not None:
        yield command, shown


def current(home: Home, command: str) -> str:
    """`command` with the ids and digests of the page replaced by those of the last session."""
    if not _ID.search(command):
        return command
    last = home.json("list", "--json", "--limit", "1")[0]
    return _ID.sub(last["id"], _DIGEST.sub(str(last["digest"]), command))


def assert_shown(lines: list[str], expected: list[str]) -> None:
    """`lines` are those expected, where `...` stands for any lines, or the rest of one."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
        for line in expected
    )
    printed = "".join(f"{line}\n" for line in lines)
    assert re.fullmatch(pattern, printed), f"expected {expected}, got {lines}"


def test_the_page_of_errors_is_that_of_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == error_page()


def test_every_exit_status_and_verb_is_documented() -> None:
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    manual = (REPOSITORY / "docs" / "man" / "shannotctl.1").read_text(encoding="utf-8")
    for status, text in STATUSES:
        assert f"| {status} | {text} |" in page
        assert f".B {status}\n{text[0].upper()}{text[1:]}.\n" in manual
    for verb in VERBS:
        assert verb in page and verb in manual


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man here")
@pytest.mark.parametrize("manual", MANUALS, ids=lambda manual: manual.name)
def test_manuals_have_no_warnings(manual: Path) -> None:
    done = subprocess.run(
        ["man", "--warnings", "--encoding=UTF-8", "--local-file", str(manual)], capture_output=True
    )
    assert done.returncode == 0 and done.stdout
    assert done.stderr == b""


def test_the_version_is_one_and_the_same() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {project['version']}" in changes
    for manual in MANUALS:
        assert f'"shannot {project["version"]}"' in manual.read_text(encoding="utf-8")


def test_every_key_of_a_profile_is_on_its_page() -> None:
    page = (REPOSITORY / "docs" / "profiles.md").read_text(encoding="utf-8")
    keys = {entry.name for model in (Profile, Limits) for entry in fields(model)}
    missing = [key for key in keys - {"name", "limits"} if f"`{key}`" not in page]
    assert not missing
