"""What comes from outside is checked field by field, or refused with the field's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.wire.decode import decode, encode
from shannotd.wire.session import Session
from shannotd.wire.step import StepNote
from shannotd.wire.submission import Submission

pytestmark = pytest.mark.P10


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    number: int
    text: str | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    ratio: float = 0.0
    flag: bool = False
    data: bytes = b""
    colour: Colour = Colour.RED
    items: tuple[Inner, ...] = ()
    table: Mapping[str, int | str] = field(default_factory=dict)
    inner: Inner | None = None
    either: int | tuple[str, ...] | None = None


FULL = {
    "name": "n",
    "ratio": 1.5,
    "flag": True,
    "data": b"\xff",
    "colour": "blue",
    "items": [{"number": 1}, {"number": 2, "text": "t"}],
    "table": {"a": 1, "b": "c"},
    "inner": {"number": 3},
    "either": ["x", "y"],
}


def test_a_good_value_becomes_the_model() -> None:
    assert decode(Outer, FULL) == Outer(
        name="n",
        ratio=1.5,
        flag=True,
        data=b"\xff",
        colour=Colour.BLUE,
        items=(Inner(1), Inner(2, "t")),
        table={"a": 1, "b": "c"},
        inner=Inner(3),
        either=("x", "y"),
    )


def test_missing_keys_take_their_defaults_and_unknown_ones_are_ignored() -> None:
    assert decode(Outer, {"name": "n", "from_the_future": object()}) == Outer("n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "Outer.name: expected str, got int"),
        ({"name": None}, "Outer.name: expected str, got NoneType"),
        ({"flag": 1}, "Outer.flag: expected bool, got int"),
        ({"ratio": "1"}, "Outer.ratio: expected float, got str"),
        ({"ratio": True}, "Outer.ratio: expected float, got bool"),
        ({"ratio": float("nan")}, "Outer.ratio: expected a finite number"),
        ({"ratio": float("inf")}, "Outer.ratio: expected a finite number"),
        ({"ratio": 10**400}, "Outer.ratio: a number too large"),
        ({"data": "text"}, "Outer.data: expected bytes, got str"),
        ({"colour": "green"}, "Outer.colour: expected one of red, blue"),
        ({"colour": ["red"]}, "Outer.colour: expected one of red, blue"),
        ({"items": {"number": 1}}, "Outer.items: expected a list, got dict"),
        ({"items": "ab"}, "Outer.items: expected a list, got str"),
        ({"items": [{"number": 1}, {}]}, "Outer.items[1].number: missing"),
        ({"items": [{"number": True}]}, "Outer.items[0].number: expected int, got bool"),
        ({"items": [{"number": 1, "text": 2}]}, "Outer.items[0].text: expected str, got int"),
        ({"table": [1]}, "Outer.table: expected a map, got list"),
        ({"table": {"a": None}}, "Outer.table.a: expected int or str, got NoneType"),
        ({"table": {1: 1}}, "Outer.table.1: expected str, got int"),
        ({"inner": {"number": "x"}}, "Outer.inner.number: expected int, got str"),
        ({"inner": 3}, "Outer.inner: expected a map, got int"),
        ({"either": "x"}, "Outer.either: expected a list, got str (or int)"),
        ({"either": [1]}, "Outer.either[0]: expected str, got int"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode(Outer, {**FULL, **change})
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [None, 1, "text", [], [("name", "n")], b""])
def test_what_is_no_map_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^there: expected a map, got "):
        decode(Outer, value, "there")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"^Outer\.name: missing$"):
        decode(Outer, {})


inners = st.builds(Inner, st.integers(), st.none() | st.text())
outers = st.builds(
    Outer,
    name=st.text(),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    data=st.binary(),
    colour=st.sampled_from(Colour),
    items=st.lists(inners, max_size=4).map(tuple),
    table=st.dictionaries(st.text(), st.integers() | st.text(), max_size=4),
    inner=st.none() | inners,
    either=st.none() | st.integers() | st.lists(st.text(), max_size=3).map(tuple),
)


@given(outers)
def test_encode_then_decode_is_the_same(value: Outer) -> None:
    assert decode(Outer, encode(value)) == value


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@given(anything)
def test_anything_is_decoded_or_refused_with_a_value_error(value: object) -> None:
    for model in (Submission, Session, StepNote, Outer):
        try:
            decode(model, value)
        except ValueError as error:
            assert str(error).startswith(model.__name__)


@given(st.sampled_from(sorted(FULL)), anything)
def test_a_field_of_any_type_is_decoded_or_named(key: str, value: object) -> None:
    try:
        decode(Outer, {**FULL, key: value})
    except ValueError as error:
        assert str(error).startswith(f"Outer.{key}")
