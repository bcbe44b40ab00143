"""What the `hide` patterns find on the host (P1)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shannotd.runner.hiding import hidden_paths, search

pytestmark = pytest.mark.P1


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("a/.ssh/id_rsa", "a/.ssh/config", "b/.ssh/id_ed25519", "b/.aws/credentials"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "[x]").write_text("x")
    return tmp_path.resolve()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/.ssh/id_*", ["a/.ssh/id_rsa", "b/.ssh/id_ed25519"]),
        ("*/.aws", ["b/.aws"]),
        ("?/.ssh", ["a/.ssh", "b/.ssh"]),
        ("a/*", ["a/.ssh"]),
        ("[x]", ["[x]"]),
        ("**/config", ["a/.ssh/config"]),
        ("b/**", ["b/.aws", "b/.ssh"]),
        ("nothing/at/all", []),
        ("a/.ssh/id_rsa/below-a-file", []),
    ],
)
def test_patterns(home: Path, pattern: str, expected: list[str]) -> None:
    assert hidden_paths([f"{home}/{pattern}"], []) == [f"{home}/{name}" for name in expected]


def test_only_the_outermost_and_what_exists(home: Path) -> None:
    patterns = [f"{home}/a/.ssh/id_rsa", f"{home}/a", f"{home}/a/.ssh"]
    assert hidden_paths(patterns, [f"{home}/b", f"{home}/missing"]) == [f"{home}/a", f"{home}/b"]


def test_a_name_that_begins_like_another_is_another(home: Path) -> None:
    (home / "a-b").mkdir()
    assert hidden_paths([f"{home}/a", f"{home}/a-b"], []) == [f"{home}/a", f"{home}/a-b"]


def test_many_names_of_one_directory(home: Path) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    assert hidden_paths([f"{home}/{name}" for name in names], []) == [f"{home}/a", f"{home}/b"]


def test_links_are_followed_where_their_owner_may_say_so(home: Path) -> None:
    (home / "own").symlink_to("a")
    assert hidden_paths([f"{home}/own"], []) == [f"{home}/a"]
    (home / "dangling").symlink_to("nowhere")
    assert hidden_paths([f"{home}/dangling"], []) == []
    if os.geteuid() == 0:
        (home / "planted").symlink_to("/usr")
        os.lchown(home / "planted", 65534, 65534)
        assert hidden_paths([f"{home}/planted"], []) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives links to another account")
def test_links_to_directories_lead_to_what_is_their_owners(home: Path) -> None:
    """`~/.local` that leads to /usr would hide /usr/share/keyrings from root's scripts."""
    places = [home / "usr/share/keyrings", home / "theirs/share/keyrings"]
    for place in places:
        place.mkdir(parents=True)
    os.chown(places[1], 65534, 65534)
    pattern = f"{home}/*/.local/share/keyrings"
    for target, link in (("usr", "a/.local"), ("theirs", "b/.local")):
        (home / link).symlink_to(home / target)
    assert hidden_paths([pattern], []) == [str(places[1]), str(places[0])]
    for link in ("a/.local", "b/.local"):
        os.chown(home / link, 65534, 65534, follow_symlinks=False)
    assert hidden_paths([pattern], []) == [str(places[1])]
    assert hidden_paths([f"{home}/a/**/keyrings"], []) == []


def test_what_is_not_there_leads_nowhere(home: Path) -> None:
    """Only where links were followed must the search be repeated for each script."""
    patterns = [f"{home}/a/.m2/settings.xml", f"{home}/*/.local/share/keyrings", f"{home}/none"]
    assert not search(patterns, []).followed
    (home / "none").symlink_to("a")
    assert search(patterns, []).followed


def test_masses_in_a_directory_hide_all_of_it(home: Path) -> None:
    """Each is a mount in every sandbox: one account must not slow down all the others (P10)."""
    for number in range(101):
        (home / f"a/.ssh/{number}.pem").write_text("x")
    if os.getuid() == 0:
        for path in (home / "a/.ssh", *(home / "a/.ssh").iterdir()):
            os.chown(path, 12345, -1)
    (home / "a/.ssh/100.pem").unlink()
    pattern = f"{home}/*/.ssh/*.pem"
    assert len(hidden_paths([pattern], [])) == 100
    (home / "a/.ssh/100.pem").write_text("x")
    if os.getuid() == 0:
        assert len(hidden_paths([pattern], [])) == 101, "one of them is another's"
        os.chown(home / "a/.ssh/100.pem", 12345, -1)
    assert hidden_paths([pattern], []) == [f"{home}/a/.ssh"]
    if os.getuid() == 0:
        os.chown(home / "a/.ssh", 0, -1)
        assert len(hidden_paths([pattern], [])) == 101


def test_never_the_root() -> None:
    assert hidden_paths(["/"], ["/"]) == []
