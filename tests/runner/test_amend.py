"""A reviewer's plan by a real runner: sealed for its session only, and applied just so (P2, P5)."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from shannotd.runner.diff import FILE_BYTES
from shannotd.runner.frames import Channel
from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.runner import Outcome, RunnerProcess, review

pytestmark = pytest.mark.P2

MEBIBYTE = 1024 * 1024
SAME: dict[str, Any] = {"holders": [], "others": []}  # a note of a step that is as it was


def recorded(bench: Bench, place: Path, script: str, **more: Any) -> Outcome:
    """A plan of a shell script in `place`."""
    outcome = bench.run("shell", script, cwd=str(place), **more)
    assert outcome.error is None and outcome.exit_code == 0, (outcome.error, outcome.stderr)
    return outcome


def with_copies(bench: Bench, place: Path, script: str) -> Outcome:
    """The same; each `tee` waits for the review: it shows what there is when it is applied."""
    return recorded(bench, place, script, shims=("tee",), decide=lambda _: review(stdin=True))


def at(outcome: Outcome, path: Path | str, change: str | None = None) -> int:
    """The index of the step that changes `path`."""
    found = [
        index
        for index, step in enumerate(outcome.steps)
        if step["kind"] == "file" and step["path"] == str(path) and change in (None, step["change"])
    ]
    assert len(found) == 1, (path, outcome.steps)
    return found[0]


def amended(bench: Bench, outcome: Outcome, **changes: Any) -> Outcome:
    """Its plan with changes."""
    changed = bench.runner.amend(outcome, **changes)
    assert changed.error is None, changed.error
    assert json.loads(changed.canonical)["session"] == changed.session != outcome.session
    return changed


def applied(bench: Bench, outcome: Outcome) -> None:
    steps, error = bench.runner.apply(outcome)
    assert error is None, error
    assert len(steps) == len(outcome.steps)


def code(outcome: Outcome) -> str:
    """Of the error with which no plan came."""
    assert outcome.error is not None and outcome.canonical == b""
    return str(outcome.error["code"])


# Dropping.


def test_what_is_dropped_is_not_applied(bench: Bench, place: Path) -> None:
    (place / "old").write_text("old\n")
    owned(bench, place / "old")
    outcome = recorded(bench, place, "echo 1 >a; echo 2 >b; rm old; mkdir d; echo 3 >d/f")
    changed = amended(bench, outcome, drop=[at(outcome, place / "a"), at(outcome, place / "old")])
    kept = [step["path"] for step in changed.steps]
    assert kept == [str(place / name) for name in ("b", "d", "d/f")]
    assert changed.notes == [SAME] * 3
    assert [outcome.steps[index] for index in changed.amended["origins"]] == changed.steps
    applied(bench, changed)
    assert sorted(os.listdir(place)) == ["b", "d", "old"]
    assert (place / "d" / "f").read_text() == "3\n"


def test_a_directory_goes_with_all_that_is_in_it_or_stays(bench: Bench, place: Path) -> None:
    outcome = recorded(bench, place, "mkdir -p d/e; echo 1 >d/f; echo 2 >d/e/g; echo 3 >x")
    top = at(outcome, place / "d")
    refused = bench.runner.amend(outcome, drop=[top])
    assert code(refused) == "step_needed"
    assert refused.error is not None
    others = sorted(at(outcome, place / name) for name in ("d/e", "d/f", "d/e/g"))
    numbers = refused.error["details"]["steps"].removeprefix("steps ")
    first, _, last = numbers.partition("-")
    assert list(range(int(first) - 1, int(last))) == others
    changed = amended(bench, outcome, drop=[top], with_dependents=True)
    assert changed.amended["dropped"] == [top, *others]
    applied(bench, changed)
    assert os.listdir(place) == ["x"]


def test_a_deleted_tree_stays_when_its_step_is_dropped(bench: Bench, place: Path) -> None:
    (place / "d" / "e").mkdir(parents=True)
    (place / "d" / "e" / "f").write_text("keep\n")
    owned(bench, place)
    outcome = recorded(bench, place, "rm -r d; echo 1 >x")
    applied(bench, amended(bench, outcome, drop=[at(outcome, place / "d")]))
    assert (place / "d" / "e" / "f").read_text() == "keep\n"
    assert (place / "x").read_text() == "1\n"


@pytest.mark.P3
def test_a_plan_with_commands_keeps_its_order(bench: Bench, place: Path) -> None:
    script = "echo one >a; tee seen-1 <a; echo two >a; tee seen-2 <a; rm a; tee seen-3; echo x >b"
    outcome = with_copies(bench, place, script)
    kinds = [step.get("change", step["kind"]) for step in outcome.steps]
    assert kinds == ["create", "command", "modify", "command", "delete", "command", "create"]
    refused = bench.runner.amend(outcome, drop=[0])
    assert refused.error is not None and refused.error["details"]["steps"] == "steps 3, 5"
    changed = amended(bench, outcome, drop=[1, 5])
    assert changed.amended["missed"] == [[2, 1]]
    applied(bench, changed)
    assert sorted(os.listdir(place)) == ["b", "seen-2"]
    assert (place / "seen-2").read_text() == "two\n"


def test_what_a_directory_needs_to_be_written_is_missed_before_the_review(
    bench: Bench, place: Path
) -> None:
    if bench.uid == 0:
        pytest.skip("root writes in every directory")
    (place / "d").mkdir()
    owned(bench, place)
    (place / "d").chmod(0o500)
    outcome = recorded(bench, place, "chmod 700 d; echo 1 >d/f")
    refused = bench.runner.amend(outcome, drop=[at(outcome, place / "d")])
    assert code(refused) == "not_permitted"
    assert len(amended(bench, outcome, drop=[at(outcome, place / "d/f")]).steps) == 1


# Editing.


def owned(bench: Bench, path: Path) -> None:
    """Give `path`, and all in it, to the identity."""
    if is_root():
        owner = f"{bench.uid}:{bench.home.stat().st_gid}"
        subprocess.run(["chown", "-R", owner, str(path)], check=True)


def test_an_edited_new_file_is_written(bench: Bench, place: Path) -> None:
    outcome = recorded(bench, place, "umask 077; echo script >a; echo 2 >b")
    index = at(outcome, place / "a")
    changed = amended(bench, outcome, edits={index: b"reviewer\n"})
    before, after = outcome.steps[index]["after"], changed.steps[index]["after"]
    assert {**before, "sha256": after["sha256"], "size": 9} == after
    assert changed.notes[index]["diff"].endswith("@@ -0,0 +1 @@\n+reviewer\n")
    assert [note for place_, note in enumerate(changed.notes) if place_ != index] == [SAME]
    assert changed.amended["edited"] == [index]
    applied(bench, changed)
    assert (place / "a").read_bytes() == b"reviewer\n"
    assert (place / "a").stat().st_mode & 0o777 == 0o600
    assert (place / "b").read_text() == "2\n"


def test_an_edited_file_keeps_mode_owner_attributes_and_time(bench: Bench, place: Path) -> None:
    path = place / "a"
    path.write_text("first\nsecond\n")
    owned(bench, path)
    path.chmod(0o640)
    os.setxattr(path, "user.kind", b"kept")
    outcome = recorded(bench, place, "echo third >>a; sed -i s/first/1/ a; touch -d 2001-02-03 a")
    index = at(outcome, path)
    assert outcome.steps[index]["change"] == "modify"
    promised = outcome.steps[index]["after"]["mtime_ns"]
    changed = amended(bench, outcome, edits={index: b"1\nsecond\nedited\n"})
    step = changed.steps[index]
    assert step["before"] == outcome.steps[index]["before"]
    assert step["after"]["xattrs"] == outcome.steps[index]["after"]["xattrs"]
    shown = changed.notes[index]["diff"]
    assert "-first\n" in shown and "+edited\n" in shown and " second\n" in shown
    applied(bench, changed)
    status = path.stat()
    assert path.read_text() == "1\nsecond\nedited\n"
    assert (status.st_mode & 0o777, status.st_uid) == (0o640, bench.uid)
    assert promised is not None and status.st_mtime_ns == promised


def test_of_an_append_what_is_appended_is_edited(bench: Bench, place: Path) -> None:
    path = place / "log"
    path.write_text("".join(f"line {number}\n" for number in range(9)))
    owned(bench, path)
    outcome = recorded(bench, place, "echo script >>log")
    changed = amended(bench, outcome, edits={0: b"reviewer\nagain\n"})
    (step,) = changed.steps
    assert step["change"] == "append" and step["appended"]["size"] == 15
    assert changed.notes[0]["diff"].endswith(
        "@@ -7,3 +7,5 @@\n line 6\n line 7\n line 8\n+reviewer\n+again\n"
    )
    with path.open("a") as file:
        file.write("meanwhile\n")
    again = amended(bench, outcome, edits={0: b"reviewer\nagain\n"})
    assert again.steps == changed.steps
    applied(bench, changed)
    assert path.read_text().endswith("line 8\nmeanwhile\nreviewer\nagain\n")


def test_an_appended_file_that_goes_on_in_the_plan_is_followed(bench: Bench, place: Path) -> None:
    path = place / "log"
    path.write_text("0\n")
    owned(bench, path)
    script = (
        "echo 1 >>log; tee seen-1; echo 2 >>log; chmod 600 log; tee seen-2; cp log copy; rm log"
    )
    outcome = with_copies(bench, place, script)
    changed = amended(bench, outcome, edits={0: b"one\n"})
    steps = [step for step in changed.steps if step.get("path") == str(path)]
    assert [step["change"] for step in steps] == ["append", "append", "delete"]
    for one, two in itertools.pairwise(steps):
        for name in ("sha256", "size", "mode", "uid"):
            assert one["after"][name] == two["before"][name]
    shown = [changed.notes[changed.steps.index(step)]["diff"] for step in steps]
    assert "+one\n" in shown[0]
    assert " one\n+2\n" in shown[1]
    assert "-one\n-2\n" in shown[2]
    applied(bench, changed)
    # What the script made of the content elsewhere is as it was.
    assert (place / "copy").read_text() == "0\n1\n2\n"
    assert not path.exists()


def test_a_command_meets_the_edited_file(bench: Bench, place: Path) -> None:
    outcome = recorded(
        bench, place, "echo script >a; cp a seen; rm a", shims=("cp",), decide=lambda _: review()
    )
    assert [step.get("change") for step in outcome.steps] == ["create", None, "delete"]
    applied(bench, amended(bench, outcome, edits={0: b"reviewer\n"}))
    assert os.listdir(place) == ["seen"]
    assert (place / "seen").read_bytes() == b"reviewer\n"


def test_a_file_in_a_renamed_directory_is_found_where_it_is(bench: Bench, place: Path) -> None:
    (place / "d").mkdir()
    (place / "d" / "log").write_text("host\n")
    owned(bench, place)
    outcome = recorded(bench, place, "mv d e && echo script >>e/log")
    index = next(i for i, step in enumerate(outcome.steps) if step["path"].endswith("/log"))
    if outcome.steps[index]["change"] == "append":
        changed = amended(bench, outcome, edits={index: b"reviewer\n"})
        assert " host\n+reviewer\n" in changed.notes[index]["diff"]
        expected = "host\nreviewer\n"
    else:  # without redirects of directories everything is made anew
        changed = amended(bench, outcome, edits={index: b"reviewer\n"})
        expected = "reviewer\n"
    applied(bench, changed)
    assert (place / "e" / "log").read_text() == expected
    assert os.listdir(place) == ["e"]


def test_one_more_name_has_the_edited_content(bench: Bench, place: Path) -> None:
    outcome = recorded(bench, place, "echo script >a; ln a b")
    index = next(i for i, step in enumerate(outcome.steps) if step["link_to"] is None)
    changed = amended(bench, outcome, edits={index: b"reviewer\n"})
    applied(bench, changed)
    assert (place / "a").read_bytes() == b"reviewer\n" == (place / "b").read_bytes()
    assert (place / "a").stat().st_ino == (place / "b").stat().st_ino
    refused = bench.runner.amend(outcome, edits={1 - index: b"other"})
    assert code(refused) == "not_amendable"


@pytest.mark.parametrize("size", [0, FILE_BYTES + 1, 10 * MEBIBYTE])
def test_contents_of_all_sizes(bench: Bench, place: Path, size: int) -> None:
    content = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
    outcome = recorded(bench, place, "echo script >a")
    changed = amended(bench, outcome, edits={0: content})
    assert changed.notes[0]["too_large"] is (size > FILE_BYTES)
    applied(bench, changed)
    assert (place / "a").read_bytes() == content


@pytest.mark.P7
def test_binary_contents_are_said_to_be(bench: Bench, place: Path) -> None:
    content = bytes(range(256))
    outcome = recorded(bench, place, "echo script >a")
    changed = amended(bench, outcome, edits={0: content})
    assert changed.notes[0] == {"diff": None, "binary": True, "too_large": False, **SAME}
    applied(bench, changed)
    assert (place / "a").read_bytes() == content


def test_a_plan_can_be_amended_again(bench: Bench, place: Path) -> None:
    outcome = recorded(bench, place, "echo 1 >a; echo 2 >b; echo 3 >c")
    once = amended(bench, outcome, edits={0: b"edited\n"}, drop=[1])
    twice = amended(bench, once, drop=[1])
    assert [step["path"] for step in twice.steps] == [str(place / "a")]
    applied(bench, twice)
    assert os.listdir(place) == ["a"] and (place / "a").read_bytes() == b"edited\n"


@pytest.mark.P7
def test_who_holds_a_file_open_for_writing_is_told_anew(bench: Bench, place: Path) -> None:
    if bench.builder != "privileged":
        pytest.skip("an ordinary runner sees the processes of its account only")
    (place / "a").write_text("host\n")
    outcome = recorded(bench, place, "echo script >a; echo b >b")
    index = at(outcome, place / "a")
    assert outcome.notes[index]["holders"] == []
    with (place / "a").open("a"):
        for edits in ({}, {index: b"reviewer\n"}):
            changed = amended(bench, outcome, drop=[at(outcome, place / "b")], edits=edits)
            assert [holder["pid"] for holder in changed.notes[0]["holders"]] == [os.getpid()]


def test_a_host_that_is_no_longer_what_it_was_is_stale(bench: Bench, place: Path) -> None:
    path = place / "a"
    path.write_text("host\n")
    owned(bench, path)
    outcome = recorded(bench, place, "echo script >a; echo b >b")
    path.write_text("other\n")
    refused = bench.runner.amend(outcome, edits={at(outcome, path): b"reviewer\n"})
    assert code(refused) == "stale"
    assert refused.error is not None and refused.error["details"]["path"] == str(path)
    path.unlink()
    assert code(bench.runner.amend(outcome, edits={at(outcome, path): b"reviewer\n"})) == "stale"
    path.symlink_to("/etc/hostname")
    assert code(bench.runner.amend(outcome, edits={at(outcome, path): b"reviewer\n"})) == "stale"
    # What is not shown anew is looked at when it is applied.
    assert len(amended(bench, outcome, edits={at(outcome, place / "b"): b"x"}).steps) == 2


def test_it_is_the_identity_that_looks_at_the_host(bench: Bench, account: str) -> None:
    if bench.builder != "privileged":
        pytest.skip("only root's runner takes on another identity")
    home = Path(f"/home/{account}")
    place = Path(tempfile.mkdtemp(prefix="shannot-place-", dir=home))
    try:
        (place / "secret").write_text("s\n")
        subprocess.run(["chown", "-R", f"{account}:", str(place)], check=True)
        (place / "secret").chmod(0o200)  # its owner may append to it, and not read it
        script = "echo script >a; echo more >>secret"
        outcome = recorded(bench, place, script, run_as=account)
        changed = amended(bench, outcome, edits={at(outcome, place / "a"): b"reviewer\n"})
        edited = at(outcome, place / "secret")
        refused = bench.runner.amend(outcome, edits={edited: b"reviewer\n"})
        assert code(refused) == "not_amendable"
        assert refused.error is not None
        assert "Permission denied" in refused.error["details"]["reason"]
        kept = amended(bench, changed, drop=[at(changed, place / "secret")])
        applied(bench, kept)
        assert (place / "a").read_bytes() == b"reviewer\n"
        assert (place / "a").stat().st_uid == home.stat().st_uid
    finally:
        shutil.rmtree(place)


# Only what was recorded here, only for its session.


def test_a_seal_holds_for_one_session_and_one_plan(bench: Bench, place: Path) -> None:
    outcome = recorded(bench, place, "echo 1 >a; echo 2 >b")
    changed = amended(bench, outcome, drop=[0])
    for wrong in (
        {"session": changed.session},
        {"seal": changed.seal},
        {"digest": changed.digest},
        {"seal": "0" * 64},
    ):
        assert code(bench.runner.amend(outcome, drop=[0], **wrong)) == "digest_mismatch"
    for forged in (
        Outcome(outcome.session, canonical=changed.canonical, digest=changed.digest),
        Outcome(changed.session, canonical=outcome.canonical, digest=outcome.digest),
    ):
        for seal in (outcome.seal, changed.seal):
            forged.seal = seal
            _, error = bench.runner.apply(forged)
            assert error is not None and error["code"] == "digest_mismatch"
    assert os.listdir(place) == []


@pytest.mark.P10
@pytest.mark.parametrize(
    "header",
    [
        {"op": "apply"},
        {"to": ""},
        {"to": "../x"},
        {"to": None},
        {"canonical_size": -1},
        {"canonical_size": "1"},
        {"canonical_size": 1 << 40},
    ],
)
def test_a_request_that_is_none_is_refused(
    bench: Bench, place: Path, header: dict[str, Any]
) -> None:
    outcome = recorded(bench, place, "echo 1 >a; echo 2 >b")
    assert code(bench.runner.amend(outcome, drop=[0], **header)) == "invalid_request"


@pytest.mark.P10
@pytest.mark.parametrize(
    "changes",
    [b"", b"[]", b"{}", b'{"drop": "x", "edits": [], "with_dependents": 0}', b'{"drop": [0]}'],
)
def test_changes_that_are_none_are_refused(bench: Bench, place: Path, changes: bytes) -> None:
    outcome = recorded(bench, place, "echo 1 >a; echo 2 >b")
    ours, theirs = socket.socketpair()
    assert bench.runner.ask({"op": "amend"}, (theirs.fileno(),)) == {}
    theirs.close()
    with Channel(ours) as job:
        header = {"op": "amend", "session": outcome.session, "digest": outcome.digest}
        more = {"seal": outcome.seal, "to": "new", "canonical_size": len(outcome.canonical)}
        job.send({**header, **more}, outcome.canonical + changes)
        assert job.receive()[0]["code"] == "invalid_request"
        assert job.receive()[0] == {"event": "end"}


@pytest.mark.P2
def test_another_runner_knows_none_of_it(
    bench: Bench,
    place: Path,
    fresh: Callable[..., AbstractContextManager[RunnerProcess]],
) -> None:
    outcome = recorded(bench, place, "echo 1 >a; echo 2 >b")
    with fresh() as other:
        assert code(other.amend(outcome, drop=[0])) == "digest_mismatch"
