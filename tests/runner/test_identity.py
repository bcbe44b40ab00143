"""Under whom scripts run, and the floor that no daemon widens (P5, P8)."""

from __future__ import annotations

import hashlib
import os
import pwd
from pathlib import Path

import pytest

from shannotd.runner import identity, kernel
from shannotd.runner.frames import RunnerError
from shannotd.runner.identity import Floor
from shannotd.runner.plan import Identity
from tests.runner import overlays
from tests.support.accounts import is_root

needs_root = pytest.mark.skipif(not is_root(), reason="the file is root's, accounts are made")


def floor(directory: Path, text: str | bytes, mode: int = 0o644) -> Floor:
    path = directory / "runner.conf"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return identity.read_floor(str(path))


def test_without_a_file_all_is_allowed(tmp_path: Path) -> None:
    assert identity.read_floor(str(tmp_path / "missing")) == Floor(None, ())


@needs_root
def test_what_the_file_says(tmp_path: Path) -> None:
    text = "[identities]\nallowed = a, b\n  c\n[paths]\nprotected = /etc/sudoers,/boot\n"
    assert floor(tmp_path, text) == Floor(("a", "b", "c"), ("/etc/sudoers", "/boot"))
    assert floor(tmp_path, "[identities]\nallowed =\n") == Floor((), ())
    assert floor(tmp_path, "[paths]\nprotected = /a%b\n") == Floor(None, ("/a%b",))
    text = "[programs]\nprotected = /usr/sbin/visudo\n"
    assert floor(tmp_path, text) == Floor(None, (), ("/usr/sbin/visudo",))
    assert floor(tmp_path, "", 0o600) == Floor(None, ())


@needs_root
@pytest.mark.P8
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("allowed = root\n", "no section headers"),
        ("[identities]\nallowed\n", "parsing errors"),
        ("[identities]\nallowed = a\nallowed = b\n", "already exists"),
        ("[identities]\nforbidden = a\n", "unknown key [identities] forbidden"),
        ("[identity]\nallowed = a\n", "unknown key [identity] allowed"),
        # What stands there would hold in no section, and so allow everybody.
        ("[DEFAULT]\nallowed = a\n", "unknown key [DEFAULT] allowed"),
        (b"[identities]\nallowed = \xff\n", "decode"),
    ],
)
def test_a_file_that_is_not_understood_allows_nothing(
    text: str | bytes, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(RunnerError) as raised:
        floor(tmp_path, text)
    assert raised.value.code == "config"
    assert reason in str(raised.value.details["reason"])
    assert raised.value.details["path"] == str(tmp_path / "runner.conf")


@needs_root
@pytest.mark.P8
@pytest.mark.parametrize("kind", ["group", "others", "owner", "symlink", "directory", "fifo"])
def test_a_file_that_others_could_have_written_allows_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "runner.conf"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path, 0o644)
    elif kind == "symlink":
        (tmp_path / "real").write_text("[identities]\n")
        path.symlink_to("real")
    else:
        path.write_text("[identities]\n")
        path.chmod({"group": 0o664, "others": 0o646, "owner": 0o644}[kind])
        os.chown(path, 1 if kind == "owner" else 0, 0)
    with pytest.raises(RunnerError) as raised:
        identity.read_floor(str(path))
    assert raised.value.code == "config"


def refused(run_as: str | None, limit: Floor = Floor()) -> str:  # noqa: B008
    with pytest.raises(RunnerError) as raised:
        identity.resolve(run_as, limit)
    assert raised.value.code == "identity_refused"
    return str(raised.value.details["reason"])


@needs_root
@pytest.mark.P5
def test_root_runs_scripts_as_any_account_that_there_is(account: str, ordinary: Identity) -> None:
    for name in (account, str(ordinary.uid)):
        found, environment = identity.resolve(name, Floor((account,)))
        assert found == ordinary
        assert environment == {
            "HOME": f"/home/{account}",
            "USER": account,
            "LOGNAME": account,
            "SHELL": "/bin/sh",
        }
    assert refused("no-such-account-here") == "no such account"
    assert refused("4294967294") == "no such account"
    assert "runner.conf does not allow it" in refused("root", Floor((account,)))
    assert "runner.conf does not allow it" in refused(None, Floor(()))


@needs_root
@pytest.mark.P5
def test_an_ordinary_account_runs_scripts_as_itself_only(account: str, ordinary: Identity) -> None:
    def work() -> tuple[Identity, str]:
        found, _ = identity.resolve(None, Floor())
        return found, refused("root")

    found, reason = overlays.in_child(work, ordinary)
    assert (found.name, found.uid, found.gid) == (account, ordinary.uid, ordinary.gid)
    assert "as that account only" in reason


@needs_root
@pytest.mark.P5
def test_a_uid_without_account_has_no_identity() -> None:
    unknown = next(uid for uid in range(60_000, 65_000) if not _known(uid))
    nobody = Identity("unknown", unknown, unknown, (), 0o022)
    assert overlays.in_child(lambda: refused(None), nobody) == "no such account"


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


@needs_root
@pytest.mark.P2
def test_a_host_is_known_by_its_machine_id_and_else_by_its_name(tmp_path: Path) -> None:
    places = ("/etc/machine-id", "/var/lib/dbus/machine-id")
    there = [path for path in places if os.path.exists(path)]

    def known_by(content: str) -> str:
        def work() -> str:
            kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS)
            kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
            kernel.sethostname("a-name")
            (tmp_path / "id").write_text(content)
            for path in there:
                kernel.mount(tmp_path / "id", path, None, kernel.MS_BIND)
            identity.machine.cache_clear()
            return identity.machine()

        return overlays.in_child(work)

    assert known_by("") == hashlib.sha256(b"shannot-host:a-name").hexdigest()
    if there:
        assert known_by("0123\n") == hashlib.sha256(b"shannot:0123").hexdigest()
