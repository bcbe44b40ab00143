"""`shannotctl amend`: what it asks for, what an editor may do, and what is shown of it."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shannotctl.client import Client
from shannotctl.drafts import Drafts
from shannotctl.render.amendment import steps_text
from shannotctl.render.session import session_lines
from shannotctl.render.style import Style
from shannotd.wire.amendment import Amendment, DroppedStep, EditedStep
from shannotd.wire.errors import EditorFailed, EditTooLarge, StepNeeded
from shannotd.wire.plan import Plan
from shannotd.wire.rpc import MAX_EDIT_BYTES
from shannotd.wire.session import State
from shannotd.wire.step import FileState, Step, TreeSummary
from tests.support.peer import Link, Peer
from tests.support.samples import ABSENT, ID, bare, canonical, file_step, regular, session

Run = Any

NEW = "f" * 32
CONTENT = b"old\n\xff\x00"


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def holding(content: bytes) -> FileState:
    return replace(regular(), sha256=name_of(content), size=len(content))


STEPS = (
    file_step("create", "/etc/x.conf", before=ABSENT, after=holding(CONTENT)),
    file_step("append", "/etc/log", appended=TreeSummary(1, 5, name_of(b"line\n"))),
    file_step("create", "/etc/empty", before=ABSENT, after=holding(b"")),
    file_step("delete", "/etc/old"),
    file_step("create", "/etc/link", before=ABSENT, after=holding(CONTENT), link_to="/etc/x.conf"),
    file_step("create", "/etc/d", before=ABSENT, after=FileState("directory", 0o755, 0, 0)),
    Step("command", argv=("x",), decision="review", exit_status=0, reason="runs"),
)
PENDING = session(*STEPS)
CHANGED = replace(
    session(*STEPS[1:]),
    id=NEW,
    plan_canonical=canonical(*STEPS[1:], session=NEW),
    amends=ID,
    editors=(0,),
    editor_name="alice",
    amendment=Amendment((DroppedStep(0, "create /etc/x.conf", (5,)),)),
)


@pytest.fixture
def waiting(peer: Peer) -> Peer:
    """A daemon with a pending plan."""
    contents = {name_of(content): content for content in (CONTENT, b"line\n")}

    def blob(link: Link, params: dict[str, Any]) -> Any:
        content = contents[params["sha256"]]
        return {"data": content[params["offset"] :], "size": len(content)}

    peer.answers("sessions.get", PENDING)
    peer.answers("sessions.amend", CHANGED)
    peer.handlers["blobs.get"] = blob
    return peer


@pytest.fixture
def editor(tmp_path: Path) -> Path:
    """A program that does with its last argument what the shell text beside it says."""
    program = tmp_path / "editor"
    program.write_text(f'#!/bin/sh\nfor f in "$@"; do :; done\n. {tmp_path}/acts\n')
    program.chmod(0o755)
    return program


def acts(editor: Path, text: str) -> dict[str, str]:
    """Have the editor do this to `$f`; the environment in which it is used."""
    (editor.parent / "acts").write_text(text)
    return {"VISUAL": str(editor), "TMPDIR": str(editor.parent)}


def asked(peer: Peer) -> dict[str, Any]:
    (params,) = peer.asked("sessions.amend")
    return params


def nothing_left(editor: Path) -> bool:
    return not list(editor.parent.glob("shannot-*"))


@pytest.mark.P2
def test_steps_are_named_by_the_numbers_that_are_shown(waiting: Peer, run: Run) -> None:
    done = run("amend", ID[:6], "--drop", "1", "--drop", "3-4, 7", "--with-dependents")
    assert done.returncode == 0, done.stderr
    plan = PENDING.plan
    assert plan is not None
    assert asked(waiting) == {
        "id": ID,
        "digest": plan.digest,
        "drop": [0, 2, 3, 6],
        "edits": [],
        "with_dependents": True,
    }
    shown = done.stdout.decode()
    assert f"Session {NEW}: pending" in shown
    assert f"amends     session {ID}, as changed by alice (uid 0)" in shown
    assert "dropped    1. create /etc/x.conf" in shown
    assert "step 6 may miss what was dropped: create /etc/x.conf (step 1 before)" in shown
    assert str(Plan.parse(CHANGED.plan_canonical or b"").digest) in shown
    assert f"approve  shannotctl approve {NEW}" in done.stderr.decode()
    assert "somebody else has to approve it" in done.stderr.decode()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--drop", ""),
        ("--drop", "0"),
        ("--drop", "a"),
        ("--drop", "1,,2"),
        ("--drop", "2-1"),
        ("--drop", "1-"),
        ("--drop", "-1"),
        ("--drop", "1-99999999"),
        ("--edit", ""),
        ("--edit", "0"),
        ("--edit", "x"),
        ("--edit", "1="),
        ("--edit", "1,2"),
        ("--edit", "1=/dev/null", "--edit", "1=/dev/null"),
        ("--with-dependents",),
    ],
)
def test_what_names_no_steps_is_refused(waiting: Peer, run: Run, words: tuple[str, ...]) -> None:
    done = run("amend", ID, *words)
    assert done.returncode == 2 and done.stderr
    assert waiting.requests == []


def test_contents_from_files(waiting: Peer, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a=b").write_bytes(b"\x00new")
    done = run("amend", ID, "--edit", f"1={tmp_path}/a=b", "--edit", "2=/dev/null")
    assert done.returncode == 0, done.stderr
    assert asked(waiting)["edits"] == [
        {"index": 0, "content": b"\x00new"},
        {"index": 1, "content": b""},
    ]
    assert waiting.asked("blobs.get") == []


@pytest.mark.P10
def test_files_that_cannot_be_read_or_are_too_large(
    waiting: Peer, run: Run, tmp_path: Path
) -> None:
    assert run("amend", ID, "--edit", f"1={tmp_path}/none").returncode == 2
    assert run("amend", ID, "--edit", f"1={tmp_path}").returncode == 2
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_EDIT_BYTES + 1)
    done = run("amend", ID, "--edit", f"1={large}")
    assert done.returncode == 2 and str(MAX_EDIT_BYTES).encode() in done.stderr
    with large.open("wb") as file:
        file.truncate(MAX_EDIT_BYTES // 2 + 1)
    done = run("amend", ID, "--edit", f"1={large}", "--edit", f"2={large}")
    assert done.returncode == 2 and str(MAX_EDIT_BYTES).encode() in done.stderr
    assert waiting.asked("sessions.amend") == []


def test_an_editor_gets_a_private_copy_of_what_is_written(
    waiting: Peer, run: Run, editor: Path
) -> None:
    look = 'cp "$f" {0}/seen; stat -c "%a %n" "$f" "$(dirname "$f")" >{0}/modes; echo new >>"$f"'
    environment = acts(editor, look.format(editor.parent))
    done = run("amend", ID, "--edit", "1", **environment)
    assert done.returncode == 0, done.stderr
    assert (editor.parent / "seen").read_bytes() == CONTENT
    file, directory = (editor.parent / "modes").read_text().splitlines()
    assert file.startswith("600 ") and file.endswith("/step-1-x.conf")
    assert directory.startswith("700 ")
    assert asked(waiting)["edits"] == [{"index": 0, "content": CONTENT + b"new\n"}]
    assert nothing_left(editor)


def test_of_an_append_what_is_appended_is_edited(waiting: Peer, run: Run, editor: Path) -> None:
    environment = acts(editor, 'sed -i s/line/other/ "$f"')  # another inode
    done = run("amend", ID, "--edit", "2", "--edit", "3", **environment)
    assert done.returncode == 0, done.stderr
    assert asked(waiting)["edits"] == [{"index": 1, "content": b"other\n"}]
    assert b"step 3 is left as it is" in done.stderr


@pytest.mark.parametrize(
    ("act", "said"), [(":", b"left as it is"), (': >"$f"', b"the editor left an empty file")]
)
def test_a_file_that_stays_or_was_emptied_changes_nothing(
    waiting: Peer, run: Run, editor: Path, act: str, said: bytes
) -> None:
    done = run("amend", ID, "--edit", "1", **acts(editor, act))
    assert done.returncode == 3
    assert said in done.stderr and b"still pending" in done.stderr
    assert waiting.asked("sessions.amend") == []
    assert nothing_left(editor)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ('echo x >"$f"; exit 3', b"ended with status 3"),
        (': >"$f"; kill -9 $$', b"was ended by signal 9"),
        ('rm "$f"', b"left nothing that can be read"),
        ('rm "$f"; ln -s /etc/passwd "$f"', b"left nothing that can be read"),
        ('rm "$f"; mkfifo "$f"', b"left something that is no file"),
        ('rm "$f"; mkdir "$f"', b"left nothing that can be read"),
    ],
)
def test_an_editor_that_fails_changes_nothing(
    waiting: Peer, run: Run, editor: Path, act: str, said: bytes
) -> None:
    done = run("amend", ID, "--drop", "2", "--edit", "1", **acts(editor, act))
    assert done.returncode == 2 and said in done.stderr
    assert waiting.asked("sessions.amend") == []
    assert nothing_left(editor)


def test_what_was_edited_is_kept_when_it_is_refused(waiting: Peer, run: Run, editor: Path) -> None:
    needed = StepNeeded(id=ID, steps="step 3", reason="without step 2 ...")
    waiting.answers("sessions.amend", needed)
    environment = acts(editor, 'echo new >>"$f"')
    done = run("amend", ID, "--drop", "2", "--edit", "1", **environment)
    assert done.returncode == 2 and str(needed).encode() in done.stderr
    (kept,) = editor.parent.glob("shannot-*")
    assert f"what you edited is kept in {kept}".encode() in done.stderr
    (draft,) = kept.iterdir()
    assert draft.read_bytes() == CONTENT + b"new\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700


@pytest.mark.parametrize("number", [4, 5, 6, 7, 8])
def test_steps_that_write_no_file_are_not_edited(
    waiting: Peer, run: Run, editor: Path, number: int
) -> None:
    done = run("amend", ID, "--edit", str(number), **acts(editor, ":"))
    assert done.returncode == 2
    assert f"step {number}".encode() in done.stderr
    assert waiting.asked("sessions.amend") == []


@pytest.mark.P10
def test_a_content_that_is_another_one_is_not_edited(waiting: Peer, run: Run, editor: Path) -> None:
    waiting.answers("blobs.get", {"data": b"other", "size": 5})
    done = run("amend", ID, "--edit", "1", **acts(editor, ":"))
    assert done.returncode == 8 and b"is not what the plan" in done.stderr


def test_which_editor(tmp_path: Path, editor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts(editor, 'echo "$@" >>{0}/used; echo x >"$f"'.replace("{0}", str(tmp_path)))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("VISUAL", f"{editor} --visual 'a b'")
    monkeypatch.setenv("EDITOR", f"{editor} --editor")
    with Drafts() as drafts:
        assert drafts.edit(b"", 1, "/etc/x") == b"x\n"
        monkeypatch.setenv("VISUAL", " ")
        drafts.edit(b"", 2, "/etc/y")
        monkeypatch.delenv("EDITOR")
        programs = tmp_path / "bin"
        programs.mkdir()
        monkeypatch.setenv("PATH", str(programs))
        (programs / "vi").symlink_to(editor)
        drafts.edit(b"", 3, "/etc/z")
        (programs / "vi").unlink()
        with pytest.raises(EditorFailed, match="is not there"):
            drafts.edit(b"", 4, "/etc/z")
        monkeypatch.setenv("EDITOR", "'unfinished")
        with pytest.raises(EditorFailed, match="is no command line"):
            drafts.edit(b"", 5, "/etc/z")
        monkeypatch.setenv("EDITOR", "/nowhere/at-all")
        with pytest.raises(EditorFailed, match="cannot be started"):
            drafts.edit(b"", 6, "/etc/z")
    words = [line.split() for line in (tmp_path / "used").read_text().splitlines()]
    assert [word[:-1] for word in words] == [["--visual", "a", "b"], ["--editor"], []]


@pytest.mark.P7
@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/etc/nginx/nginx.conf", "-nginx.conf"),
        ("/etc/../../x", "-x"),
        ("/x\x1b[2J\n-rf", "-x__2J_-rf"),
        ("/" + "y" * 300 + ".py", "yyy.py"),
        ("/\udcff.service", "-_.service"),
        ("/.", "-."),
        ("/a b", "-a_b"),
    ],
)
def test_names_of_copies_are_harmless(
    editor: Path, monkeypatch: pytest.MonkeyPatch, path: str, end: str
) -> None:
    for name, value in acts(editor, f'echo "$f" >{editor.parent}/name').items():
        monkeypatch.setenv(name, value)
    with Drafts() as drafts:
        drafts.edit(b"x", 7, path)
        assert drafts.directory is not None
        (made,) = os.listdir(drafts.directory)
    assert made.startswith("step-7-") and len(made) < 80
    assert made.endswith(end)
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in made)


@pytest.mark.P10
def test_an_editor_that_leaves_too_much(editor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act = f'truncate -s {MAX_EDIT_BYTES + 1} "$f"'
    for name, value in acts(editor, act).items():
        monkeypatch.setenv(name, value)
    with Drafts() as drafts, pytest.raises(EditTooLarge):
        drafts.edit(b"x", 1, "/x")


@pytest.mark.parametrize("saved", ["", 'echo saved >"$f"; '])
def test_who_is_asked_to_end_ends_the_editor(
    waiting: Peer, editor: Path, tmp_path: Path, saved: str
) -> None:
    fifo = tmp_path / "runs"
    os.mkfifo(fifo)
    # The editor's own child outlives whoever ends the editor alone.
    act = saved + f"sh -c 'echo $$; exec sleep 1000' >{fifo}"
    process = subprocess.Popen(
        [sys.executable, "-m", "shannotctl", "amend", ID, "--edit", "1"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "SHANNOT_SOCKET": waiting.path,
            "TMPDIR": str(tmp_path),
            **acts(editor, act),
        },
    )
    with fifo.open() as told:
        child = int(told.readline())
        ended = os.pidfd_open(child)
        try:
            process.terminate()
            _, error = process.communicate(timeout=60)
            assert select.select([ended], [], [], 60)[0], "the editor's child goes on"
        finally:
            os.close(ended)
    assert process.returncode == -signal.SIGTERM
    kept = list(tmp_path.glob("shannot-amend-*/step-1-x.conf"))
    if saved:
        assert [file.read_text() for file in kept] == ["saved\n"]
        assert f"what the editor left is kept in {kept[0].parent}" in error.decode()
    else:
        assert error == b"" and list(tmp_path.glob("shannot-amend-*")) == []
    assert waiting.asked("sessions.amend") == []


def test_one_that_was_started_to_ignore_a_signal_goes_on(
    waiting: Peer, editor: Path, tmp_path: Path
) -> None:
    """As nohup starts programs."""
    fifo = tmp_path / "runs"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [
            *("sh", "-c", 'trap "" HUP; exec "$@"', "-"),
            *(sys.executable, "-m", "shannotctl", "amend", ID, "--edit", "1"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={
            **os.environ,
            "SHANNOT_SOCKET": waiting.path,
            **acts(editor, f'echo x >"$f"; echo runs >{fifo}; read done <{fifo}'),
        },
    )
    assert fifo.read_text() == "runs\n"
    process.send_signal(signal.SIGHUP)
    fifo.write_text("done\n")
    process.wait(60)
    assert len(waiting.asked("sessions.amend")) == 1


def test_one_that_waits_no_more_is_not_edited(waiting: Peer, run: Run, editor: Path) -> None:
    waiting.answers("sessions.get", session(*STEPS, state=State.EXECUTED))
    done = run("amend", ID, "--edit", "1", **acts(editor, f"touch {editor.parent}/ran"))
    assert done.returncode == 4
    assert not (editor.parent / "ran").exists()


def test_json(waiting: Peer, run: Run) -> None:
    done = run("amend", "--json", ID, "--drop", "1")
    shown = json.loads(done.stdout)
    assert (shown["id"], shown["amends"], done.stderr) == (NEW, ID, b"")
    assert shown["amendment"]["dropped"] == [
        {"index": 0, "what": "create /etc/x.conf", "missed_by": [5]}
    ]
    waiting.answers("sessions.amend", StepNeeded(id=ID, steps="step 3", reason="x"))
    done = run("amend", "--json", ID, "--drop", "1")
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["code"] == "step_needed"


def test_the_sdk_sends_what_it_is_told(waiting: Peer) -> None:
    with Client(waiting.path) as client:
        made = client.amend(ID, "d" * 64, drop={2}, edits={0: b"\xff"}, with_dependents=True)
    assert made == CHANGED
    assert asked(waiting) == {
        "id": ID,
        "digest": "d" * 64,
        "drop": [2],
        "edits": [{"index": 0, "content": b"\xff"}],
        "with_dependents": True,
    }


def test_who_waits_for_a_submission_waits_for_what_replaces_it(peer: Peer, run: Run) -> None:
    over = bare(PENDING, state=State.REJECTED, replaced_by=NEW, reason=f"replaced by session {NEW}")
    done = bare(CHANGED, state=State.EXECUTED, decided_at=2.0)
    replaced = [False]

    def wait(link: Link, params: dict[str, Any]) -> Any:
        replaced[0] = True
        return over if params["id"] == ID else done

    def get(link: Link, params: dict[str, Any]) -> Any:
        if params["id"] == NEW:
            return done
        return over if replaced[0] else PENDING

    peer.answers("sessions.submit", PENDING)
    peer.answers("sessions.watch", {})
    peer.handlers["sessions.wait"] = wait
    peer.handlers["sessions.get"] = get
    ended = run("submit", "--wait", "-c", "x")
    assert ended.returncode == 0, ended.stderr
    assert [params["id"] for params in peer.asked("sessions.wait")] == [ID, NEW]
    assert f"replaced by session {NEW}".encode() in ended.stderr
    assert f"session {NEW} executed".encode() in ended.stderr


# What is shown


@pytest.mark.P7
def test_everything_of_a_change_is_shown_escaped() -> None:
    changed = replace(
        session(*STEPS, STEPS[0]),
        amends=ID,
        replaced_by="e" * 32,
        editors=(1001, 1002, 1003),
        editor_name="al\x1b[2Jice",
        amendment=Amendment(
            (
                DroppedStep(4, "create /x\x1b[31m\n  9. safe", (0, 1, 2, 5)),
                DroppedStep(9, "run rm\u202ex"),
            ),
            (EditedStep(0, 1), EditedStep(1, 1, 7), EditedStep(99, 1)),
        ),
    )
    for style in (Style(), Style(width=50)):
        shown = "\n".join(session_lines(changed, style))
        assert "\x1b" not in shown and "\u202e" not in shown
        assert not any(line.startswith("  9. safe") for line in shown.splitlines())
    lines = list(session_lines(changed, Style()))
    for line in (
        f"  amends     session {ID}, as changed by al\\e[2Jice (uid 1003),"
        " and before by uid 1001, uid 1002",
        f"  replaced   by session {'e' * 32}",
        "  dropped    5. create /x\\e[31m\\n  9. safe",
        "  dropped    10. run rm\\u202ex",
        "  edited     1. create /etc/x.conf (step 2 before)",
        "  edited     2. append /etc/log",
        "  edited     100. ? (step 2 before)",
        "  warning    steps 1-3, 6 may miss what was dropped: create /x\\e[31m\\n  9. safe"
        " (step 5 before)",
        "  warning    the content of step 2 lasts only until step 8",
    ):
        assert line in lines, lines


def test_a_plan_that_nobody_changed_says_nothing_of_it() -> None:
    shown = "\n".join(session_lines(PENDING, Style()))
    assert "amends" not in shown and "Changed" not in shown and "replaced" not in shown


def test_numbers_of_steps_in_words() -> None:
    assert steps_text((0,)) == "step 1"
    assert steps_text((0, 1, 2, 4, 6, 7)) == "steps 1-3, 5, 7-8"
