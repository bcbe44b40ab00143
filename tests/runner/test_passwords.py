"""Passwords of accounts: never seen by a script, kept by what it does to the account files (P1)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shannotctl.client import Client, ScriptKind, Session, State, Submission
from shannotd.runner import passwords
from shannotd.runner.frames import RunnerError
from shannotd.runner.passwords import NO_PASSWORDS, Passwords, Shown, take_from
from shannotd.wire.errors import InvalidRequest
from tests.support.accounts import is_root
from tests.support.daemon import Daemon, running_daemon
from tests.support.private_system import PrivateSystem, private_system, submitted

pytestmark = pytest.mark.P1

HASH = "$6$abcdefgh$" + "0123456789" * 8
OTHER = "$y$j9T$" + "ABCDEFGHIJ" * 6
TEXT = f"root:{HASH}:19000:0:99999:7:::\nbin:*:1::::::\nann:!{OTHER}:2::::::\nbob:!:3::::::\n"

needs_root = pytest.mark.skipif(not is_root(), reason="scripts of root")


@pytest.fixture
def shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as one of those with passwords."""
    path = tmp_path / "shadow"
    path.write_text(TEXT)
    monkeypatch.setattr(passwords, "FILES", (str(path), str(path) + "-"))
    return path


@contextmanager
def opened(data: bytes) -> Iterator[tuple[int, int]]:
    """A descriptor and the size of a file with this content."""
    descriptor = os.memfd_create("content")
    try:
        os.write(descriptor, data)
        yield descriptor, len(data)
    finally:
        os.close(descriptor)


def restored(taken: Passwords, path: Path, data: bytes) -> bytes | None:
    with opened(data) as (descriptor, size):
        return Shown(taken, ["/scratch/**"]).restored(str(path), descriptor, size)


def test_a_view_has_tokens_for_passwords_and_all_else_as_it_is(shadow: Path) -> None:
    left, taken = take_from(["/a", str(shadow)])
    assert left == ["/a"]
    view = taken.views[str(shadow)].decode()
    assert HASH not in view and OTHER not in view
    assert [line.split(":")[2:] for line in view.splitlines()] == [
        line.split(":")[2:] for line in TEXT.splitlines()
    ]
    fields = dict(line.split(":")[:2] for line in view.splitlines())
    assert (fields["bin"], fields["bob"]) == ("*", "!")
    assert fields["ann"].startswith("!$hidden-by-shannot$")
    assert restored(taken, shadow, view.encode()) == TEXT.encode()
    assert Shown(taken, []).concealed(str(shadow), TEXT.encode()) == view.encode()


def test_the_same_password_has_one_token_in_all_files(shadow: Path) -> None:
    backup = Path(f"{shadow}-")
    backup.write_text(TEXT)
    _, taken = take_from([str(shadow), str(backup)])
    assert taken.views[str(shadow)] == taken.views[str(backup)]
    assert len(taken.passwords) == 2


def test_where_nobody_has_a_password_there_is_nothing_to_hide(shadow: Path) -> None:
    shadow.write_text("root:*:1::::::\nann:!:2::::::\nold:x:3::::::\nempty::4::::::\nbroken\n")
    assert take_from([str(shadow)]) == ([], NO_PASSWORDS)


def test_what_cannot_be_shown_stays_hidden(shadow: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text(TEXT)
    shadow.unlink()
    assert take_from([str(shadow)])[0] == [str(shadow)]
    shadow.symlink_to(tmp_path / "there")
    assert take_from([str(shadow)])[0] == [str(shadow)]
    shadow.unlink()
    shadow.write_bytes(b"x" * (passwords.MAX_BYTES + 1))
    assert take_from([str(shadow)])[0] == [str(shadow)]


def test_what_a_script_does_to_lines_is_kept(shadow: Path) -> None:
    _, taken = take_from([str(shadow)])
    root, _, ann, bob = taken.views[str(shadow)].decode().splitlines()
    name, token, rest = root.split(":", 2)
    left = f"{bob}\nnew:{'$5$' + 'x' * 40}:9::::::\n{name}:!{token}:{rest}\n{ann}"
    found = restored(taken, shadow, left.encode())
    assert found is not None
    assert found.decode().splitlines() == [
        "bob:!:3::::::",
        f"new:{'$5$' + 'x' * 40}:9::::::",
        f"root:!{HASH}:19000:0:99999:7:::",
        f"ann:!{OTHER}:2::::::",
    ]


@pytest.mark.parametrize(
    "text",
    ["{token}:x:1::::::\n", "root:x{token}:1::::::\n", "root:x:{token}::::::\n", "{token}"],
)
def test_a_token_that_is_no_password_fails(shadow: Path, text: str) -> None:
    """Else it would be one where nobody conceals it."""
    _, taken = take_from([str(shadow)])
    token = next(iter(taken.passwords)).decode()
    with pytest.raises(RunnerError) as caught:
        restored(taken, shadow, text.format(token=token).encode())
    assert caught.value.code == "capture_failed"


def test_a_token_in_another_file_fails(shadow: Path, tmp_path: Path) -> None:
    _, taken = take_from([str(shadow)])
    view = taken.views[str(shadow)]
    long = b"\n" * (1024 * 1024 - 5) + view
    for data in (view, long):
        with pytest.raises(RunnerError):
            restored(taken, tmp_path / "copy", data)
        assert restored(taken, Path("/scratch/copy"), data) is None
    assert restored(taken, tmp_path / "copy", b"nothing of it") is None
    assert restored(NO_PASSWORDS, tmp_path / "copy", view) is None


# A script of root in a system of its own.


@pytest.fixture(scope="module")
def system() -> Iterator[PrivateSystem]:
    """A system in which accounts have passwords."""
    with private_system() as made:
        for name in ("shadow", "shadow-"):
            lines = made.path(f"/etc/{name}").read_text().splitlines()
            made.path(f"/etc/{name}").write_text(f"root:{HASH}:19000:0:99999:7:::\n")
            with made.path(f"/etc/{name}").open("a") as file:
                file.writelines(f"{line}\n" for line in lines if not line.startswith("root:"))
        yield made


@pytest.fixture(scope="module")
def daemon(system: PrivateSystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon of root's in it."""
    with running_daemon(tmp_path_factory.mktemp("d") / "d", prefix=system.prefix) as running:
        yield running


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client of it."""
    with daemon.client() as connected:
        yield connected


def approved(client: Client, session: Session) -> None:
    assert session.state is State.PENDING, session
    assert session.plan is not None
    client.approve(session.id, session.plan.digest)
    ended = client.wait(session.id)
    assert ended.state is State.EXECUTED, ended.error


@needs_root
def test_nobody_sees_a_password(client: Client) -> None:
    script = (
        "cat /etc/shadow /etc/shadow- /etc/gshadow; getent shadow root; stat -c %a%U /etc/shadow"
    )
    session = submitted(client, script)
    assert session.state is State.EXECUTED, session
    assert HASH.encode() not in session.stdout
    assert session.stdout.count(b"root:$hidden-by-shannot$") == 3
    assert session.stdout.endswith(b"640root\n")


@needs_root
@pytest.mark.P2
def test_accounts_are_made_changed_and_removed(client: Client, system: PrivateSystem) -> None:
    made = submitted(client, "useradd --create-home ann && usermod -L root && chage -M 30 root")
    text = "".join(step.diff or "" for step in made.plan.steps) if made.plan else ""
    assert HASH not in text and text.count("root:!$hidden-by-shannot$") >= 1
    before = system.accounts("/etc/shadow")
    approved(client, made)
    after = system.accounts("/etc/shadow")
    assert after["root"][1] == f"!{HASH}" and after["root"][4] == "30"
    assert after.keys() - before.keys() == {"ann"}
    assert {name: line for name, line in after.items() if name not in ("root", "ann")} == {
        name: line for name, line in before.items() if name != "root"
    }
    assert os.stat(system.path("/etc/shadow")).st_mode & 0o777 == 0o640
    assert system.path("/home/ann/.profile").exists()
    approved(client, submitted(client, "usermod -U root && userdel -r ann"))
    assert system.accounts("/etc/shadow")["root"][1] == HASH
    assert "ann" not in system.accounts("/etc/shadow") and "ann" not in system.accounts(
        "/etc/passwd"
    )
    assert not system.path("/home/ann").exists()


@needs_root
@pytest.mark.P2
@pytest.mark.parametrize("more", ["one:*:1::::::\n", None], ids=["longer", "shorter"])
def test_what_happens_to_accounts_meanwhile_is_not_the_scripts(
    client: Client, system: PrivateSystem, more: str | None
) -> None:
    shadow, marker = system.path("/etc/shadow"), system.path("/etc/marker")
    lines = shadow.read_text().splitlines(keepends=True)
    marker.write_text("wait\n")

    def change(_: object) -> None:
        shadow.write_text("".join(lines[:-1] if more is None else [*lines, more]))
        marker.write_text("go\n")

    script = "echo begun; until grep -q go /etc/marker; do :; done; echo x > /etc/mine"
    submission = Submission(ScriptKind.SHELL, script.encode(), cwd="/root")
    try:
        session = client.submit(submission, on_output=change)
        assert session.plan is not None, session.error
        assert [step.path for step in session.plan.steps] == ["/etc/mine"]
    finally:
        shadow.write_text("".join(lines))
        marker.unlink()


@needs_root
@pytest.mark.P3
def test_passwords_are_kept_around_a_command(client: Client, system: PrivateSystem) -> None:
    command = "logger --no-act --udp --server 127.0.0.1 --port 9 x"
    text = f"useradd bob; {command}; usermod -e 2030-01-01 root; useradd eve"
    approved(client, submitted(client, text))
    assert system.accounts("/etc/shadow")["root"][1] == HASH
    assert system.accounts("/etc/shadow")["root"][7] == "21915"
    approved(client, submitted(client, "userdel bob; userdel eve; usermod -e '' root"))


@needs_root
@pytest.mark.P7
def test_what_is_deleted_is_shown_without_passwords(client: Client) -> None:
    session = submitted(client, "rm /etc/shadow-")
    assert session.state is State.PENDING and session.plan is not None
    (step,) = session.plan.steps
    assert step.diff is not None and HASH not in step.diff
    assert "-root:$hidden-by-shannot$" in step.diff
    client.reject(session.id, "")


@needs_root
@pytest.mark.P2
@pytest.mark.P7
def test_a_change_of_a_plan_shows_no_password(client: Client, system: PrivateSystem) -> None:
    text = "usermod -e 2032-01-01 root; echo 'dan:*:1::::::' >>/etc/shadow-"
    session = submitted(client, text)
    plan = session.plan
    assert plan is not None
    index, after = next(
        (index, step.after) for index, step in enumerate(plan.steps) if step.path == "/etc/shadow"
    )
    appended, _ = next(
        (index, step) for index, step in enumerate(plan.steps) if step.path == "/etc/shadow-"
    )
    assert after is not None and after.sha256 is not None
    content = b"".join(client.blobs(session.id, after.sha256))
    edits = {index: content + f"carl:{OTHER}:2::::::\n".encode()}
    if plan.steps[appended].change == "append":
        edits[appended] = b"eric:*:1::::::\n"
    changed = client.amend(session.id, plan.digest, edits=edits)
    assert changed.plan is not None
    shown = changed.plan.steps[index].diff or ""
    assert "+carl:$hidden-by-shannot$" in shown and "root:$hidden-by-shannot$" in shown
    for step in changed.plan.steps:
        assert HASH not in (step.diff or "") and OTHER not in (step.diff or "")
    approved(client, changed)
    accounts = system.accounts("/etc/shadow")
    assert (accounts["root"][1], accounts["root"][7]) == (HASH, "22645")
    assert accounts["carl"][1] == OTHER
    approved(client, submitted(client, "usermod -e '' root; sed -i /carl/d /etc/shadow"))


@needs_root
@pytest.mark.parametrize(
    "text",
    [
        "cp /etc/shadow /root/copy",
        "mv /etc/shadow /etc/shadow.old",
        "ln /etc/shadow /etc/shannot-test-link",
        'echo "x:y:$(getent shadow root | cut -d: -f2)" >> /etc/shadow',
    ],
)
def test_a_password_goes_nowhere_else(client: Client, text: str) -> None:
    session = submitted(client, text)
    assert session.state is State.FAILED and session.error is not None, session.stderr
    assert session.error.code == "capture_failed" and HASH not in session.error.message
    assert session.plan is None or HASH not in str(session.plan)


@needs_root
def test_a_script_of_anybody_else_sees_nothing(tmp_path: Path, ordinary_account: str) -> None:
    config = f'[profiles.default]\nrun_as = "{ordinary_account}"\n'
    with running_daemon(tmp_path / "d", config=config) as running, running.client() as client:
        text = "cat /etc/shadow; head -c 5 /etc/passwd"
        session = client.submit(Submission(ScriptKind.SHELL, text.encode()))
        assert session.stdout == b"root:" and b"Permission denied" in session.stderr


@needs_root
def test_contents_are_not_there_for_others(client: Client) -> None:
    """Root sees all contents, since they are his."""
    session = submitted(client, "usermod -e 2031-01-01 root")
    assert session.plan is not None
    (after,) = [step.after for step in session.plan.steps if step.path == "/etc/shadow"]
    assert after is not None and after.sha256 is not None
    assert HASH.encode() in b"".join(client.blobs(session.id, after.sha256))
    with pytest.raises(InvalidRequest):
        list(client.blobs(session.id, "0" * 64))
    client.reject(session.id, "")
