"""The programs beside the reviewer, where they do not do what they are for."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

import pytest

from shannotctl.review.outside import clipboard_sequence, copy_in_tmux, edited, page
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


def test_which_pager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    paged = tmp_path / "paged"
    for name in ("pager", "more"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >{paged}\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("PAGER", f"{programs}/more -x 'a b'")
    page(["line"] * 100_000)  # it reads nothing of it
    assert paged.read_text() == "more -x a b\n"
    monkeypatch.setenv("PAGER", " ")
    page(["line"])
    assert paged.read_text() == "pager\n"
    (programs / "pager").unlink()
    page(["line"])
    assert paged.read_text() == "more\n"
    (programs / "more").unlink()
    with pytest.raises(UsageError, match="there is no pager: set PAGER"):
        page(["line"])
    monkeypatch.setenv("PAGER", "'unfinished")
    with pytest.raises(UsageError, match="PAGER is no command line"):
        page(["line"])


@pytest.mark.P7
def test_a_terminal_is_given_no_byte_of_what_is_copied_as_it_is() -> None:
    text = "\x1b]52;c;!\x07\udcff"
    sequence = clipboard_sequence(text)
    begin, data = sequence[:7], sequence[7:-1]
    assert begin == "\x1b]52;c;" and sequence[-1] == "\x07"
    assert base64.b64decode(data, validate=True) == text.encode("utf-8", "surrogateescape")
    with pytest.raises(UsageError, match="too long for a terminal's clipboard"):
        clipboard_sequence("x" * 60_001)
