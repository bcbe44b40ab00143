"""Characters that are not ASCII and look like it: a Cyrillic letter in `password`.

What they are is told by the words they stand in. A letter of another script that looks like an
ASCII one is suspect in a word that has ASCII letters; and in one that has only such letters, if
nothing in the text is certainly of its script. So such a name is escaped in a path, and a word
of a Russian sentence is not.

The characters are those of Unicode's confusables (UTS #39) that look like one ASCII character in
usual fonts.
"""

from __future__ import annotations

import re

# Cyrillic, Greek, Armenian, Cherokee, Coptic, Lisu, Deseret and Latin letters, each script's in the
# order of its code points.
_CYRILLIC = (
    "\u0405\u0406\u0408\u0410\u0412\u0415\u0417\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425"
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456\u0458\u0474\u0475\u04ae\u04af\u04bb"
    "\u04c0\u04cf\u0501\u050c\u051a\u051b\u051c\u051d"
)
_GREEK = (
    "\u037f\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u03b1\u03b3\u03b9\u03ba\u03bd\u03bf\u03c1\u03c5\u03f2\u03f3\u03f9"
)
_ARMENIAN = "\u0555\u054d\u0578\u057d\u0581\u0585\u0570\u0566\u056c\u0575"
_CHEROKEE = (
    "\u13a0\u13a1\u13a2\u13a5\u13aa\u13ab\u13ac\u13b3\u13b7\u13bb\u13bd\u13c0\u13c2\u13c3\u13ce"
    "\u13cf\u13d2\u13d4\u13d9\u13da\u13de\u13df\u13e2\u13e6\u13e7\u13ee\u13f3\u13f4"
    "\uab75\uab81\uab83\uab93\uaba9\uabaa"
)
_COPTIC = "\u2c82\u2c8e\u2c92\u2c94\u2c98\u2c9a\u2c9e\u2c9f\u2ca2-\u2ca6\u2ca8\u2cac\u2cd0"
_LISU = (
    "\ua4d0-\ua4d4\ua4d6\ua4d7\ua4d9\ua4da\ua4dc\ua4dd\ua4df-\ua4e3\ua4e6\ua4e7\ua4ea-\ua4ec"
    "\ua4ee\ua4f0\ua4f2-\ua4f4"
)
_DESERET = "\U00010404\U00010415\U0001041b\U00010420\U0001042c\U0001043d\U00010448"
_LATIN = (
    "\u0184\u0185\u01c0\u01c3\u0251\u0261\u0262\u0269\u026a\u0274\u0280\u028f\u0299\u029c\u029f"
    "\u1d00-\u1d22\ua730\ua731\uab32\uab3d\uab47\uab48\uab4e\uab52\uab5a"
)
_FULL_WIDTH_LETTERS = "\uff10-\uff19\uff21-\uff3a\uff41-\uff5a"

_LETTER = re.compile(
    f"[{_CYRILLIC}{_GREEK}{_ARMENIAN}{_CHEROKEE}{_COPTIC}{_LISU}{_DESERET}{_LATIN}"
    f"{_FULL_WIDTH_LETTERS}]"
)
# Suspect only beside ASCII letters: zeros and letters that are a circle, in scripts that look like
# ASCII nowhere else.
_CIRCLE = re.compile(
    "[\u05e1\u0647\u0665\u06f5\u07c0\u0966\u09e6\u0a66\u0ae6\u0b66\u0be6\u0c66\u0ce6\u0d20\u0d66"
    "\u0e50\u0ed0\u101d\u1040\u10ff]"
)
_SCRIPTS = re.compile(
    "([\u0370-\u03ff])|([\u0400-\u052f])|([\u0530-\u058f])|([\u13a0-\u13ff\uab70-\uabbf])"
    "|([\u2c80-\u2cff])|([\ua4d0-\ua4ff])|([\U00010400-\U0001044f])"
)

# Nothing but ASCII in another shape: mathematical and letter-like letters, numerals, circled ones;
# and what looks like the signs that paths and shells know.
_ALWAYS = re.compile(
    "[\U0001d400-\U0001d7ff\u2102\u210a-\u2113\u2115\u2118-\u211d\u2124\u2128\u212a-\u2134\u2139"
    "\u2145-\u2149\u2160-\u217f\u249c-\u24e9\U0001f110-\U0001f189"
    "\u2044\u2215\u2216\u2571\u29f5\u29f8\u29f9\u2024\u037e\u2236\ua789\u2223\u2217\u204e\u223c"
    "\ua4f8\ua4f9\ua4fd]"
)
# Other signs where they touch an ASCII word: full width ones, and dashes that begin one.
_SIGNS = (
    "[\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\u0589\uff5b-\uff5e\u2010-\u2015\u2212\ufe58\ufe63]"
)
_SIGN = re.compile(
    "(?<=[0-9A-Za-z._~-])[\u0589\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff5e]"
    "|[\u0589\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff5e](?=[0-9A-Za-z._~-])"
    "|(?<![^\\s\u2010-\u2015\u2212=-])[\u2010-\u2015\u2212\ufe58\ufe63](?=[\u2010-\u2015\u22120-9A-Za-z-])"
)
_ANY = re.compile(f"{_LETTER.pattern}|{_CIRCLE.pattern}|{_ALWAYS.pattern}|{_SIGNS}")
_WORD = re.compile(r"\w+")
_ASCII_LETTER = re.compile("[A-Za-z]")


def suspects(text: str) -> list[int]:
    """Where in `text` a character stands that looks like ASCII and is not, in order."""
    found = {match.start() for match in _ALWAYS.finditer(text)}
    found |= {match.start() for match in _SIGN.finditer(text)}
    if _LETTER.search(text) is not None or _CIRCLE.search(text) is not None:
        certain = {
            _script(character)
            for character in set(text)
            if _SCRIPTS.match(character) is not None and _LETTER.match(character) is None
        }
        for word in _WORD.finditer(text):
            mixed = _ASCII_LETTER.search(word.group()) is not None
            if mixed:
                found.update(match.start() for match in _CIRCLE.finditer(text, *word.span()))
            letters = [match.start() for match in _LETTER.finditer(text, *word.span())]
            if not letters:
                continue
            alone = not any(_script(text[index]) in certain for index in letters) and all(
                _LETTER.match(character) is not None
                for character in word.group()
                if character.isalpha()
            )
            # One letter alone is rather a sign, such as an alpha in a formula.
            alone = alone and len(word.group()) > 1 and not _is_full_width(word.group())
            if mixed or alone:
                found.update(letters)
    return sorted(found)


def candidates(text: str) -> list[int]:
    """Where a character stands that could be suspect, whatever it stands in."""
    return [match.start() for match in _ANY.finditer(text)]


def _script(character: str) -> int:
    """A number for the script, of those that have such letters; 0 for all others."""
    match = _SCRIPTS.match(character)
    return 0 if match is None else match.lastindex or 0


def _is_full_width(word: str) -> bool:
    """Whether nobody would take the word for ASCII: it is twice as wide."""
    return re.fullmatch(f"[{_FULL_WIDTH_LETTERS}]+", word) is not None
