"""How the words after `submit` are sorted."""

from __future__ import annotations

import pytest

from shannotctl.cli.commandline import SubmitLine, read_submit

FLAGS = {"--wait", "--json", "--help", "-h"}
INLINE = {"-c", "--sh"}
VALUED = {"--name", "--timeout", "--cwd", *INLINE}


def read(*words: str) -> SubmitLine:
    return read_submit(words, FLAGS, VALUED, INLINE)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], SubmitLine(())),
        (["x.py"], SubmitLine((), "x.py")),
        (["-"], SubmitLine((), "-")),
        (["-", "a"], SubmitLine((), "-", None, ("a",))),
        (["--json", "x.py"], SubmitLine(("--json",), "x.py")),
        (["x.py", "--json"], SubmitLine(("--json",), "x.py")),
        (["x.py", "--name", "n", "a"], SubmitLine(("--name", "n"), "x.py", None, ("a",))),
        (["x.py", "a", "--json"], SubmitLine((), "x.py", None, ("a", "--json"))),
        (["x.py", "--verbose", "--json"], SubmitLine((), "x.py", None, ("--verbose", "--json"))),
        (["x.py", "-v"], SubmitLine((), "x.py", None, ("-v",))),
        (["x.py", "--", "--json"], SubmitLine((), "x.py", None, ("--json",))),
        (["x.py", "--json", "--", "--json"], SubmitLine(("--json",), "x.py", None, ("--json",))),
        (["x.py", "a", "--", "b"], SubmitLine((), "x.py", None, ("a", "--", "b"))),
        (["x.py", "--"], SubmitLine((), "x.py", None, ())),
        (["x.py", "-", "a"], SubmitLine((), "x.py", None, ("-", "a"))),
        (["x.py", ""], SubmitLine((), "x.py", None, ("",))),
        (["--", "ls", "-l", "--json"], SubmitLine((), None, ("ls", "-l", "--json"))),
        (["--json", "--", "ls"], SubmitLine(("--json",), None, ("ls",))),
        (["--", "env", "--", "ls"], SubmitLine((), None, ("env", "--", "ls"))),
        (["--", "-"], SubmitLine((), None, ("-",))),
        (["--"], SubmitLine((), None, ())),
        (["-c", "print(1)"], SubmitLine(("-c", "print(1)"))),
        (["-cprint(1)", "a"], SubmitLine(("-cprint(1)",), None, None, ("a",))),
        (["-c", "x", "--json", "a"], SubmitLine(("-c", "x", "--json"), None, None, ("a",))),
        (["-c", "--", "a"], SubmitLine(("-c", "--"), None, None, ("a",))),
        (["-c", "x", "--", "--json"], SubmitLine(("-c", "x"), None, None, ("--json",))),
        (["--sh", "ls", "-l"], SubmitLine(("--sh", "ls"), None, None, ("-l",))),
        (["--sh=ls", "a"], SubmitLine(("--sh=ls",), None, None, ("a",))),
        (["--name=n", "x.py"], SubmitLine(("--name=n",), "x.py")),
        (["--name", "--json", "x.py"], SubmitLine(("--name", "--json"), "x.py")),
        (["--name"], SubmitLine(("--name",), unfinished=True)),
        (["x.py", "-c"], SubmitLine(("-c",), "x.py", unfinished=True)),
        (["--nonsense", "x.py"], SubmitLine(("--nonsense",), "x.py")),
        (["-c", "x", "-c", "y"], SubmitLine(("-c", "x", "-c", "y"))),
        (["-c", "x", "f.py"], SubmitLine(("-c", "x"), None, None, ("f.py",))),
    ],
)
def test_words_are_sorted(words: list[str], expected: SubmitLine) -> None:
    assert read(*words) == expected


def test_no_word_is_lost_or_invented() -> None:
    words = ["--name", "n", "x.py", "--wait", "a", "--", "--json", "-"]
    line = read(*words)
    assert [*line.options[:2], line.file, *line.options[2:], *line.arguments] == words
