"""What a checkpoint lacks cannot be taken back; that is said before anything is touched (P9)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from shannotd.runner import checkpoints
from shannotd.runner.batch import Points, Setting
from shannotd.runner.checkpoint import Checkpoint
from shannotd.runner.contents import EMPTY
from shannotd.runner.frames import RunnerError
from shannotd.runner.plan import FileState, FileStep
from shannotd.runner.rollback import SavedContents, take_back
from shannotd.runner.stop import Stop
from tests.runner import overlays
from tests.support.applying import created

pytestmark = pytest.mark.P9

WHO = overlays.ourselves()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    """One in which nothing is saved."""
    with checkpoints.create(str(tmp_path / "state"), "one-session", b"{}", "digest") as made:
        yield made


def setting(checkpoint: Checkpoint) -> Setting:
    return Setting(WHO, checkpoint, Points(), Stop())


def file_of(content: bytes) -> FileState:
    """The state of a file with this content."""
    sha256 = hashlib.sha256(content).hexdigest()
    size = len(content)
    return FileState("file", mode=0o644, uid=WHO.uid, gid=WHO.gid, size=size, sha256=sha256)


def test_a_content_that_was_not_saved_is_not_had(checkpoint: Checkpoint) -> None:
    contents = SavedContents(checkpoint, {})
    wanted = hashlib.sha256(b"old").hexdigest()
    assert not contents.has(wanted)
    with pytest.raises(RunnerError) as caught:
        contents.ask([(wanted, 3)])
    assert caught.value.code == "apply_failed"
    assert caught.value.details["reason"] == "the checkpoint lacks a content"


def test_nothing_needs_no_checkpoint_to_be_had(checkpoint: Checkpoint) -> None:
    contents = SavedContents(checkpoint, {})
    assert contents.has(EMPTY)
    assert contents.get(EMPTY) == b""
    assert contents.sendable(EMPTY).read() == b""


def test_without_what_was_there_before_nothing_is_touched(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    modified, fresh = tmp_path / "file", tmp_path / "fresh"
    modified.write_bytes(b"new")
    fresh.write_bytes(b"fresh")
    done = [
        (0, created(fresh, b"fresh", WHO)),
        (2, FileStep("modify", str(modified), file_of(b"old"), file_of(b"new"))),
    ]
    with pytest.raises(RunnerError) as caught:
        take_back(setting(checkpoint), done)
    assert (caught.value.code, caught.value.details["step"]) == ("apply_failed", 2)
    assert caught.value.details["path"] == str(modified)
    assert caught.value.details["reason"] == "the checkpoint lacks what was there before"
    assert (modified.read_bytes(), fresh.read_bytes()) == (b"new", b"fresh")


def test_what_did_nothing_is_taken_back_by_nothing(tmp_path: Path, checkpoint: Checkpoint) -> None:
    journal = tmp_path / "state/checkpoints/one-session/journal"
    before = journal.read_bytes()
    take_back(setting(checkpoint), [])
    assert journal.read_bytes() == before
