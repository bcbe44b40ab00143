"""What a script can write to deceive who reads its plan, in every place that it can write to.

Each attack is put in names, paths, arguments, variables, reasons, diffs and outputs. Then the
whole session is drawn, line by line, for a real terminal: nothing of the attack gets there but
as an escape, and nothing is lost.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.output.vt100 import Vt100_Output

from shannotctl.render.layout import ascii_only, display_width
from shannotctl.review import messages as m
from shannotctl.review.screen import document, screen
from shannotctl.review.session_view import foldable_items, folded_items
from shannotctl.review.spans import GLYPHS, guarded, plain
from shannotctl.review.state import Kind, Link, Review
from shannotctl.review.update import first, update
from shannotd.wire.decision import Risk
from shannotd.wire.plan import Plan
from shannotd.wire.session import Session
from shannotd.wire.step import CommandResult, Step
from shannotd.wire.text import escape_character, visible, without_hidden
from tests.support.samples import ABSENT, file_step, session

pytestmark = pytest.mark.P7

# The attack, and what must be on the screen in its place.
ATTACKS = {
    "clear the screen": ("\x1b[2J", "\\e[2J"),
    "cursor up and over": ("ok\x1b[1A\x1b[2Ksafe", "\\e[1A\\e[2K"),
    "cursor home": ("\x1b[H", "\\e[H"),
    "colour as the background": ("\x1b[30;40mrm -rf /\x1b[0m", "\\e[30;40mrm -rf /\\e[0m"),
    "conceal": ("\x1b[8msecret", "\\e[8msecret"),
    "other screen": ("\x1b[?1049h", "\\e[?1049h"),
    "scroll region": ("\x1b[1;2r", "\\e[1;2r"),
    "insert and delete lines": ("\x1b[5M\x1b[5L", "\\e[5M\\e[5L"),
    "title": ("\x1b]0;safe\x07", "\\e]0;safe\\x07"),
    "title ended by ST": ("\x1b]2;safe\x1b\\", "\\e]2;safe\\e\\"),
    "link": ("\x1b]8;;http://evil/\x1b\\here\x1b]8;;\x1b\\", "\\e]8;;http://evil/"),
    "clipboard": ("\x1b]52;c;cm0gLXJmIC8=\x07", "\\e]52;c;cm0gLXJmIC8="),
    "answer back": ("\x1b[c\x1b[6n\x05", "\\e[c\\e[6n\\x05"),
    "device control": ("\x1bP+q544e\x1b\\", "\\eP+q544e\\e\\"),
    "application command": ("\x1b_Gi=1;AAAA\x1b\\", "\\e_Gi=1;AAAA"),
    "reset": ("\x1bc", "\\ec"),
    "eight-bit CSI": ("\x9b2J", "\\x9b2J"),
    "eight-bit OSC": ("\x9d0;x\x9c", "\\x9d0;x\\x9c"),
    "mouse on": ("\x1b[?1003h", "\\e[?1003h"),
    "line drawing": ("\x1b(0lqqk", "\\e(0lqqk"),
    "shift out": ("\x0elqqk\x0f", "\\x0elqqk\\x0f"),
    "carriage return": ("rm -rf /\recho fine", "rm -rf /\\recho fine"),
    "backspace": ("rm\x08\x08ls", "rm\\x08\\x08ls"),
    "vertical tab and form feed": ("a\x0bb\x0cc", "a\\x0bb\\x0cc"),
    "bell": ("\x07\x07", "\\x07\\x07"),
    "null": ("a\0b", "a\\0b"),
    "delete": ("a\x7fb", "a\\x7fb"),
    "next line": ("a\x85b", "a\\x85b"),
    "right-to-left override": ("exe\u202etxt.sh", "exe\\u202etxt.sh"),
    "bidi isolate": ("if \u2066admin\u2069:", "\\u2066admin\\u2069"),
    "right-to-left mark": ("a\u200fb", "a\\u200fb"),
    "arabic letter mark": ("a\u061cb", "a\\u061cb"),
    "zero width space": ("pass\u200bword", "pass\\u200bword"),
    "zero width joiner": ("pass\u200dword", "pass\\u200dword"),
    "word joiner": ("pass\u2060word", "pass\\u2060word"),
    "byte order mark": ("\ufeffroot", "\\ufeffroot"),
    "soft hyphen": ("pass\u00adword", "pass\\xadword"),
    "variation selector": ("a\ufe0fb", "a\\ufe0fb"),
    "tag characters": ("a\U000e0041\U000e0042", "a\\U000e0041\\U000e0042"),
    "no-break space": ("rm\u00a0-rf", "rm\\xa0-rf"),
    "ideographic space": ("rm\u3000-rf", "rm\\u3000-rf"),
    "hangul filler": ("a\u3164b", "a\\u3164b"),
    "braille blank": ("a\u2800b", "a\\u2800b"),
    "line separator": ("a\u2028b", "a\\u2028b"),
    "paragraph separator": ("a\u2029b", "a\\u2029b"),
    "interlinear annotation": ("a\ufff9b\ufffbc", "a\\ufff9b\\ufffbc"),
    "enclosing mark": ("a\u20ddb", "a\\u20ddb"),
    "pile of marks": ("Z" + "\u0335" * 40, "\\u0335\\u0335"),
    "mark without a letter": ("\u0338=", "\\u0338="),
    "mark of another script that shows nothing": ("pass\u17d2word", "pass\\u17d2word"),
    "joiner of another script": ("rm\u2d7f", "rm\\u2d7f"),
    "note without a head": ("rm\U0001d159", "rm\\U0001d159"),
    "private use": ("\ue0b0ok", "\\ue0b0ok"),
    "unassigned": ("a\U000effffb", "a\\U000effffb"),
    "bytes that are no UTF-8": ("a\udcff\udc1bb".replace("\udc1b", "\udc9b"), "a\\xff\\x9bb"),
    "lone surrogate": ("a\ud800b", "a\\ud800b"),
    "cyrillic in a word": ("p\u0430sswd", "p\\u0430sswd"),
    "all cyrillic": ("/\u0440\u043e\u0440/x", "/\\u0440\\u043e\\u0440/x"),
    "greek in a word": ("r\u03bfot", "r\\u03bfot"),
    "fraction slash": ("etc\u2044passwd", "etc\\u2044passwd"),
    "full width slash": ("etc\uff0fpasswd", "etc\\uff0fpasswd"),
    "mathematical letters": ("\U0001d42b\U0001d428\U0001d428\U0001d42d", "\\U0001d42b\\U0001d428"),
    "minus for a hyphen": ("rm \u2212rf", "rm \\u2212rf"),
}

assert len(ATTACKS) >= 30

# Text that means what it says: none of it may be spoilt.
HONEST = [
    "plain ASCII text",
    "naïve café, Ærø, straße, Łódź, Kırmızı",
    "Привет, как дела? Это просто текст.",
    "Η γρήγορη αλεπού",
    "中文，说明：好！",
    "日本語のＡＢＣテキスト",
    "e\u0301 combining",
    "ភាសាខ្មែរ, हिन्दी, ไทย ที่นี่",
    "a – dash — and “quotes” it’s",
    "😀 emoji",
]


def command(text: str) -> Step:
    return Step(
        "command",
        argv=("tool", text, f"--option={text}"),
        program="/usr/bin/tool",
        program_sha256="0" * 64,
        cwd=f"/{text}",
        environment={"NAME": text, text: "value"},
        changed=("NAME", text),
        decision="review",
        rule=text,
        exit_status=0,
        risk=Risk.CAUTION,
        reason=text,
        undo=("tool", text),
        result=CommandResult(0, text, text, 0.1),
        applied="done",
    )


def spoofed(text: str) -> Session:
    """A session that has `text` wherever it can be."""
    lines = text.replace("\n", "")
    diff = f"--- a/{lines}\n+++ b/{lines}\n@@ -1,2 +1,2 @@ {lines}\n {lines}\n"
    diff += f"-{lines} old\n+{lines} new\n"
    return session(
        file_step("create", f"/etc/{text}", before=ABSENT, diff=diff, reason=text),
        file_step("rename", f"/etc/{text}2", old_path=f"/etc/{text}1", diff=None),
        file_step("delete", f"/srv/{text}/a"),
        file_step("delete", f"/srv/{text}/b"),
        command(text),
        Step("blocked", what=f"connect {text}", target=text, count=2, risk=Risk.DANGER),
        name=text,
        submitter_name=text,
        profile=text,
        target=text,
        identity=text,
        analysis=f"{text}\n{text}",
        reason=text,
        arguments=(text,),
        cwd=f"/{text}",
        script=f"print('{text}')\n{text}".encode("utf-8", "surrogatepass"),
        stdout=text.encode("utf-8", "surrogatepass"),
        stderr=text.encode("utf-8", "surrogatepass"),
    )


def every_screen(made: Session, columns: int) -> Iterator[Review]:
    """The list, the whole session unfolded, each step's diff, the questions."""
    review, _ = first(columns, 30, made.created_at, None, True)
    review, _ = update(review, m.Connected("embedded", (made,)))
    yield review
    review, _ = update(review, m.Key("enter"))
    plan = made.plan
    review, _ = update(review, m.Loaded(made, plan, {}))
    review, _ = update(review, m.Drawn())
    yield review
    opened = review.opened
    assert opened is not None and plan is not None
    folded = folded_items(opened, columns - 2)
    review = replace(
        review, opened=replace(opened, toggled=folded & foldable_items(opened, columns - 2))
    )
    while True:
        yield review
        before = review.place
        review, _ = update(review, m.Key("pagedown"))
        if review.place == before:
            break
    for key in ("x", "r"):
        asked, _ = update(review, m.Key(key))
        yield asked
    for index in range(len(plan.steps)):
        inside = review.entered(
            replace(review.place, kind=Kind.DIFF, step=index, item="", offset=0)
        )
        for wrap in (True, False):
            for side in (True, False):
                yield replace(inside, wrap=wrap, side=side)


def written(review: Review) -> str:
    """What reaches a real terminal for a screen, without what the terminal's driver adds."""
    stream = io.StringIO()
    output = Vt100_Output(stream, lambda: Size(rows=review.rows, columns=review.columns))
    for line in screen(review).lines:
        for _, text in guarded(line, ascii_only=False):
            output.write_raw(text)
        output.write_raw("\n")
    output.flush()
    return stream.getvalue()


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda name: name.replace(" ", "-"))
def test_an_attack_is_seen_and_does_nothing(attack: str, columns: int) -> None:
    text, shown = ATTACKS[attack]
    everything = ""
    for review in every_screen(spoofed(text), columns):
        out = written(review)
        lines = out.split("\n")
        assert [line for line in lines if without_hidden(line) != line] == []
        assert all(display_width(line) <= columns for line in lines)
        assert len(lines) == review.rows + 1
        everything += "".join(line.strip() for line in lines)
    packed = everything.replace(" ", "").replace(":", "").replace("|", "")
    wanted = shown.replace(" ", "").replace(":", "").replace("|", "")
    assert wanted in packed


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda name: name.replace(" ", "-"))
def test_disguised_names_are_a_warning(attack: str) -> None:
    text, _ = ATTACKS[attack]
    made = spoofed(text)
    review, _ = first(120, 50, made.created_at, None, True)
    review, _ = update(review, m.Connected("embedded", (made,)))
    review, _ = update(review, m.Key("enter"))
    review, _ = update(review, m.Loaded(made, made.plan, {}))
    top = "\n".join(plain(row.line) for row in document(review).rows[:60])
    assert "disguise" in top


@pytest.mark.parametrize("text", HONEST)
def test_honest_text_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text
    made = session(file_step("create", "/etc/x", before=ABSENT), name=text, analysis=text)
    review, _ = first(120, 40, made.created_at, None, True)
    review, _ = update(review, m.Connected("embedded", (made,)))
    assert text in written(review)
    review, _ = update(review, m.Key("enter"))
    review, _ = update(review, m.Loaded(made, made.plan, {}))
    assert written(review).count(text) >= 2


def test_a_terminal_without_unicode_gets_all_of_it_in_ascii() -> None:
    with ascii_only("".join(map(chr, GLYPHS))):
        for text in (*(attack for attack, _ in ATTACKS.values()), *HONEST, "é漢" * 200):
            everything = ""
            for review in every_screen(spoofed(text), 80):
                for line in screen(review).lines:
                    shown = plain(guarded(line, ascii_only=True))
                    assert shown.isascii() and shown.isprintable() and len(shown) <= 80, text
                    everything += shown.strip()
            if text in HONEST:
                word = next((one for one in text.split() if not one.isascii()), "")
                escaped = "".join(c if c.isascii() else escape_character(c) for c in word)
                assert escaped.replace(":", "") in everything.replace(":", ""), text


def test_an_attack_in_what_the_daemon_says_itself() -> None:
    review = Review(columns=80, rows=24, link=Link.LOST, trouble="\x1b[2J\u202e")
    assert "\\e[2J\\u202e" in written(review) and "\x1b" not in written(review)
    review, _ = update(review, m.Lost("\x1b]0;x\x07"))
    assert "\x1b" not in written(review)


def test_what_is_typed_is_escaped_too() -> None:
    made = spoofed("x")
    review, _ = first(80, 24, made.created_at, None, True)
    review, _ = update(review, m.Connected("embedded", (made,)))
    review, _ = update(review, m.Key("/"))
    review, _ = update(review, m.Drawn())
    review, _ = update(review, m.Pasted("a\x1b[2J\u202eb"))
    assert "a\\e[2J\\u202eb" in written(review)


def test_a_digest_is_that_of_the_bytes() -> None:
    made = spoofed("\x1b[2J")
    assert made.plan_canonical is not None
    assert Plan.parse(made.plan_canonical).digest == made.digest
