"""Options of programs: what is not declared is never taken for harmless."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.policy.options import Options

OPTIONS = Options("-ab -n= -w[=] --all --lines= --color[=]")


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ([], [], []),
        (["-a", "-b"], ["-a", "-b"], []),
        (["-ab", "x"], ["-a", "-b"], ["x"]),
        (["-an5", "x"], ["-a", "-n"], ["x"]),
        (["-n", "5", "x"], ["-n"], ["x"]),
        (["-n5"], ["-n"], []),
        (["-n", "-a"], ["-n"], []),
        (["--lines=5"], ["--lines"], []),
        (["--lines", "5", "x"], ["--lines"], ["x"]),
        (["--color", "x"], ["--color"], ["x"]),
        (["--color=never"], ["--color"], []),
        (["-w", "x"], ["-w"], ["x"]),
        (["-w80"], ["-w"], []),
        (["-wab"], ["-w"], []),
        (["x", "-a", "y"], ["-a"], ["x", "y"]),
        (["-a", "--", "-z", "--vacuum"], ["-a"], ["-z", "--vacuum"]),
        (["-"], [], ["-"]),
    ],
)
def test_arguments_are_read(arguments: list[str], options: list[str], words: list[str]) -> None:
    read = OPTIONS.read(arguments)
    assert read is not None
    assert read.options == frozenset(options)
    assert [arguments[number] for number in read.words] == words


@pytest.mark.P1
@pytest.mark.parametrize(
    "arguments",
    [
        ["-z"],
        ["-az"],
        ["--vacuum"],
        ["--li=5"],
        ["--al"],
        ["--all=x"],
        ["-n"],
        ["--lines"],
        ["x", "-z"],
    ],
)
def test_what_is_not_declared_is_unknown(arguments: list[str]) -> None:
    assert OPTIONS.read(arguments) is None


def test_values_are_given_back() -> None:
    read = OPTIONS.read(["-n5", "-n", "6", "--lines=7", "--lines", "8", "-a"])
    assert read is not None and read.values == ("5", "6", "7", "8")


def test_tolerant_reading_takes_the_rest_for_flags() -> None:
    read = OPTIONS.read(["-z", "--other=1", "-n", "5", "x", "--lines"], tolerant=True)
    assert read is not None and read.words == (4,)


def test_exact_options_are_never_combined() -> None:
    exact = Options("-br -f= -color[=]", exact=True)
    read = exact.read(["-br", "-f", "inet", "-color=auto", "a"])
    assert read is not None and read.words == (4,)
    for arguments in (["-b"], ["-brf"], ["-br=1"], ["-batch", "x"]):
        assert exact.read(arguments) is None
    assert exact.read(["-x", "a"], tolerant=True) is not None


@pytest.mark.parametrize("text", ["a", "-", "-ab=", "--x=y", "-a=b"])
def test_a_wrong_declaration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="options: "):
        Options(text)


@pytest.mark.P1
@given(st.lists(st.text(alphabet="-abnwz=x", max_size=5), max_size=6))
def test_every_option_that_is_read_is_declared(arguments: list[str]) -> None:
    read = OPTIONS.read(arguments)
    if read is None:
        return
    assert read.options <= {"-a", "-b", "-n", "-w", "--all", "--lines", "--color"}
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for number, argument in enumerate(before):
        unread = argument.startswith("-") and argument != "-" and number in read.words
        assert not unread or "--" in arguments
