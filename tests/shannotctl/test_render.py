"""Sessions, plans and diffs as text: all of it, and nothing that deceives (P7)."""

from __future__ import annotations

import dataclasses
import re
import unicodedata

import pytest

from shannotctl.render.amounts import exact_moment, moment
from shannotctl.render.command import View, quoted
from shannotctl.render.layout import block, display_width, expand_tabs, fold, hanging, table
from shannotctl.render.plan import changes, plan_lines, summary
from shannotctl.render.session import change_line, list_lines, session_lines
from shannotctl.render.style import PLAIN, Style
from shannotd.wire.decision import Risk
from shannotd.wire.plan import Plan
from shannotd.wire.session import Failure, Session, State
from shannotd.wire.step import CommandResult, FileState, Step, TreeSummary
from shannotd.wire.text import has_hidden, visible
from tests.support.samples import ABSENT, file_step, regular, session

ATTACKS = [
    "\x1b[2J\x1b[H",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil/\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]52;c;cm0gLXJmIC8=\x07",
    "\x1b[1A\x1b[2Ksafe",
    "\x1bP+q544e\x1b\\",
    "\x1b[?1049h",
    "\x1bc",
    "\x9b2J",
    "\x9d0;x\x9c",
    "\x85next line",
    "rm -rf /\rls",
    "a\nPlan: 0 steps",
    "a\r\nb",
    "a\x0bb",
    "a\x0cb",
    "a\bb",
    "a\x7fb",
    "a\x00b",
    "a\x07b",
    "\u202etxt.exe",
    "\u2066hidden\u2069",
    "\u200babc",
    "a\u200db",
    "a\u2060b",
    "\ufeffbom",
    "a\u00adb",
    "a\u2028b",
    "a\u2029b",
    "\u061cmark",
    "\u200e\u200f",
    "\U000e0041\U000e0042",
    "a\u3164b",
    "a\uffa0b",
    "a\u00a0b",
    "a\u2800b",
    "a\u180eb",
    "a\ue000b",
    "a\U0010ffffb",
    "a\udcffb",
    "\udc1b[2J",
    "a\ufe0fb",
    "a\u034fb",
]


def text_of(made: Session, style: Style) -> str:
    return "\n".join(session_lines(made, style))


def poisoned(attack: str) -> Session:
    """A session in which every text that travels is `attack`."""
    state = dataclasses.replace(
        regular("a"), target=attack, xattrs={attack: attack}, fingerprint=attack
    )
    steps = (
        file_step("modify", attack, old_path=attack, before=state, reason=attack, diff=attack),
        file_step("rename", attack, old_path=attack, link_to=attack, applied=attack),
        file_step("create", attack, before=ABSENT, after=FileState(attack)),
        file_step("delete", f"/tmp/{attack}", scratch=True),
        dataclasses.replace(file_step(attack, attack), binary=True, diff=None),
        Step(
            "command",
            argv=(attack, attack),
            program=attack,
            cwd=attack,
            decision=attack,
            rule=attack,
            reason=attack,
            result=CommandResult(1, attack, attack, 0.1),
        ),
        Step("blocked", what=attack, target=attack, count=2),
    )
    raw = attack.encode("utf-8", "surrogatepass")
    return session(
        *steps,
        id=attack,
        name=attack,
        profile=attack,
        target=attack,
        submitter_name=attack,
        identity=attack,
        arguments=(attack,),
        cwd=attack,
        analysis=attack,
        reason=attack,
        stdout=raw,
        stderr=raw,
        error=Failure("internal", attack),
    )


@pytest.mark.P7
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_hidden_is_printed(attack: str) -> None:
    made = poisoned(attack)
    for width in (None, 40, 80):
        shown = text_of(made, Style(width=width))
        assert not any(has_hidden(line, keep="") for line in shown.split("\n")), shown
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
        for line in [change_line(made), *list_lines([made], Style(width=width))]:
            assert not has_hidden(line, keep="")


@pytest.mark.P7
@pytest.mark.parametrize("attack", ATTACKS)
def test_only_our_own_colours_are_printed(attack: str) -> None:
    shown = text_of(poisoned(attack), Style(colour=True, width=80))
    ours = re.sub(r"\x1b\[(?:0|1|2|31|32|33|36|1;31)m", "", shown)
    assert not any(has_hidden(line, keep="") for line in ours.split("\n"))


@pytest.mark.P7
@pytest.mark.parametrize("attack", ATTACKS)
def test_escapes_tell_what_was_there(attack: str) -> None:
    shown = visible(attack)
    assert shown != attack
    assert not has_hidden(shown, keep="")
    assert visible(shown) == shown
    for character in attack:
        if unicodedata.category(character) in ("Ll", "Lu", "Nd"):
            assert character in shown


@pytest.mark.P7
@pytest.mark.parametrize("width", [20, 40, 80, None])
def test_content_cannot_imitate_a_line_of_ours(width: int | None) -> None:
    fakes = [
        "Plan: 1 step (1 create)",
        "  1. safe  modify /etc/motd",
        " " * 60 + "  2. safe  nothing else",
        "x" * 200 + "Scratch: 3 changes, not applied",
        "Apply this plan? [yes/no] ",
        "shannotctl: session 1 executed",
    ]
    diff = "--- a\n+++ b\n@@ -0,0 +1 @@\n" + "".join(f"+{fake}\n" for fake in fakes)
    made = session(
        file_step("modify", "/etc/x", diff=diff),
        stdout="".join(f"{fake}\n" for fake in fakes).encode(),
        analysis="\n".join(fakes),
    )
    lines = text_of(made, Style(width=width)).split("\n")
    assert sum(line.startswith("Plan: ") for line in lines) == 1
    assert sum(bool(re.match(r"\s*\d+\. ", line)) for line in lines) == 1
    assert not any(line.startswith(("Scratch:", "Apply", "shannotctl:")) for line in lines)


@pytest.mark.P7
def test_nothing_is_cut() -> None:
    path = "/srv/" + "directory/" * 60 + "file"
    content = "".join(f"+line {number} {'y' * 300}\n" for number in range(500))
    diff = f"--- a\n+++ b\n@@ -0,0 +1,500 @@\n{content}"
    made = session(file_step("modify", path, diff=diff))
    shown = text_of(made, Style(width=72))
    assert all(display_width(line) <= 72 for line in shown.split("\n"))
    joined = re.sub(r"\n {4}: ", "", shown)
    for number in range(500):
        assert f"| +line {number} {'y' * 300}\n" in joined + "\n"
    assert path in re.sub(r"\n +", "", shown), "a path has no blank to be folded at"


@pytest.mark.P7
def test_a_diff_that_is_left_out_is_told() -> None:
    plan = session(file_step("modify", "/etc/x")).plan
    assert plan is not None
    shown = "\n".join(plan_lines(plan, Style(), View(diffs=False)))
    assert "5 lines not shown (--diff)" in shown
    assert "+new" not in shown


@pytest.mark.P7
def test_a_removed_line_that_looks_like_a_header_is_red() -> None:
    diff = "--- a\n+++ b\n@@ -1 +0,0 @@\n--- not a header\n"
    plan = session(file_step("modify", "/etc/x", diff=diff)).plan
    assert plan is not None
    assert "\x1b[31m--- not a header\x1b[0m" in "\n".join(plan_lines(plan, Style(colour=True)))


@pytest.mark.P7
def test_a_tab_does_not_look_like_blanks() -> None:
    diff = "--- a\n+++ b\n@@ -1 +1 @@\n-\tx\n+        x\n"
    plan = session(file_step("modify", "/etc/x", diff=diff)).plan
    assert plan is not None
    lines = list(plan_lines(plan, Style()))
    assert "    | -\u2192      x" in lines
    assert "    | +        x" in lines


def test_binary_and_large_files_show_sizes_and_digests() -> None:
    steps = (
        file_step("modify", "/bin/x", diff=None, binary=True),
        file_step("modify", "/big", diff=None, too_large=True),
    )
    plan = session(*steps).plan
    assert plan is not None
    shown = "\n".join(plan_lines(plan, Style()))
    assert f"sha256 {'a' * 64} (binary)" in shown
    assert f"sha256 {'b' * 64} (too large to show)" in shown


@pytest.mark.P7
def test_the_end_of_a_path_is_seen() -> None:
    plan = session(
        file_step("modify", "/etc/passwd "),
        file_step("rename", "/srv/b to /etc/shadow", old_path="/srv/a"),
    ).plan
    assert plan is not None
    text = "\n".join(plan_lines(plan, PLAIN))
    assert "modify '/etc/passwd '\n" in text
    assert "rename /srv/a to '/srv/b to /etc/shadow'" in text


@pytest.mark.P7
def test_a_long_line_cannot_pass_for_several() -> None:
    forged = "x" + " " * 70 + "shannotctl: session executed" + " " * 60 + "shannotctl: all is well"
    for width in (40, 80):
        lines = list(hanging(f"shannotctl: {forged}", Style(width=width)))
        assert len(lines) > 1
        assert all(line.startswith("  ") for line in lines[1:])
        assert max(map(len, lines)) <= width


def test_deleted_trees_show_counts_and_sizes() -> None:
    state = FileState("directory", 0o755, 0, 0, tree=TreeSummary(1204, 5 * 1024 * 1024, "d" * 64))
    step = file_step("delete", "/srv/old", before=state, risk=Risk.DANGER, diff=None)
    plan = session(step).plan
    assert plan is not None
    shown = "\n".join(plan_lines(plan, Style()))
    assert "danger  delete the tree /srv/old (1,204 entries, 5.0 MiB)" in shown


def test_scratch_is_folded_with_counts() -> None:
    steps = [file_step("create", f"/tmp/a/{number}", scratch=True) for number in range(3)]
    steps.append(file_step("create", "/var/tmp/b", scratch=True))
    plan = session(file_step("create", "/etc/x", before=ABSENT), *steps).plan
    assert plan is not None
    lines = list(plan_lines(plan, Style()))
    assert lines[0] == "Plan: 1 step (1 create); 4 in scratch are not applied"
    assert lines[-3:] == [
        "Scratch: 4 changes, not applied",
        "    | 3 in /tmp/a",
        "    | 1 in /var/tmp",
    ]


def test_every_difference_of_metadata_is_told() -> None:
    before = regular("a", mode=0o644, uid=0, gid=0, size=10, xattrs={"user.k": "00"}, mtime_ns=1)
    after = regular("b", mode=0o6755, uid=7, gid=8, size=2048, xattrs={"user.n": "01"}, mtime_ns=2)
    assert list(changes(before, after)) == [
        ("mode", "0644 to 6755 (setuid, setgid)"),
        ("owner", "0:0 to 7:8"),
        ("size", "10 bytes to 2.0 KiB"),
        ("modified", f"{exact_moment(1)} to {exact_moment(2)}"),
        ("xattr", "user.k=00 to none"),
        ("xattr", "none to user.n=01"),
    ]
    link = FileState("symlink", uid=0, gid=0, target="/etc/shadow")
    assert next(changes(before, link)) == ("type", "file to symlink")
    assert ("target", "none to /etc/shadow") in list(changes(before, link))


def test_no_target_passes_for_two() -> None:
    before = FileState("symlink", target="/a")
    after = FileState("symlink", target="/evil to /a")
    assert list(changes(before, after)) == [("target", "/a to '/evil to /a'")]
    gone = FileState("absent")
    assert list(changes(after, gone)) == [("target", "'/evil to /a'")]


def test_moments_are_exact() -> None:
    second = moment(1_700_000_000)
    assert exact_moment(1_700_000_000_000_000_005) == second[:19] + ".000000005" + second[19:]
    assert exact_moment(-1).split()[1].endswith("59.999999999")
    assert exact_moment(10**30) == f"{10**30} ns"
    before, after = regular("a"), regular("a", mtime_ns=5)
    assert list(changes(before, after)) == [("modified", exact_moment(5))]


def test_commands_show_where_each_argument_ends() -> None:
    assert quoted("a b") == "'a b'"
    assert quoted("") == "''"
    assert quoted("it's") == "'it'\\''s'"
    assert quoted("--plain=/x:1,2") == "--plain=/x:1,2"
    assert quoted("a\nb") == "'a\\nb'"


def test_summary_counts() -> None:
    plan = session(
        file_step("create", "/a"), file_step("create", "/b"), file_step("delete", "/c")
    ).plan
    assert plan is not None
    assert summary(plan) == "3 steps (2 create, 1 delete)"


def test_the_full_digest_and_identity_are_shown() -> None:
    made = session(file_step("create", "/a"))
    assert made.plan_canonical is not None
    shown = text_of(made, Style())
    assert Plan.parse(made.plan_canonical).digest in shown
    assert "root (uid 0, gid 0, groups 0, umask 0022) on local 0123456789abcdef" in shown


def test_the_table_folds_instead_of_cutting() -> None:
    name = "a-very-long-name-" * 6
    made = session(name=name)
    lines = list(list_lines([made], Style(width=80)))
    assert all(display_width(line) <= 80 for line in lines)
    column = lines[0].index("NAME")
    end = lines[0].index("PLAN")
    assert "".join(line[column:end].strip() for line in lines[1:]) == name
    wide = list(list_lines([made], Style()))
    assert len(wide) == 2 and name in wide[1] and made.id in wide[1]


@pytest.mark.parametrize("width", range(1, 12))
def test_folding_loses_nothing(width: int) -> None:
    text = "a日本語b" * 5 + "e\u0301"
    pieces = fold(text, width)
    assert "".join(pieces) == text
    assert all(display_width(piece) <= max(width, 8) for piece in pieces)


@pytest.mark.parametrize("width", range(8, 40))
def test_folding_at_blanks_loses_nothing(width: int) -> None:
    text = "decides which  accounts there are, who-is-root-and-who-may-log-in and more "
    pieces = fold(text, width, at_blanks=True)
    assert "".join(pieces) == text
    assert all(display_width(piece) <= width for piece in pieces)


def test_tables_survive_a_terminal_of_no_width() -> None:
    assert list(table(("A", "B"), [("x" * 20, "y" * 20)], Style(width=1)))


def test_blocks_tell_of_a_missing_newline() -> None:
    assert list(block(b"a\n", Style())) == ["    | a"]
    assert list(block(b"a", Style())) == ["    | a", "      (no newline at the end)"]
    assert list(block(b"", Style())) == []


def test_tabs_keep_columns() -> None:
    assert expand_tabs("a\tb") == "a".ljust(8) + "b"
    assert expand_tabs("日\tb", "→") == "日→     b"
    assert expand_tabs("12345678\tb") == "12345678" + " " * 8 + "b"


def test_states_without_a_plan() -> None:
    for state in State:
        shown = text_of(session(state=state, exit_code=None), Style())
        assert state.value in shown
