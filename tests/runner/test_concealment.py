"""What a warm sandbox hides is what its job is to have hidden, whatever happens meanwhile (P1)."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from shannotd.runner import kernel, passwords
from shannotd.runner.concealment import Concealment, DirectoryWatch
from shannotd.runner.passwords import NO_PASSWORDS
from tests.runner import overlays
from tests.support.accounts import is_root
from tests.support.processes import descendants, inner_pid
from tests.support.runner import RunnerProcess

pytestmark = pytest.mark.P1

Fresh = Callable[..., AbstractContextManager[RunnerProcess]]


@contextmanager
def new_home() -> Iterator[Path]:
    """A directory on a filesystem that tells of every change."""
    with overlays.workplace(overlays.ourselves()) as directory:
        home = directory / "home"
        (home / "keys").mkdir(parents=True)
        (home / "keys/one").touch()
        (home / "other").touch()
        yield home


@pytest.fixture
def home() -> Iterator[Path]:
    """That of one test."""
    with new_home() as home:
        yield home


def undisturbed(test: Callable[[Path], None]) -> Callable[[], None]:
    """Repeat a `test` that fails, in a new home, where others changed a directory above meanwhile.

    Then all is masked anew, as it should be.
    """

    def repeated() -> None:
        while True:
            with new_home() as home:
                above = home.parent.parents
                before = [path.stat().st_ctime_ns for path in above]
                try:
                    return test(home)
                except AssertionError:
                    if [path.stat().st_ctime_ns for path in above] == before:
                        raise

    functools.update_wrapper(repeated, test)
    del repeated.__wrapped__  # type: ignore[attr-defined]  # pytest would look for its fixtures
    return repeated


@pytest.fixture
def hidden(home: Path) -> Iterator[Concealment]:
    """What is hidden of it."""
    one = Concealment(patterns(home), [])
    assert one.paths == [str(home / "keys/one")]
    yield one
    one.close()


def differs(one: Concealment, patterns: list[str]) -> tuple[list[str], list[str]]:
    """What is to be masked beside what is, and what not any more."""
    found = one.difference(patterns)
    return found.masked, found.shown


SAME: tuple[list[str], list[str]] = ([], [])


def patterns(home: Path) -> list[str]:
    """Those of the tests."""
    return [f"{home}/keys/*", f"{home}/token", f"{home}/later/token"]


@undisturbed
def test_as_long_as_nothing_changes_nothing_differs(home: Path) -> None:
    with closing(Concealment(patterns(home), [])) as hidden:
        assert differs(hidden, patterns(home)) == SAME
        (home / "other").write_text("content says nothing of names")
        assert differs(hidden, patterns(home)) == SAME


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ("keys/two", ["keys/one", "keys/two"]),
        ("token", ["keys/one", "token"]),
        ("later/token", ["keys/one", "later/token"]),
    ],
)
def test_what_came_since_differs(
    home: Path, hidden: Concealment, new: str, expected: list[str]
) -> None:
    (home / new).parent.mkdir(exist_ok=True)
    (home / new).touch()
    masked = [str(home / name) for name in expected]
    for _ in range(2):
        assert differs(hidden, patterns(home)) == (masked, [str(home / "keys/one")])


def test_where_a_directory_above_has_changed_it_is_masked_anew(
    home: Path, hidden: Concealment
) -> None:
    (home / "unimportant").touch()
    one = [str(home / "keys/one")]
    assert differs(hidden, patterns(home)) == (one, one)


@undisturbed
def test_what_changed_elsewhere_differs_in_nothing(home: Path) -> None:
    (home / "later").mkdir()
    with closing(Concealment(patterns(home), [])) as one:
        (home / "later/unimportant").touch()
        assert differs(one, patterns(home)) == SAME
        (home / "later/token").touch()
        assert differs(one, patterns(home)) == ([str(home / "later/token")], [])


def remove(home: Path) -> None:
    (home / "keys/one").unlink()


def rename(home: Path) -> None:
    (home / "keys").rename(home / "old")
    (home / "keys").mkdir()
    (home / "keys/one").touch()


def widen(home: Path) -> None:
    (home / "keys").chmod(0o700)


def replace_by_directory(home: Path) -> None:
    (home / "keys/one").unlink()
    (home / "keys/one").mkdir()


@pytest.mark.parametrize("change", [remove, rename, widen, replace_by_directory])
def test_what_masks_hold_on_to_is_as_it_was(
    home: Path, hidden: Concealment, change: Callable[[Path], None]
) -> None:
    change(home)
    one = [str(home / "keys/one")]
    assert differs(hidden, patterns(home)) == ([] if change is remove else one, one)


@undisturbed
def test_other_patterns_hide_something_else(home: Path) -> None:
    one, other = str(home / "keys/one"), str(home / "other")
    with closing(Concealment(patterns(home), [])) as hidden:
        # Of the third the pattern is another.
        wanted = ([other], [one, other], [one], patterns(home))
        found = [differs(hidden, each) for each in wanted]
        assert found == [([other], [one]), ([other], []), SAME, SAME]


@undisturbed
def test_where_a_link_leads_may_change_unheard(home: Path) -> None:
    """So what it leads to is looked up each time."""
    (home / "far").mkdir()
    (home / "far/secret").touch()
    (home / "way").symlink_to(home / "far")
    (home / "token").symlink_to(home / "way/secret")
    with closing(Concealment([f"{home}/token"], [])) as one:
        assert one.paths == [str(home / "far/secret")]
        assert differs(one, [f"{home}/token"]) == SAME
        shutil.copytree(home / "far", home / "near")
        (home / "way").unlink()
        (home / "way").symlink_to(home / "near")
        assert differs(one, [f"{home}/token"])[0] == [str(home / "near/secret")]


@undisturbed
def test_files_of_accounts_are_shown_to_root_with_tokens(home: Path) -> None:
    shadow = str(home / "shadow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "FILES", (shadow,))
        account_files_are_shown(home, shadow)


def account_files_are_shown(home: Path, shadow: str) -> None:
    Path(shadow).write_text(f"root:$6$salt${'x' * 80}:1::::::\n")
    hide = [*patterns(home), shadow]
    with closing(Concealment(hide, [], for_root=True)) as one:
        assert one.paths == [str(home / "keys/one")]
        found = one.difference(hide, for_root=True)
        assert (found.masked, found.shown) == SAME
        assert "$6$" not in found.passwords.views[shadow].decode()
        for name in ("ann", "bob"):  # in place: no name in any directory tells of it
            Path(shadow).write_text(f"{name}:$6$salt${'x' * 80}:1::::::\n")
            view = one.difference(hide, for_root=True).passwords.views[shadow].decode()
            assert view.startswith(f"{name}:$hidden")
        other = one.difference(hide)
        assert (other.masked, other.shown, other.passwords) == ([shadow], [], NO_PASSWORDS)
    with closing(Concealment(hide, [])) as two:
        assert two.paths == [str(home / "keys/one"), shadow]
        assert two.difference(hide, for_root=True).shown == [shadow]


def test_what_is_always_hidden_may_come_later(home: Path) -> None:
    one = Concealment([], [str(home / "later/state")])
    assert differs(one, []) == SAME
    (home / "later/state").mkdir(parents=True)
    assert differs(one, []) == ([str(home / "later/state")], [])
    one.close()


def test_only_where_every_change_is_told_of_it_is_relied_upon(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = DirectoryWatch()
    assert watch.add([str(home), str(home / "missing"), str(home / "other/below-a-file")])
    (home / "link").symlink_to("keys")
    assert not watch.add([str(home / "link")])
    assert not watch.add(["/proc/1"])  # the kernel's own, whose names come and go unheard
    assert not watch.add([str(home / str(number)) for number in range(2000)])
    watch.close()

    def none() -> int:
        raise OSError("no more of them")

    monkeypatch.setattr(kernel, "inotify_init", none)
    without = DirectoryWatch()
    assert not without.add([str(home)])
    without.close()
    one = Concealment([f"{home}/token"], [])
    (home / "token").touch()
    assert differs(one, [f"{home}/token"]) == ([str(home / "token")], [])
    one.close()


def test_a_directory_that_may_be_entered_but_not_listed_is_not_relied_upon(home: Path) -> None:
    if not is_root():
        pytest.skip("becomes another account")

    def work() -> list[bool]:
        (home / "keys").chmod(0o711)
        (home / "closed").mkdir(mode=0o700)
        os.setresuid(65534, 65534, 65534)
        watch = DirectoryWatch()
        return [watch.add([str(home / name)]) for name in ("keys", "closed")]

    for directory in (home, home.parent):
        directory.chmod(0o755)
    # Nobody enters the second one without a change of its mode, of which the one above tells.
    assert overlays.in_child(work) == [False, True]


# The same by real sandboxes.


def warm(runner: RunnerProcess, hide: list[str]) -> Path:
    """Wait for a sandbox that was built for `hide`; its table of mounts."""
    lists = {"hide": hide, "scratch": [], "deny": [], "inside": ["*"], "always": []}
    runner.ask({"op": "pool", "size": 1, "usual": {"run_as": None, **lists}})
    while not runner.ask({"op": "hello"})["ready"]:
        pass
    for pid in descendants(runner.process.pid):
        if inner_pid(pid) == 1:
            return Path(f"/proc/{pid}/mountinfo")
    raise AssertionError("no sandbox is warm")


LOOK = "cd {place}; ls -A . keys; cat keys/* token key-ring/* 2>&1 | sort; echo end"


def add(place: Path) -> None:
    (place / "keys/two").write_text("SECRET\n")
    (place / "token").write_text("SECRET\n")


def take(place: Path) -> None:
    (place / "keys/one").unlink()


def swap(place: Path) -> None:
    (place / "keys").rename(place / "old")
    (place / "keys").mkdir()
    (place / "keys/one").write_text("SECRET\n")
    (place / "keys/public").write_text("plain\n")


@pytest.mark.parametrize("change", [None, add, take, swap])
def test_a_warm_sandbox_hides_what_is_there_now(
    fresh: Fresh, place: Path, change: Callable[[Path], None] | None
) -> None:
    (place / "keys").mkdir()
    (place / "keys/one").write_text("SECRET\n")
    place.chmod(0o755)
    for path in (place / "keys", place / "keys/one"):
        os.chown(path, place.stat().st_uid, place.stat().st_gid)
    hide = [f"{place}/{name}" for name in ("keys/one", "keys/two", "token")]
    with fresh() as runner:
        table = warm(runner, hide)
        assert f"{place}/keys/one " in table.read_text()
        if change is not None:
            change(place)
        shown = [
            "keys",
            *(["old"] if change is swap else []),
            *(["token"] if change is add else []),
        ]
        names = sorted(path.name for path in (place / "keys").iterdir())
        outcome = runner.run("shell", LOOK.format(place=place), hide=hide)
    lines = outcome.stdout.decode().splitlines()
    assert outcome.error is None
    assert "SECRET" not in lines
    assert ("plain" in lines) is (change is swap)
    assert [line for line in lines if line in {*shown, *names}] == [*shown, *names]
