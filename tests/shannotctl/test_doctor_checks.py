"""What `shannotctl doctor` says of places on the disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shannotctl.doctor import runner_checks, space_check


def test_a_directory_that_is_still_to_be_made(tmp_path: Path) -> None:
    check = space_check(tmp_path / "not" / "yet")
    assert check.ok
    assert str(tmp_path) in check.detail


def test_a_read_only_filesystem_wants_another_remedy_than_a_mode(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    check = space_check(small_disk / "state")
    assert not check.ok
    assert "read-only" in check.detail
    assert "chmod" not in check.remedy


def test_nothing_is_run_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, was_run = tmp_path / "shannotd" / "runner", tmp_path / "was run"
    package.mkdir(parents=True)
    for place in (package.parent, package):
        (place / "__init__.py").write_text(f"open({str(was_run)!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    assert runner_checks()
    assert not was_run.exists()
