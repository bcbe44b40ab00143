"""The programs beside the reviewer, where they do not do what they are for."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from shannotctl.review.outside import copy_in_tmux, edited
from shannotd.wire.errors import EditorFailed, UsageError


@pytest.mark.P10
def test_a_tmux_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmux").write_bytes(b"\x7f no program")
    (tmp_path / "tmux").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TMUX", "/nowhere,1,0")
    with pytest.raises(UsageError, match="tmux does not take"):
        copy_in_tmux("text")


@pytest.mark.P10
def test_no_room_for_a_copy_to_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setenv("VISUAL", "true")
    with pytest.raises(EditorFailed, match="true cannot be given a copy: No such file"):
        edited(b"x", 0, "/etc/x")
