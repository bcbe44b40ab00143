"""Which colours texts get; the text stays what it is."""

from __future__ import annotations

import pytest

from shannotctl.review import syntax
from shannotctl.review.spans import plain
from shannotctl.review.syntax import coloured, lexer_for, script_lexer
from shannotd.wire.submission import ScriptKind


@pytest.mark.parametrize(
    ("path", "first", "name"),
    [
        ("/srv/x.py", "", "Python"),
        ("/etc/x.service", "", "INI"),
        ("/etc/foo.repo", "", "INI"),
        ("/usr/bin/tool", "#!/bin/bash", "Bash"),
        ("/usr/bin/tool", "#!/usr/bin/env python3", "Python"),
        ("/usr/bin/tool", "#!/nowhere/at-all", None),
        ("/usr/bin/tool", "no script", None),
        ("/", "", None),
    ],
)
def test_the_name_or_the_first_line_tells_what_a_file_is(
    path: str, first: str, name: str | None
) -> None:
    lexer = lexer_for(path, first)
    found = None if lexer is None else lexer.name
    if name is None:
        assert found in (None, "Text only")
    else:
        assert found == name or (name == "INI" and found is not None)


@pytest.mark.parametrize(
    ("kind", "name", "first", "lexer"),
    [
        (ScriptKind.PYTHON, "x", "import os", "Python"),
        (ScriptKind.SHELL, "x", "ls", "Bash"),
        (ScriptKind.FILE, "fix.rb", "x", "Ruby"),
        (ScriptKind.FILE, "fix", "import os", "Python"),
        (ScriptKind.COMMAND, "ls", "ls", None),
    ],
)
def test_what_was_handed_in(kind: ScriptKind, name: str, first: str, lexer: str | None) -> None:
    found = script_lexer(kind, name, first)
    assert (None if found is None else found.name) == lexer


def test_roles_of_words() -> None:
    lines = coloured(
        ["# why", "class A:", "    x = 'a' + str(12)", "", "def f(): return None"],
        lexer_for("x.py"),
    )
    roles = [{span.role for span in line if span.role} for line in lines]
    assert roles == [
        {"comment"},
        {"keyword", "name"},
        {"string", "name", "number"},
        set(),
        {"keyword", "name"},
    ]


@pytest.mark.P7
@pytest.mark.parametrize(
    "texts",
    [
        ["", "  ", "\f", "x = 1  ", ""],
        ["x" * 10_000],
        ["'''", "never closed"],
        ["y = 1"] * 50_000,
    ],
    ids=["blanks", "long", "open", "large"],
)
def test_the_text_stays_what_it_is(texts: list[str]) -> None:
    assert [plain(line) for line in coloured(texts, lexer_for("x.py"))] == texts


@pytest.mark.P10
def test_a_text_that_takes_too_long_is_shown_without_colours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(syntax, "_MOST_SECONDS", -1.0)
    (line,) = coloured(["x = 1"], lexer_for("x.py"))
    assert plain(line) == "x = 1" and [span.role for span in line] == [""]
