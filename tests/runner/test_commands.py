"""Commands of a plan at apply: in their place (P3), exactly as reviewed (P2), and no further."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from shannotd.runner import apply as apply_module
from shannotd.runner import command_process, identity, plan
from shannotd.runner.frames import Channel, Closed
from shannotd.runner.identity import Floor
from shannotd.runner.plan import Identity, Interpreter, Plan
from tests.runner import overlays
from tests.runner.conftest import Bench
from tests.support.accounts import is_root
from tests.support.applying import Applying, applying, command, created, shell
from tests.support.processes import wait_until_gone
from tests.support.runner import RunnerProcess

# As whom plans are applied: as root and as an account by root, as oneself by anybody else.
APPLIERS = ["root", "account", "own"] if is_root() else ["own"]
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Applier:
    """The identity of a plan, who applies it, and a directory of the identity's."""

    who: Identity
    become: Identity | None
    place: Path

    def __call__(self, *steps: Any, **more: Any) -> AbstractContextManager[Applying]:
        return applying(steps, self.who, become=self.become, **more)

    def run(self, *steps: Any, **more: Any) -> Applying:
        """Apply to the end."""
        with self(*steps, **more) as applied:
            return applied.finish()


@pytest.fixture(params=APPLIERS)
def applier(request: pytest.FixtureRequest, top: Path) -> Applier:
    who = overlays.ourselves()
    if is_root() and request.param != "root":
        who = request.getfixturevalue("ordinary")
    place = top / "host"
    os.chown(place, who.uid, who.gid)
    return Applier(who, who if request.param == "own" else None, place)


@pytest.fixture
def gate(applier: Applier) -> Path:
    """A FIFO of the identity's."""
    return fifo(applier, "gate")


def fifo(applier: Applier, name: str) -> Path:
    path = applier.place / name
    os.mkfifo(path)
    os.chown(path, applier.who.uid, applier.who.gid)
    return path


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ignores SIGTERM is killed at once: the apply is forked from here."""
    monkeypatch.setattr(command_process, "GRACE_SECONDS", 0.1)


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


def never_ran(applied: Applying, code: str, path: str) -> None:
    """The only step was refused before anything of it was begun."""
    assert applied.code == code
    assert applied.error is not None
    assert applied.error["details"]["path"] == path
    assert applied.started == []
    assert "done" not in applied.steps.values()


def tool(applier: Applier, text: str) -> Path:
    """An executable file of the identity's."""
    path = applier.place / "tool"
    path.write_text(text)
    path.chmod(0o755)
    os.chown(path, applier.who.uid, applier.who.gid)
    return path


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


# How it runs

REPORT = """
import json, os, stat
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
descriptors = {}
for name in os.listdir("/proc/self/fd"):
    try:
        descriptors[int(name)] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
print(json.dumps({
    "ids": [os.getresuid(), os.getresgid(), sorted(os.getgroups())],
    "umask": os.umask(0),
    "cwd": os.getcwd(),
    "leader": os.getpid() == os.getsid(0) == os.getpgrp(),
    "blocked": int(status["SigBlk"], 16),
    "ignored": int(status["SigIgn"], 16),
    "descriptors": descriptors,
    "name": status["Name"].strip(),
    "executable": os.readlink("/proc/self/exe"),
}))
"""


@pytest.mark.P2
def test_it_has_the_identity_and_nothing_of_ours(applier: Applier) -> None:
    who = replace(applier.who, umask=0o027)
    step = command(PYTHON, "-S", "-c", REPORT, cwd=str(applier.place))
    with applying([step], who, become=applier.become) as applied:
        applied.finish()
    assert applied.error is None, applied.error
    found = json.loads(applied.outputs[0, "stdout"])
    descriptors = found.pop("descriptors")
    found["ignored"] &= ~(0b11 << 31)  # signals 32 and 33 are the C library's: nptl(7)
    assert found == {
        "ids": [[who.uid] * 3, [who.gid] * 3, sorted(who.groups)],
        "umask": 0o027,
        "cwd": str(applier.place),
        "leader": True,
        "blocked": 0,
        # Python's own.
        "ignored": 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1),
        "name": Path(step.program).name,
        "executable": step.program,
    }
    assert descriptors["0"] == "/dev/null"
    assert set(descriptors) == {"0", "1", "2"}
    assert applied.commands[0]["left"] == 0


@pytest.mark.P2
def test_the_environment_is_exactly_that_of_the_plan(applier: Applier) -> None:
    environment = {"A": "1", "EMPTY": "", "LINES": "a\nb", "BYTES": "\udcff", "LD_LIBRARY_PATH": ""}
    applied = applier.run(command("/usr/bin/env", "-0", environment=environment))
    entries = applied.outputs[0, "stdout"].split(b"\0")
    assert sorted(entries) == sorted(
        [b"", *(os.fsencode(f"{name}={value}") for name, value in environment.items())]
    )


@pytest.mark.P2
def test_a_script_runs_by_its_path(applier: Applier) -> None:
    path = tool(applier, '#!/bin/sh\necho "$0" "$@"\n')
    applied = applier.run(command(str(path), "a b", "*"))
    assert applied.outputs[0, "stdout"].decode() == f"{path} a b *\n"


@pytest.mark.P2
@pytest.mark.parametrize("content", [b"", b"some\n", b"x" * 300_000, b"LARGE" + b"y" * 300_000])
def test_standard_input_is_what_was_reviewed(content: bytes, applier: Applier) -> None:
    look = "test -r /dev/stdin; cat; cat"
    applied = applier.run(shell(look, stdin=content), contents=[content])
    assert applied.error is None
    assert applied.outputs.get((0, "stdout"), b"") == content


@pytest.mark.P2
def test_standard_input_cannot_be_written(applier: Applier) -> None:
    text = "import os\ntry: os.write(0, b'x')\nexcept OSError: pass\nelse: raise SystemExit(1)"
    applied = applier.run(command(PYTHON, "-c", text, stdin=b"x"), contents=[b"x"])
    assert applied.error is None


@pytest.mark.P2
def test_another_standard_input_than_was_reviewed_is_refused(applier: Applier) -> None:
    step = shell('cat > "$1/ran"', str(applier.place), stdin=b"LARGE as reviewed")
    with applier(step, contents=[b"LARGE as reviewed"]) as applied:
        applied.contents = dict.fromkeys(applied.contents, b"LARGE but another")
        applied.finish()
    assert applied.code == "command_failed"
    assert applied.started == []
    assert os.listdir(applier.place) == []


def test_both_outputs_are_told_as_they_come(applier: Applier, gate: Path) -> None:
    def let_it_go(applied: Applying) -> None:
        if applied.outputs.get((0, "stdout")) == b"first\n":
            gate.write_text("go\n")
            applied.at_output = None

    text = 'echo first; read line < "$1"; echo "$line" >&2; echo last'
    applied = applier.run(shell(text, str(gate)), at_output=let_it_go)
    assert applied.outputs == {(0, "stdout"): b"first\nlast\n", (0, "stderr"): b"go\n"}
    ended = applied.commands[0]
    assert (ended["exit_status"], ended["signal"], ended["stopped"]) == (0, None, None)
    assert ended["truncated"] == []
    assert ended["duration"] > 0


# Limits


def test_more_output_than_is_kept_is_marked(applier: Applier) -> None:
    text = "head -c 30000 /dev/zero; head -c 1000 /dev/zero >&2"
    applied = applier.run(shell(text, output_bytes=1000))
    assert applied.error is None
    assert {key: len(data) for key, data in applied.outputs.items()} == {
        (0, "stdout"): 1000,
        (0, "stderr"): 1000,
    }
    assert applied.commands[0]["truncated"] == ["stdout"]


def test_a_flood_of_output_is_stopped(applier: Applier) -> None:
    applied = applier.run(command("/usr/bin/yes", output_bytes=1000))
    assert applied.code == "command_failed"
    assert applied.commands[0]["stopped"] == "output_bytes"
    assert len(applied.outputs[0, "stdout"]) == 1000


def test_too_long_is_stopped(applier: Applier) -> None:
    applied = applier.run(command("/usr/bin/sleep", "1000", seconds=0.2), shell("true"))
    assert applied.code == "command_failed"
    assert applied.error is not None
    assert "0.2 s" in applied.error["details"]["ending"]
    assert applied.commands[0]["stopped"] == "seconds"
    assert applied.commands[0]["signal"] == signal.SIGTERM
    assert applied.steps == {0: "failed", 1: "skipped"}


# Three that print their numbers, ignore SIGTERM and are in sessions of their own.
HIDERS = """
import os, signal, sys, time
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"%d\\n" % os.getpid())
time.sleep(1000)
"""


@pytest.mark.usefixtures("no_grace")
def test_who_is_stopped_is_stopped_with_all_that_it_started(applier: Applier) -> None:
    def stop(applied: Applying) -> None:
        if applied.outputs[0, "stdout"].count(b"\n") == 4:
            applied.channel.send({"op": "cancel"})

    applied = applier.run(command(PYTHON, "-c", HIDERS), at_output=stop)
    pids = [int(pid) for pid in applied.outputs[0, "stdout"].split()]
    assert applied.commands[0]["stopped"] == "cancelled"
    assert applied.commands[0]["signal"] == signal.SIGKILL
    assert applied.commands[0]["left"] == 0
    for pid in pids:
        assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# What a command leaves behind


@pytest.fixture
def left() -> Iterator[list[int]]:
    """Processes that a test leaves behind; they are ended after it."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    wait_until_gone(pids)


def test_a_daemon_may_be_left_behind(applier: Applier, left: list[int]) -> None:
    applied = applier.run(shell("setsid sleep 1000 > /dev/null 2>&1 & echo $!"), shell("exit 1"))
    left.append(int(applied.outputs[0, "stdout"]))
    assert applied.steps == {0: "done", 1: "failed"}
    assert applied.commands[0]["left"] == 1
    assert alive(left[0])


def test_what_is_left_behind_may_go_on_writing(applier: Applier, gate: Path) -> None:
    """Its output is read by somebody after the apply too: else SIGPIPE would end it."""
    said = fifo(applier, "said")
    text = '{ read line < "$1"; echo more && echo wrote > "$2"; } & true'
    applied = applier.run(shell(text, str(gate), str(said)))
    assert applied.error is None
    gate.write_text("go\n")
    assert said.read_text() == "wrote\n"


# Those who stop it, or go


def test_a_cancel_ends_the_command_and_what_is_after_it(applier: Applier) -> None:
    place = applier.place
    applied = applier.run(
        created(place / "before", b"x", applier.who),
        shell("echo begun; exec sleep 1000"),
        created(place / "after", b"x", applier.who),
        contents=[b"x"],
        at_output=lambda applied: applied.channel.send({"op": "cancel"}),
    )
    assert applied.code == "command_failed"
    assert applied.error is not None
    assert "cancelled" in applied.error["details"]["ending"]
    assert applied.steps == {0: "undone", 1: "failed", 2: "skipped"}
    assert os.listdir(place) == []


@pytest.mark.P6
def test_a_cancel_instead_of_a_go_starts_nothing(applier: Applier) -> None:
    step = shell('touch "$1/ran"', str(applier.place))
    applied = applier.run(
        step, step, at_start=lambda applied: applied.channel.send({"op": "cancel"})
    )
    assert applied.code == "command_failed"
    assert applied.steps == {0: "failed", 1: "skipped"}
    assert os.listdir(applier.place) == []


def test_a_cancel_in_a_batch_stops_before_what_is_next(applier: Applier) -> None:
    place = applier.place
    applied = applier.run(
        created(place / "first", b"x", applier.who),
        shell('touch "$1"', str(place / "never")),
        created(place / "nor_this", b"x", applier.who),
        contents=[b"x"],
        at_need=lambda applied: applied.channel.send({"op": "cancel"}),
    )
    assert applied.code == "apply_failed"
    assert applied.started == []
    assert applied.steps == {0: "undone", 1: "failed", 2: "skipped"}
    assert os.listdir(place) == []


@pytest.mark.P6
def test_without_a_daemon_nothing_is_started(applier: Applier) -> None:
    step = shell('touch "$1/ran"', str(applier.place))
    with (
        applier(step, at_start=lambda applied: applied.channel.close()) as applied,
        pytest.raises((Closed, OSError)),
    ):
        applied.finish()
    assert os.listdir(applier.place) == []


@pytest.mark.P6
def test_a_command_outlives_the_daemon_and_nothing_after_it_is_begun(
    applier: Applier, gate: Path
) -> None:
    place = applier.place
    ended = fifo(applier, "ended")
    text = 'echo begun; read line < "$1"; echo much; touch "$2"; echo over > "$3"'
    steps = [
        shell(text, str(gate), str(place / "first"), str(ended)),
        created(place / "second", b"x", applier.who),
        shell('touch "$1"', str(place / "third")),
    ]
    with (
        applier(
            *steps, contents=[b"x"], at_output=lambda applied: applied.channel.close()
        ) as applied,
        pytest.raises((Closed, OSError)),
    ):
        try:
            applied.finish()
        finally:
            gate.write_text("go\n")
            assert ended.read_text() == "over\n"
    assert sorted(os.listdir(place)) == ["ended", "first", "gate"]


@pytest.mark.usefixtures("no_grace")
def test_a_command_ends_with_the_process_that_applies(applier: Applier) -> None:
    def kill(applied: Applying) -> None:
        if applied.outputs[0, "stdout"].count(b"\n") == 4:
            os.kill(applied.pid, signal.SIGKILL)

    with (
        applier(command(PYTHON, "-c", HIDERS), at_output=kill) as applied,
        pytest.raises(Closed),
    ):
        applied.finish()
    wait_until_gone([int(pid) for pid in applied.outputs[0, "stdout"].split()])


def test_a_command_whose_keeper_was_killed_has_failed(applier: Applier) -> None:
    def kill(applied: Applying) -> None:
        program = int(applied.outputs[0, "stdout"])
        status = Path(f"/proc/{program}/status").read_text()
        keeper = int(status.split("PPid:")[1].split()[0])
        os.kill(keeper, signal.SIGKILL)
        applied.at_output = None

    applied = applier.run(shell("echo $$; exec sleep 1000"), at_output=kill)
    assert applied.code == "command_failed"
    wait_until_gone([int(applied.outputs[0, "stdout"])])


@pytest.mark.skipif(not is_root(), reason="looks into a process that is not dumpable")
def test_many_commands_leave_no_descriptor_open(applier: Applier) -> None:
    seen: list[int] = []

    def count(applied: Applying) -> None:
        seen.append(len(os.listdir(f"/proc/{applied.pid}/fd")))
        applied.channel.send({"op": "go"})

    step = shell("cat", stdin=b"x")
    applied = applier.run(*[step] * 20, contents=[b"x"], at_start=count)
    assert applied.error is None
    assert len(seen) == 20
    assert len(set(seen)) == 1


# With a runner around it


def test_a_command_and_what_is_after_it_outlive_the_runner(
    bench: Bench,
    fresh: Callable[..., AbstractContextManager[RunnerProcess]],
    place: Path,
) -> None:
    """The process that applies is nobody's but the daemon's."""
    gate = place / "gate"
    os.mkfifo(gate)
    os.chown(gate, bench.uid, -1)
    who = overlays.who(bench.account) if is_root() else overlays.ourselves()
    steps = (
        shell('echo begun; read line < "$1"; echo "$line"', str(gate)),
        created(place / "after", b"x", who),
    )
    target = {"kind": "local", "host": identity.machine()}
    encoded = plan.canonical(Plan("s", target, who, "1", "rollback", steps))
    digest = plan.digest(encoded)

    def kill(applied: Applying) -> None:
        runner.process.kill()
        runner.process.wait()
        applied.at_output = None
        gate.write_text("go\n")

    with fresh() as runner:
        runner.run("shell", "true")  # makes its key
        seal = plan.seal((runner.state / "runner.key").read_bytes(), "s", digest)
        ours, theirs = socket.socketpair()
        assert runner.ask({"op": "apply"}, (theirs.fileno(),)) == {}
        theirs.close()
        with Channel(ours) as channel:
            header = {"op": "apply", "session": "s", "digest": digest, "seal": seal}
            channel.send(header, encoded)
            contents = {hashlib.sha256(b"x").hexdigest(): b"x"}
            applied = Applying(0, channel, contents, at_output=kill).finish()
        assert runner.process.returncode == -signal.SIGKILL
        runner.process.returncode = 0  # killed on purpose
    assert applied.error is None
    assert applied.outputs == {(0, "stdout"): b"begun\ngo\n"}
    assert applied.steps == {0: "done", 1: "done"}
    assert (place / "after").read_text() == "x"
