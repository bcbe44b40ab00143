"""The runner's checkpoints: listed, looked at, dropped as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shannotd.runner import checkpoint_view, checkpoints
from shannotd.runner.frames import RunnerError
from tests.runner import overlays
from tests.support.accounts import is_root
from tests.support.rolled import FIRST, Host

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts")


@pytest.fixture
def host(top: Path) -> Host:
    made = Host(top, overlays.who("root"))
    made.lay_out("write('file', 'x' * 5000)\nmake('full_directory', 'tree', 'y')")
    made.do("write('file', 'new')\nshutil.rmtree('tree')\nwrite('fresh', 'z')")
    return made


def test_one_is_told_of_by_size_and_age(host: Host) -> None:
    state = str(host.state)
    (kept,) = checkpoints.kept(state)
    assert (kept.session, kept.finished) == (FIRST, True)
    assert kept.size >= 5000
    plan = host.state / "checkpoints" / FIRST / "plan"
    assert kept.created_at == plan.stat().st_mtime


def test_what_is_saved_of_each_step(host: Host) -> None:
    told = {one["path"].rpartition("/")[2]: one for one in saved(host)}
    assert (told["file"]["change"], told["file"]["entries"], told["file"]["size"]) == (
        "modify",
        1,
        5000,
    )
    assert told["tree"]["change"] == "delete" and told["tree"]["entries"] == 10
    assert "fresh" not in told


def saved(host: Host) -> list[dict[str, object]]:
    return checkpoint_view.saved(str(host.state), FIRST)


@pytest.mark.P10
@pytest.mark.parametrize("damage", ["plan", "index", None])
def test_one_that_cannot_be_read_is_none(host: Host, damage: str | None) -> None:
    directory = host.state / "checkpoints" / FIRST
    if damage is None:
        checkpoints.drop(str(host.state), FIRST)
    elif damage == "plan":
        (directory / damage).write_text("{}")
    else:
        (directory / damage).write_text('{"index": 99, "entries": []}\n')
    with pytest.raises(RunnerError) as caught:
        saved(host)
    assert caught.value.code == "checkpoint_unknown"


@pytest.mark.P4
def test_one_is_dropped_as_a_whole(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    state = str(host.state)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.directories, "remove", stop)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.drop(state, FIRST)
    # Half dropped it is none any more, and its rest goes with the next.
    assert checkpoints.sessions(state) == checkpoints.unfinished(state) == []
    assert checkpoints.was_begun(state, FIRST)
    host.script("write('other', 'x')")
    host.do("write('other', 'y')", "second")
    checkpoints.drop(state, "second")
    assert os.listdir(host.state / "checkpoints") == []
    for name in (FIRST, "../applied"):
        with pytest.raises(RunnerError) as caught:
            checkpoints.drop(state, name)
        assert caught.value.code == "checkpoint_unknown"


def test_one_of_an_apply_that_is_not_over_stays(host: Host) -> None:
    with checkpoints.create(str(host.state), "open", b"{}", "digest"):
        pass
    with pytest.raises(RunnerError) as caught:
        checkpoints.drop(str(host.state), "open")
    assert caught.value.code == "checkpoint_in_use"
