"""The other verbs against a scripted daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shannotctl.cli.outcome import STATUSES
from shannotd.wire.audit import AuditRecord, AuditVerdict
from shannotd.wire.errors import ERRORS, AmbiguousId, AuditBroken, NotFound
from shannotd.wire.session import SessionPage, State
from tests.support.peer import Link, Peer
from tests.support.samples import ABSENT, ID, STATUS, bare, file_step, session

Run = Any

PENDING = session(file_step("create", "/etc/x", before=ABSENT))


def test_list(peer: Peer, run: Run) -> None:
    sessions = [bare(PENDING, id=f"{number:032x}") for number in range(120)]

    def page(link: Link, params: dict[str, Any]) -> Any:
        begin = int(params.get("cursor", "0"))
        end = begin + params["limit"]
        return SessionPage(
            tuple(sessions[begin:end]), 120, str(end) if end < len(sessions) else None
        )

    peer.handlers["sessions.list"] = page
    done = run("list")
    assert done.returncode == 0 and done.stderr == b""
    assert len(done.stdout.splitlines()) == 121, "nothing is hidden by a cut"
    done = run("list", "--limit", "7")
    assert len(done.stdout.splitlines()) == 8
    assert b"there are more than these 7" in done.stderr
    done = run("list", "--json", "--state", "pending", "--name", "n")
    assert [item["id"] for item in json.loads(done.stdout)] == [item.id for item in sessions]
    assert peer.requests[-1][1]["states"] == ["pending"] and peer.requests[-1][1]["name"] == "n"


def test_an_empty_list(peer: Peer, run: Run) -> None:
    peer.answers("sessions.list", SessionPage((), 0))
    done = run("list")
    assert (done.returncode, done.stdout) == (0, b"") and b"no sessions" in done.stderr
    assert json.loads(run("list", "--json").stdout) == []


def test_show(peer: Peer, run: Run) -> None:
    peer.answers("sessions.get", session(file_step("create", "/etc/x"), script=b"print(1)\n"))
    done = run("show", ID)
    assert done.returncode == 0, "it did what it was told, whatever the session's state"
    assert b"create /etc/x" in done.stdout and b"+new" not in done.stdout
    assert b"not shown (--diff)" in done.stdout
    assert b"+new" in run("show", ID, "--diff").stdout
    assert run("show", ID, "--script").stdout == b"print(1)\n"
    shown = json.loads(run("show", "--json", ID).stdout)
    assert shown["plan"]["steps"][0]["diff"].endswith("+new\n")


@pytest.mark.P7
def test_what_is_not_for_a_terminal_has_no_escape_sequences(peer: Peer, run: Run) -> None:
    peer.answers("sessions.get", session(file_step("create", "/etc/\x1b[2J"), stdout=b"\x1b[2J"))
    assert b"\x1b" not in run("show", "--diff", ID).stdout


def test_reject_and_cancel(peer: Peer, run: Run) -> None:
    peer.answers("sessions.reject", session(state=State.REJECTED, reason="no\x1b"))
    peer.answers("sessions.cancel", session(state=State.CANCELLED))
    done = run("reject", ID, "--reason", "no")
    assert done.returncode == 0 and b"rejected: no\\e" in done.stderr
    assert peer.asked("sessions.reject") == [{"id": ID, "reason": "no"}]
    assert run("cancel", ID).returncode == 0


@pytest.mark.P10
@pytest.mark.parametrize("verb", ["show", "approve", "amend", "reject", "cancel", "watch"])
@pytest.mark.parametrize(
    ("error", "status"), [(NotFound(id="abcd"), 10), (AmbiguousId(id="abcd", count=2), 2)]
)
def test_ids_that_fit_no_session_or_several(
    peer: Peer, run: Run, verb: str, error: Any, status: int
) -> None:
    for method in ("get", "reject", "cancel", "watch"):
        peer.answers(f"sessions.{method}", error)
    extra = {"approve": ["--yes", "--digest", "f" * 64], "amend": ["--drop", "1"]}
    done = run(verb, "abcd", *extra.get(verb, []))
    assert done.returncode == status
    assert done.stderr.decode() == f"shannotctl: {error}\n"


def test_watch_one_session(peer: Peer, run: Run) -> None:
    peer.answers("sessions.watch", {})
    peer.answers("sessions.get", session())
    done = run("watch", ID)
    assert done.returncode == 0
    assert f"{ID} executed fix.py (no change)".encode() in done.stdout
    lines = run("watch", "--json", ID).stdout.splitlines()
    assert json.loads(lines[0])["session"]["state"] == "executed"


def test_watch_learns_that_the_daemon_stops(peer: Peer, run: Run) -> None:
    peer.handlers["sessions.watch"] = lambda link, params: link.close()
    done = run("watch")
    assert done.returncode == 8


def test_status(peer: Peer, run: Run) -> None:
    peer.answers("daemon.status", STATUS)
    done = run("status")
    assert done.returncode == 0 and b"shannotd 0.1.0, embedded" in done.stdout
    shown = json.loads(run("status", "--json").stdout)
    assert shown["socket"] == peer.path and shown["daemon"]["version"] == "0.1.0"


def test_status_starts_no_daemon(run: Run, tmp_path: Path) -> None:
    done = run(
        "status", SHANNOT_SOCKET="", XDG_RUNTIME_DIR=str(tmp_path), XDG_STATE_HOME=str(tmp_path)
    )
    assert done.returncode == 8
    assert {path.name for path in tmp_path.iterdir()} <= {"s"}


def test_audit(peer: Peer, run: Run) -> None:
    details = {"name": "a\x1bb", "size": 3}
    record = AuditRecord(1, 2.0, "session.submitted", 0, ID, details, "h", "{}")
    peer.answers("audit.tail", [record])
    peer.answers("audit.verify", AuditVerdict(9, 2, "h", 1.0, 2.0))
    done = run("audit", "tail", "-n", "5", "--session", ID)
    assert b"uid 0 session.submitted" in done.stdout and b"name='a\\eb' size=3" in done.stdout
    assert peer.asked("audit.tail") == [{"limit": 5, "session": ID}]
    assert json.loads(run("audit", "tail", "--json").stdout)[0]["event"] == "session.submitted"
    assert b"intact: 9 records in 2 files" in run("audit", "verify").stdout
    assert json.loads(run("audit", "verify", "--json").stdout)["records"] == 9
    peer.answers("audit.verify", AuditBroken(file="x", line=3, reason="the hash differs"))
    done = run("audit", "verify")
    assert done.returncode == 12 and b"at x, line 3" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0 and b"_SHANNOTCTL_COMPLETE" in done.stdout


def test_completion_of_verbs_and_ids(peer: Peer, run: Run) -> None:
    peer.answers("sessions.list", SessionPage((bare(PENDING),), 1))
    done = run(_SHANNOTCTL_COMPLETE="bash_complete", COMP_WORDS="shannotctl a", COMP_CWORD="1")
    assert done.stdout.split() == [b"plain,approve", b"plain,amend", b"plain,audit"]
    done = run(
        _SHANNOTCTL_COMPLETE="bash_complete", COMP_WORDS="shannotctl show 3f", COMP_CWORD="2"
    )
    assert done.stdout.split() == [f"plain,{ID}".encode()]
    done = run(
        _SHANNOTCTL_COMPLETE="bash_complete", COMP_WORDS="shannotctl submit x", COMP_CWORD="2"
    )
    assert done.stdout.split() == [b"file,x"]
    for option, kind in (("--cwd", b"dir"), ("--stdin", b"file")):
        done = run(
            _SHANNOTCTL_COMPLETE="bash_complete",
            COMP_WORDS=f"shannotctl submit {option} x",
            COMP_CWORD="3",
        )
        assert done.stdout.split() == [kind + b",x"]


def test_doctor_prints_one_line_a_check(peer: Peer, run: Run) -> None:
    peer.answers("daemon.status", STATUS)
    done = run("doctor")
    checks = json.loads(run("doctor", "--json").stdout)
    assert done.returncode in (0, 9)
    assert len(done.stdout.splitlines()) == len(checks)
    assert {"daemon", "disk", "D-Bus"} <= {check["name"] for check in checks}
    for check in checks:
        assert check.keys() == {"name", "ok", "level", "detail", "remedy"}
        assert check["level"] != "error" or check["remedy"], check


def test_help_names_every_exit_status(run: Run) -> None:
    shown = run("--help").stdout.decode()
    for status, text in STATUSES:
        assert f"{status:>3}  {text}" in shown
    assert {error.exit_status for error in ERRORS.values()} <= {status for status, _ in STATUSES}


@pytest.mark.P10
@pytest.mark.parametrize("words", [["nonsense"], [], ["list", "--state", "x"], ["show"]])
def test_wrong_command_lines(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr and b"Traceback" not in done.stderr


def test_only_the_verb_that_is_used_is_imported(peer: Peer) -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "from shannotctl.cli.program import run\n"
        "run(['submit', '-c', '1'])\n"
        "heavy = {'asyncio', 'rich', 'pygments', 'prompt_toolkit', 'pathlib', 'subprocess',\n"
        "  'json', 'hashlib', 'shannotctl.json_view', 'shannotctl.cli.list',\n"
        "  'shannotctl.render.plan', 'shannotctl.embedded', 'shannotctl.doctor'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    peer.answers("sessions.submit", session())
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"SHANNOT_SOCKET": peer.path},
    )
    assert done.stdout == b"[]\n", done.stderr


@pytest.mark.P10
def test_a_plan_that_is_none(peer: Peer, run: Run) -> None:
    for broken in (b"{}", b"[" * 100_000, b"\xff"):
        made = session(file_step("create", "/etc/x"), plan_canonical=broken)
        peer.answers("sessions.get", made)
        peer.answers("sessions.submit", made)
        for words in (["show", ID], ["show", "--json", ID], ["submit", "-c", "1"]):
            done = run(*words)
            assert done.returncode == 8
            assert b"Traceback" not in done.stderr


@pytest.mark.P10
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(peer: Peer, closed: str) -> None:
    peer.answers("sessions.submit", session(stdout=b"x"))
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m shannotctl submit -c 1 {closed}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"SHANNOT_SOCKET": peer.path},
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.P10
def test_a_full_disk_under_standard_output(peer: Peer) -> None:
    peer.answers("daemon.status", STATUS)
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m shannotctl status > /dev/full"],
        capture_output=True,
        env={"SHANNOT_SOCKET": peer.path},
    )
    assert done.returncode == 1
    assert b"No space left" in done.stderr and b"Traceback" not in done.stderr
