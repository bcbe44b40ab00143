"""Path patterns mean what they say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.policy.globs import (
    ancestors,
    compile_patterns,
    expand_braces,
    expand_home,
    matches,
    translate,
)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/etc/passwd", "/etc/passwd", True),
        ("/etc/passwd", "/etc/passwd-", False),
        ("/etc/passwd", "/srv/etc/passwd", False),
        ("/etc/*", "/etc/passwd", True),
        ("/etc/*", "/etc/.hidden", True),
        ("/etc/*", "/etc/ssh/sshd_config", False),
        ("/etc/*", "/etc", False),
        ("/etc/*.conf", "/etc/.conf", True),
        ("/etc/*.conf", "/etc/axconf", False),
        ("/home/*/.ssh/id_*", "/home/bob/.ssh/id_rsa", True),
        ("/home/*/.ssh/id_*", "/home/bob/x/.ssh/id_rsa", False),
        ("/tmp/**", "/tmp/a", True),
        ("/tmp/**", "/tmp/a/b/c", True),
        ("/tmp/**", "/tmp", False),
        ("/tmp/**", "/tmpx/a", False),
        ("**/__pycache__", "/__pycache__", True),
        ("**/__pycache__", "/a/b/__pycache__", True),
        ("**/__pycache__", "/a/b/x__pycache__", False),
        ("**/__pycache__/**", "/a/__pycache__/b", True),
        ("**/__pycache__/**", "/a/__pycache__", False),
        ("/a/**/z", "/a/z", True),
        ("/a/**/z", "/a/b/c/z", True),
        ("/a/**/z", "/a/b/c/y", False),
        ("/a?c", "/abc", True),
        ("/a?c", "/a/c", False),
        ("/a[b]c", "/abc", False),
        ("/a[b]c", "/a[b]c", True),
        ("/a\\*", "/a\\b", True),
        ("/a.c", "/abc", False),
        ("/**", "/", False),
        ("/**", "/a", True),
        ("/tmp/*", "/tmp/new\nline", True),
        ("/tmp/**", "/tmp/new\nline/x", True),
        ("/tmp/x", "/tmp/x\n", False),
        ("/tmp/*", "/tmp/\udcff\u202e", True),
    ],
)
def test_matches(pattern: str, path: str, expected: bool) -> None:
    assert matches(pattern, path) is expected


@pytest.mark.P10
@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "relative",
        "*",
        "**",
        "~/x",
        "/",
        "/a//b",
        "/a/",
        "/a/./b",
        "/../a",
        "/a**",
        "/a/**b",
        "/\0",
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError) as caught:
        translate(pattern)
    assert repr(pattern) in str(caught.value)


components = st.sampled_from(["a", "b", "ab", ".a", "a.b", "[a]", "a b"])
pattern_components = st.sampled_from(["a", "b", "*", "a*", "*b", "?", "??", "**", ".*", "*.*"])
patterns = st.tuples(st.booleans(), st.lists(pattern_components, min_size=1, max_size=4)).map(
    lambda drawn: ("**/" if drawn[0] else "/") + "/".join(drawn[1])
)
paths = st.lists(components, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))


def plain_match(pattern: list[str], path: list[str]) -> bool:
    """The documented meaning, written down without a regular expression."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return len(path) >= 1
        return plain_match(pattern[1:], path) or (bool(path) and plain_match(pattern, path[1:]))
    return (
        bool(path) and component_match(pattern[0], path[0]) and plain_match(pattern[1:], path[1:])
    )


def component_match(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return component_match(pattern[1:], name) or (
            bool(name) and component_match(pattern, name[1:])
        )
    return bool(name) and pattern[0] in ("?", name[0]) and component_match(pattern[1:], name[1:])


@given(patterns, paths)
def test_the_expression_means_the_pattern(pattern: str, path: str) -> None:
    expected = plain_match(pattern.removeprefix("/").split("/"), path[1:].split("/"))
    assert matches(pattern, path) is expected


@given(st.lists(patterns, max_size=4), paths)
def test_several_patterns_match_what_one_of_them_does(several: list[str], path: str) -> None:
    together = compile_patterns(several).fullmatch(path) is not None
    assert together is any(matches(pattern, path) for pattern in several)


@given(patterns, paths)
def test_an_ancestor_holds_the_paths(pattern: str, path: str) -> None:
    """The directories of a matched path, as far as the pattern names them, are ancestors."""
    if "**" in pattern or not matches(pattern, path):
        return
    parts = path[1:].split("/")
    for length in range(1, len(parts)):
        directory = "/" + "/".join(parts[:length])
        assert any(matches(ancestor, directory) for ancestor in ancestors(pattern))


def test_ancestors() -> None:
    assert ancestors("/etc/ssh/sshd_config") == ("/etc", "/etc/ssh")
    assert ancestors("/etc/systemd/**") == ("/etc", "/etc/systemd")
    assert ancestors("/home/*/.ssh/x") == ("/home", "/home/*", "/home/*/.ssh")
    assert ancestors("**/.ssh/x") == ("**/.ssh",)
    assert ancestors("**/.bashrc") == ()
    assert ancestors("/top") == ()


def test_braces_and_homes() -> None:
    assert expand_braces("/{a,b/c}/{d,}x") == ("/a/dx", "/a/x", "/b/c/dx", "/b/c/x")
    assert expand_braces("/plain") == ("/plain",)
    assert expand_home("~/.ssh") == ("/root/.ssh", "/home/*/.ssh")
    assert expand_home("/x~/y") == ("/x~/y",)


def test_no_pattern_at_all_matches_nothing() -> None:
    assert compile_patterns([]).fullmatch("") is None
    assert isinstance(compile_patterns([]), re.Pattern)
