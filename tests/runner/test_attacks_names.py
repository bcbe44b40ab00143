"""Files with several names, where an apply fails or somebody else comes in between (P2, P4, P9)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shannotd.runner import checkpoints
from shannotd.runner.plan import FileStep
from tests.runner import overlays
from tests.runner.overlays import Recording
from tests.runner.test_any_script import one_name_each
from tests.runner.test_apply import ROOT, At
from tests.runner.test_apply_failures import failing
from tests.runner.test_recovery import Kill, killed_apply, resumed
from tests.support import mixed
from tests.support.accounts import is_root
from tests.support.applying import shell
from tests.support.operations import Operation, Phase
from tests.support.rolled import Host, around, conflicts_of

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")

# In the sandbox the two names of one file have parted: each has the mode that it was given.
EACH_ITS_MODE: list[Phase] = [
    [("chmod", "twin", 0o600), ("chmod", "d/twin", 0o640)],
    [("chmod", "twin", 0o700), ("chmod", "d/twin", 0o755), ("write", "d/file", "x")],
]


@pytest.mark.P4
@pytest.mark.parametrize("killed", [False, True])
def test_a_batch_that_was_cut_short_leaves_what_was_really_there(top: Path, killed: bool) -> None:
    """Not what its plan expected at one of the names: the batches before are taken back from it."""
    with mixed.bed(top, EACH_ITS_MODE) as bed:
        recording = Recording(bed.steps, (), dict(bed.contents))
        found = overlays.plan_of(recording, ROOT)
        files = [index for index, step in enumerate(bed.steps) if isinstance(step, FileStep)]
        for index in (one for one in files if bed.batch_of(one) == 1):
            bed.lay_out()
            if killed:
                killed_apply(found, recording, bed.state, Kill("changed", index, 1))
                applied = resumed(bed.state, found.session)
            else:
                at = At("changed", failing(lambda: None), index)
                applied = overlays.apply_plan(found, recording.contents, state=bed.state, points=at)
            assert applied.error is not None
            assert "refused" not in applied.error["details"]["before"]
            assert "done" not in {applied.steps[one] for one in files}
            assert one_name_each(overlays.snapshot(bed.host)) == one_name_each(bed.states[0])


@pytest.mark.P4
@pytest.mark.P9
def test_somebodys_name_of_a_changed_file_in_a_new_directory_is_told(top: Path) -> None:
    phases: list[Phase] = [[("chmod", "d/mode", 0o600)], [("mkdir", "made")], [("age", "d/file")]]
    with mixed.bed(top, phases) as bed:
        recording = Recording(bed.steps, (), dict(bed.contents))
        found = overlays.plan_of(recording, ROOT)
        bed.lay_out()
        killed_apply(found, recording, bed.state, Kill("synced", batch=1))
        os.link(bed.host / "d/mode", bed.host / "made/theirs")
        before = overlays.snapshot(bed.host)
        applied = resumed(bed.state, found.session)
        assert applied.error is not None
        assert f"{bed.host}/made was changed since" in applied.error["details"]["before"]
        assert overlays.snapshot(bed.host) == before
        assert checkpoints.unfinished(str(bed.state)) == []


# Somebody makes another file's name one of the file that the plan has changed: they have the same
# content, and the other's metadata are now those that the plan expects there, or once gave it.

_APART = "write('a', '')\nwrite('m', '')\n"
_SECRET, _SHARED = "os.chmod('a', 0o600)", "os.chmod('m', 0o640)"


@pytest.mark.P2
@pytest.mark.parametrize("act", ['ln -f "$1/a" "$1/m"', 'mv "$1/a" "$1/m"'])
def test_a_name_that_somebody_gave_it_between_two_batches_is_stale(host: Host, act: str) -> None:
    host.lay_out(_APART)
    found, contents = around(host, _SECRET, shell(act, str(host.directory)), _SHARED)
    applied = host.apply(found, contents)
    assert applied.code == "stale"
    assert applied.error is not None
    assert applied.error["details"]["path"] == f"{host.directory}/m"
    assert applied.steps[2] == "stale"


@pytest.mark.P9
def test_a_name_that_somebody_gave_it_afterwards_is_a_conflict(host: Host) -> None:
    host.lay_out(_APART)
    found, contents = around(host, _SECRET, shell("true"), _SHARED)
    assert host.apply(found, contents).error is None
    host.script("os.unlink('a')\nos.link('m', 'a')")
    assert set(conflicts_of(host, host.ask())) == {"a"}


@pytest.mark.P9
def test_a_time_that_somebody_gave_it_by_any_name_is_a_conflict(host: Host) -> None:
    host.lay_out("write('a', '')\nos.link('a', 'n')\n")
    found, contents = around(host, "os.utime('a', (5, 5))", shell("true"), "os.chmod('n', 0o640)")
    assert host.apply(found, contents).error is None
    host.script("os.utime('n', (77, 77))")
    assert set(conflicts_of(host, host.ask())) == {"a"}


@pytest.mark.P4
def test_an_access_list_that_keeps_the_owner_out_of_a_directory_is_put_back(top: Path) -> None:
    """The owner needs access for the batch, and chmod(2) changes the access list with the mode."""
    with mixed.bed(top, [[("acl", "d/tree", 5), ("write", "d/tree/inner", "x")]]) as bed:
        recording = Recording(bed.steps, (), dict(bed.contents))
        found = overlays.plan_of(recording, ROOT)
        bed.lay_out()
        at = At("changed", failing(lambda: None), len(bed.steps) - 1)
        applied = overlays.apply_plan(found, recording.contents, state=bed.state, points=at)
        assert applied.error is not None
        assert applied.error["details"]["before"] == "undone"
        assert overlays.snapshot(bed.host) == bed.states[0]


@pytest.mark.P2
def test_what_is_given_by_one_name_is_not_taken_away_by_another(host: Host) -> None:
    """Neither the plan says so nor would the script have done it."""
    host.lay_out("write('a', '')\nos.link('a', 'n')\n")
    before = host.snapshot()
    host.do("os.chown('a', 1, 1)\nos.chmod('n', 0o600)")
    status = (host.directory / "a").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1, 1, 0o600)
    host.roll_back()
    assert host.snapshot() == before


@pytest.mark.P9
def test_what_somebody_gave_it_is_not_taken_for_what_was_left(host: Host) -> None:
    host.lay_out("write('a', '')\nos.link('a', 'n')\n")
    host.do("os.chown('a', 1, 1)\nos.chmod('n', 0o600)")
    host.script("os.chmod('a', 0o640)")
    assert set(conflicts_of(host, host.ask())) == {"a", "n"}


@pytest.mark.P4
@pytest.mark.parametrize(
    ("later", "stays"),
    [
        (("remove", "d/twin"), True),
        (("remove", "d"), True),
        (("write", "d/twin", "x"), True),
        (("rename", "d/twin", "m"), True),
        (("write", "d/file", "x"), False),
    ],
)
def test_names_that_no_step_has_are_told_where_they_keep_the_mode(
    top: Path, later: Operation, stays: bool
) -> None:
    """The file that is made anew has just the name that was deleted."""
    with mixed.bed(top, [[("chmod", "d/twin", 0o600)], [later]]) as bed:
        steps = (*bed.steps, shell("exit 1"))
        found = overlays.plan_of(Recording(steps, (), dict(bed.contents)), ROOT)
        bed.lay_out()
        applied = overlays.apply_plan(found, bed.contents, state=bed.state)
        assert applied.code == "command_failed"
        assert applied.error is not None
        before = applied.error["details"]["before"]
        assert before.startswith("rolled back")
        told = "other names of the file of step 1 keep what it was given"
        assert (told in before) == stays
        mode = (bed.host / "twin").stat().st_mode & 0o7777
        assert mode == (0o600 if stays else 0o644)


@pytest.mark.P4
def test_a_directory_whose_access_list_keeps_the_owner_out_is_made_anew(top: Path) -> None:
    phases: list[Phase] = [[("acl", "d/tree", 5)], [("remove", "d/tree")]]
    with mixed.bed(top, phases) as bed:
        steps = (*bed.steps, shell("exit 1"))
        found = overlays.plan_of(Recording(steps, (), dict(bed.contents)), ROOT)
        bed.lay_out()
        applied = overlays.apply_plan(found, bed.contents, state=bed.state)
        assert applied.code == "command_failed"
        assert overlays.snapshot(bed.host) == bed.states[0]
