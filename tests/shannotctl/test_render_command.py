"""Commands as text: how they run, what they are given and printed, and nothing left out unsaid."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotctl.protocol import CommandPrinted, StepApplied
from shannotctl.render.command import View, folded, program_lines
from shannotctl.render.plan import plan_lines, summary
from shannotctl.render.printed import PrintedLines
from shannotctl.render.session import counts_text, session_lines, steps_text
from shannotctl.render.style import Style
from shannotd.wire.decision import Risk
from shannotd.wire.plan import Plan, StartedProgram, StepCounts
from shannotd.wire.step import CommandInput, CommandOutput, CommandResult, Step
from shannotd.wire.text import has_hidden
from tests.support.samples import ID, file_step, session

pytestmark = pytest.mark.P7

INPUT = b"select 1;\n" * 12
HASH = hashlib.sha256(INPUT).hexdigest()
RELOAD = Step(
    "command",
    argv=("systemctl", "reload", "nginx"),
    program="/usr/bin/systemctl",
    program_sha256="e" * 64,
    cwd="/etc",
    environment={"LANG": "C", "PATH": "/usr/bin"},
    decision="review",
    rule="services",
    exit_status=0,
    risk=Risk.CAUTION,
    reason="changes what services do",
)
PS = replace(
    RELOAD, argv=("ps", "aux"), program="/bin/ps", decision="observe", cwd="/", rule="processes"
)
DENIED = replace(
    RELOAD,
    argv=("rm", "-rf", "/srv"),
    program="/bin/rm",
    decision="deny",
    exit_status=126,
    rule="no",
)


def text_of(*steps: Step, view: View | None = None, width: int | None = None) -> str:
    plan = session(*steps).plan
    assert plan is not None
    return "\n".join(plan_lines(plan, Style(width=width), view or View()))


def test_a_first_word_that_is_not_the_program_s_name_does_not_stand_alone() -> None:
    """It is the caller's choice: `exec -a ls rm -rf /srv`."""
    shown = text_of(replace(RELOAD, argv=("ls", "-rf", "/srv"), program="/usr/bin/rm"))
    assert "run ls -rf /srv (/usr/bin/rm)\n" in shown
    assert "run systemctl reload nginx\n" in text_of(RELOAD)
    assert "run /bin/systemctl x\n" in text_of(replace(RELOAD, argv=("/bin/systemctl", "x")))
    assert "run ? (/usr/bin/systemctl)\n" in text_of(replace(RELOAD, argv=()))


def output(data: bytes, **more: Any) -> tuple[CommandOutput, dict[str, bytes]]:
    sha256 = hashlib.sha256(data).hexdigest()
    return CommandOutput(sha256, len(data), **more), {sha256: data}


def test_a_reviewed_command_shows_all_by_which_it_runs() -> None:
    step = replace(
        RELOAD,
        stdin=CommandInput(HASH, len(INPUT)),
        changed=("LANG", "GONE"),
        seconds=300.0,
        undo=("systemctl", "stop", "nginx"),
    )
    shown = text_of(step, view=View(contents={HASH: INPUT}))
    assert "  1. caution  run systemctl reload nginx\n" in shown
    assert (
        "review     rule services, as root, in /etc, with input of 120 bytes,"
        " exit status 0 assumed, for 5 min at most\n"
    ) in shown
    assert f"program    /usr/bin/systemctl (sha256 {'e' * 64})" in shown
    assert "variable   LANG=C\n" in shown and "variable   GONE is not set" in shown
    assert "PATH" not in shown, "what is of the clean base is not repeated"
    assert "undo       systemctl stop nginx" in shown
    assert shown.count("       | select 1;") == 12


def test_an_input_that_is_not_kept_is_told() -> None:
    shown = text_of(replace(RELOAD, unread=True))
    assert "input      none, though the script gave it a pipe, whose content is not kept" in shown
    assert "input" not in text_of(RELOAD)


def test_a_link_that_was_called_is_shown_with_where_it_leads() -> None:
    step = replace(RELOAD, program="/usr/share/wrapper", link="/usr/bin/psql")
    assert "program    /usr/bin/psql, a link to /usr/share/wrapper (sha256 e" in text_of(step)


def test_an_input_is_shown_whole_or_told_to_be_left_out() -> None:
    long = b"".join(b"line %d\n" % number for number in range(500))
    sha256 = hashlib.sha256(long).hexdigest()
    step = replace(RELOAD, stdin=CommandInput(sha256, len(long)))
    shown = text_of(step, view=View(contents={sha256: long}))
    assert all(f"| line {number}\n" in shown + "\n" for number in range(500))
    assert f"{sha256} (not shown)" in text_of(step)
    assert "not shown (--diff)" in text_of(step, view=View(diffs=False))
    binary = View(contents={sha256: b"\0" * 9})
    assert f"{sha256} (binary)" in text_of(step, view=binary)
    assert "input      empty" in text_of(replace(RELOAD, stdin=CommandInput("0" * 64, 0)))


def test_warnings_come_before_every_step() -> None:
    assumed = replace(RELOAD, assumed=True)
    lines = text_of(file_step("modify", "/etc/x"), assumed, RELOAD, assumed, PS).split("\n")
    first = next(number for number, line in enumerate(lines) if re.match(r" +1\. ", line))
    warnings = [line for line in lines[:first] if line.startswith("  warning ")]
    assert "3 commands on the host: what they do there is in no checkpoint" in warnings[0]
    assert "steps 2, 4 assumed" in warnings[1] and "all after step 2 is a guess" in warnings[1]
    assert "warning" not in text_of(file_step("modify", "/etc/x"), PS, DENIED)


def test_an_assumed_command_is_marked_itself() -> None:
    assert "assumed    the script may have read its output" in text_of(
        replace(RELOAD, assumed=True)
    )


def test_what_was_observed_is_shown_with_what_it_printed() -> None:
    stdout, contents = output(b"PID\n  1\n")
    shown = text_of(replace(PS, stdout=stdout, exit_status=1), view=View(contents=contents))
    assert "observed ps aux\n" in shown
    assert "observed   rule processes, ran in the dry run, exit status 1\n" in shown
    assert "stdout     8 bytes\n       | PID\n       |   1" in shown


@pytest.mark.parametrize("data", [b"line\n" * 200, b"x" * 20000, b"\n" * 5000, b"a\rb\r" * 3000])
def test_a_long_output_is_bounded_and_says_so(data: bytes) -> None:
    stdout, contents = output(data)
    step = replace(PS, stdout=stdout)
    shown = text_of(step, view=View(contents=contents))
    assert len(shown) < 12_000
    assert re.search(r"\n +\(.* more not shown \(`shannotctl show --diff` has all\)\)", shown)
    whole = text_of(step, view=View(contents=contents, whole=True))
    assert "more not shown" not in whole
    assert whole.count("line") >= data.count(b"line") and whole.count("x") >= data.count(b"x")


def test_an_output_of_which_more_was_cut_off_says_so() -> None:
    stdout, contents = output(b"x\n", truncated=True)
    shown = text_of(replace(PS, stdout=stdout), view=View(contents=contents))
    assert "2 bytes, and more that was not kept" in shown


def test_denied_calls_are_told_once_with_their_number() -> None:
    shown = text_of(DENIED, PS, DENIED, PS, DENIED)
    assert shown.count("denied rm -rf /srv") == 1
    assert "times      3 (steps 1, 3, 5)" in shown
    assert "denied     rule no, in /etc, not run" in shown
    assert "times      2 (steps 2, 4)" in shown


def test_what_lies_on_either_side_of_a_change_is_not_folded_together() -> None:
    assert text_of(PS, RELOAD, PS).count("observed ps aux") == 2
    assert text_of(PS, file_step("modify", "/etc/x"), PS).count("observed ps aux") == 2
    assert text_of(RELOAD, PS, replace(PS, called_after=0)).count("observed ps aux") == 2
    assert text_of(RELOAD, RELOAD).count("run systemctl") == 2, "each of them runs"


def test_what_is_not_applied_stands_in_lists_of_its_own() -> None:
    again = replace(PS, called_after=2)
    blocked = Step("blocked", what="connect", target="192.0.2.1:80")
    change = file_step("modify", "/etc/x")
    shown = text_of(PS, change, RELOAD, again, DENIED, change, blocked)
    told = re.findall(r"^ +(\d)\. |^(\w+).* dry run:|(before|without)", shown, re.MULTILINE)
    assert ["".join(found) for found in told] == ("2 3 6 Looked 1 4 without Refused 5 7".split())
    assert "when       called after step 3, which had not run: the host without it" in shown
    assert "dry run: nothing" not in text_of(change, RELOAD)


LOOK = st.sampled_from(["review", "observe", "deny", "of next year"])
STEPS = st.lists(
    st.builds(
        lambda decision, argv, risk, scratch: replace(
            file_step("create", "/tmp/x", scratch=True)
            if scratch
            else replace(RELOAD, decision=decision, argv=argv, risk=risk)
        ),
        LOOK,
        st.sampled_from([("a",), ("b",)]),
        st.sampled_from(Risk),
        st.booleans(),
    ),
    max_size=12,
)


@given(STEPS)
def test_folding_hides_no_step(steps: list[Step]) -> None:
    groups = list(folded(steps))
    told = sorted(index for _, indexes in groups for index in indexes)
    assert told == [index for index, step in enumerate(steps) if not step.scratch]
    for step, indexes in groups:
        assert all(steps[index] == step for index in indexes)
        assert len(indexes) == 1 or not step.has_effect
    running = [indexes[0] for step, indexes in groups if step.has_effect]
    assert running == sorted(running), "what is applied stays in order"


def test_a_decision_that_is_not_known_counts_as_one_that_runs() -> None:
    shown = text_of(replace(RELOAD, decision="of next year"))
    assert "run systemctl reload nginx" in shown and "decision of next year" in shown
    assert "1 command on the host" in shown


def test_what_a_command_did_is_shown_with_its_result() -> None:
    result = CommandResult(1, "out\n", "oops", 0.5, truncated=("stderr",))
    shown = text_of(replace(RELOAD, applied="failed", result=result))
    assert "result     exit status 1 after 0.50 s" in shown
    assert "stdout     4 bytes\n       | out" in shown
    assert "stderr     4 bytes, and more that was not kept\n       | oops" in shown
    killed = CommandResult(None, "", "", 9.0, signal=9, stopped="seconds")
    shown = text_of(replace(RELOAD, applied="failed", result=killed))
    assert "killed by signal 9 after 9.00 s, stopped by its limit (seconds)" in shown


def test_what_nothing_is_applied_of_is_not_said_to_be_left_out() -> None:
    assert "applied" not in text_of(replace(PS, applied="skipped"), view=View(diffs=False))
    assert "applied    skipped" in text_of(replace(RELOAD, applied="skipped"))


def test_counts_tell_what_runs_from_what_does_not() -> None:
    plan = session(file_step("modify", "/x"), RELOAD, PS, PS, DENIED).plan
    assert isinstance(plan, Plan)
    assert summary(plan) == "5 steps (1 modify, 1 command, 2 observed, 1 denied)"
    counts = StepCounts(modify=1, command=1, observed=2, denied=1)
    assert counts_text(counts) == "1 modify, 1 command, 2 observed, 1 denied"
    assert steps_text(session(counts=counts)).startswith("5 steps: ")


def test_programs_are_folded_by_name_and_all_there_with_the_contents() -> None:
    programs = [StartedProgram(("rm", f"/srv/{number}"), 2) for number in range(50)]
    programs += [StartedProgram((f"tool{number}",), 1) for number in range(20)]
    programs += [StartedProgram(("tar", "a b"), 1, cut=True), StartedProgram((), 7, cut=True)]
    short = list(program_lines(programs, Style(), whole=False))
    assert short[0] == "Programs: 128 starts in the sandbox (no part of the plan's digest)"
    assert short[1] == "    | 100 x rm" and len(short) == 14
    assert "11 more names and all arguments not shown" in short[-1]
    whole = list(program_lines(programs, Style(), whole=True))
    assert "    | 2 x rm /srv/49" in whole
    assert "    | 1 x tar 'a b' and more words" in whole
    assert whole[-1] == "    | 7 x others"


def test_programs_stand_before_the_plan_so_that_it_is_what_is_read_last() -> None:
    made = session(RELOAD, programs=(StartedProgram(("ls",), 1),))
    lines = list(session_lines(made, Style()))
    started = next(n for n, line in enumerate(lines) if line.startswith("Programs:"))
    assert started < next(n for n, line in enumerate(lines) if line.startswith("Plan:"))


TEXTS = st.text(st.characters(), max_size=30)


@given(TEXTS, st.sampled_from([None, 30, 80]), LOOK)
def test_no_command_can_deceive(text: str, width: int | None, decision: str) -> None:
    data = text.encode("utf-8", "surrogatepass") + b"\n  1. safe  run nothing\nPlan: 0 steps\n"
    part, contents = output(data)
    step = replace(
        RELOAD,
        argv=(text, text),
        program=text,
        cwd=text,
        environment={text: text},
        changed=(text, text + "x"),
        decision=decision,
        rule=text,
        reason=text,
        stdin=CommandInput(part.sha256, part.size),
        stdout=part,
        undo=(text,),
        assumed=True,
        result=CommandResult(1, text, text, 0.1, stopped=text, truncated=(text,)),
    )
    made = session(step, programs=(StartedProgram((text,), 1),))
    for view in (View(contents=contents), View(contents=contents, whole=True), View(diffs=False)):
        lines = list(session_lines(made, Style(width=width), view))
        assert not any(has_hidden(line, keep="") for line in lines)
        assert sum(line.startswith("Plan: ") for line in lines) == 1
        assert sum(bool(re.match(r" *\d+\. ", line)) for line in lines) == 1


def test_output_of_a_command_that_runs_is_shown_by_lines() -> None:
    printed = PrintedLines()

    def pieces(step: int, stream: str, data: bytes) -> list[str]:
        return list(printed.lines(CommandPrinted(ID, step, stream, data), Style()))

    assert pieces(0, "stdout", b"one\ntw") == ["  step 1 | one"]
    assert pieces(0, "stderr", b"else\n") == ["  step 1 | else"]
    assert pieces(0, "stdout", b"o\x1b[2J\nthree") == ["  step 1 | two\\e[2J"]
    end = StepApplied(ID, 0, "done")
    assert list(printed.lines(end, Style())) == ["  step 1 | three"]
    assert list(printed.lines(end, Style())) == []
    assert pieces(1, "stdout", b"x" * 5000) == ["  step 2 | " + "x" * 5000]
    named = PrintedLines(named=True)
    assert list(named.lines(CommandPrinted(ID, 0, "stdout", b"a\n"), Style())) == [
        f"{ID} step 1 | a"
    ]
