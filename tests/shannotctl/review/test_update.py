"""What messages make of the state: the rules by which a person decides, without a terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotctl.protocol import Changed, CommandPrinted, Output, StepApplied
from shannotctl.review import messages as m
from shannotctl.review.answering import typed
from shannotctl.review.following import printed
from shannotctl.review.screen import screen
from shannotctl.review.spans import plain
from shannotctl.review.state import Ask, Field, Kind, Link, Live, Piece, Review, Shown
from shannotctl.review.update import first, update
from shannotd.wire.decision import Risk
from shannotd.wire.errors import DigestMismatch, NotAllowed, NotFound, OutcomeUnknown, StepNeeded
from shannotd.wire.session import Failure, Session, State
from tests.support.samples import ABSENT, ID, bare, file_step, session

PENDING = session(
    file_step("create", "/etc/x", before=ABSENT), file_step("modify", "/etc/y", risk=Risk.SAFE)
)
DANGEROUS = session(file_step("create", "/etc/sudoers.d/x", before=ABSENT, risk=Risk.DANGER))


def after(review: Review, *messages: m.Message | str) -> tuple[Review, list[m.Effect]]:
    """The state after messages, or keys by their names; and all that was wanted."""
    wanted: list[m.Effect] = []
    for message in messages:
        review, effects = update(review, m.Key(message) if isinstance(message, str) else message)
        wanted += effects
    return review, wanted


DRAWN = m.Drawn()


def opened(made: Session = PENDING, *, columns: int = 100, rows: int = 40) -> Review:
    """A reviewer that shows a session."""
    review, _ = first(columns, rows, made.created_at, made.id, True)
    review, _ = after(
        review, m.Connected("embedded", (bare(made),)), m.Loaded(made, made.plan, {}), DRAWN
    )
    return review


def at_step(review: Review, index: int) -> Review:
    """The same with the cursor at a step."""
    while review.place.item != f"step:{index}":
        review, _ = after(review, "J")
    return review


def text(review: Review) -> str:
    return "\n".join(plain(line) for line in screen(review).lines)


# A question that was there long enough.
SEEN = (m.Drawn(), m.Settled())


def approvals(effects: list[m.Effect]) -> list[m.Approve]:
    return [effect for effect in effects if isinstance(effect, m.Approve)]


@pytest.mark.P2
def test_the_digest_that_is_shown_is_sent() -> None:
    review, effects = after(opened(), "x", *SEEN, "y")
    plan = PENDING.plan
    assert plan is not None
    assert approvals(effects) == [m.Approve(ID, plan.digest)]
    assert review.panel is None


@pytest.mark.P2
def test_the_digest_is_computed_and_not_believed() -> None:
    lying = replace(PENDING, digest="f" * 64)
    _, effects = after(opened(lying), "x", *SEEN, "y")
    assert approvals(effects)[0].digest == (PENDING.plan.digest if PENDING.plan else "")


@pytest.mark.P1
@given(st.lists(st.sampled_from(["x", "enter", " ", "a", "r", "tab", "X", "c-m"]), max_size=30))
def test_without_y_nothing_is_approved(keys: list[str]) -> None:
    review = opened()
    for key in keys:
        review, effects = after(review, key, *SEEN)
        assert not approvals(effects)


@pytest.mark.P1
@given(st.lists(st.sampled_from(["x", "y", "enter", " ", "e", "s"]), max_size=40))
def test_danger_is_never_approved_by_single_keys(keys: list[str]) -> None:
    review = opened(DANGEROUS)
    for key in keys:
        review, effects = after(review, key, *SEEN)
        assert not approvals(effects)


@pytest.mark.P1
def test_keys_before_the_plan_or_the_question_was_drawn_do_not_count() -> None:
    review, _ = first(100, 40, 0.0, None, True)
    review, effects = after(review, m.Connected("embedded", (bare(PENDING),)), "enter", "x")
    assert review.panel is None and not approvals(effects)
    review, _ = after(review, m.Loaded(PENDING, PENDING.plan, {}), "x")
    assert review.panel is None and "not on the screen" in review.notice
    review, effects = after(review, DRAWN, "x", "y", "y")
    assert review.panel is not None and not approvals(effects)
    _, effects = after(review, DRAWN, "y")
    assert not approvals(effects), "it was drawn, but could not be seen yet"
    _, effects = after(review, *SEEN, "y")
    assert len(approvals(effects)) == 1


@pytest.mark.P2
def test_a_plan_that_became_another_is_not_approved() -> None:
    review, _ = after(opened(), "x", *SEEN)
    other = session(file_step("delete", "/etc/passwd"))
    review, _ = after(review, m.Loaded(other, other.plan, {}))
    assert review.panel is None, "the question was about what is not there any more"
    review, effects = after(review, "x")
    assert review.panel is None, "it was not drawn yet"
    _, effects = after(review, DRAWN, "x", *SEEN, "y")
    assert [effect.digest for effect in approvals(effects)] == [other.plan and other.plan.digest]


@pytest.mark.P2
@pytest.mark.parametrize("state", [state for state in State if state is not State.PENDING])
def test_only_what_is_pending_can_be_approved(state: State) -> None:
    review, _ = after(opened(), "x", *SEEN)
    review, _ = after(review, m.Happened(Changed(bare(PENDING, state=state))))
    review, effects = after(review, "y", "x")
    assert not approvals(effects)
    assert review.panel is None


@pytest.mark.P2
def test_a_plan_with_changes_is_not_approved_as_it_was() -> None:
    review, _ = after(at_step(opened(), 0), " ", DRAWN)
    assert review.opened is not None and review.opened.dropped
    review, effects = after(review, "x")
    assert review.panel is None and "A makes them" in review.notice
    review, effects = after(review, DRAWN, "y")
    assert not approvals(effects)
    review, effects = after(review, "A", DRAWN, "y")
    (amend,) = effects
    assert isinstance(amend, m.Amend) and amend.drop == tuple(review.opened.dropped)  # type: ignore[union-attr]


def test_a_rise_in_the_daemons_risk_counts_as_well() -> None:
    safe = session(file_step("create", "/etc/x", before=ABSENT, risk=Risk.SAFE), risk=Risk.DANGER)
    review, _ = after(opened(safe), "x")
    assert review.panel is not None and review.panel.ask is Ask.DANGER


@pytest.mark.P7
def test_the_question_names_what_was_not_seen() -> None:
    diff = "--- a\n+++ b\n@@ -0,0 +1,99 @@\n" + "".join(f"+line {n}\n" for n in range(99))
    made = session(
        file_step("create", "/etc/x", before=ABSENT, diff=diff),
        file_step("create", "/etc/y", before=ABSENT),
    )
    review = opened(made, rows=24)
    asked, _ = after(review, "x")
    assert "steps 1-2: not all of it has been on your screen" in text(asked)
    jumped, _ = after(review, "G", DRAWN)
    asked, _ = after(jumped, "x")
    assert "step 1: not all of it" in text(asked), "what was jumped over was not seen"
    for _ in range(8):
        review, _ = after(review, "pagedown", DRAWN)
    asked, _ = after(review, "x")
    assert "not all of it" not in text(asked)


@pytest.mark.P7
def test_a_folded_step_was_not_seen_until_its_diff_was() -> None:
    diff = "--- a\n+++ b\n@@ -0,0 +1,400 @@\n" + "".join(f"+line {n}\n" for n in range(400))
    review = opened(session(file_step("create", "/etc/x", before=ABSENT, diff=diff)))
    assert "403 lines of diff folded" in text(review)
    asked, _ = after(review, "x")
    assert "step 1: not all of it" in text(asked)
    review, _ = after(at_step(review, 0), "enter", DRAWN)
    assert review.place.kind is Kind.DIFF
    for _ in range(14):
        review, _ = after(review, "pagedown", DRAWN)
    review, _ = after(review, "q", DRAWN, "x")
    assert "not all of it" not in text(review)


@pytest.mark.P7
@pytest.mark.parametrize("size", [(39, 24), (80, 9), (1, 1)])
def test_a_terminal_without_room_shows_nothing_and_approves_nothing(size: tuple[int, int]) -> None:
    review = opened(columns=size[0], rows=size[1])
    assert "Apply this plan" not in text(review)
    review, effects = after(review, "x", *SEEN, "y")
    assert review.panel is None and not approvals(effects)
    # A question that cannot be seen any more is not answered either.
    review, _ = after(opened(), "x", DRAWN)
    review, effects = after(review, m.Resized(*size), *SEEN, "y")
    assert review.panel is not None and not review.panel.drawn and not approvals(effects)
    review, effects = after(review, m.Resized(100, 40), *SEEN, "y")
    assert len(approvals(effects)) == 1


@pytest.mark.P1
def test_a_click_that_merely_repeats_approves_nothing() -> None:
    review = opened()
    for _ in range(4):
        for column in range(review.columns):
            clicked = m.Clicked(review.rows - 1, column)
            asked, effects = after(review, clicked, *SEEN, clicked, *SEEN, clicked)
            assert not approvals(effects), column
        review, _ = after(review, m.Clicked(review.rows - 1, 1), *SEEN)
    asked, _ = after(opened(), m.Clicked(39, 1), *SEEN)
    assert asked.panel is not None and asked.panel.ask is Ask.APPROVE
    assert len(approvals(after(asked, "y")[1])) == 1


@pytest.mark.P7
def test_what_was_read_in_another_layout_does_not_count() -> None:
    diff = "--- a\n+++ b\n@@ -0,0 +1,90 @@\n" + "".join(f"+{'word ' * 60}{n}\n" for n in range(90))
    made = session(file_step("create", "/etc/x", before=ABSENT, diff=diff))
    unseen = "step 1: not all of it has been on your screen"
    narrow = at_step(opened(made, columns=60), 0)
    for _ in range(8):
        narrow, _ = after(narrow, "pagedown", DRAWN)
    wide, _ = after(narrow, m.Resized(400, 40), DRAWN, "x")
    assert unseen in text(wide)
    inside, _ = after(at_step(opened(made, columns=100), 0), "enter", DRAWN)
    for _ in range(6):
        inside, _ = after(inside, "pagedown", DRAWN)
    scrolled, _ = after(inside, "w", DRAWN, "q", DRAWN, "x")
    assert unseen in text(scrolled), "fewer lines, of which only the beginnings are shown"
    scrolled, _ = after(inside, "w", *(("pagedown", DRAWN) * 9), "q", DRAWN, "x")
    assert unseen in text(scrolled)


@pytest.mark.P7
def test_what_was_read_of_another_plan_does_not_count() -> None:
    def made(word: str) -> Session:
        diff = "--- a\n+++ b\n@@ -0,0 +1,90 @@\n" + f"+{word}\n" * 90
        return session(file_step("create", f"/etc/{word}", before=ABSENT, diff=diff))

    review = opened(made("one"), rows=24)
    for _ in range(9):
        review, _ = after(review, "pagedown", DRAWN)
    other = made("two")
    review, _ = after(review, "g", DRAWN, m.Loaded(other, other.plan, {}), DRAWN, "x")
    assert "step 1: not all of it has been on your screen" in text(review)


@pytest.mark.P2
def test_a_plan_that_became_dangerous_takes_the_words() -> None:
    review, _ = after(opened(), "x", *SEEN)
    worse = replace(PENDING, risk=Risk.DANGER)
    review, effects = after(review, m.Loaded(worse, worse.plan, {}), *SEEN, "y")
    assert not approvals(effects)
    review, _ = after(review, DRAWN, "x")
    assert review.panel is not None and review.panel.ask is Ask.DANGER


@pytest.mark.P7
def test_what_is_typed_stays_on_the_screen() -> None:
    review, _ = after(opened(DANGEROUS, columns=40, rows=10), "x", *SEEN, *("b" * 70))
    assert text(review).count("b" * 15) == 4 and "Esc" in text(review)


@pytest.mark.P7
def test_no_name_pushes_the_list_or_the_risk_away() -> None:
    hostile = replace(DANGEROUS, name="\u202e" * 256)
    others = [replace(PENDING, id=f"{n:032x}", name=f"other {n}") for n in range(5)]
    review, _ = first(80, 24, PENDING.created_at, None, True)
    review, _ = after(review, m.Connected("embedded", (hostile, *map(bare, others))), DRAWN)
    shown = text(review)
    assert all(f"other {n}" in shown for n in range(5)) and "more line" in shown
    assert "q quit" in shown and "danger" in shown
    pending = replace(hostile, expires_at=hostile.created_at + 3600)
    narrow, _ = first(40, 24, PENDING.created_at, hostile.id, True)
    told = m.Connected("a daemon with a long name", (bare(pending), *map(bare, others)))
    narrow, _ = after(narrow, told, m.Loaded(pending, pending.plan, {}), DRAWN)
    assert "danger" in text(narrow).splitlines()[0]


def test_refusals_are_told_and_the_session_loaded_again() -> None:
    for error in (
        NotAllowed(action="approve", reason="you submitted it"),
        DigestMismatch(id=ID, digest="e" * 64),
        OutcomeUnknown(id=ID, reason="gone"),
    ):
        review, effects = after(opened(), m.Failed(m.Approve(ID, "0" * 64), error))
        assert review.panel is not None and review.panel.ask is Ask.MESSAGE
        assert str(error).split(".")[0][:30] in text(review).replace("\n ", "")
        assert effects == [m.Load(ID)]
        review, _ = after(review, DRAWN, "enter")
        assert review.panel is None


def test_what_needs_a_dropped_step_can_be_dropped_too() -> None:
    review, _ = after(at_step(opened(), 0), " ", "A", DRAWN, "y")
    amend = m.Amend(ID, "0" * 64, (0,), {})
    error = StepNeeded(id=ID, step=0, needed_by="steps 2", reason="x")
    review, _ = after(review, m.Failed(amend, error))
    assert review.panel is not None and review.panel.ask is Ask.DEPENDENTS
    _, effects = after(review, DRAWN, "y")
    (again,) = effects
    assert isinstance(again, m.Amend) and again.with_dependents


def test_a_quorum_that_is_not_reached() -> None:
    half = bare(PENDING, approvals=3, decided_by=(0,))
    review, _ = after(opened(), m.Approved(half))
    assert "2 more approvals by other people" in review.notice


@pytest.mark.P7
def test_the_summary_has_conflicts_first() -> None:
    steps = [
        file_step("create", f"/etc/{name}", before=ABSENT, applied=state)
        for name, state in (("a", "done"), ("b", "stale"), ("c", "skipped"), ("d", "undone"))
    ]
    made = session(*steps, state=State.STALE, error=Failure("stale", "/etc/b changed"))
    review = opened(replace(made, decided_by=(7,), decided_at=1.0), rows=90)
    shown = text(review)
    assert shown.index("/etc/b changed [stale]") < shown.index("✗ stale")
    assert shown.index("✗ stale    step 2, create /etc/b") < shown.index("Plan 4 steps")
    assert "1 done, 1 stale, 1 skipped, 1 undone" in shown
    assert "✓   1. " in shown and "✗   2. " in shown and "↺   4. " in shown


def test_events_of_an_apply_are_shown_as_they_come() -> None:
    review, _ = after(
        opened(),
        m.Happened(Changed(bare(PENDING, state=State.EXECUTING))),
        m.Happened(StepApplied(ID, 0, "done")),
        m.Happened(CommandPrinted(ID, 1, "stdout", b"half a ")),
        m.Happened(CommandPrinted(ID, 1, "stdout", b"line\x1b[2J\n")),
        m.Happened(StepApplied("f" * 32, 1, "failed")),
    )
    shown = text(review)
    assert "is being applied: 1 of 2 steps done" in shown
    assert "half a line\\e[2J" in shown and "✗" not in shown


def test_what_a_script_prints_is_kept_to_a_bound_and_the_rest_told() -> None:
    live = Live()
    for number in range(100):
        live = printed(live, 3, "stdout" if number % 2 else "stderr", b"x" * 5000)
    kept = sum(len(piece.data) for piece in live.printed[3])
    assert kept == 64 * 1024 and live.lost[3] == 500_000 - kept
    assert isinstance(live.printed[3][0], Piece)
    review, _ = after(
        opened(session(state=State.RUNNING)), m.Happened(Output(ID, "stdout", b"y" * 100_000))
    )
    assert "before this are not shown here" in text(review)


@given(st.lists(st.sampled_from([*"abc ", "backspace", "left", "right", "c-u", "c-w", "c-k",
                                 "home", "end", "delete", "f1", "\x1b"]), max_size=30))  # fmt: skip
def test_typing(names: list[str]) -> None:
    field = Field()
    for name in names:
        field = typed(field, name)
        assert 0 <= field.cursor <= len(field.text)
        assert set(field.text) <= set("abc ")


def test_typing_in_the_middle() -> None:
    field = Field("one two", 7)
    for name in ("c-w", "x", "home", "y", "delete", "right", "backspace"):
        field = typed(field, name)
    assert field == Field("ye x", 1)


MANY = tuple(
    bare(
        session(
            file_step("create", "/etc/x", before=ABSENT),
            id=f"{number:032x}",
            name=f"name{number}",
            created_at=1_700_000_000.0 + number,
            risk=risk,
        )
    )
    for number, risk in enumerate((Risk.SAFE, Risk.DANGER, Risk.CAUTION, Risk.UNKNOWN, Risk.SAFE))
)


def listing(*more: Session) -> Review:
    review, _ = first(100, 30, 1_700_000_100.0, None, True)
    review, _ = after(review, m.Connected("embedded", (*MANY, *more)))
    return review


def names(review: Review) -> list[str]:
    return [word for line in text(review).split("\n") for word in line.split() if "name" in word
            and not word.startswith("shannot")][:20]  # fmt: skip


def test_the_list_is_sorted_by_risk_then_age_or_by_age() -> None:
    review = listing()
    order = [name for name in names(review) if name.startswith("name")]
    assert order[:5] == ["name1", "name3", "name2", "name4", "name0"]
    review, _ = after(review, "s")
    order = [name for name in names(review) if name.startswith("name")]
    assert order[:5] == ["name4", "name3", "name2", "name1", "name0"]


def test_the_cursor_stays_on_its_session_when_others_come_and_go() -> None:
    review, _ = after(listing(), "j", "j")
    here = review.place.item
    assert here == MANY[2].id
    newer = replace(MANY[1], id="f" * 32, name="newest", created_at=1_800_000_000.0)
    review, _ = after(review, m.Happened(Changed(newer)))
    assert review.place.item == here
    gone = replace(MANY[1], state=State.REJECTED)
    review, _ = after(review, m.Happened(Changed(gone)))
    assert review.place.item == here
    review, _ = after(review, m.Happened(Changed(replace(MANY[2], state=State.REJECTED))))
    assert review.place.item != here and review.place.item in review.sessions


def test_what_is_no_longer_pending_is_no_longer_chosen() -> None:
    review, _ = after(listing(), "a")
    assert len(review.listing.selected) == 5
    review, _ = after(review, m.Happened(Changed(replace(MANY[0], state=State.EXPIRED))))
    assert len(review.listing.selected) == 4
    review, _ = after(review, "n")
    assert not review.listing.selected
    review, _ = after(review, "f", "f", " ")
    assert not review.listing.selected, "what is over cannot be chosen"


def test_what_the_list_shows() -> None:
    over = replace(MANY[0], state=State.EXECUTED, id="e" * 32, name="nameover")
    review = listing(over)
    seen = []
    for _ in Shown:
        seen.append((review.listing.shown, "nameover" in text(review), "name1" in text(review)))
        review, _ = after(review, "f")
    assert seen == [
        (Shown.PENDING, False, True),
        (Shown.ACTIVE, False, True),
        (Shown.OVER, True, False),
        (Shown.ALL, True, True),
    ]


def test_older_ones_that_are_not_in_the_list_are_told() -> None:
    review, _ = first(100, 30, 0.0, None, True)
    review, _ = after(review, m.Connected("embedded", MANY, more=True), "f", "f", "f")
    assert "older ones are not in this list" in text(review)


@pytest.mark.P7
def test_a_name_that_does_not_fit_is_marked_and_whole_below() -> None:
    long = replace(MANY[0], id="d" * 32, name="n" * 150 + "end", risk=Risk.DANGER,
                   created_at=1_800_000_000.0)  # fmt: skip
    review, _ = after(listing(long), "g")
    lines = text(review).split("\n")
    assert "…" in lines[2] and "nend" not in lines[2]
    assert "n" * 150 + "end" in "".join(line.strip() for line in lines[-6:])


def test_a_lost_daemon_is_told_until_it_is_back() -> None:
    review, _ = after(listing(), m.Lost("nobody answers."))
    assert review.link is Link.LOST and "nobody answers" in text(review)
    review, effects = after(opened(), m.Lost("gone."), m.Connected("embedded", (bare(PENDING),)))
    assert m.Load(ID) in effects and "gone." not in text(review)


@pytest.mark.P5
@pytest.mark.P7
def test_who_is_refused_sees_no_more_of_what_was_shown() -> None:
    refused = m.Lost("You may not.", refused=True)
    review, effects = after(opened(), refused, m.Connected("service", ()))
    assert review.panel is not None and "You may not." in text(review)
    assert review.opened is None and not review.sessions and not effects
    assert review.place.kind is Kind.LIST
    # What was on its way meanwhile.
    late, _ = after(review, m.Failed(m.Load(ID), NotFound(id=ID)))
    assert "You may not." in text(late)
    late, _ = after(opened(), refused, m.Loaded(PENDING, PENDING.plan, {}))
    assert late.opened is None and not late.sessions and "You may not." in text(late)
    # Whoever was never let in is told why where it says that he is not connected.
    review, _ = after(first(100, 40, 0.0, None, True)[0], refused, refused)
    assert review.panel is None and "You may not. Trying again." in text(review)


@pytest.mark.P7
def test_an_opened_session_that_is_there_no_more_is_left() -> None:
    gone = m.Failed(m.Load(ID), NotFound(id=ID))
    review, effects = after(opened(), m.Lost("gone."), m.Connected("service", ()), gone)
    assert review.opened is None and review.place.kind is Kind.LIST
    assert review.panel is not None and "x approve" not in text(review) and m.Load(ID) in effects
    # A failure of another kind says nothing of that.
    review, _ = after(opened(), m.Failed(m.Load(ID), OutcomeUnknown(action="x", reason="y")))
    assert review.opened is not None


@given(
    st.lists(
        st.sampled_from(
            [
                *"jkgGJKxrynaAD sfzwhlvbpeucqM?/[]",
                "enter",
                "escape",
                "tab",
                "up",
                "down",
                "left",
                "right",
                "pageup",
                "pagedown",
                "c-d",
                "c-u",
                "c-f",
                "home",
                "end",
                "f5",
            ]
        ),
        max_size=60,
    ),
    st.sampled_from([(80, 24), (200, 60), (40, 10), (39, 9), (1, 1)]),
)
def test_any_keys_in_any_size(keys: list[str], size: tuple[int, int]) -> None:
    """Nothing breaks the screen: it has its size whatever happens."""
    review = opened(DANGEROUS, columns=size[0], rows=size[1])
    for key in keys:
        review, effects = after(review, key, *SEEN)
        assert not approvals(effects)
        shown = screen(review)
        assert len(shown.lines) == size[1]
        assert all(len(plain(line)) <= max(size[0], 1) for line in shown.lines)
        row, column = shown.cursor
        assert 0 <= row < max(size[1], 1) and 0 <= column < max(size[0], 1)
        for effect in effects:
            if isinstance(effect, m.Load):
                review, _ = after(review, m.Loaded(DANGEROUS, DANGEROUS.plan, {}))
