"""Rolling back commands among the changes: what makes up for them, in its place (P2, P3, P9)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from shannotd.runner import libraries, plan
from tests.runner import overlays
from tests.runner.overlays import Recording
from tests.support.accounts import is_root
from tests.support.applying import command, shell
from tests.support.mixed import bed
from tests.support.rolled import LAYOUT, ROOT, Host, around
from tests.support.runner import review, verdict

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts and accounts")


def told(host: Host, name: str, **more: Any) -> plan.CommandStep:
    """A command that tells of itself in a file beside."""
    return shell(f'echo {name} $(cat "$1/d/file") >> "$2"', *_places(host), **more)


def _places(host: Host) -> tuple[str, str]:
    return str(host.directory), str(host.top / "told")


def said(host: Host) -> list[str]:
    """What the commands told, since it was asked last."""
    path = host.top / "told"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def named(content: bytes) -> tuple[str, int]:
    return hashlib.sha256(content).hexdigest(), len(content)


def undoing(host: Host, name: str) -> plan.CommandStep:
    """A command, and one that makes up for it and is made up for by it."""
    return replace(told(host, name), undo=told(host, f"un{name}").argv)


def repeated(host: Host, name: str) -> plan.CommandStep:
    """A command that has something take up a new configuration."""
    command = told(host, name)
    return replace(command, undo=command.argv)


def answers(host: Host) -> Any:
    """The policy for these commands."""

    def decide(call: dict[str, Any]) -> dict[str, Any]:
        text = call["argv"][2]
        assert text.startswith("echo ")
        name = text.split()[1]
        other = name[2:] if name.startswith("un") else f"un{name}"
        undo = call["argv"] if name == "reload" else list(told(host, other).argv)
        return review(undo=undo, seconds=7.0)

    return decide


@pytest.mark.P3
@pytest.mark.P9
def test_commands_are_made_up_for_in_their_place(host: Host) -> None:
    host.lay_out(LAYOUT)
    before = host.snapshot()
    found, contents = around(
        host,
        "write('d/file', 'one\\n')",
        repeated(host, "reload"),
        undoing(host, "enable"),
        "os.unlink('d/gone')",
    )
    assert host.apply(found, contents).error is None
    after = host.snapshot()
    assert said(host) == ["reload one", "enable one"]
    back = host.roll_back(decide=answers(host))
    # What makes up for a command comes before the file is restored, what takes it up after.
    assert said(host) == ["unenable one", "reload old"]
    assert host.snapshot() == before
    commands = [step for step in back.steps if isinstance(step, plan.CommandStep)]
    assert [command.seconds for command in commands] == [7.0, 7.0]
    assert commands[0].reason == "makes up for step 3: told so"
    assert commands[0].undo == told(host, "enable").argv
    assert commands[1].undo == commands[1].argv
    host.roll_back("rollback", "redo", decide=answers(host))
    assert said(host) == ["reload one", "enable one"]
    assert host.snapshot() == after


@pytest.mark.P9
def test_a_chain_of_changes_around_commands(host: Host) -> None:
    with bed(host.top) as mixed:
        state = mixed.top / "state"
        state.mkdir(mode=0o700)
        host.top, host.state = mixed.top, state
        mixed.lay_out()
        found = overlays.plan_of(Recording(mixed.steps, (), mixed.contents), ROOT)
        assert host.apply(found, mixed.contents).error is None
        assert overlays.snapshot(mixed.host) == mixed.states[-1]
        outcome = host.ask()
        assert [one["step"] for one in outcome.staying] == [
            index for index, step in enumerate(mixed.steps) if step.kind == "command"
        ]
        assert {one["reason"] for one in outcome.staying} == {"no rule says what makes up for it"}
        host.roll_back()
        assert host.snapshot() == Host.plain(mixed.states[0])
        host.roll_back("rollback", "redo")
        assert host.snapshot() == Host.plain(mixed.states[-1])
        host.roll_back("redo", "again")
        assert host.snapshot() == Host.plain(mixed.states[0])


def program(host: Host, name: str = "reload") -> plan.CommandStep:
    """A script that has something take up a new configuration, called by a link to it."""
    path = host.top / name
    path.write_text(f"#!/bin/sh\necho $0 $(cat {host.directory}/d/file) >> {host.top}/told\n")
    path.chmod(0o755)
    (host.top / "link").symlink_to(name)
    step = command(str(path), loaded=("libc.so.6",), memory_bytes=2 << 30, processes=100)
    called = str(host.top / "link")
    return replace(step, argv=(called, "x"), undo=(called, "x"), link=called)


@pytest.mark.P2
@pytest.mark.P9
def test_a_script_is_repeated_by_its_interpreter_and_its_name(host: Host) -> None:
    host.lay_out(LAYOUT)
    found, contents = around(host, "write('d/file', 'new\\n')", program(host))
    assert host.apply(found, contents).error is None
    back = host.roll_back(decide=lambda call: review(undo=call["argv"]))
    assert said(host) == [f"{host.top}/link new", f"{host.top}/link old"]
    first = next(step for step in found.steps if isinstance(step, plan.CommandStep))
    again = next(step for step in back.steps if isinstance(step, plan.CommandStep))
    assert (again.interpreters, again.link) == (first.interpreters, first.link)
    assert (again.memory_bytes, again.processes) == (first.memory_bytes, first.processes)
    assert again.loaded == libraries.loaded(first.interpreters[-1].path) != ()


@pytest.mark.P2
@pytest.mark.P9
def test_a_command_is_repeated_by_the_program_that_is_restored(host: Host) -> None:
    host.lay_out(LAYOUT + "write('run', '#!/bin/sh\\ntrue old\\n', 0o755)")
    old = command(str(host.directory / "run"))
    new = host.record("write('run', '#!/bin/sh\\ntrue new\\n', 0o755)")
    sha256 = next(iter(new.contents))
    step = replace(old, program_sha256=sha256, undo=old.argv)
    found = replace(around(host)[0], steps=(*new.steps, step))
    assert host.apply(found, new.contents).error is None
    back = host.roll_back(decide=lambda call: review(undo=call["argv"]))
    again = next(step for step in back.steps if isinstance(step, plan.CommandStep))
    assert again.program_sha256 == old.program_sha256


def test_what_nothing_makes_up_for_is_told(host: Host) -> None:
    host.lay_out(LAYOUT)
    enable, other, gone, given = (undoing(host, name) for name in ("a", "b", "c", "d"))
    gone = replace(gone, undo=("/usr/bin/no-such-program", "x"))
    given = replace(told(host, "d"), stdin=plan.Input(*named(b"input")))
    given = replace(given, undo=given.argv)
    found, contents = around(host, "write('d/file', 'new')", enable, other, gone, given)
    assert host.apply(found, {**contents, named(b"input")[0]: b"input"}).error is None

    def decide(call: dict[str, Any]) -> dict[str, Any]:
        return verdict("deny") if "unb" in call["argv"][2] else verdict("contain", risk="safe")

    outcome = host.ask(decide=decide)
    first = len(found.steps) - 4
    assert {one["step"] - first: one["reason"] for one in outcome.staying} == {
        1: "what would make up for it is denied: told so",
        2: "there is no program /usr/bin/no-such-program, which would make up for it",
        3: "it would need its standard input once more",
    }
    commands = outcome.commands()
    assert [(one["decision"], one["risk"], one["undo"]) for one in commands] == [
        ("review", "caution", None)
    ]


def test_a_command_begins_elsewhere_where_its_directory_is_gone(host: Host) -> None:
    host.lay_out(LAYOUT)
    cwd = str(host.directory / "new")
    environment = {"PATH": "/usr/bin:/bin", "PWD": cwd, "OWN": "yes"}
    enable = replace(undoing(host, "a"), cwd=cwd, environment=environment, changed=("OWN",))
    reload = replace(repeated(host, "reload"), cwd=cwd, environment=environment)
    found, contents = around(host, "os.mkdir('new')", enable, reload)
    assert host.apply(found, contents).error is None
    back = host.roll_back(decide=answers(host))
    first, second = (step for step in back.steps if isinstance(step, plan.CommandStep))
    assert (first.cwd, first.environment, first.changed) == (cwd, environment, ("OWN",))
    assert (second.cwd, second.environment) == ("/", {**environment, "PWD": "/"})
