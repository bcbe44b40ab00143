"""Characters that pass for ASCII ones are escaped where they do, and left where they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.wire.lookalikes import candidates, suspects
from shannotd.wire.text import visible

pytestmark = pytest.mark.P7

# ASCII, what looks like it, what does not, signs and dashes: to be mixed.
mixed = st.text("ab1 /-.\\s\u0441\u043e\u0440\u0431\u0438\u03bf\u03c9\u0585\uff0f\uff1a\uff41\u2212"
                "\u2013\u2044\u0301\U0001d42b\u4e2d\ua4d0\ua4d8\u0966", max_size=30)  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("p\u0430sswd", "p\\u0430sswd"),
        ("/\u0435t\u0441/\u0440\u0430sswd", "/\\u0435t\\u0441/\\u0440\\u0430sswd"),
        ("\u0441\u043e\u0440", "\\u0441\\u043e\\u0440"),
        ("/\u0440\u043e\u0440/bin", "/\\u0440\\u043e\\u0440/bin"),
        ("r\u03bfot", "r\\u03bfot"),
        ("\u0585ne", "\\u0585ne"),
        ("\U0001d42b\U0001d42a", "\\U0001d42b\\U0001d42a"),
        ("etc\u2044passwd", "etc\\u2044passwd"),
        ("\uff0fetc", "\\uff0fetc"),
        ("a\uff1bb", "a\\uff1bb"),
        ("http\u0589//x", "http\\u0589//x"),
        ("rm \u2212rf", "rm \\u2212rf"),
        ("\u2013force", "\\u2013force"),
        ("--x=\u2014y", "--x=\\u2014y"),
        ("\uff52m", "\\uff52m"),
        ("/\ua4d0\ua4f2\ua4e0", "/\\ua4d0\\ua4f2\\ua4e0"),
        ("etc\ua4f8d", "etc\\ua4f8d"),
        ("r\u2c9fot", "r\\u2c9fot"),
        ("/r\U0001042cot", "/r\\U0001042cot"),
        ("\uab75nit", "\\uab75nit"),
        ("pa\ua731swd", "pa\\ua731swd"),
        ("r\u0966ot", "r\\u0966ot"),
        ("/srv/\u03c9/\u0440\u043e\u0440", "/srv/\u03c9/\\u0440\\u043e\\u0440"),
    ],
)
def test_escaped(raw: str, shown: str) -> None:
    assert visible(raw) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Привет, как дела? Оса и сор в городе.",
        "Η γρήγορη αλεπού και ο σκύλος",
        "Բարեւ ձեզ, ինչպես եք։ Լավ օր։",
        "中文，说明：好！（一）",
        "日本語のＡＢＣテキスト",
        "ＡＢＣ",
        "α = 0.5, β = 1",
        "a – b — c, 10–20 pages",
        "it’s “fine” … naïve café Łódź Kırmızı",
        "10×10 ± 2 °C €5",
        "१०० रुपये, ০১২",
        "שלום, סוס",
        "ок, файл /etc/passwd изменён",
    ],
)
def test_left_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(mixed)
def test_what_is_shown_stays_as_it_is(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert suspects(shown) == []


@given(mixed)
def test_suspects_are_candidates_in_order(text: str) -> None:
    found = suspects(text)
    assert found == sorted(set(found)) and set(found) <= set(candidates(text))


def test_a_chain_in_which_each_brings_the_next_takes_no_longer() -> None:
    shown = visible("x" + "\uff1a\u0441" * 200_000)
    assert shown.isascii() and len(shown) == 1 + 6 * 400_000
