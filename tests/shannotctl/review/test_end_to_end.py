"""The reviewer as a person has it: in a terminal (tmux), with the real daemon and sandbox."""

from __future__ import annotations

import os
import select
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Home, temporary_home
from tests.support.processes import descendants
from tests.support.tmux import Tmux, terminal

pytestmark = pytest.mark.P7

EDIT = "echo two >> a; echo new > b; rm c; chmod 640 d"


@pytest.fixture
def home() -> Iterator[Home]:
    with temporary_home() as made:
        for name in ("a", "c", "d"):
            (made.work / name).write_text("one\n")
        yield made


@pytest.fixture
def screen(home: Home) -> Iterator[Tmux]:
    with terminal(home.work, home.environment) as made:
        yield made


def submit(home: Home, text: str, *options: str) -> str:
    made = home.json("submit", "--json", *options, "--sh", text)
    assert made["state"] == "pending", made
    return str(made["id"])


def state_of(home: Home, id: str) -> str:
    return str(home.json("show", "--json", id)["state"])


def tmux_start(screen: Tmux, command: str) -> None:
    screen.text(f"clear; {command}; echo status=$?")
    screen.keys("Enter")


def assert_sane(screen: Tmux, status: int) -> None:
    """The shell has its terminal back as it was: echo, cursor, screen, mouse."""
    screen.until(f"status={status}", "ready$")
    assert screen.variable("alternate_on") == "0"
    assert screen.variable("cursor_flag") == "1"
    assert screen.variable("mouse_any_flag") == "0"
    screen.text("echo ec'h'oed; stty -a | tr ' ' '\\n' | grep -x -e echo -e icanon -e isig")
    screen.keys("Enter")
    screen.until("\nechoed\n", "\nisig\n", "\nicanon\n", "\necho\n")


@pytest.mark.P2
def test_a_plan_is_read_approved_and_applied(home: Home, screen: Tmux) -> None:
    id = submit(home, EDIT, "--name", "edit files", "--analysis", "Because it is wanted.")
    tmux_start(screen, "shannotctl approve")
    screen.until("1 pending", "edit files", "caution")
    screen.keys("Enter")
    screen.until("Because it is wanted.", "4 steps", "x approve")
    screen.keys("x")
    shown = screen.until("Apply this plan", "yes, apply it")
    digest = home.json("show", "--json", id)["digest"]
    assert digest in shown
    assert (home.work / "a").read_text() == "one\n"
    screen.keys("y")
    screen.until("executed", "4 done")
    assert (home.work / "a").read_text() == "one\ntwo\n"
    assert (home.work / "b").read_text() == "new\n"
    assert not (home.work / "c").exists()
    assert stat.S_IMODE((home.work / "d").stat().st_mode) == 0o640
    # And back.
    screen.keys("u")
    screen.until("Make a plan that takes this session back")
    screen.keys("y")
    screen.until("waits for a decision", "pending")
    screen.keys("x")
    screen.until("Apply this plan", "yes, apply it")
    screen.keys("y")
    screen.until("4 done")
    assert (home.work / "a").read_text() == "one\n" and (home.work / "c").exists()
    assert state_of(home, id) == "rolled_back"
    screen.keys("q")
    screen.until("nothing pending")
    screen.keys("q")
    assert_sane(screen, 0)


def test_a_rejection_with_a_reason(home: Home, screen: Tmux) -> None:
    id = submit(home, EDIT)
    tmux_start(screen, f"shannotctl review {id[:10]}")
    screen.until("x approve")
    screen.keys("r")
    screen.until("Why")
    screen.text("not today")
    screen.keys("Enter")
    screen.until("rejected")
    assert home.json("show", "--json", id)["reason"] == "not today"
    screen.keys("C-c")
    assert_sane(screen, 0)


@pytest.mark.P1
def test_danger_by_key_and_by_paste(home: Home, screen: Tmux) -> None:
    key = home.work / ".ssh" / "authorized_keys"
    id = submit(home, "mkdir .ssh; echo ssh-ed25519 AAAA > .ssh/authorized_keys")
    if home.json("show", "--json", id)["risk"] != "danger":
        pytest.skip("not danger by this policy")
    tmux_start(screen, "shannotctl review")
    screen.until("danger")
    screen.keys("Enter")
    screen.until("DANGER", "x approve")
    screen.keys("x")
    screen.until("Type `yes, danger`", "Enter apply it")
    screen.paste("yes, danger\n")
    screen.keys("Enter")
    screen.until("nothing is done")
    assert state_of(home, id) == "pending" and not key.exists()
    screen.keys("x")
    screen.until("Type `yes, danger`", "Enter apply it")
    screen.text("yes, danger")
    screen.keys("Enter")
    screen.until("executed")
    assert key.exists()


def test_an_edited_and_shortened_plan(home: Home, screen: Tmux) -> None:
    submit(home, EDIT)
    tmux_start(screen, "EDITOR='sed -i s/new/newer/' shannotctl review")
    screen.until("1 pending")
    screen.keys("Enter")
    screen.until("x approve")
    for step, key in (("create", "e"), ("delete", "Space")):
        screen.keys("/")
        screen.until("Search:")
        screen.text(f"  {step} ")
        screen.keys("Enter")
        screen.until("x approve" if key == "e" else "A make", without="Search:")
        screen.keys(key)
        screen.until("is edited" if key == "e" else "dropped: not")
    screen.keys("A")
    screen.until("Make another plan")
    screen.keys("y")
    screen.until("Changed by a reviewer")
    screen.keys("x")
    screen.until("Apply this plan", "yes, apply it")
    screen.keys("y")
    screen.until("executed")
    assert (home.work / "b").read_text() == "newer\n"
    assert (home.work / "c").exists(), "that step was dropped"


@pytest.mark.P10
def test_a_killed_daemon_is_told_and_another_found(home: Home, screen: Tmux) -> None:
    id = submit(home, EDIT, "--name", "survivor")
    tmux_start(screen, "shannotctl review")
    screen.until("survivor", "embedded")
    screen.keys("Enter")
    screen.until("x approve")
    home.stop(signal.SIGKILL)
    # One's own daemon is started again: the plan is where it was.
    screen.until("embedded", "x approve", without="No daemon")
    screen.keys("x")
    screen.until("Apply this plan", "yes, apply it")
    screen.keys("y")
    screen.until("executed")
    assert state_of(home, id) == "executed"
    screen.keys("C-c")
    assert_sane(screen, 0)


@pytest.mark.P10
def test_no_daemon_at_all(home: Home, tmp_path: Path) -> None:
    environment = {**home.environment, "SHANNOT_SOCKET": str(tmp_path / "nobody")}
    with terminal(home.work, environment) as screen:
        tmux_start(screen, "shannotctl review")
        screen.until("No daemon", "is no such socket", "LOST", "is not known")
        screen.keys("q")
        assert_sane(screen, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_sane(
    home: Home, screen: Tmux, number: signal.Signals
) -> None:
    tmux_start(screen, "shannotctl review & echo $! > pid; fg")
    screen.until("Nothing waits")
    os.kill(int((home.work / "pid").read_text()), number)
    assert_sane(screen, 128 + number)


# What an editor or a pager does to a terminal; the program that does it is started by another, as
# by sensible-editor.
RUDE = """#!/bin/sh
sh -c 'stty raw -echo; echo $$ > rude; printf "\\033[?1049h\\033[?25lRUDE"; {trap}
    while :; do sleep 1000 < /dev/null; done'
"""
LATE = 'trap "sleep 1000 < /dev/null; exit" TERM HUP;'  # starts one more when it is asked to end
TIDY = 'trap "stty sane; printf \\"\\\\033[?1049l\\\\033[?25h\\"; exit" TERM HUP;'


def open_first(screen: Tmux, *keys: str) -> None:
    """Go to the first step of the only session, and press `keys`."""
    screen.until("1 pending")
    screen.keys("Enter")
    screen.until("x approve")
    screen.keys("/")
    screen.until("Search:")
    screen.text("  create ")
    screen.keys("Enter")
    screen.until("x approve", without="Search:")
    screen.keys(*keys)


def ended(process: int) -> bool:
    """Whether it has ended by now, or does soon."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 30)[0])
    finally:
        os.close(descriptor)


def settled(process: int) -> int:
    """The shell `process`, as soon as it waits for the program that it runs."""
    while "sleep" not in [program(child) for child in descendants(process)]:
        pass
    return process


def program(process: int) -> str:
    """What a process runs; empty if it has ended."""
    try:
        return Path(f"/proc/{process}/comm").read_text().rstrip()
    except OSError:
        return ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("variable", ["VISUAL", "PAGER"])
@pytest.mark.parametrize("trap", [TIDY, LATE, ""], ids=["tidy", "late", "rude"])
def test_a_signal_ends_the_editor_and_the_pager_too(
    home: Home, screen: Tmux, variable: str, trap: str, number: signal.Signals
) -> None:
    submit(home, EDIT)
    rude = home.work / "program"
    rude.write_text(RUDE.format(trap=trap))
    rude.chmod(0o755)
    tmux_start(screen, f"{variable}=./program shannotctl review & echo $! > pid; fg")
    open_first(screen, "e" if variable == "VISUAL" else "p")
    screen.until("RUDE")
    shell = settled(int((home.work / "rude").read_text()))
    os.kill(int((home.work / "pid").read_text()), number)
    assert_sane(screen, 128 + number)
    assert ended(shell)


def test_an_editor_that_does_not_end_is_left(home: Home, screen: Tmux) -> None:
    submit(home, EDIT)
    rude = home.work / "program"
    rude.write_text("#!/bin/sh\ntrap '' TERM; echo $$ > rude; echo RUDE; exec sleep 1000\n")
    rude.chmod(0o755)
    tmux_start(screen, "VISUAL=./program shannotctl review & echo $! > pid; fg")
    open_first(screen, "e")
    screen.until("RUDE")
    os.kill(int((home.work / "pid").read_text()), signal.SIGTERM)
    assert_sane(screen, 128 + signal.SIGTERM)
    left = int((home.work / "rude").read_text())
    assert Path(f"/proc/{left}").exists()
    os.kill(left, signal.SIGKILL)


def test_a_signal_is_heard_as_soon_as_the_editor_is_there(home: Home, screen: Tmux) -> None:
    submit(home, EDIT)
    program = home.work / "program"
    program.write_text("#!/bin/sh\nkill -TERM $PPID\nexec sleep 1000\n")
    program.chmod(0o755)
    tmux_start(screen, "VISUAL=./program shannotctl review")
    open_first(screen, "e")
    assert_sane(screen, 128 + signal.SIGTERM)


@pytest.mark.parametrize("program", ["vi", "less"])
def test_a_real_editor_and_pager_end_with_the_reviewer(
    home: Home, screen: Tmux, program: str
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not there")
    submit(home, "seq 100 > b")
    chosen = f"VISUAL={program} PAGER={program} TMPDIR={home.directory}"
    tmux_start(screen, f"{chosen} shannotctl review & echo $! > pid; fg")
    if program == "vi":
        open_first(screen, "e")
        screen.until("step-1-b", "1")
        screen.text("ochanged")
        screen.until("changed")
    else:
        open_first(screen, "p")
        screen.until_it(lambda shown: shown.rstrip().endswith(":"))
    os.kill(int((home.work / "pid").read_text()), signal.SIGTERM)
    assert_sane(screen, 128 + signal.SIGTERM)
    kept = [file.name for file in home.directory.glob("shannot-amend-*/.*")]
    recovers = program == "vi" and "vim" in os.path.realpath(str(shutil.which(program)))
    assert kept == ([".step-1-b.swp"] if recovers else []), "what was typed is not lost"


def test_the_shell_in_between(home: Home, screen: Tmux) -> None:
    tmux_start(screen, "shannotctl review")
    screen.until("Nothing waits")
    screen.keys("C-z")
    screen.until("Stopped")
    assert screen.variable("alternate_on") == "0"
    screen.text("clear; fg")
    screen.keys("Enter")
    screen.until("Nothing waits")
    screen.keys("q")
    screen.until("ready$", without="Nothing waits")


def footer_at(rows: int) -> Callable[[str], bool]:
    """Whether the footer is on the last of so many lines."""

    def there(shown: str) -> bool:
        lines = shown.removesuffix("\n").split("\n")
        return len(lines) == rows and "q back" in lines[-1]

    return there


def test_sizes(home: Home, screen: Tmux) -> None:
    submit(home, "for i in $(seq 40); do echo $i > new$i; done; echo " + "x" * 150 + " > long")
    tmux_start(screen, "shannotctl review")
    screen.until("1 pending")
    screen.keys("Enter")
    screen.until("41 steps")
    for columns, rows in ((200, 60), (40, 10), (30, 8), (80, 24)):
        screen.resize(columns, rows)
        if columns < 40:
            screen.until("too small")
            continue
        screen.until_it(footer_at(rows))
    screen.until("41 steps")


@pytest.mark.P7
def test_a_name_that_clears_the_screen_clears_nothing(home: Home, screen: Tmux) -> None:
    submit(home, 'echo x > "$(printf "\\033[2J\\033[H")"', "--name", "\x1b[2J\x1b]0;owned\x07")
    tmux_start(screen, "shannotctl review")
    screen.until("\\e[2J\\e]0;owned\\x07")
    screen.keys("Enter")
    screen.until("create", "/\\e[2J\\e[H", "disguise")
    assert screen.variable("pane_title") != "owned"


def test_no_colour_and_sixteen(home: Home) -> None:
    submit(home, EDIT)
    for variables, colours in (({"NO_COLOR": "1"}, False), ({"TERM": "screen"}, True)):
        directory = home.directory / f"terminal{len(variables)}{colours}"
        directory.mkdir()
        with terminal(directory, {**home.environment, **variables}) as screen:
            # tmux gives its programs a TERM of its own.
            term = variables.get("TERM", "screen-256color")
            tmux_start(screen, f"TERM={term} shannotctl review")
            screen.until("1 pending")
            screen.keys("Enter")
            screen.until("x approve")
            shown = screen.pane("-e")
            codes = {code for code in range(30, 50) if f"\x1b[{code}m" in shown} - {39, 49}
            assert bool(codes) == colours
            assert "38;5" not in shown and "38;2" not in shown
            assert "\x1b[7m" in shown or "\x1b[0;7m" in shown


def test_a_dumb_terminal_gets_plain_text(home: Home, screen: Tmux) -> None:
    id = submit(home, EDIT)
    tmux_start(screen, "TERM=dumb shannotctl review")
    screen.until("approve, reject, skip or quit?")
    screen.text("approve")
    screen.keys("Enter")
    screen.until("Apply this plan? [yes/no]")
    screen.text("yes")
    screen.keys("Enter")
    screen.until("status=0")
    assert state_of(home, id) == "executed"
    assert screen.variable("alternate_on") == "0"


def test_a_command_is_copied_to_the_terminals_buffer(home: Home, screen: Tmux) -> None:
    submit(home, "curl -s 'http://example.org/a b'")
    tmux_start(screen, "shannotctl review")
    screen.until("1 pending")
    screen.keys("Enter")
    screen.until("x approve")
    screen.keys("/")
    screen.until("Search:")
    screen.text("run curl")
    screen.keys("Enter")
    screen.until("x approve")
    screen.keys("y")
    screen.until("copied:")
    screen.until("copied: curl -s 'http://example.org/a b'")
    assert screen.buffer() == "curl -s 'http://example.org/a b'"


def test_large_contents_in_the_pager(home: Home, screen: Tmux) -> None:
    submit(home, "seq 1500000 > large; head -c 100000 /dev/zero > zeros")
    tmux_start(screen, "PAGER=./pager shannotctl review")
    (home.work / "pager").write_text("#!/bin/sh\nwc -l > paged\necho PAGED\nread key < /dev/tty\n")
    (home.work / "pager").chmod(0o755)
    screen.until("1 pending")
    screen.keys("Enter")
    screen.until("too large to show", "x approve")
    screen.keys("/")
    screen.until("Search:")
    screen.text("/large")
    screen.keys("Enter")
    screen.until("x approve", without="Search:")
    screen.keys("v")
    screen.until("step 1 · after", "  1 │ 1")
    screen.keys("G")
    screen.until("more are not shown here: `p` has all of it")
    screen.keys("p")
    screen.until("PAGED")
    screen.keys("Enter")
    screen.until("more are not shown here", without="PAGED")
    screen.keys("q")
    screen.until("x approve")
    assert (home.work / "paged").read_text().strip() == "1500001"
