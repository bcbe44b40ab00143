"""`shannotctl policy explain` against a scripted daemon."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shannotd.wire.decision import (
    Decision,
    Explanation,
    Observation,
    ProgramCall,
    Recording,
    Risk,
    Verdict,
)
from shannotd.wire.errors import ProfileUnknown
from tests.support.peer import Peer

Run = Any


def explained(argv: tuple[str, ...], decision: Decision, **parts: Any) -> Explanation:
    call = ProgramCall(f"/bin/{argv[0]}", f"/usr/bin/{argv[0]}", argv)
    return Explanation("default", call, True, Verdict(decision, "r", "why", Risk.SAFE, **parts))


def test_what_an_observed_program_runs_with(peer: Peer, run: Run) -> None:
    shows = ("socket owners", "disks")
    observation = Observation(
        "/bin/ss", ("/bin/ss", "-t"), net="host", groups=("adm",), shows=shows
    )
    peer.answers(
        "policy.explain", explained(("ss", "-t"), Decision.OBSERVE, observation=observation)
    )
    done = run("policy", "explain", "--cwd", "/srv", "--profile", "web", "--", "ss", "-t")
    assert done.returncode == 0 and done.stderr == b""
    for text in (b"decision   observe", b"(/usr/bin/ss)", b"network host", b"30 s"):
        assert text in done.stdout
    for text in (b"unprivileged account where it can, with group adm", b"socket owners, disks"):
        assert text in done.stdout
    assert peer.asked("policy.explain") == [{"argv": ["ss", "-t"], "cwd": "/srv", "profile": "web"}]


def test_how_a_command_is_recorded(peer: Peer, run: Run) -> None:
    recording = Recording(exit_status=3, stdout="x y", stdin=True, undo=("psql", "-c", "un do"))
    peer.answers("policy.explain", explained(("psql",), Decision.REVIEW, recording=recording))
    done = run("policy", "explain", "psql", "--json", "-c", "x")
    assert b"exit status 3, output 'x y'" in done.stdout and b"psql -c 'un do'" in done.stdout
    assert peer.asked("policy.explain")[0]["argv"] == ["psql", "--json", "-c", "x"]


@pytest.mark.P7
def test_nothing_in_it_reaches_the_terminal_raw(peer: Peer, run: Run) -> None:
    peer.answers("policy.explain", explained(("a\x1b[2J", "\u202e"), Decision.CONTAIN))
    done = run("policy", "explain", "a\x1b[2J", "\u202e")
    assert b"\x1b" not in done.stdout and b"\\e[2J" in done.stdout and b"\\u202e" in done.stdout


def test_json(peer: Peer, run: Run) -> None:
    peer.answers("policy.explain", explained(("ls",), Decision.CONTAIN))
    shown = json.loads(run("policy", "explain", "--json", "ls").stdout)
    assert shown["verdict"]["decision"] == "contain" and shown["verdict"]["recording"] is None


def test_failures(peer: Peer, run: Run) -> None:
    peer.answers("policy.explain", ProfileUnknown(name="x", known="default"))
    assert run("policy", "explain", "--profile", "x", "ls").returncode == 2
    assert run("policy", "explain").returncode == 2
