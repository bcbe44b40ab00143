"""Text that is safe to show (P7): nothing in it can move a cursor or hide itself.

Control characters, escape sequences, bidirectional controls, zero-width and other
invisible characters, private-use and unassigned code points and undecodable bytes
are written as escapes, so that a reader sees that they are there. So is a combining mark
that has no letter before it: it would be drawn over what we print ourselves (the `-` of a
diff, a gutter), and one of a pile that would be drawn over other lines; and so is a letter of
another script where it passes for an ASCII one.
"""

from __future__ import annotations

import re
import unicodedata

# Unicode general categories that a terminal may not show as themselves:
# Cc control, Me enclosing, Cf format (bidi, zero-width, tags), Cs surrogate (undecodable bytes),
# Co private use, Cn unassigned, Zl/Zp separators. (UAX #44, General_Category.)
_HIDDEN_CATEGORIES = frozenset({"Cc", "Me", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

# Not in those categories, yet blank or combining without a visible base:
# Hangul fillers, the combining grapheme joiner, variation selectors, Khmer inherent vowels,
# Braille blank, non-ASCII spaces, full and half blank hieroglyphs, a note without a head.
_HIDDEN_EXTRA = re.compile(
    "[\u00a0\u034f\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200a\u202f\u205f"
    "\u2800\u3000\u3164\ufe00-\ufe0f\uffa0\U00013441\U00013442\U0001d159\U000e0100-\U000e01ef]"
)

# Combining marks that letters of every script may have. Those of one script show nothing on the
# letters of another, or what nobody expects.
_COMMON_MARK = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
_FIRST_OTHER = 0x300  # letters before that are Latin ones

_HIGHEST_PILE = 4  # combining marks on one letter, as some languages write them

_MOST_LOOKS = 8

# All that is not printable ASCII, which is most of most texts.
_NOT_PLAIN = re.compile(r"[^ -~]")

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e", "\x00": "\\0"}


def escape_character(character: str) -> str:
    """One character as a visible escape: `\\e`, `\\x07`, `\\u202e`, `\\U000e0001`.

    A surrogate that stands for an undecodable byte (PEP 383) is shown as that byte.
    """
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def is_hidden(character: str) -> bool:
    """Whether `character` must be escaped before a person sees it."""
    return (
        unicodedata.category(character) in _HIDDEN_CATEGORIES
        or _HIDDEN_EXTRA.match(character) is not None
    )


def visible(text: str, *, keep: str = "") -> str:
    """`text` with every character that could deceive written as an escape.

    `keep` names control characters that the caller lays out itself (for a diff: newline
    and tab). The backslash is left alone, so plain text stays plain.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = without_hidden(text, keep=keep)
    if shown.isascii():
        return shown
    from shannotd.wire.lookalikes import candidates, suspects

    # An escape is a word of ASCII letters itself: what touches it is looked at once more. Where
    # that does not end soon, somebody has made it so, and none of them is let off.
    for _ in range(_MOST_LOOKS):
        found = suspects(shown)
        if not found:
            return shown
        # A mark on a letter that is an escape now has no letter any more.
        shown = without_hidden(_escaped_at(shown, found), keep=keep)
    return without_hidden(_escaped_at(shown, candidates(shown)), keep=keep)


def _escaped_at(text: str, positions: list[int]) -> str:
    """`text` with the characters at these positions, which are in order, as escapes."""
    parts, position = [], 0
    for index in positions:
        parts += [text[position:index], escape_character(text[index])]
        position = index + 1
    return "".join([*parts, text[position:]])


def without_hidden(text: str, *, keep: str = "") -> str:
    """`visible`, but with characters that only look like others left as they are: what a piece of
    a text may hold, which cannot be judged without the whole."""
    if text.isascii() and text.isprintable():
        return text

    def shown(match: re.Match[str]) -> str:
        character = match.group()
        if character in keep:
            return character
        if is_hidden(character) or _is_loose_mark(text, match.start()):
            return escape_character(character)
        return character

    return _NOT_PLAIN.sub(shown, text)


def has_hidden(text: str, *, keep: str = "\n\t") -> bool:
    """Whether `visible` would change `text`."""
    return visible(text, keep=keep) != text


def _is_loose_mark(text: str, position: int) -> bool:
    """Whether a combining mark is there that no letter carries, or one that it cannot have."""
    if unicodedata.category(text[position]) != "Mn":
        return False
    for before in reversed(text[max(0, position - _HIGHEST_PILE) : position]):
        category = unicodedata.category(before)
        if category[0] != "M":
            is_latin = ord(before) < _FIRST_OTHER
            return category[0] != "L" or (is_latin and _COMMON_MARK.match(text[position]) is None)
    return True
