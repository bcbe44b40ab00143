"""What a person sees holds nothing that deceives."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.wire.text import escape_character, has_hidden, is_hidden, visible

pytestmark = pytest.mark.P7

# Every code point, surrogates too: bytes that are no UTF-8 arrive as such.
any_text = st.text(st.characters(exclude_categories=()), max_size=60)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text, with \\ and é and 漢字 and 😀", "plain text, with \\ and é and 漢字 and 😀"),
        ("", ""),
        ("a\nb", "a\\nb"),
        ("a\r\tb\0", "a\\r\\tb\\0"),
        ("\x1b[31mred\x1b[0m", "\\e[31mred\\e[0m"),
        ("\x07\x08\x7f", "\\x07\\x08\\x7f"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("pass\u200bwd", "pass\\u200bwd"),
        ("\ufeffx", "\\ufeffx"),
        ("a\u00a0b\u3000c", "a\\xa0b\\u3000c"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        ("\ue000", "\\ue000"),
        ("\u3164\u2800", "\\u3164\\u2800"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("o\u034fk\ufe0f", "o\\u034fk\\ufe0f"),
        ("e\u0301 \u1ea5 a\u0323\u0302", "e\u0301 \u1ea5 a\u0323\u0302"),
        ("\u0338x -\u20d2 \u0301", "\\u0338x -\\u20d2 \\u0301"),
        ("1\u20e3", "1\\u20e3"),
        ("a" + "\u0301" * 6, "a" + "\u0301" * 4 + "\\u0301" * 2),
    ],
)
def test_shown_as(raw: str, shown: str) -> None:
    assert visible(raw) == shown


def test_kept_characters_stay_and_others_do_not() -> None:
    assert visible("a\n\tb\r\x1b", keep="\n\t") == "a\n\tb\\r\\e"


@given(any_text)
def test_nothing_hidden_is_left(text: str) -> None:
    shown = visible(text)
    assert not has_hidden(shown, keep="")
    assert not any(is_hidden(character) for character in shown)
    shown.encode("utf-8")


@given(any_text)
def test_shown_text_stays_as_it_is(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown


@given(any_text, st.sampled_from(["", "\n", "\n\t", "\r\n"]))
def test_has_hidden_agrees_with_visible(text: str, keep: str) -> None:
    assert has_hidden(text, keep=keep) == (visible(text, keep=keep) != text)


@given(st.characters(exclude_categories=()))
def test_an_escape_is_printable_ascii(character: str) -> None:
    escape = escape_character(character)
    assert escape.startswith("\\")
    assert escape.isascii()
    assert escape.isprintable()


def test_escapes_are_distinct() -> None:
    """Two characters never look alike by their escapes, a raw byte and its control apart."""
    hidden = [chr(code) for code in range(sys.maxunicode + 1) if is_hidden(chr(code))]
    bytes_and_controls = {chr(code) for code in range(0xDC80, 0xDD00)}
    escapes = [escape_character(one) for one in hidden if one not in bytes_and_controls]
    assert len(set(escapes)) == len(escapes)


def test_default_ignorable_characters_are_hidden() -> None:
    """Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties), which shows nothing."""
    ranges = [
        (0xAD, 0xAD),
        (0x34F, 0x34F),
        (0x61C, 0x61C),
        (0x115F, 0x1160),
        (0x17B4, 0x17B5),
        (0x180B, 0x180F),
        (0x200B, 0x200F),
        (0x202A, 0x202E),
        (0x2060, 0x206F),
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),
        (0xFEFF, 0xFEFF),
        (0xFFA0, 0xFFA0),
        (0xFFF0, 0xFFF8),
        (0x1BCA0, 0x1BCA3),
        (0x1D173, 0x1D17A),
        (0xE0000, 0xE0FFF),
    ]
    shown = [
        hex(code)
        for first, last in ranges
        for code in range(first, last + 1)
        if not is_hidden(chr(code))
    ]
    assert shown == []


def test_every_space_but_the_plain_one_is_hidden() -> None:
    spaces = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    assert [one for one in spaces if not is_hidden(one)] == [" "]
    assert unicodedata.category(" ") == "Zs"
