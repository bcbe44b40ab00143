"""What the keys about a session's steps want, and what they say where there is nothing to want."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shannotctl.review import messages as m
from shannotctl.review.state import Ask, Kind, Place, Review
from shannotd.wire.errors import RollbackPending
from shannotd.wire.rollback import Conflict, RollbackAnswer
from shannotd.wire.session import Session, State
from shannotd.wire.step import Step, TreeSummary
from tests.shannotctl.review.test_update import DRAWN, after, at_step, opened, text
from tests.support.samples import ABSENT, file_step, session

pytestmark = pytest.mark.P7

COMMAND = Step("command", argv=("systemctl", "reload", "a b"), decision="review", exit_status=0)
OBSERVED = Step("command", argv=("ps",), decision="observe", exit_status=0)
PENDING = session(
    file_step("create", "/etc/x", before=ABSENT),
    file_step("append", "/var/log/y", appended=TreeSummary(1, 5, "c" * 64)),
    file_step("delete", "/etc/z"),
    COMMAND,
    OBSERVED,
)
OVER = replace(PENDING, state=State.EXECUTED, decided_at=1.0)


def at_top(made: Session = PENDING) -> Review:
    """A session with the cursor on no step."""
    review, _ = after(opened(made), "g")
    assert not review.place.item.startswith("step:")
    return review


@pytest.mark.parametrize(
    ("key", "notice"),
    [
        ("e", "move to a step that writes a file to edit it"),
        ("v", "move to a step that is about a file"),
        ("b", "move to a step that is about a file"),
        (" ", "move to a step to drop it"),
        ("D", "nothing was changed"),
        ("A", "nothing was changed: space drops a step, e edits one"),
        ("u", "only what was applied, or has begun to be, can be taken back"),
    ],
)
def test_keys_that_want_a_step_say_so(key: str, notice: str) -> None:
    review, wanted = after(at_top(), key)
    assert review.notice == notice and wanted == []


def test_only_a_pending_plan_is_changed() -> None:
    review = at_step(opened(OVER), 0)
    for key in ("e", " "):
        refused, wanted = after(review, key)
        assert refused.notice == "only a pending plan can be changed" and wanted == []
    refused, wanted = after(review, "r")
    assert refused.panel is None and refused.notice == "only what is pending can be rejected"


def test_what_is_dropped_is_not_edited_and_what_only_tells_is_not_dropped() -> None:
    review, _ = after(at_step(opened(), 0), " ")
    review, _ = after(review, "g")
    review, wanted = after(at_step(review, 0), "e")
    assert review.notice == "step 1 is dropped" and wanted == []
    review, _ = after(opened(PENDING).at(Place(Kind.SESSION, item="step:4")), " ")
    assert review.notice == "step 5 is not applied anyway"
    assert review.opened is not None and not review.opened.dropped


def test_an_edit_begins_with_what_was_edited_before() -> None:
    review, (edit,) = after(at_step(opened(PENDING), 0), "e")
    assert isinstance(edit, m.Edit) and edit.step == 0 and edit.content is None
    assert "editing step 1" in review.busy
    review, _ = after(review, m.Edited(PENDING.id, 0, b"mine\n"))
    assert review.busy == "" and "is edited" in review.notice
    _, (edit,) = after(review, "e")
    assert isinstance(edit, m.Edit) and edit.content == b"mine\n"
    # An editor that leaves it as the script did takes the change back.
    review, _ = after(review, m.Edited(PENDING.id, 0, None))
    assert review.opened is not None and not review.opened.edits
    assert review.notice == "step 1 is left as it is"
    # One that ends when another session is on the screen changes nothing there.
    other, _ = after(review, m.Edited("f" * 32, 0, b"lost"))
    assert other.opened is not None and not other.opened.edits


@pytest.mark.parametrize(
    ("step", "key", "wanted"),
    [
        (0, "v", ("after", "b" * 64, 1)),
        (0, "b", "step 1 has no file before it"),
        (1, "v", ("after", "c" * 64, 5)),  # what is appended
        (1, "b", ("before", "a" * 64, 1)),
        (2, "v", "step 3 has no file after it"),
        (3, "v", "step 4 has no file after it"),
    ],
)
def test_contents_of_steps(step: int, key: str, wanted: str | tuple[str, str, int]) -> None:
    review, effects = after(at_step(opened(PENDING), step), key)
    if isinstance(wanted, str):
        assert review.notice == wanted and effects == []
        return
    (fetch,) = effects
    assert isinstance(fetch, m.Fetch) and fetch.step == step
    assert (fetch.which, fetch.sha256, fetch.size) == wanted


def test_what_is_copied() -> None:
    _, (copy,) = after(at_step(opened(PENDING), 3), "y")
    assert copy == m.Copy("systemctl reload 'a b'")
    _, (copy,) = after(at_step(opened(PENDING), 0), "y")
    assert copy == m.Copy("/etc/x")
    _, (copy,) = after(at_top(), "y")
    assert copy == m.Copy(PENDING.id)


def test_from_step_to_step_and_back_to_the_one_that_was_shown() -> None:
    review, _ = after(at_step(opened(PENDING), 0), "enter")
    assert review.place.kind is Kind.DIFF and review.place.step == 0
    none, _ = after(review, "[")
    assert none.notice == "there is none" and none.place.step == 0
    review, _ = after(review, "]", "]")
    assert review.place.step == 2
    review, _ = after(review, "[")
    assert review.place.step == 1
    review, _ = after(review, "q")
    assert review.place.kind is Kind.SESSION and review.place.item == "step:1"


def test_two_columns_where_there_is_room() -> None:
    review, _ = after(at_step(opened(PENDING, columns=60), 0), "enter", "s")
    assert review.notice == "the terminal is too narrow for two columns"
    wide, _ = after(at_step(opened(PENDING, columns=120), 0), "enter")
    one_way, _ = after(wide, "s")
    back, _ = after(one_way, "|")
    assert text(one_way) != text(wide) and text(back) == text(wide)


def test_long_lines_are_folded_or_scrolled() -> None:
    long = file_step(
        "create", "/x", diff="--- a\n+++ b\n@@ -0,0 +1 @@\n+" + "0123456789" * 30 + "\n"
    )
    review, _ = after(at_step(opened(session(long)), 0), "enter", "right")
    assert review.notice == "long lines are folded; w has them scrolled"
    review, _ = after(review, "w")
    assert review.notice == "long lines are scrolled with ← →"
    shown = text(review)
    review, _ = after(review, "right", "l")
    assert review.place.left == 16 and text(review) != shown
    review, _ = after(review, "left", "h", "left")
    assert review.place.left == 0
    review, _ = after(review, "w")
    assert review.notice == "long lines are folded"


def test_bytes_and_text_of_a_content() -> None:
    review, _ = after(
        at_step(opened(PENDING), 0), m.Fetched(PENDING.id, 0, "after", b"one\n\x1b[2J\xff\n"), DRAWN
    )
    assert review.place.kind is Kind.CONTENT and "\\e[2J" in text(review)
    _, (page,) = after(review, "p")
    assert isinstance(page, m.Page) and page.lines == ("one", "\\e[2J\\xff", "")
    review, _ = after(review, "h", DRAWN)
    assert "6f 6e 65" in text(review)
    _, (page,) = after(review, "p")
    assert isinstance(page, m.Page) and any("6f 6e 65 0a" in line for line in page.lines)
    review, _ = after(review, "h", DRAWN)
    assert "6f 6e 65" not in text(review)
    # What is there no more has no bytes to be shown.
    gone, _ = after(opened(PENDING), m.Fetched(PENDING.id, 0, "before", None), DRAWN)
    again, _ = after(gone, "h")
    assert text(again) == text(gone)


def test_the_pager_gets_the_step_at_the_cursor_or_all() -> None:
    _, (page,) = after(at_step(opened(PENDING), 2), "p")
    assert isinstance(page, m.Page)
    assert "delete /etc/z" in page.lines[0] and not any("/etc/x" in line for line in page.lines)
    _, (page,) = after(at_top(), "p")
    assert isinstance(page, m.Page)
    assert all(any(path in line for line in page.lines) for path in ("/etc/x", "/etc/z", "ps"))


def test_folding_all_and_one() -> None:
    review = at_step(opened(PENDING), 0)
    folded, _ = after(review, "tab")
    assert "+new" not in text(folded).split("append")[0]
    unfolded, _ = after(folded, "tab")
    assert text(unfolded) == text(review)
    all_unfolded, _ = after(review, "z")  # what was observed is folded by default
    assert "+new" in text(all_unfolded)
    all_folded, _ = after(all_unfolded, "z")
    assert "+new" not in text(all_folded)
    again, _ = after(all_folded, "z")
    assert text(again) == text(all_unfolded)
    # Where there is nothing to fold, nothing happens.
    top = at_top()
    same, _ = after(top, "tab")
    assert text(same) == text(top)


def test_giving_changes_up_counts_them() -> None:
    review, _ = after(at_step(opened(PENDING), 0), " ", m.Edited(PENDING.id, 1, b"x"), "D")
    assert review.panel is not None and review.panel.ask is Ask.DISCARD
    assert review.panel.text == ("Give 2 changes of this plan up?",)
    review, _ = after(review, DRAWN, "y")
    assert review.opened is not None and not review.opened.changed


def test_what_cannot_be_forced_is_told_and_not_asked() -> None:
    conflicts = (
        Conflict("/etc/x", "a file", "a directory", True),
        Conflict("/mnt", "a directory", "a mount point", False),
    )
    review = opened(OVER)
    review, _ = after(review, m.Reversing(OVER.id, RollbackAnswer(None, conflicts)))
    assert review.panel is not None and review.panel.ask is Ask.MESSAGE
    assert review.panel.text[-1] == "This cannot be forced: /mnt."
    forcible, _ = after(opened(OVER), m.Reversing(OVER.id, RollbackAnswer(None, conflicts[:1])))
    assert forcible.panel is not None and forcible.panel.ask is Ask.FORCE
    assert "/etc/x: expected a file, found a directory" in "".join(forcible.panel.text)


def test_a_rollback_that_waits_already_is_opened() -> None:
    other = "e" * 32
    review, effects = after(
        opened(OVER), m.Failed(m.Rollback(OVER.id, False), RollbackPending(id=OVER.id, by=other))
    )
    assert "waits already" in review.notice
    assert m.Load(other) in effects


def test_a_click_below_the_end_or_beside_a_key_does_nothing() -> None:
    review, _ = after(opened(session(file_step("create", "/a")), rows=60), DRAWN)
    for row, column in ((55, 3), (59, 99)):
        clicked, wanted = after(review, m.Clicked(row, column))
        assert clicked.place == review.place and wanted == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"state": State.APPROVED}, "is about to be applied"),
        ({"state": State.RUNNING}, "the dry run goes on"),
        ({"state": State.EXECUTED, "decided_at": None}, "had no effect"),
        ({"state": State.ROLLED_BACK, "rolled_back_by": "e" * 32}, f"by session {'e' * 32}"),
        ({"state": State.ROLLED_BACK}, "taken back by session ?"),
        ({"state": State.REJECTED, "replaced_by": "e" * 32}, f"replaced by session {'e' * 32}"),
        ({"state": State.REJECTED, "decided_by": (7, 8)}, "by uid 7, uid 8"),
        ({"state": State.EXPIRED}, "nothing of it was applied"),
        ({"state": State.FAILED, "decided_at": 1.0}, "approved by nobody"),
        ({"approvals": 3, "decided_by": (7,)}, "1 of 3 approvals given"),
    ],
)
def test_how_a_session_stands_is_told_in_words(changes: dict[str, object], told: str) -> None:
    assert told in " ".join(text(opened(replace(PENDING, **changes))).split())  # type: ignore[arg-type]
