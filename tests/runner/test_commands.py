"""Commands of a plan at apply: in their place (P3), only as reviewed (P2), to the first failure."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from shannotd.runner import apply as apply_module
from shannotd.runner.identity import Floor
from shannotd.runner.plan import Interpreter, Plan
from tests.support.appliers import Applier, tool
from tests.support.applying import Applying, command, created, shell

# Order


@pytest.mark.P3
def test_what_is_before_a_command_is_there_for_it_and_what_is_after_is_not(
    applier: Applier,
) -> None:
    place = applier.place
    look = 'cat "$1/before" > "$1/seen"; ls "$1" >> "$1/seen"; test ! -e "$1/after"'
    applied = applier.run(
        created(place / "before", b"before\n", applier.who),
        shell(look, str(place)),
        created(place / "after", b"after\n", applier.who),
        shell('cat "$1/after" >> "$1/seen"', str(place)),
        contents=[b"before\n", b"after\n"],
    )
    assert applied.error is None
    assert applied.steps == dict.fromkeys(range(4), "done")
    assert applied.started == [1, 3]
    assert (place / "seen").read_text() == "before\nbefore\nseen\nafter\n"


@pytest.mark.P3
def test_only_what_waited_for_the_review_runs_and_parts_batches(applier: Applier) -> None:
    place = applier.place
    files = [created(place / name, b"x", applier.who) for name in ("a", "b", "c")]
    touch = shell('touch "$1/ran"', str(place))
    steps = (
        files[0],
        replace(touch, decision="observe"),
        files[1],
        replace(touch, decision="deny"),
        files[2],
    )
    whole = Plan("s", {}, applier.who, "1", "rollback", (*steps, touch, files[0]))
    assert [[index for index, _ in part] for part in apply_module.parts(whole)] == [
        [0, 2, 4],
        [5],
        [6],
    ]
    applied = applier.run(*steps, contents=[b"x"])
    assert applied.error is None
    assert applied.started == []
    assert not (place / "ran").exists()
    assert applied.steps == {0: "done", 1: "skipped", 2: "done", 3: "skipped", 4: "done"}


@pytest.mark.P2
def test_what_a_command_changed_under_a_later_batch_is_stale_there(applier: Applier) -> None:
    place = applier.place
    applied = applier.run(
        created(place / "first", b"x", applier.who),
        shell('echo mine > "$1/later"', str(place)),
        created(place / "other", b"x", applier.who),
        created(place / "later", b"x", applier.who),
        shell('touch "$1/never"', str(place)),
        contents=[b"x"],
    )
    assert applied.code == "stale"
    assert applied.error is not None
    assert applied.error["details"]["path"] == str(place / "later")
    assert applied.error["details"]["earlier"] == (
        "; steps before it were rolled back; what the commands of step 2 did stays"
    )
    assert applied.steps == {0: "undone", 1: "done", 2: "skipped", 3: "stale", 4: "skipped"}
    assert (place / "later").read_text() == "mine\n"
    assert os.listdir(place) == ["later"]


# Failure

FAILURES = {
    "status": ("exit 3", 0, "exit status 3"),
    "success": ("exit 0", 3, "exit status 0"),
    "signal": ("kill -SEGV $$", 0, "signal 11"),
    "signal_is_no_status": ("kill -TERM $$", 143, "signal 15"),
}


@pytest.mark.P2
@pytest.mark.parametrize("on_failure", ["rollback", "keep"])
@pytest.mark.parametrize("name", FAILURES)
def test_another_ending_than_the_dry_run_assumed_stops_the_plan(
    name: str, on_failure: str, applier: Applier
) -> None:
    place = applier.place
    text, expected, words = FAILURES[name]
    applied = applier.run(
        created(place / "before", b"x", applier.who),
        shell(text, exit_status=expected),
        created(place / "after", b"x", applier.who),
        shell('touch "$1/never"', str(place)),
        contents=[b"x"],
        on_failure=on_failure,
    )
    kept = on_failure == "keep"
    assert applied.code == "command_failed"
    assert applied.error is not None
    details = applied.error["details"]
    assert words in details["ending"]
    assert (details["step"], details["expected"]) == (1, expected)
    assert details["before"] == ("applied (step 1)" if kept else "rolled back")
    first = "done" if kept else "undone"
    assert applied.steps == {0: first, 1: "failed", 2: "skipped", 3: "skipped"}
    assert os.listdir(place) == (["before"] if kept else [])


def test_the_status_that_was_assumed_need_not_be_0(applier: Applier) -> None:
    applied = applier.run(shell("exit 3", exit_status=3))
    assert applied.error is None
    assert applied.steps == {0: "done"}


@pytest.mark.P2
def test_a_failing_batch_names_what_was_applied_before(applier: Applier) -> None:
    def break_it(applied: Applying) -> None:
        applied.contents = dict.fromkeys(applied.contents, b"another")
        applied.channel.send({"op": "go"})

    place = applier.place
    applied = applier.run(
        created(place / "before", b"x", applier.who),
        shell("true"),
        created(place / "after", b"y", applier.who),
        contents=[b"x", b"y"],
        at_start=break_it,
    )
    assert applied.code == "apply_failed"
    assert applied.error is not None
    expected = "rolled back; what the commands of step 2 did stays"
    assert applied.error["details"]["before"] == expected
    assert os.listdir(place) == []


# What is no longer as it was reviewed, or may not run


def never_ran(applied: Applying, code: str, path: str) -> None:
    """The only step was refused before anything of it was begun."""
    assert applied.code == code
    assert applied.error is not None
    assert applied.error["details"]["path"] == path
    assert applied.started == []
    assert "done" not in applied.steps.values()


@pytest.mark.P2
def test_a_changed_program_is_stale(applier: Applier) -> None:
    path = tool(applier, "#!/bin/sh\n")
    step = command(str(path))
    path.write_text("#!/bin/sh\ntouch ran\n")
    never_ran(applier.run(step), "stale", str(path))


@pytest.mark.P2
@pytest.mark.parametrize("now", ["missing", "symlink", "directory", "fifo", "parent_is_symlink"])
def test_a_program_that_is_no_file_any_more_is_stale(now: str, applier: Applier) -> None:
    path = tool(applier, "#!/bin/sh\n")
    step = command(str(path))
    moved = path.rename(path.with_name("moved"))
    if now == "symlink":
        path.symlink_to(moved)
    elif now == "directory":
        path.mkdir()
    elif now == "fifo":
        os.mkfifo(path)
    elif now == "parent_is_symlink":
        moved.rename(path)
        link = path.parent / "link"
        link.symlink_to(".")
        step = replace(step, program=str(link / "tool"))
    never_ran(applier.run(step), "stale", step.program)


@pytest.mark.P2
def test_a_program_that_another_step_replaced_is_stale(applier: Applier) -> None:
    path = tool(applier, "#!/bin/sh\n")
    applied = applier.run(shell('echo touch x >> "$1"', str(path)), command(str(path)))
    assert applied.code == "stale"
    assert applied.steps == {0: "done", 1: "stale"}
    assert applied.started == [0]


@pytest.mark.P2
@pytest.mark.parametrize("way", ["content", "env", "own", "other", "gone", "plain", "link"])
def test_a_script_runs_by_the_interpreter_that_was_reviewed(way: str, applier: Applier) -> None:
    """By just that content, where just that path leads, and by nothing else that `env` finds."""
    place = applier.place
    for name in ("one", "two"):
        copy = place / name
        copy.write_bytes(Path("/bin/sh").resolve().read_bytes())
        copy.chmod(0o755)
    (place / "link").symlink_to("one")
    lines = {
        "env": "#!/usr/bin/env one\n",
        "other": "#!/usr/bin/env -S one -e\n",
        "own": f"#!{place}/script\n",
        "link": f"#!{place}/link\n",
    }
    (place / "script").write_text(f"#!{place}/one\n")
    (place / "script").chmod(0o755)
    path = tool(applier, lines.get(way, f"#!{place}/one\n") + "touch ran\n")
    (place / "first").mkdir()
    step = command(
        str(path), cwd=str(place), environment={"PATH": f"{place}/first:{place}:/usr/bin"}
    )
    changed = str(place / "one")
    if way in ("content", "env", "own"):
        with open(changed, "ab") as file:
            file.write(b"x")
    elif way == "other":
        (place / "two").rename(place / "first/one")
        changed = str(path)
    elif way == "gone":
        (place / "one").unlink()
    elif way == "plain":
        step = replace(step, interpreters=())
        changed = str(path)
    else:
        (place / "link").unlink()
        (place / "link").symlink_to("two")
        changed = str(path)
    never_ran(applier.run(step), "stale", changed)


@pytest.mark.P2
def test_an_interpreter_that_the_plan_makes_runs(applier: Applier) -> None:
    shell_bytes = Path("/bin/sh").resolve().read_bytes()
    made = created(applier.place / "interpreter", shell_bytes, applier.who)
    made = replace(made, after=replace(made.after, mode=0o755))
    path = tool(applier, f"#!{applier.place}/interpreter\necho ran\n")
    interpreter = Interpreter(str(applier.place / "interpreter"), made.after.sha256 or "")
    step = command(str(path), interpreters=(interpreter,))
    applied = applier.run(made, step, contents=[shell_bytes])
    assert applied.outputs[1, "stdout"] == b"ran\n", applied.error


@pytest.mark.P2
@pytest.mark.parametrize("now", ["missing", "symlink", "file"])
def test_a_missing_directory_is_stale(now: str, applier: Applier) -> None:
    path = applier.place / "directory"
    if now == "symlink":
        path.symlink_to("/")
    elif now == "file":
        path.write_text("")
    never_ran(applier.run(shell("true", cwd=str(path))), "stale", str(path))


def test_a_program_that_cannot_be_executed_is_said_so(applier: Applier) -> None:
    path = tool(applier, "\x7fELF of no machine\n")
    applied = applier.run(command(str(path)))
    assert applied.code == "command_failed"
    assert applied.error is not None
    assert os.strerror(errno.ENOEXEC) in applied.error["details"]["ending"]


@pytest.mark.P8
def test_a_protected_program_does_not_run(
    applier: Applier, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tool(applier, '#!/bin/sh\ntouch "$0.ran"\n')
    for protected in (str(path), str(path.parent), "/"):
        floor = Floor(programs=(protected,))
        monkeypatch.setattr("shannotd.runner.identity.read_floor", lambda floor=floor: floor)
        never_ran(applier.run(command(str(path))), "not_permitted", str(path))
    floor = Floor(programs=(str(path)[:-1], str(path) + "/x"))
    monkeypatch.setattr("shannotd.runner.identity.read_floor", lambda: floor)
    assert applier.run(command(str(path))).error is None
