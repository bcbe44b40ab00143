"""A session as sections: what comes first, what is folded, what is unfolded again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shannotctl.review import messages as m
from shannotctl.review.session_view import foldable_items, folded_items, session_document
from shannotctl.review.spans import plain, width_of
from shannotctl.review.state import Content, Opened
from shannotctl.review.step_view import content_document, diff_document
from shannotctl.review.update import first, update
from shannotd.wire.decision import Risk
from shannotd.wire.plan import StartedProgram
from shannotd.wire.session import Session, State
from shannotd.wire.step import CommandOutput, FileState, Step
from shannotd.wire.submission import ScriptKind
from tests.support.samples import ABSENT, RELOAD, file_step, regular, session

pytestmark = pytest.mark.P7

WIDTH = 98


def lines(made: Session, **changes: object) -> list[str]:
    opened = replace(Opened(made, made.plan), **changes)  # type: ignore[arg-type]
    return [plain(row.line) for row in session_document(opened, WIDTH).rows]


def unfolded(made: Session, contents: dict[str, bytes] | None = None) -> str:
    opened = Opened(made, made.plan, contents or {})
    opened = replace(opened, toggled=folded_items(opened, WIDTH))
    return "\n".join(plain(row.line) for row in session_document(opened, WIDTH).rows)


def diff(count: int) -> str:
    return "--- a\n+++ b\n@@ -0,0 +1 @@\n" + "".join(f"+line {n}\n" for n in range(count))


EVERYTHING = session(
    file_step("create", "/etc/x", before=ABSENT, risk=Risk.DANGER, reason="opens a door"),
    RELOAD,
    Step(
        "command",
        argv=("df", "/"),
        program="/usr/bin/df",
        decision="observe",
        rule="disk",
        exit_status=0,
        stdout=CommandOutput("c" * 64, 9, truncated=True),
        risk=Risk.SAFE,
    ),
    Step("command", argv=("mkfs", "/dev/sda"), program="/sbin/mkfs", decision="deny", rule="no"),
    Step("blocked", what="connect", target="10.0.0.1:443", count=3, risk=Risk.CAUTION),
    file_step("create", "/tmp/x", scratch=True),
    analysis="Because\nit is wanted.",
    exit_code=3,
    script=b"import os\nprint(1)\n",
    kind=ScriptKind.PYTHON,
    stdout=b"out\n",
    stderr=b"err",
    stdout_truncated=500,
    programs=(StartedProgram(("sed", "-i"), 2),),
)


def test_warnings_come_before_all_else_and_danger_first() -> None:
    text = "\n".join(lines(EVERYTHING))
    order = [
        "DANGER",
        "waits for a decision",
        "danger     step 1, create /etc/x: opens a door",
        "the script failed in the dry run: exit status 3",
        "1 command on the host: what it does there is in no",
        "step 2 assumed",
        "blocked    the script tried connect 10.0.0.1:443, 3 times",
        "1 call refused by policy: mkfs",
        "500 bytes of what the script printed were not kept",
        "step 3: not all of what was printed was kept",
        "What the submitter says of it",
        "Plan 5 steps",
        "1. danger  create /etc/x",
        "Looked at in the dry run",
        "Refused in the dry run",
        "Scratch: 1 change, not applied",
        "Standard output",
        "Standard error",
        "The script",
        "Programs",
        "Who, where, when",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_everything_is_there_once_it_is_unfolded() -> None:
    text = unfolded(EVERYTHING, {"c" * 64: b"disk full"})
    for words in (
        "| disk full",
        "1 │ import os",
        "| out",
        "| err",
        "(no newline at the end)",
        "(500 bytes more were not kept)",
        "2 x sed -i",
        f"sha256 {EVERYTHING.digest}",
        "profile    default",
        "| it is wanted.",
        "1 in /tmp",
    ):
        assert words in text, words


def test_many_dangers_are_counted() -> None:
    steps = [file_step("create", f"/etc/{n}", before=ABSENT, risk=Risk.DANGER) for n in range(20)]
    text = "\n".join(lines(session(*steps)))
    assert "12 more steps: steps 9-20" in text


@pytest.mark.parametrize(
    ("step", "folded"),
    [
        (file_step("create", "/etc/x", diff=diff(10)), False),
        (file_step("create", "/etc/x", diff=diff(1000)), True),
        (file_step("create", "/etc/x", diff=diff(1) + "+" + "x" * 100_000), True),
    ],
)
def test_what_is_long_is_folded_at_first_and_says_so(step: Step, folded: bool) -> None:
    made = session(step)
    assert ("step:0" in folded_items(Opened(made, made.plan), WIDTH)) == folded
    text = "\n".join(lines(made))
    assert ("of diff folded)" in text) == folded
    assert "line 0" in unfolded(made) if folded else "line 0" in text


def test_of_a_large_plan_the_later_steps_are_folded() -> None:
    made = session(*(file_step("create", f"/etc/{n}", diff=diff(200)) for n in range(40)))
    found = folded_items(Opened(made, made.plan), WIDTH)
    assert "step:0" not in found and "step:39" in found


def test_what_would_take_long_is_not_unfolded_together() -> None:
    made = session(*(file_step("create", f"/etc/{n}", diff=diff(9000)) for n in range(10)))
    review, _ = first(100, 40, 0.0, made.id, True)
    review, _ = update(review, m.Connected("embedded", (made,)))
    review, _ = update(review, m.Loaded(made, made.plan, {}))
    review, _ = update(review, m.Key("z"))
    assert "7 long steps left folded" in review.notice
    review, _ = update(review, m.Key("z"))
    assert review.opened is not None
    assert "7 long steps" in review.notice or "step:0" in folded_items(review.opened, 98)


def test_every_line_fits_and_every_section_can_be_folded() -> None:
    for width in (38, 60, 98, 198):
        opened = Opened(EVERYTHING, EVERYTHING.plan)
        every = foldable_items(opened, width)
        for toggled in (frozenset(), every, folded_items(opened, width)):
            document = session_document(replace(opened, toggled=toggled), width)
            assert all(width_of(row.line) <= width for row in document.rows)
            assert set(document.headings) <= set(document.first)


def test_a_file_without_a_diff_is_described() -> None:
    step = file_step(
        "modify",
        "/boot/image",
        before=regular("a", size=10_000_000, mode=0o600),
        after=regular("b", size=2_000_000, mode=0o4755),
        diff=None,
        too_large=True,
    )
    text = "\n".join(lines(session(step)))
    assert "9.5 MiB, sha256 " + "a" * 20 in text.replace("\n", "") or "a" * 40 in text
    assert "0600 to 4755 (setuid)" in text and "`v` shows what is written" in text


def test_mode_and_owner_in_words() -> None:
    step = file_step(
        "metadata",
        "/etc/x",
        before=FileState("file", mode=0o644, uid=0, gid=0),
        after=FileState("file", mode=0o2640, uid=33, gid=33),
        diff=None,
    )
    text = "\n".join(lines(session(step)))
    assert "0644 to 2640 (setgid)" in text and "0:0 to 33:33" in text


def test_a_long_name_cannot_pass_for_a_line_of_ours() -> None:
    name = "x" + " " * 90 + "pending    waits for nothing: safe" + " " * 80
    text = lines(session(file_step("create", "/etc/x"), name=name))
    assert not any(line.lstrip().startswith("pending    waits for nothing") for line in text)


def test_the_view_of_one_step_has_all_of_it() -> None:
    made = session(file_step("modify", "/etc/x.py", diff=diff(50)))
    opened = Opened(made, made.plan)
    for side in (True, False):
        document = diff_document(opened, 0, 120, side, None)
        text = "\n".join(plain(row.line) for row in document.rows)
        assert "modify /etc/x.py" in text and all(f"line {n}" in text for n in range(50))
        # What stands together is found again, wherever it is.
        for index in range(len(document.rows)):
            item, offset = document.anchored(index)
            assert document.first[item] + offset == index


def test_a_step_that_is_none() -> None:
    made = session(file_step("modify", "/etc/x"))
    assert diff_document(Opened(made, made.plan), 7, 80, False, None).rows == ()
    bare = session(state=State.RUNNING)
    assert diff_document(Opened(bare, None), 0, 80, False, None).rows == ()


@pytest.mark.parametrize("hexadecimal", [True, False])
def test_contents(hexadecimal: bool) -> None:
    data = b"#!/bin/sh\necho \x1b[2J\xff\n" * 3
    document = content_document(Content(0, "after", "/etc/x.sh", data, hexadecimal), 80)
    text = "\n".join(plain(row.line) for row in document.rows)
    assert "\x1b" not in text
    assert ("23 21 2f 62" in text) if hexadecimal else ("echo \\e[2J\\xff" in text)


def test_contents_that_are_not_there_or_empty_or_large() -> None:
    def text(data: bytes | None, hexadecimal: bool = False) -> str:
        shown = content_document(Content(0, "before", "/etc/x", data, hexadecimal), 80)
        return "\n".join(plain(row.line) for row in shown.rows)

    assert "not kept" in text(None)
    assert "(empty)" in text(b"")
    for hexadecimal in (True, False):
        assert "1.0 MiB more are not shown here" in text(b"x\n" * (1 << 20), hexadecimal)
