"""Every error says what happened, travels with its details, and shows nothing raw."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.wire.errors import (
    ERRORS,
    CommandFailed,
    NotFound,
    ShannotError,
    Stale,
    error_from_wire,
)
from shannotd.wire.text import has_hidden

pytestmark = pytest.mark.P10

CLASSES = sorted(ERRORS.values(), key=lambda kind: kind.code)


def fields_of(kind: type[ShannotError]) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(kind.__doc__ or "") if name]


def subclasses(kind: type[ShannotError]) -> list[type[ShannotError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in subclasses(child))]


def test_every_class_is_known_by_a_code_of_its_own() -> None:
    codes = [kind.code for kind in subclasses(ShannotError)]
    assert sorted(codes) == sorted(set(codes)) == sorted(ERRORS)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.code)
def test_the_message_holds_every_detail(kind: type[ShannotError]) -> None:
    details = {name: f"<{name}>" for name in fields_of(kind)}
    message = str(kind(**details))
    for shown in details.values():
        assert shown in message
    assert "\n" not in message
    assert "{" not in message


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.code)
def test_the_message_survives_missing_and_foreign_details(kind: type[ShannotError]) -> None:
    assert str(kind(something_else=1))
    assert "None" not in str(kind(**dict.fromkeys(fields_of(kind))))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.code)
def test_the_exit_status_is_none_of_the_shells(kind: type[ShannotError]) -> None:
    assert 1 <= kind.exit_status < 126
    assert kind.exit_status != 3  # means: pending


@pytest.mark.P7
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.code)
def test_the_message_shows_nothing_raw(kind: type[ShannotError]) -> None:
    hostile = "\x1b[2J\u202e\u200b\n{0}{reason}\udcff"
    message = str(kind(**dict.fromkeys(fields_of(kind), hostile)))
    assert not has_hidden(message, keep="")
    if fields_of(kind):
        assert "\\e[2J\\u202e\\u200b\\n{0}{reason}\\xff" in message


details_values = st.none() | st.integers() | st.text(max_size=20)


@given(
    st.sampled_from(CLASSES),
    st.dictionaries(st.text(max_size=10) | st.sampled_from(["self", "cls"]), details_values),
)
def test_the_wire_and_back(kind: type[ShannotError], details: dict[str, str | int | None]) -> None:
    error = kind(**details)
    back = error_from_wire(error.to_wire())
    assert type(back) is kind
    assert back.details == details
    assert str(back) == str(error)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@given(
    anything
    | st.fixed_dictionaries({"code": anything, "message": anything, "details": anything})
    | st.fixed_dictionaries(
        {"code": st.sampled_from(sorted(ERRORS)), "message": anything, "details": anything}
    )
)
def test_any_answer_becomes_an_error_that_can_be_shown(value: object) -> None:
    error = error_from_wire(value)
    assert isinstance(error, ShannotError)
    assert not has_hidden(str(error), keep="")


def test_an_unknown_code_keeps_its_message() -> None:
    error = error_from_wire({"code": "of_next_year", "message": "the moon is full", "details": {}})
    assert type(error) is ShannotError
    assert "the moon is full" in str(error)


def test_details_are_kept_beside_the_message() -> None:
    error = Stale(path="/etc/x", expected="a", found="b", step=3)
    assert error.details["step"] == 3
    assert str(error).startswith("/etc/x is no longer what the dry run saw")
    assert NotFound(id="abc").to_wire()["code"] == "not_found"


@pytest.mark.P7
def test_steps_are_numbered_as_plans_show_them() -> None:
    error = CommandFailed(step=0, command="nginx -s reload", ending="ended with 1", expected=0)
    assert str(error).startswith("Step 1, the command nginx -s reload, ended with 1; ")
    assert error.to_wire()["details"] == error.details
    assert error.details["step"] == 0
